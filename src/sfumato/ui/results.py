"""The right half of a tab that makes pictures: what happens now, the pictures, what they were made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from sfumato.app.jobs import Job, Made
from sfumato.errors import RequestError
from sfumato.types import ResizeMode
from sfumato.ui.first_pass import first_pass
from sfumato.ui.live import current, signature, together
from sfumato.ui.site import Load, Outlet, Sent, Site, Visit
from sfumato.ui.strings import t

STRIP = """<div class="sf-strip" data-tab="{tab}">
<div class="sf-now" hidden><img class="sf-preview" alt="">
<progress class="sf-bar" max="1" value="0"></progress></div>
<div class="sf-line" role="status"></div><div class="sf-fault" role="alert"></div></div>"""
SENDS = ("txt2img", "img2img", "inpaint", "extras")  # inlets, in the order of their buttons


def senders(
    site: Site, name: str, inlets: Sequence[str], inputs: Sequence[Any], send: Callable[..., Sent]
) -> None:
    """Make a row of buttons that send a picture to other tabs.

    Args:
        site: of the page.
        name: that the buttons' names begin with.
        inlets: where to, one a button.
        inputs: components whose values say which picture.
        send: gives it, from the visit and these values.
    """
    with gr.Row(elem_classes=["sf-sends"]):
        for inlet in inlets:
            button = gr.Button(t(f"send.{inlet}"), size="sm", min_width=90, elem_id=f"{name}_to_{inlet}")
            site.outlets.append(Outlet(button=button, inlet=inlet, inputs=inputs, send=send))


class Pictures:
    """The pictures of a job, what they were made from, and buttons that send them elsewhere."""

    def __init__(self, site: Site, name: str, sends: Sequence[str] = SENDS, *, seeds: bool = True) -> None:
        """Make them here.

        Args:
            site: of the page.
            name: that the components' names begin with.
            sends: names of the inlets to which there is a button.
            seeds: whether the pictures are made from any.
        """
        self.site = site
        self.gallery = gr.Gallery(
            label=t("results.pictures"), elem_id=f"{name}_gallery", columns=4,
            preview=True,
            selected_index=0, object_fit="contain",
            height=520, interactive=False, buttons=["download", "fullscreen"],
        )  # fmt: skip
        self.job = gr.Textbox(visible="hidden", elem_id=f"{name}_job", show_label=False)
        self.chosen = gr.Textbox(value="0", visible="hidden", show_label=False)
        senders(site, name, sends, [self.job, self.chosen], self.send)
        self.infotext = gr.Textbox(
            label=t("results.infotext"), elem_id=f"{name}_infotext", lines=3, max_lines=8,
            interactive=False, buttons=["copy"],
        )  # fmt: skip
        self.seed = gr.Textbox(
            label=t("results.seed"), interactive=False, max_lines=1, elem_id=f"{name}_made_seed",
            visible=seeds,
        )  # fmt: skip
        site.on(
            self.gallery.select,
            self._select,
            [self.job],
            [self.infotext, self.seed, self.chosen],
            select=True,
        )

    @property
    def outputs(self) -> list[Any]:
        """What `values` are for, as the page takes it: without Gradio's postprocessing."""
        return [self.gallery, self.infotext, self.seed, self.job, self.chosen]

    def values(self, job: Job | None) -> list[Any]:
        """What shows a job; None = nothing."""
        if job is None:
            return [[], "", "", "", "0"]
        found = self._pictures(job)
        first = found[0][1] if found else None
        return [
            [row for each, made in found for row in gallery(each.id, [made])],
            first.infotext if first else "",
            str(first.seed) if first else "",
            job.id,
            "0",
        ]

    def send(self, visit: Visit, job_id: str, chosen: str) -> Sent:
        """The picture that is chosen. Raises RequestError: there is none yet."""
        job, made = self.chosen_of(visit, job_id, chosen)
        source = job.request.source.image
        return Sent(
            image=self.site.engine.file(made),
            infotext=made.infotext,
            before=source if isinstance(source, Path) else first_pass(self.site.engine.gallery, job, made),
            fit=_fit(job),
        )

    def chosen_of(self, visit: Visit, job_id: str, chosen: str) -> tuple[Job, Made]:
        """The picture that is chosen, and the job that made it. Raises RequestError: there is none yet."""
        found = self._pictures(self.site.engine.job(job_id, visit.reader)) if job_id else []
        place = int(chosen)
        if not 0 <= place < len(found):
            raise RequestError(visit.say("no_picture"))
        return found[place]

    def _pictures(self, job: Job) -> list[tuple[Job, Made]]:
        """The pictures of a form, of all the jobs that it made."""
        return [(each, made) for each in together(self.site.engine, job) for made in in_order(each)]

    def _select(self, visit: Visit, event: gr.SelectData, job_id: str) -> list[str]:
        _, made = self.chosen_of(visit, job_id, str(int(event.index)))
        return [made.infotext, str(made.seed), str(int(event.index))]


class Results(Pictures):
    """The pictures of the present job of a tab, below what happens to it."""

    def __init__(self, site: Site, tab: str, sends: Sequence[str] = SENDS, *, seeds: bool = True) -> None:
        """Make them here; see `Pictures`.

        Args:
            site: of the page.
            tab: whose jobs are shown.
            sends: names of the inlets to which there is a button.
            seeds: whether its pictures are made from any.
        """
        gr.HTML(STRIP.format(tab=escape(tab)), elem_id=f"{tab}_strip")
        super().__init__(site, tab, sends, seeds=seeds)
        self.tab = tab
        self.signature = gr.Textbox(visible="hidden", elem_id=f"{tab}_signature", show_label=False)
        refresh = gr.Button("…", visible="hidden", elem_id=f"{tab}_refresh")
        outputs = [*self.outputs, self.signature]
        site.on(
            refresh.click,
            self._show,
            [self.signature],
            outputs,
            trigger_mode="always_last",
            postprocess=False,
        )
        site.loads.append(Load(self._first, outputs, raw=True))

    def _first(self, visit: Visit) -> list[Any]:
        return self._show(visit, "")

    def _show(self, visit: Visit, known: str) -> list[Any]:
        job = current(self.site.engine, visit.owner, self.tab)
        if signature(job) == known:
            return [gr.skip()] * 6
        return [*self.values(job), signature(job)]


def in_order(job: Job) -> list[Made]:
    """A job's pictures as the page shows them: the grid of all first, where there is one."""
    return sorted(job.made, key=lambda made: (made.index >= 0, made.index))


def _fit(job: Job) -> ResizeMode:
    """How a job brought its source to its picture's shape."""
    if job.script is not None and job.script.name == "extras":
        cut = job.script.arguments.get("width") and job.script.arguments.get("crop")
        return "Crop and resize" if cut else "Just resize"
    return "Crop and resize" if job.request.hires.enabled else job.request.source.resize_mode


def address(job_id: str, index: int) -> str:
    """Where the server has a picture, for its owner: the file itself, its parameters included."""
    return f"api/v1/pictures/{job_id}/{index}"


def gallery(job_id: str, made: Sequence[Made]) -> list[dict[str, Any]]:
    """What a gallery shows, as the page takes it: pictures by their address, none copied."""
    return [
        {"image": {"path": url, "url": url, "orig_name": Path(each.file).name}, "caption": None}
        for each in made
        for url in (address(job_id, each.index),)
    ]
