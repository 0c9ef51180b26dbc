"""What txt2img and img2img have in common: prompts, buttons, the groups of controls, and how a job is sent.

The form carries a ticket, made with the page or after the job before, which becomes the job's key: the same
form sent twice, because an answer was lost or a button pressed twice, is one job.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from sfumato.app.engine import Engine
from sfumato.app.jobs import Script
from sfumato.errors import ConflictError, RequestError
from sfumato.pipeline.scripts.fields import with_values
from sfumato.text.styles import apply_styles
from sfumato.types import Prompt, Request
from sfumato.ui import cards
from sfumato.ui.effects import tie
from sfumato.ui.form import Form, tool
from sfumato.ui.live import current, together
from sfumato.ui.presets import Presets
from sfumato.ui.results import Results
from sfumato.ui.scripts import Scripts
from sfumato.ui.site import Load, Site, Visit
from sfumato.ui.strings import t

Finish = Callable[  # with the values of `bind`'s further inputs; more requests are jobs of one batch
    [Visit, Request, Sequence[Any]], Request | Sequence[Request]
]


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Words about a form that is sent, which do not keep it from being sent."""

    place: Any  # the component that shows them
    say: Callable[[Visit, Sequence[Request]], Any]  # its new value


TICKET = "(ticket, ...rest) => [ticket || String(Math.random()).slice(2), ...rest]"  # before it has come
SWAP = "(w, h) => [h, w]"
_LOCK = "(locked, w, h) => locked ? w / h : 0"
_KEEP_HEIGHT = "(w, h, ratio) => ratio > 0 ? Math.max(64, Math.round(w / ratio / 8) * 8) : h"
_KEEP_WIDTH = "(w, h, ratio) => ratio > 0 ? Math.max(64, Math.round(h * ratio / 8) * 8) : w"


class Making:
    """The parts of a tab that makes pictures. Its constructor makes the row of prompts and buttons."""

    def __init__(self, site: Site, form: Form) -> None:
        """Make the prompts and the buttons here."""
        self.site, self.form, self.tab = site, form, form.tab
        self.scripts: Scripts
        with gr.Row(elem_classes=["sf-top"]):
            with gr.Column(scale=6, min_width=320):
                for made in form.group("prompt"):
                    made.lines = 3
                self.counter = gr.Markdown(elem_id=f"{self.tab}_tokens", elem_classes=["sf-counter"])
            with gr.Column(scale=2, min_width=220):
                self.generate = gr.Button(
                    t("button.generate"), variant="primary", elem_id=f"{self.tab}_generate"
                )
                with gr.Row():
                    self.interrupt = gr.Button(
                        t("button.interrupt"), elem_id=f"{self.tab}_interrupt", size="sm", min_width=60
                    )
                    self.skip = gr.Button(
                        t("button.skip"), elem_id=f"{self.tab}_skip", size="sm", min_width=60
                    )
                with gr.Row(elem_classes=["sf-tools"]):
                    self.paste = tool("↙", "paste", self.tab)
                    self.clear = tool("✕", "clear", self.tab)
                    self.apply = tool("☰", "apply_styles", self.tab)
                    tool("∞", "forever", self.tab)
                self.styles = gr.Dropdown(
                    choices=list(site.styles), multiselect=True, label=t("prompt.styles"),
                    elem_id=f"{self.tab}_styles", allow_custom_value=True,
                )  # fmt: skip
                self.presets = Presets(site, self.tab)
        cards.panel(self.tab)
        self.ticket = gr.Textbox(visible="hidden", show_label=False, elem_id=f"{self.tab}_ticket")
        form.adopt("model.checkpoint", site.checkpoint_choice)

    def sampling(self) -> None:
        """Make the sampler, the schedule and the steps here."""
        self.form.pairs("sampling")
        self.form.group("steps")

    def size(self) -> None:
        """Make size, batch and guidance here."""
        with gr.Row():
            with gr.Column(scale=1, min_width=200):
                width, height = self.form.group("size")
                with gr.Row(elem_classes=["sf-beside"]):
                    swap = tool("⇅", "swap", self.tab)
                    lock = gr.Checkbox(
                        label=t("size.lock"), elem_id=f"{self.tab}_lock", container=False, min_width=100
                    )
            with gr.Column(scale=1, min_width=200):
                self.form.group("batch")
        self.form.group("guidance")
        ratio = gr.Number(value=0, visible="hidden", show_label=False)
        here = self.site.here
        here(swap.click, SWAP, [width, height], [width, height])
        here(lock.change, _LOCK, [lock, width, height], [ratio])
        here(width.input, _KEEP_HEIGHT, [width, height, ratio], [height])
        here(height.input, _KEEP_WIDTH, [width, height, ratio], [width])
        self._follow_checkpoint(width, height)

    def _follow_checkpoint(self, width: Any, height: Any) -> None:
        """Where the size is the old checkpoint's own, it becomes the new one's."""
        native = gr.Textbox(
            value="x".join(map(str, self.site.native(self.site.checkpoint))),
            visible="hidden",
            show_label=False,
        )

        def follow(visit: Visit, checkpoint: str, wide: int, high: int, old: str) -> list[Any]:
            new = self.site.native(checkpoint)
            size = list(new) if f"{wide}x{high}" == old else [gr.skip(), gr.skip()]
            return [*size, "x".join(map(str, new))]

        site, parts = self.site, [width, height, native]
        site.sizes.append((width, height, native))
        site.on(site.checkpoint_choice.input, follow, [site.checkpoint_choice, *parts], parts)
        site.on(site.checkpoint_pick.click, follow, [site.checkpoint_picked, *parts], parts)

    def seed(self) -> None:
        """Make the seed and the variation here."""
        with gr.Row(elem_classes=["sf-beside"]):
            (seed,) = self.form.group("seed")
            dice = tool("⚄", "random_seed", self.tab)
            self.recycle = tool("♻", "recycle_seed", self.tab)
        self.site.here(dice.click, "() => '-1'", [], [seed])
        with gr.Accordion(t("group.variation"), open=False, elem_id=f"{self.tab}_extra_seed"):
            self.form.pairs("variation")

    def more(self, *groups: str) -> None:
        """Make the groups that are folded up here: the refiner, `groups`, model and finer choices."""
        for name in ("refiner", *groups, "model", "finer"):
            with gr.Accordion(t(f"group.{name}"), open=False, elem_id=f"{self.tab}_{name}"):
                self.form.pairs(name)

    def script(self) -> None:
        """Make the choice of a script here."""
        self.scripts = Scripts(self.site, self.tab)

    def bind(
        self, results: Results, finish: Finish, extra: Sequence[Any] = (), remark: Remark | None = None
    ) -> None:
        """Bind the buttons, when everything is made.

        Args:
            results: shows what comes of it.
            finish: adds to the request what the tab's own inputs say; see `Finish`.
            extra: those inputs.
            remark: what is said of a form that is sent.
        """
        form, on, prompts = self.form, self.site.on, self._prompts()
        tie(form)

        def send(visit: Visit, ticket: str, names: list[str], *values: Any) -> Any:
            own = len(form.components)
            rest = own + len(self.scripts.inputs)
            script = self.scripts.read(values[own:rest])
            made = finish(visit, self._styled(form.read(values[:own]), names), values[rest:])
            requests = [made] if isinstance(made, Request) else made
            said = [remark.say(visit, requests)] if remark else []
            submit_all(self.site.engine, visit, [(request, script) for request in requests], ticket)
            return [new_ticket(), *said] if remark else new_ticket()

        inputs = [self.ticket, self.styles, *form.inputs, *self.scripts.inputs, *extra]
        outputs = [self.ticket, remark.place] if remark else [self.ticket]
        on(self.generate.click, send, inputs, outputs, trigger_mode="once", js=TICKET)
        on(self.interrupt.click, lambda visit: stop(self.site.engine, visit, self.tab))
        on(self.skip.click, self._skip)
        on(self.recycle.click, lambda visit, made: made or "-1", [results.seed], [form["canvas.seed"]])
        self.site.here(self.clear.click, "() => ['', '']", [], prompts)
        on(self.apply.click, self._apply, [self.styles, *prompts], [self.styles, *prompts])
        on(self.paste.click, self._paste, [prompts[0], results.infotext], form.inputs)
        checkpoint = form["model.checkpoint"]
        counted = [*prompts, form["prompt.emphasis"], form["sampling.steps"], self.styles, checkpoint]
        for each in (*prompts, self.styles, checkpoint):
            on(each.change, self._count, counted, [self.counter], trigger_mode="always_last")
        self.presets.bind(form)
        self.site.loads.append(Load(lambda visit: new_ticket(), [self.ticket]))
        self.site.loads.append(Load(self._count_first, [self.counter]))

    def _prompts(self) -> list[Any]:
        return [self.form["prompt.text"], self.form["prompt.negative"]]

    def _styled(self, request: Request, names: Sequence[str]) -> Request:
        if not names:
            return request
        prompt = request.prompt
        text, negative = apply_styles(prompt.text, prompt.negative, names, self.site.styles)
        return with_values(request, {"prompt.text": text, "prompt.negative": negative})

    def _skip(self, visit: Visit) -> None:
        job = current(self.site.engine, visit.owner, self.tab)
        if job is not None:
            self.site.engine.skip(job.id, visit.owner)

    def _apply(self, visit: Visit, names: list[str], text: str, negative: str) -> list[Any]:
        return [[], *apply_styles(text, negative, names, self.site.styles)]

    def _paste(self, visit: Visit, prompt: str, last: str) -> list[Any]:
        text = prompt if "Steps: " in prompt else last
        if not text:
            raise RequestError(visit.say("no_infotext"))
        return self.form.paste(text)

    def _count(self, visit: Visit, text: str, negative: str, *rest: Any) -> str:
        emphasis, steps, names, checkpoint = rest
        text, negative = apply_styles(text, negative, names or [], self.site.styles)
        prompt = Prompt(text=text, negative=negative, emphasis=emphasis)
        width = self.site.text_width(checkpoint)
        counts = self.site.counter.count(prompt, steps=int(steps), width=width)
        return visit.say("tokens", counts=" · ".join(f"{each.used}/{each.limit}" for each in counts))

    def _count_first(self, visit: Visit) -> str:
        return self._count(visit, "", "", "Original", 1, [], None)


def new_ticket() -> str:
    """The key of a job that is yet to be sent."""
    return secrets.token_hex(8)


def submit_all(
    engine: Engine, visit: Visit, orders: Iterable[tuple[Request, Script | None]], ticket: str
) -> None:
    """Send the jobs of a form, their keys made of its ticket: page-<ticket>, page-<ticket>-1, …

    Raises what `Engine.submit` does; the form sent again goes on where it has ended.
    """
    ticket = ticket or new_ticket()
    for place, (request, script) in enumerate(orders):
        kind = script.name if script else "txt2img" if request.source.image is None else "img2img"
        submit = partial(engine.submit, request, owner=visit.owner, kind=kind, script=script)
        own = f"-{place}" if place else ""
        try:
            submit(key=f"page-{ticket}{own}")
        except ConflictError:  # the answer to the form before was lost, and this one is another
            ticket = new_ticket()
            submit(key=f"page-{ticket}{own}")


def stop(engine: Engine, visit: Visit, tab: str) -> None:
    """End a tab's running job with what there is of it, and what its form has sent beside it."""
    job = current(engine, visit.owner, tab)
    for each in reversed(together(engine, job)) if job is not None else ():
        if each.state == "queued":
            engine.cancel(each.id, visit.owner)
        elif not each.ended:
            engine.interrupt(each.id, visit.owner)
