"""The tab PNG Info: what a picture says of how it was made, as text, and the way back into the forms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from sfumato.errors import OutputError, RequestError
from sfumato.pipeline.dialects import Origin, origin
from sfumato.pipeline.images import read_texts
from sfumato.ui.results import SENDS, senders
from sfumato.ui.site import Inlet, Sent, Site, Visit, as_upload
from sfumato.ui.strings import t

TAB = "png_info"
LONGEST = 20_000  # characters of a text that are shown


def build(site: Site) -> None:
    """Make the tab here."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            gr.Markdown(t("help.png.picture"), elem_classes=["sf-help"])
            image = gr.Image(
                label=t("mode.picture"), type="filepath", image_mode=None, height=480,
                sources=["upload", "clipboard"], elem_id=f"{TAB}_image", buttons=["fullscreen"],
            )  # fmt: skip
            senders(site, TAB, SENDS, [image], send)
        with gr.Column(scale=6, min_width=320):
            program = gr.Textbox(
                label=t("png.program"), interactive=False, max_lines=3, elem_id=f"{TAB}_program"
            )
            infotext = gr.Textbox(
                label=t("results.infotext"), interactive=False, lines=4, max_lines=16, buttons=["copy"],
                elem_id=f"{TAB}_infotext",
            )  # fmt: skip
            notes = gr.Textbox(
                label=t("png.notes"), interactive=False, max_lines=8, visible=False, elem_id=f"{TAB}_notes"
            )
            fields = gr.HTML(elem_id=f"{TAB}_fields")
            with gr.Accordion(t("png.texts"), open=False, elem_id=f"{TAB}_all"):
                texts = gr.HTML(elem_id=f"{TAB}_texts")

    site.on(
        image.change, read, [image], [program, infotext, notes, fields, texts], trigger_mode="always_last"
    )

    def fill(visit: Visit, sent: Sent) -> list[Any]:
        return [as_upload(sent.picture(visit), image)]

    site.inlets[TAB] = Inlet(tab=TAB, outputs=[image], fill=fill)


def read(visit: Visit, file: str | None) -> list[Any]:
    """Who made a picture, its text, notes, and tables of its parameters and of all texts."""
    if not file:
        return ["", "", gr.Textbox(value="", visible=False), "", ""]
    found = read_texts(Path(file))
    below = _table(visit.say("png.texts"), found.items())
    try:
        told = origin(found)
    except OutputError as error:
        said = visit.say("png.none") if not found else str(error)
        return [plain(said), plain(found.get("parameters", "")), gr.Textbox(visible=False), "", below]
    remarks = "\n".join(map(plain, [*told.notes, *([told.fault] if told.fault else [])]))
    return [
        plain(told.program),
        plain(told.text),
        gr.Textbox(value=remarks, visible=bool(remarks)),
        _table(visit.say("png.fields"), rows(visit, told)),
        below,
    ]


def send(visit: Visit, file: str | None) -> Sent:
    """The picture with its text; what another program wrote, as ours would write it.

    Raises RequestError: there is no picture.
    """
    if not file:
        raise RequestError(visit.say("png.empty"))
    found = read_texts(Path(file))
    try:
        text = origin(found).text
    except OutputError:
        text = ""
    return Sent(image=Path(file), infotext=text)


def rows(visit: Visit, told: Origin) -> list[tuple[str, str]]:
    """The parameters, one a row, prompts first."""
    prompt, negative = told.info.prompts()
    names = dict.fromkeys(_whole(key, told.info.fields) for key in told.info.fields)
    given = [(visit.say("png.prompt"), prompt), (visit.say("png.negative"), negative)]
    given += [(name, told.info.text(name) or "") for name in names]
    return [(name, value) for name, value in given if value]


def plain(text: str) -> str:
    """A text that can be sent to the page, whatever stood in the file."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _whole(key: str, fields: Mapping[str, str]) -> str:
    """The key of a size, of which the fields hold width and height as two."""
    stem = key.removesuffix("-1").removesuffix("-2")
    return stem if f"{stem}-1" in fields and f"{stem}-2" in fields else key


def _table(caption: str, given: Iterable[tuple[str, str]]) -> str:
    """HTML of a table, with nothing in it but text."""
    lines = [
        f'<tr><th scope="row">{escape(_short(name))}</th><td>{escape(_short(value))}</td></tr>'
        for name, value in given
    ]
    head = f"<caption>{escape(caption)}</caption>"
    return f'<table class="sf-fields">{head}{"".join(lines)}</table>' if lines else ""


def _short(text: str) -> str:
    return plain(text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,})")
