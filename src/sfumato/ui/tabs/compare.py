"""The tab Compare: two pictures under one slider."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from sfumato.errors import RequestError
from sfumato.pipeline.source import read_picture, resize
from sfumato.types import ResizeMode
from sfumato.ui.site import Inlet, Sent, Site, Visit
from sfumato.ui.strings import t

TAB = "compare"


def build(site: Site) -> None:
    """Make the tab here."""
    gr.Markdown(t("help.compare"), elem_classes=["sf-help"])
    slider = gr.ImageSlider(
        label=t("compare.pictures"), format="png", type="filepath", image_mode=None, interactive=True,
        elem_id="compare_slider", buttons=["fullscreen"], max_height=720,
    )  # fmt: skip

    def fill(visit: Visit, sent: Sent) -> list[Any]:
        after = sent.picture(visit)
        if sent.before is None:
            raise RequestError(visit.say("no_before"))
        return [pair(read_picture(sent.before), read_picture(after), sent.fit)]

    site.inlets[TAB] = Inlet(tab=TAB, outputs=[slider], fill=fill)


def pair(
    before: Image.Image, after: Image.Image, fit: ResizeMode = "Just resize"
) -> tuple[Image.Image, Image.Image]:
    """Both at the larger one's size, so that the same place lies under the same place.

    Args:
        before: what was there first.
        after: what was made of it.
        fit: how it came to the other's shape.
    """
    width, height = max(before.size, after.size, key=lambda size: size[0] * size[1])
    if fit == "Crop and resize":
        width, height = after.size
    return resize(before, width, height, fit), resize(after, width, height, "Just resize")
