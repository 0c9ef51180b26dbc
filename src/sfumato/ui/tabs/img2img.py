"""The tab img2img: a picture changed by words, painted over, or continued beyond its edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from sfumato.errors import RequestError
from sfumato.pipeline.masks import is_blank
from sfumato.pipeline.source import read_picture
from sfumato.types import Picture, Request
from sfumato.ui import canvases
from sfumato.ui.canvases import scaled, size_of, with_pictures
from sfumato.ui.effects import DEPTH_INPUTS, INPUTS, update, usable
from sfumato.ui.form import Form, tool
from sfumato.ui.making import Making, Remark
from sfumato.ui.results import SENDS, Results
from sfumato.ui.site import Inlet, Sent, Site, Visit
from sfumato.ui.strings import t

TAB = "img2img"
MODES = ("img2img", "sketch", "inpaint", "inpaint_sketch", "inpaint_upload", "batch")
EDITORS = ("sketch", "inpaint", "inpaint_sketch")
MASKED = ("inpaint", "inpaint_sketch", "inpaint_upload")
PALETTE = ["#000000", "#ffffff", "#dc2626", "#f59e0b", "#16a34a", "#2563eb", "#7c3aed", "#92400e"]


def build(site: Site) -> None:
    """Make the tab here."""
    form = Form(site, TAB)
    making = Making(site, form)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_classes=["sf-form"]):
            places = Places(site)
            form.group("resize")
            making.sampling()
            making.size()
            places.resize(form)
            form.group("denoising")
            making.seed()
            with gr.Accordion(
                t("group.inpaint"), open=False, elem_id=f"{TAB}_inpaint_group", visible=False
            ) as inpaint:
                form.pairs("inpaint")
                with gr.Accordion(t("group.soft"), open=False, elem_id=f"{TAB}_soft"):
                    form.pairs("soft")
            making.more("outpaint", "source_finer")
            depth = places.depth_map()
            making.script()
        with gr.Column(scale=6, min_width=320):
            notice = gr.HTML(elem_id=f"{TAB}_notice")
            results = Results(site, TAB, (*SENDS, "compare"))
    making.bind(results, places.finish, places.inputs, Remark(place=notice, say=remark))
    places.reveal(inpaint)
    _follow(site, form, depth)
    for name in ("img2img", "inpaint"):
        site.inlets[name] = Inlet(
            tab=TAB,
            outputs=[*form.inputs, inpaint, places.canvas[name], places.mode, places.tabs],
            fill=_filling(form, name),
        )
    site.inlets["img2img_again"] = Inlet(
        tab=TAB,
        outputs=[*form.inputs, inpaint, *places.pictures, places.mode, places.tabs],
        fill=_filling_again(form),
    )


def _follow(site: Site, form: Form, depth: Any) -> None:
    """Let controls that only some checkpoints heed be used with those."""
    tied = [form[field] for field in INPUTS]

    def follow(visit: Visit, checkpoint: str) -> list[Any]:
        channels = site.channels(checkpoint)
        shown = [gr.update(interactive=usable(field, {}, channels)) for field in INPUTS]
        return [*shown, gr.update(visible=channels in (None, DEPTH_INPUTS))]

    site.on(site.checkpoint_choice.change, follow, [site.checkpoint_choice], [*tied, depth])


def remark(visit: Visit, requests: Sequence[Request]) -> str:
    """A notice, as HTML, where a mask leaves nothing to change, and so everything is changed."""
    first = requests[0]
    if first.mask.image is None or first.source.image is None:
        return ""
    sharp = replace(first.mask, blur_x=0, blur_y=0)
    if not is_blank(sharp, size_of(first.source.image)):
        return ""
    return f'<p class="sf-notice" role="status">{escape(visit.say("empty_mask"))}</p>'


def _filling(form: Form, name: str) -> Callable[[Visit, Sent], list[Any]]:
    def fill(visit: Visit, sent: Sent) -> list[Any]:
        picture = read_picture(sent.picture(visit))
        values = form.paste(sent.infotext) if sent.infotext else [gr.skip()] * len(form.inputs)
        shown = gr.update(visible=name in MASKED)
        held = _on_canvas(picture) if name in EDITORS else picture
        return [*values, shown, held, name, gr.Tabs(selected=name)]

    return fill


def _filling_again(form: Form) -> Callable[[Visit, Sent], list[Any]]:
    """Settings of a job, with the pictures that it was made from."""

    def fill(visit: Visit, sent: Sent) -> list[Any]:
        assert sent.request is not None
        source, mask, depth = (
            None if each is None else read_picture(each)
            for each in (sent.request.source.image, sent.request.mask.image, sent.request.source.depth)
        )
        mode = "img2img" if mask is None else "inpaint_upload"
        held = [source if name == mode else gr.skip() for name in ("img2img", "inpaint_upload")]
        pictures = [*held, gr.skip() if mask is None else mask, depth]
        shown = gr.update(visible=mode in MASKED)
        return [*form.fill(sent.request), shown, *pictures, mode, gr.Tabs(selected=mode)]

    return fill


class Places:
    """The inner tabs with what is held in them."""

    def __init__(self, site: Site) -> None:
        """Make them here."""
        self.site = site
        self.mode = gr.Textbox(value=MODES[0], visible="hidden", show_label=False, elem_id=f"{TAB}_mode")
        self.canvas: dict[str, Any] = {}
        inner = {}
        with gr.Tabs(elem_id=f"{TAB}_modes") as self.tabs:
            for name in MODES:
                with gr.Tab(t(f"mode.{name}"), id=name, elem_id=f"{TAB}_mode_{name}") as inner[name]:
                    gr.Markdown(t(f"help.mode.{name}"), elem_classes=["sf-help"])
                    self._fill_tab(name)
        for name, tab in inner.items():
            site.here(tab.select, f"() => '{name}'", [], [self.mode])
        self._copying()

    def reveal(self, inpaint: Any) -> None:
        """Show what is for masks where there is one."""
        js = f"(mode) => [{{__type__: 'update', visible: {list(MASKED)}.includes(mode)}}]"
        self.site.here(self.mode.change, js, [self.mode], [inpaint])

    def _fill_tab(self, name: str) -> None:
        if name in EDITORS:
            self.canvas[name] = _editor(name)
            if name == "inpaint":
                self._inverting(self.canvas[name])
        elif name == "batch":
            self.files = gr.File(
                label=t("mode.files"), file_count="multiple", file_types=["image"], elem_id=f"{TAB}_files"
            )
        else:
            self.canvas[name] = _picture("picture", name)
        if name == "inpaint_upload":
            self.mask = _picture("mask", "mask")
        if name == "inpaint_sketch":
            self.transparency = gr.Slider(
                0, 100, value=0, step=1, label=t("mode.transparency"), info=t("help.mode.transparency"),
                elem_id=f"{TAB}_mask_transparency",
            )  # fmt: skip

    def _inverting(self, canvas: Any) -> None:
        """The button that turns the mask inside out."""
        with gr.Row(elem_classes=["sf-tools"]):
            button = tool("◐", "invert_mask", TAB)

        def invert(visit: Visit, held: Any) -> Any:
            made = canvases.inverted(held)
            if made is None:
                raise RequestError(visit.say("no_source"))
            return made

        self.site.on(button.click, invert, [canvas], [canvas])

    def _copying(self) -> None:
        """Buttons that lay the picture of the tab that is shown on another's canvas."""
        with gr.Row(elem_classes=["sf-sends"]):
            for name in ("img2img", *EDITORS):
                button = gr.Button(
                    t(f"copy.{name}"), size="sm", min_width=90, elem_id=f"{TAB}_copy_to_{name}"
                )

                def copy(visit: Visit, mode: str, *values: Any, to: str = name) -> list[Any]:
                    picture = self._sources(visit, mode, dict(zip(self.canvas, values, strict=True)), [])[0]
                    held = read_picture(picture)
                    return [_on_canvas(held) if to in EDITORS else held, to, gr.Tabs(selected=to)]

                self.site.on(
                    button.click, copy, [self.mode, *self.canvas.values()],
                    [self.canvas[name], self.mode, self.tabs],
                )  # fmt: skip

    def resize(self, form: Form) -> None:
        """Make the choice between a size and a share of the source's here."""
        with gr.Row(elem_classes=["sf-beside"]):
            self.by = gr.Checkbox(label=t("mode.by"), info=t("help.mode.by"), elem_id=f"{TAB}_resize_by")
            self.scale = gr.Slider(
                0.05, 4, value=1, step=0.05, label=t("mode.scale"), info=t("help.mode.scale"),
                elem_id=f"{TAB}_resize_scale", interactive=False,
            )  # fmt: skip
            take = tool("◱", "size_of_source", TAB)

        def measure(visit: Visit, mode: str, files: list[str] | None, *values: Any) -> list[int]:
            held = dict(zip(self.canvas, values, strict=True))
            width, height = size_of(self._sources(visit, mode, held, files)[0])
            return [max(64, width // 8 * 8), max(64, height // 8 * 8)]

        inputs = [self.mode, self.files, *self.canvas.values()]
        size = [form["canvas.width"], form["canvas.height"]]
        self.site.on(take.click, measure, inputs, size)
        js = f"(by) => [{update('by')}, {update('!by')}, {update('!by')}]"
        self.site.here(self.by.change, js, [self.by], [self.scale, *size])

    def depth_map(self) -> Any:
        """Make the place for a depth map here; seen where the checkpoint may heed one."""
        seen = self.site.channels(self.site.checkpoint) in (None, DEPTH_INPUTS)
        with gr.Accordion(t("mode.depth"), open=False, elem_id=f"{TAB}_depth", visible=seen) as place:
            gr.Markdown(t("help.mode.depth"), elem_classes=["sf-help"])
            self.depth = _picture("depth", "depth_map")
        return place

    @property
    def pictures(self) -> list[Any]:
        """Places of pictures that are not painted on: source, source with a mask, the mask, the depth map."""
        return [self.canvas["img2img"], self.canvas["inpaint_upload"], self.mask, self.depth]

    @property
    def inputs(self) -> list[Any]:
        """What `finish` takes the values of."""
        more = [self.mode, self.files, self.mask, self.transparency, self.by, self.scale, self.depth]
        return [*more, *self.canvas.values()]

    def finish(self, visit: Visit, request: Request, values: Sequence[Any]) -> list[Request]:
        """The request of the form with its pictures; one for each of a batch.

        Raises:
            RequestError: there is no picture.
            OutputError: one cannot be read.
        """
        mode, files, uploaded, transparency, by, scale, depth = values[:7]
        held = dict(zip(self.canvas, values[7:], strict=True))
        sources = self._sources(visit, mode, held, files, 1 - transparency / 100)
        mask: Picture | None = None
        if mode in EDITORS and mode in MASKED:
            mask = canvases.mask(held[mode])
        elif mode == "inpaint_upload":
            if not uploaded:
                raise RequestError(visit.say("no_mask"))
            mask = Path(uploaded)
        made = [with_pictures(request, each, mask, Path(depth) if depth else None) for each in sources]
        return [
            scaled(each, source, scale) if by else each for each, source in zip(made, sources, strict=True)
        ]

    def _sources(
        self, visit: Visit, mode: str, held: dict[str, Any], files: Any, paint: float = 1.0
    ) -> list[Picture]:
        """The pictures of an inner tab. Raises RequestError: there is none."""
        if mode == "batch":
            found: list[Any] = [Path(each) for each in files or []]
        elif mode in EDITORS:
            strength = {"sketch": 1.0, "inpaint": 0.0, "inpaint_sketch": paint}[mode]
            found = [canvases.painted(held[mode], strength)]
        else:
            found = [held[mode] and Path(held[mode])] if mode in self.canvas else []
        if not found or found[0] is None:
            raise RequestError(visit.say("no_source"))
        return found


def _on_canvas(picture: Any) -> dict[str, Any]:
    return {"background": picture, "layers": [], "composite": picture}


def _picture(word: str, name: str) -> Any:
    return gr.Image(
        label=t(f"mode.{word}"), type="filepath", image_mode=None, format="png", height=360,
        sources=["upload", "clipboard"], elem_id=f"{TAB}_{name}_image", buttons=["fullscreen"],
    )  # fmt: skip


def _editor(name: str) -> Any:
    mask = name == "inpaint"
    colours: list[str | tuple[str, float]] = ["#ffffff"] if mask else [*PALETTE]
    brush = gr.Brush(
        colors=colours, default_color="#ffffff" if mask else PALETTE[2],
        color_mode="fixed" if mask else "defaults",
    )  # fmt: skip
    return gr.ImageEditor(
        label=t("mode.picture"), type="pil", image_mode="RGBA", format="png", height=520,
        sources=["upload", "clipboard"], transforms=(), layers=False, brush=brush, eraser=gr.Eraser(),
        elem_id=f"{TAB}_{name}_canvas", buttons=["fullscreen"],
    )  # fmt: skip
