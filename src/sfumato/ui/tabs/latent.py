"""The tab Latent space: a map of the gallery's pictures and prompts, and walks between them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from sfumato.app.walks import between_pictures, between_prompts
from sfumato.errors import RequestError
from sfumato.pipeline.scripts.walk import MOST_STOPS, Stop, Walk
from sfumato.ui import controls
from sfumato.ui.form import Form
from sfumato.ui.latent_space import TAB
from sfumato.ui.making import new_ticket, stop, submit_all
from sfumato.ui.results import SENDS, STRIP, senders
from sfumato.ui.site import Load, Sent, Site, Visit
from sfumato.ui.strings import t

MAP = """<div class="sf-map" id="latent_map">
<div class="sf-map-plane">
<canvas tabindex="0" role="application" aria-describedby="latent_map_keys"></canvas>
<div class="sf-map-signs"><button type="button" data-sign="in">+</button>
<button type="button" data-sign="out">−</button><button type="button" data-sign="all">⤢</button>
<button type="button" data-sign="again">↻</button></div>
<div class="sf-map-name" hidden></div></div>
<div class="sf-map-beside"><p class="sf-map-count" role="status"></p>
<ol class="sf-map-list"></ol><p class="sf-help" id="latent_map_keys"></p></div></div>"""
OPENED = """<figure class="sf-opened" id="latent_opened"><img class="sf-closer" alt=""></figure>"""
STOPS = """<ol class="sf-stops" id="latent_stops_shown"></ol>"""
WALK = """<div class="sf-walk" id="latent_walk" hidden><img class="sf-walk-frame sf-closer" alt="">
<div class="sf-walk-row"><button type="button" class="sf-walk-play">▶</button>
<input type="range" class="sf-walk-slider" min="0" value="0"></div>
<p class="sf-walk-place" role="status"></p>
<p class="sf-walk-files"><a class="sf-walk-moving" download></a>
<a class="sf-walk-sheet" target="_blank"></a></p></div>"""
FIELDS = (
    ("prompt.negative",),
    ("sampling.sampler", "sampling.schedule"),
    ("sampling.steps", "sampling.guidance"),
    ("canvas.width", "canvas.height"),
    ("canvas.seed",),
)
_DRAW = "by => { document.dispatchEvent(new CustomEvent('sf-map', {detail: by})); return by; }"
_SHOW = (
    "stops => { document.dispatchEvent(new CustomEvent('sf-stops', {detail: stops})); return 'pictures'; }"
)
_ADD = f"""(chosen, stops) => {{
  const ids = stops.split(" ").filter(Boolean);
  return !chosen || ids.at(-1) === chosen || ids.length === {MOST_STOPS} ? stops : [...ids, chosen].join(" ");
}}"""


def build(site: Site) -> None:
    """Make the tab here."""
    stops = gr.Textbox(visible="hidden", show_label=False, elem_id=f"{TAB}_stops")
    gr.Markdown(t("help.latent.map"), elem_classes=["sf-help"])
    by = gr.Radio(
        [(t(f"latent.by_{each}"), each) for each in ("looks", "words", "meaning")], value="looks",
        label=t("latent.by"), info=t("help.latent.by"), elem_id=f"{TAB}_by",
    )  # fmt: skip
    _html(MAP)
    site.here(by.input, _DRAW, [by], [by])
    _opened(site, stops)
    Walking(site, stops)


def _html(markup: str) -> None:
    """Markup that is no prose: nothing of Gradio's looks."""
    gr.HTML(markup, apply_default_css=False, padding=False)


def _opened(site: Site, stops: Any) -> None:
    """What is seen of the picture that was chosen on the map."""
    chosen = gr.Textbox(visible="hidden", show_label=False, elem_id=f"{TAB}_chosen")

    def sent(visit: Visit, picture_id: str) -> Sent:
        if not picture_id:
            raise RequestError(visit.say("no_picture"))
        gallery = site.engine.gallery
        picture = gallery.get(picture_id, visit.owner)
        return Sent(image=gallery.path(picture), infotext=picture.infotext)

    with gr.Column(elem_id=f"{TAB}_opened_place", elem_classes=["sf-opened-place"]), gr.Row():
        with gr.Column(scale=2, min_width=280):
            _html(OPENED)
        with gr.Column(scale=3, min_width=280):
            infotext = gr.Textbox(
                label=t("results.infotext"), elem_id=f"{TAB}_infotext", lines=4, max_lines=10,
                interactive=False, buttons=["copy"],
            )  # fmt: skip
            add = gr.Button(t("latent.add"), size="sm", elem_id=f"{TAB}_add")
            senders(site, TAB, SENDS, [chosen], sent)

    def show(visit: Visit, picture_id: str) -> str:
        return site.engine.gallery.get(picture_id, visit.owner).infotext if picture_id else ""

    site.on(chosen.change, show, [chosen], [infotext], trigger_mode="always_last")
    site.here(add.click, _ADD, [chosen, stops], [stops])


class Walking:
    """The form of a walk, and what is seen of it."""

    def __init__(self, site: Site, stops: Any) -> None:
        """Make them here.

        Args:
            site: of the page.
            stops: the component with the ids of the pictures that were chosen, with spaces between them.
        """
        self.site, self.stops = site, stops
        self.form = Form(site, TAB)
        gr.Markdown(t("help.latent.walk"), elem_classes=["sf-help"])
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320, elem_classes=["sf-form"]):
                self._between()
                self._how()
            with gr.Column(scale=6, min_width=320):
                with gr.Row():
                    self.generate = gr.Button(
                        t("latent.generate"), variant="primary", elem_id=f"{TAB}_generate"
                    )
                    self.interrupt = gr.Button(
                        t("button.interrupt"), elem_id=f"{TAB}_interrupt", scale=0, min_width=120
                    )
                gr.HTML(STRIP.format(tab=TAB), elem_id=f"{TAB}_strip")
                _html(WALK)
        self.form.adopt("model.checkpoint", site.checkpoint_choice)
        self._bind()

    def _between(self) -> None:
        choices = [(t(f"latent.{each}"), each) for each in ("prompts", "pictures")]
        self.mode = gr.Radio(
            choices, value="prompts", label=t("latent.between"), info=t("help.latent.between"),
            elem_id=f"{TAB}_between",
        )  # fmt: skip
        with gr.Column(elem_id=f"{TAB}_pictures", visible=False) as pictures:
            gr.Markdown(t("help.latent.pictures"), elem_classes=["sf-help"])
            _html(STOPS)
        with gr.Column(elem_id=f"{TAB}_prompts") as prompts:
            self.prompts: list[Any] = []
            for first in range(1, MOST_STOPS, 2):
                with gr.Row():
                    self.prompts += [_prompt(first), _prompt(first + 1)]
            with gr.Accordion(t("latent.settings"), open=False, elem_id=f"{TAB}_settings"):
                for row in FIELDS:
                    with gr.Row():
                        for field in row:
                            self.form.make(next(each for each in controls.CONTROLS if each.field == field))

        def turn(visit: Visit, mode: str) -> list[Any]:
            return [gr.Column(visible=mode == "prompts"), gr.Column(visible=mode == "pictures")]

        self.site.on(self.mode.change, turn, [self.mode], [prompts, pictures])
        self.site.here(self.stops.change, _SHOW, [self.stops], [self.mode])

    def _how(self) -> None:
        with gr.Row():
            self.frames = gr.Slider(
                1, 60, value=Walk.frames, step=1, label=t("latent.frames"), info=t("help.latent.frames"),
                elem_id=f"{TAB}_frames",
            )  # fmt: skip
            self.fps = gr.Slider(
                1, 30, value=Walk.fps, step=1, label=t("latent.fps"), info=t("help.latent.fps"),
                elem_id=f"{TAB}_fps",
            )  # fmt: skip
        with gr.Row():
            self.back = gr.Checkbox(
                value=Walk.back, label=t("latent.back"), info=t("help.latent.back"), elem_id=f"{TAB}_back"
            )
            self.kind = gr.Radio(
                [("WebP", "webp"), ("GIF", "gif")], value=Walk.file_format, label=t("latent.kind"),
                info=t("help.latent.kind"), elem_id=f"{TAB}_kind",
            )  # fmt: skip

    def _bind(self) -> None:
        ticket = gr.Textbox(visible="hidden", show_label=False, elem_id=f"{TAB}_ticket")
        how = [self.mode, self.stops, self.frames, self.fps, self.back, self.kind]
        inputs = [ticket, *how, *self.prompts, *self.form.inputs]
        self.site.on(self.generate.click, self._send, inputs, [ticket], trigger_mode="once")
        self.site.on(self.interrupt.click, lambda visit: stop(self.site.engine, visit, TAB))
        self.site.loads.append(Load(lambda visit: new_ticket(), [ticket]))

    def _send(self, visit: Visit, ticket: str, mode: str, stops: str, *values: Any) -> str:
        """Submit the walk; the next ticket."""
        frames, fps, back, kind = values[:4]
        prompts, rest = values[4 : 4 + MOST_STOPS], values[4 + MOST_STOPS :]
        how = {"frames": int(frames), "fps": float(fps), "back": bool(back), "file_format": kind}
        engine = self.site.engine
        if mode == "pictures":
            request, script = between_pictures(
                engine.gallery, engine.inputs, stops.split(), owner=visit.owner, cells=True, **how
            )
        else:
            wanted = [each for each in prompts if each.strip()]
            request, script = between_prompts(self.form.read(rest), wanted, cells=True, **how)
        Walk(stops=[Stop(**each) for each in script.arguments["stops"]], **how)  # refuses before it waits
        submit_all(engine, visit, [(request, script)], ticket)
        return new_ticket()


def _prompt(place: int) -> Any:
    return gr.Textbox(
        label=t(f"latent.prompt_{place}"), info=t(f"help.latent.prompt_{place}"), lines=2, max_lines=6,
        elem_id=f"{TAB}_prompt_{place}", min_width=200,
    )  # fmt: skip
