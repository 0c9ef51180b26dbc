"""The tab Extras: pictures enlarged, faces restored, one or many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from sfumato.app.jobs import Script
from sfumato.errors import RequestError
from sfumato.pipeline.faces import RESTORERS, find_restorer
from sfumato.pipeline.images import read_texts
from sfumato.pipeline.postprocess import Enlargement
from sfumato.pipeline.scripts.fields import with_values
from sfumato.pipeline.source import read_picture
from sfumato.pipeline.upscalers import upscalers
from sfumato.types import Request
from sfumato.ui.effects import update
from sfumato.ui.form import tool
from sfumato.ui.live import MAX_TOGETHER, current
from sfumato.ui.making import SWAP, TICKET, new_ticket, stop, submit_all
from sfumato.ui.results import SENDS, Results
from sfumato.ui.site import Inlet, Load, Sent, Site, Visit, as_upload
from sfumato.ui.strings import t
from sfumato.ui.tabs.compare import pair

TAB = "extras"
MODES = ("single", "batch", "folder")
NONE = "None"  # the upscaler that leaves a picture as it is
FIRST = ("R-ESRGAN 4x+", "Lanczos")  # chosen at first, as far as it is there
SHOWN = 1600  # pixels of the longer side, under the slider


def build(site: Site) -> None:
    """Make the tab here."""
    Extras(site)


class Extras:
    """The components, by name, and what is done with them."""

    def __init__(self, site: Site) -> None:
        """Make them here."""
        self.site = site
        self.parts: dict[str, Any] = {}
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320, elem_classes=["sf-form"]):
                tabs = self._sources()
                generate, interrupt, skip = self._buttons()
                self._upscale()
                self._faces()
            with gr.Column(scale=6, min_width=320):
                self.results = Results(site, TAB, (*SENDS, "compare"), seeds=False)
                self.done = gr.Textbox(
                    label=t("extras.done"), elem_id=f"{TAB}_done", interactive=False, max_lines=3
                )
                self.slider = gr.ImageSlider(
                    label=t("compare.pictures"), format="png", interactive=False, visible=False,
                    elem_id=f"{TAB}_slider", buttons=["fullscreen"], max_height=520,
                )  # fmt: skip
        ticket = gr.Textbox(visible="hidden", show_label=False, elem_id=f"{TAB}_ticket")
        inputs = [ticket, *self.parts.values()]
        site.on(generate.click, self._send, inputs, [ticket], trigger_mode="once", js=TICKET)
        site.on(interrupt.click, lambda visit: stop(site.engine, visit, TAB))
        site.on(skip.click, self._skip)
        chosen = [self.results.job, self.results.chosen]
        for changed in (self.results.signature, self.results.chosen):
            site.on(changed.change, self._show, chosen, [self.slider, self.done], trigger_mode="always_last")
        site.loads.append(Load(lambda visit: new_ticket(), [ticket]))
        site.loads.append(Load(self._find, [self.parts[name] for name in FOUND]))
        image, mode = self.parts["image"], self.parts["mode"]
        site.inlets[TAB] = Inlet(tab=TAB, outputs=[image, mode, tabs], fill=self._fill)

    def _sources(self) -> Any:
        """The inner tabs, one a way to bring pictures."""
        self.parts["mode"] = gr.Textbox(value=MODES[0], visible="hidden", show_label=False)
        with gr.Tabs(elem_id=f"{TAB}_modes") as tabs:
            for name in MODES:
                with gr.Tab(t(f"extras.{name}"), id=name, elem_id=f"{TAB}_mode_{name}") as inner:
                    gr.Markdown(t(f"help.extras.{name}"), elem_classes=["sf-help"])
                    if name == "single":
                        self.parts["image"] = gr.Image(
                            label=t("mode.picture"), type="filepath", image_mode=None, format="png",
                            height=360, sources=["upload", "clipboard"], elem_id=f"{TAB}_image",
                            buttons=["fullscreen"],
                        )  # fmt: skip
                    else:
                        self.parts[name] = gr.File(
                            label=t("mode.files"), elem_id=f"{TAB}_{name}_files", file_types=["image"],
                            file_count="directory" if name == "folder" else "multiple",
                        )  # fmt: skip
                self.site.here(inner.select, f"() => '{name}'", [], [self.parts["mode"]])
        return tabs

    def _buttons(self) -> list[Any]:
        with gr.Row():
            generate = gr.Button(t("button.generate"), variant="primary", elem_id=f"{TAB}_generate", scale=3)
            return [
                generate,
                *(
                    gr.Button(t(f"button.{name}"), elem_id=f"{TAB}_{name}", min_width=60)
                    for name in ("interrupt", "skip")
                ),
            ]

    def _upscale(self) -> None:
        names = self._upscalers()
        with gr.Accordion(t("extras.upscale"), open=True, elem_id=f"{TAB}_upscale"):
            self._check("upscale", value=True)
            self.parts["by"] = gr.Textbox(value="by", visible="hidden", show_label=False)
            with gr.Tabs(elem_id=f"{TAB}_resize"):
                with gr.Tab(t("extras.scale_by"), id="by", elem_id=f"{TAB}_scale_by") as by:
                    self._slider("scale", 1, 8, 0.05, 4)
                    self._slider("max_side", 0, 8192, 8, 0)
                with gr.Tab(t("extras.scale_to"), id="to", elem_id=f"{TAB}_scale_to") as to:
                    with gr.Row(elem_classes=["sf-beside"]):
                        width, height = (
                            self._slider(side, 64, 8192, 8, 512, word=f"canvas.{side}")
                            for side in ("width", "height")
                        )
                        swap = tool("⇅", "swap", TAB)
                    self._check("crop", value=True)
            with gr.Row():
                first = self._choice("upscaler", names, next(each for each in FIRST if each in names))
                second = self._choice("second", names, NONE)
            visibility = self._slider("second_visibility", 0, 1, 0.001, 0, interactive=False)
        self.site.here(swap.click, SWAP, [width, height], [width, height])
        for tab, name in ((by, "by"), (to, "to")):
            self.site.here(tab.select, f"() => '{name}'", [], [self.parts["by"]])
        self._follows("upscale", "scale", "max_side", "width", "height", "crop", "upscaler", "second")
        js = (
            f"(on, first, second, seen) => {{ const used = on && first !== '{NONE}' && second !== '{NONE}';"
            f" return {update('used', value='used && !seen ? 0.5 : seen')}; }}"
        )
        given = [self.parts["upscale"], first, second, visibility]
        for changed in given[:3]:
            self.site.here(changed.change, js, given, [visibility])

    def _faces(self) -> None:
        for name, value in (("gfpgan", 1), ("codeformer", 1)):
            with gr.Accordion(t(f"extras.{name}"), open=False, elem_id=f"{TAB}_{name}_group"):
                self._check(name, value=False)
                parts = [self._slider(f"{name}_visibility", 0, 1, 0.001, value, interactive=False)]
                if name == "codeformer":
                    parts.append(self._slider("codeformer_weight", 0, 1, 0.001, 0, interactive=False))
            self._follows(name, *(each for each, part in self.parts.items() if part in parts))

    def _follows(self, check: str, *names: str) -> None:
        """Let controls be used only while a box is checked."""
        js = f"(on) => [{', '.join(update('on') for _ in names)}]"
        self.site.here(
            self.parts[check].change, js, [self.parts[check]], [self.parts[name] for name in names]
        )

    def _check(self, name: str, *, value: bool) -> Any:
        made = gr.Checkbox(
            value=value, label=t(f"extras.{name}"), info=t(f"help.extras.{name}"), elem_id=f"{TAB}_{name}"
        )
        return self.parts.setdefault(name, made)

    def _slider(
        self, name: str, low: float, high: float, step: float, value: float, *, word: str = "", **more: Any
    ) -> Any:
        made = gr.Slider(
            low, high, value=value, step=step, label=t(word or f"extras.{name}"),
            info=t(f"help.extras.{name}"), elem_id=f"{TAB}_{name}", **more,
        )  # fmt: skip
        return self.parts.setdefault(name, made)

    def _choice(self, name: str, names: Sequence[str], value: str) -> Any:
        made = gr.Dropdown(
            _rows(names), value=value, label=t(f"extras.{name}"), info=t(f"help.extras.{name}"),
            elem_id=f"{TAB}_{name}", allow_custom_value=True,
        )  # fmt: skip
        return self.parts.setdefault(name, made)

    def _upscalers(self) -> list[str]:
        return [each.name for each in upscalers(self.site.engine.settings.models)]

    def _find(self, visit: Visit) -> list[Any]:
        """What can be chosen now: models come and go."""
        rows, made = _rows(self._upscalers()), []
        for name in RESTORERS:
            there = find_restorer(name, self.site.engine.settings.models) is not None
            info = t(f"help.extras.{name.lower()}") if there else t("help.extras.missing")
            made.append(gr.Checkbox(interactive=there, info=info))
        return [gr.Dropdown(choices=rows), gr.Dropdown(choices=rows), *made]

    def _send(self, visit: Visit, ticket: str, *values: Any) -> str:
        given = dict(zip(self.parts, values, strict=True))
        files = _files(visit, given)
        arguments = read(visit, given)
        orders: list[tuple[Request, Script | None]] = []
        for file in files:  # all are looked at before the first is sent
            request = with_values(Request(), {"source.image": Path(file), "canvas.seed": 0})
            infotext = read_texts(Path(file)).get("parameters", "")
            orders.append((request, Script(name="extras", arguments={**arguments, "infotext": infotext})))
        submit_all(self.site.engine, visit, orders, ticket)
        return new_ticket()

    def _skip(self, visit: Visit) -> None:
        """Go on with the next picture."""
        job = current(self.site.engine, visit.owner, TAB)
        if job is not None and not job.ended:
            self.site.engine.cancel(job.id, visit.owner)

    def _show(self, visit: Visit, job_id: str, chosen: str) -> list[Any]:
        """The picture that is chosen and its source under one slider, and what was done to it."""
        try:
            sent = self.results.send(visit, job_id, chosen)
        except RequestError:
            return [gr.update(value=None, visible=False), ""]
        assert sent.image is not None
        done = read_texts(sent.image).get("extras", "")
        if sent.before is None or not sent.before.exists():
            return [gr.update(value=None, visible=False), done]
        after = read_picture(sent.image)
        after.thumbnail((SHOWN, SHOWN))
        before = read_picture(sent.before)
        before.thumbnail((SHOWN, SHOWN))
        return [gr.update(value=pair(before, after, sent.fit), visible=True), done]

    def _fill(self, visit: Visit, sent: Sent) -> list[Any]:
        return [as_upload(sent.picture(visit), self.parts["image"]), MODES[0], gr.Tabs(selected=MODES[0])]


FOUND = ("upscaler", "second", *(name.lower() for name in RESTORERS))


def read(visit: Visit, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the script that the values of the components describe.

    Raises:
        RequestError: nothing is to be done; a value is none or out of range.
    """
    to_size = given["by"] == "to"
    upscaler = given["upscaler"] if given["upscale"] else NONE
    if upscaler == NONE and not given["gfpgan"] and not given["codeformer"]:
        raise RequestError(visit.say("extras.nothing"))
    arguments: dict[str, Any] = {
        "upscaler": str(upscaler),
        "second_upscaler": str(given["second"] or NONE),
        "second_visibility": _number(given, "second_visibility"),
        "scale": _number(given, "scale"),
        "max_side": int(_number(given, "max_side")),
        "width": int(_number(given, "width")) if to_size else None,
        "height": int(_number(given, "height")) if to_size else None,
        "crop": bool(given["crop"]),
        "gfpgan_visibility": _number(given, "gfpgan_visibility") if given["gfpgan"] else 0.0,
        "codeformer_visibility": _number(given, "codeformer_visibility") if given["codeformer"] else 0.0,
        "codeformer_weight": _number(given, "codeformer_weight"),
    }
    Enlargement(**arguments)
    return arguments


def _number(given: Mapping[str, Any], name: str) -> float:
    value = given[name]
    if not isinstance(value, int | float):
        raise RequestError(f"{name} is empty; give a number")
    return float(value)


def _files(visit: Visit, given: Mapping[str, Any]) -> list[str]:
    """Raises RequestError: there is no picture, or there are too many."""
    files = [given["image"]] if given["mode"] == "single" else given.get(given["mode"]) or []
    files = [each for each in files if each]
    if not files:
        raise RequestError(visit.say("extras.no_source"))
    if len(files) > MAX_TOGETHER:
        raise RequestError(visit.say("extras.too_many", count=len(files), most=MAX_TOGETHER))
    return files


def _rows(names: Sequence[str]) -> list[Any]:
    return [(t("choice.none") if name == NONE else name, name) for name in names]
