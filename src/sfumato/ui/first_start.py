"""What the page asks an admin at the first start: which models to use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from sfumato.app import first_start
from sfumato.app.first_start import Survey
from sfumato.errors import RequestError
from sfumato.pipeline.memory import gib
from sfumato.ui.lists import CHOSEN, LIST
from sfumato.ui.site import Load, Site, Visit
from sfumato.ui.strings import t
from sfumato.weights import store

NAME = "pulls"
PATH = 1000  # characters of a folder's name


class FirstStart:
    """The question above the tabs; hidden from who need not answer it."""

    def __init__(self, site: Site) -> None:
        """Make it here."""
        self.site = site
        with gr.Column(visible=False, elem_id="first_start", elem_classes=["sf-first"]) as self.panel:
            gr.Markdown(t("first.question"))
            with gr.Row():
                with gr.Column(min_width=260):
                    gr.Markdown(t("help.first.embedded"), elem_classes=["sf-help"])
                    self.embedded = gr.Button(
                        t("first.embedded"), variant="primary", elem_id="first_embedded"
                    )
                with gr.Column(min_width=260):
                    self.folder = gr.Dropdown(
                        choices=[], value=None, allow_custom_value=True, label=t("first.folder"),
                        info=t("help.first.folder"), elem_id="first_folder",
                    )  # fmt: skip
                    with gr.Row():
                        self.look = gr.Button(t("first.look"), size="sm", min_width=80, elem_id="first_look")
                        self.use = gr.Button(
                            t("first.use_folder"), size="sm", min_width=80, elem_id="first_use_folder"
                        )
                    self.found = gr.Textbox(
                        label=t("first.found"), lines=2, max_lines=12, interactive=False, visible=False,
                        elem_id="first_found",
                    )  # fmt: skip
                with gr.Column(min_width=260):
                    self.repo = gr.Textbox(
                        label=t("first.repo"), info=t("help.first.repo"), max_lines=1, elem_id="first_repo"
                    )
                    self.file = gr.Textbox(
                        label=t("first.file"), info=t("help.first.file"), max_lines=1, elem_id="first_file"
                    )
                    self.pull = gr.Button(t("first.pull"), size="sm", elem_id=f"{NAME}_do_start")
            gr.HTML(LIST.format(name=NAME), elem_id=f"{NAME}_list")
            self.chosen = gr.Textbox(visible="hidden", show_label=False)
            self.cancel = gr.Button("…", visible="hidden", elem_id=f"{NAME}_do_cancel")
            self.use_model = gr.Button("…", visible="hidden", elem_id=f"{NAME}_do_use")
        site.loads.append(Load(self._first, [self.panel, self.folder]))

    def bind(self) -> None:
        """Bind the buttons, when the tabs are made."""
        on, js = self.site.on, CHOSEN.format(name=NAME)
        choice = self.site.checkpoint_choice
        outputs = [self.panel, choice, *(each for size in self.site.sizes for each in size)]
        on(self.embedded.click, self._embed, [], [self.panel])
        on(self.look.click, self._look, [self.folder], [self.found])
        on(self.use.click, self._use_folder, [self.folder], outputs)
        on(self.pull.click, self._pull, [self.repo, self.file])
        on(self.cancel.click, self._cancel, [self.chosen], js=js)
        on(self.use_model.click, self._use_model, [self.chosen], outputs, js=js)

    def _first(self, visit: Visit) -> list[Any]:
        settings = self.site.engine.settings
        if visit.role != "admin" or not first_start.wanted(settings):
            return [gr.Column(visible=False), gr.skip()]
        places = [(_named(visit, each), str(each.tree.path)) for each in first_start.offer(settings).found]
        return [
            gr.Column(visible=True),
            gr.Dropdown(choices=places, value=places[0][1] if places else None),
        ]

    def _embed(self, visit: Visit) -> Any:
        _check(visit)
        first_start.chosen(self.site.engine.settings)
        return gr.Column(visible=False)

    def _look(self, visit: Visit, folder: str | None) -> Any:
        found = first_start.survey(_path(visit, folder))
        lines = [f"{each.place.name or '.'}: {each.files} · {gib(each.size)}" for each in found.counts]
        return gr.Textbox(value="\n".join([_named(visit, found), *lines]), visible=True)

    def _use_folder(self, visit: Visit, folder: str | None) -> list[Any]:
        used = first_start.use_folder(self.site.engine.settings, _path(visit, folder))
        mine = [name for name in self.site.choices("checkpoints") if name.startswith(f"{used.name}/")]
        return self._using(mine[0] if mine else store.EMBEDDED)

    def _pull(self, visit: Visit, repo: str, file: str) -> None:
        _check(visit)
        if not repo.strip():
            raise RequestError(visit.say("no_repo"))
        self.site.engine.pulls.start(repo, file, owner=visit.owner)

    def _cancel(self, visit: Visit, pull_id: str) -> None:
        _check(visit)
        self.site.engine.pulls.cancel(pull_id)

    def _use_model(self, visit: Visit, pull_id: str) -> list[Any]:
        _check(visit)
        model = self.site.engine.pulls.get(pull_id).model
        first_start.chosen(self.site.engine.settings)
        return self._using(model)

    def _using(self, name: str) -> list[Any]:
        """The page with this checkpoint chosen, at its own size."""
        size = self.site.native(name)
        shown = [*size, "x".join(map(str, size))] * len(self.site.sizes)
        choices = self.site.choices("checkpoints")
        return [gr.Column(visible=False), gr.Dropdown(choices=choices, value=name), *shown]


def _check(visit: Visit) -> None:
    """Raises RequestError: the visitor may not."""
    if visit.role != "admin":
        raise RequestError(visit.say("for_admins"))


def _path(visit: Visit, folder: str | None) -> Path:
    """Raises RequestError: the visitor may not, or has named none."""
    _check(visit)
    name = (folder or "").strip()
    if not name or len(name) > PATH or not name.isprintable():
        raise RequestError(visit.say("no_folder"))
    return Path(name)


def _named(visit: Visit, found: Survey) -> str:
    """Whose folder it is, where, and what it holds."""
    program = "" if found.tree.program == "folder" else f"{found.tree.program} · "
    return f"{program}{found.tree.path} · {visit.say('models', count=found.files)} · {gib(found.size)}"
