"""What is on the canvases of img2img, as a source and a mask of the source's own size.

A canvas gives its background and its layers as pictures; where a brush has been, its layer is opaque.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from sfumato.pipeline.source import read_picture
from sfumato.types import Picture, Request

PAINTED = 128  # alpha from which on a pixel counts as painted
Canvas = Mapping[str, Any] | None  # as `gr.ImageEditor` gives it


def background(canvas: Canvas) -> Image.Image | None:
    """The picture that a canvas was painted over, upright; None = there is none."""
    held = canvas and canvas.get("background")
    if not held:
        return None
    picture = read_picture(held)
    return picture.convert("RGB") if picture.getextrema()[-1] == (255, 255) else picture


def painted(canvas: Canvas, strength: float = 1.0) -> Image.Image | None:
    """The picture with what was painted over it; None = there is no picture.

    Args:
        canvas: with a picture.
        strength: of the paint; 0 = it is not seen.
    """
    picture = background(canvas)
    if picture is None:
        return None
    below = laid = picture.convert("RGBA")
    for layer in _layers(canvas, picture.size):
        laid = Image.alpha_composite(laid, layer)
    laid = Image.blend(below, laid, strength)
    return laid if picture.mode == "RGBA" else laid.convert("RGB")


def mask(canvas: Canvas) -> Image.Image | None:
    """Where a canvas was painted on, L, 255 or 0, of the picture's size; None = there is no picture."""
    picture = background(canvas)
    if picture is None:
        return None
    found = np.zeros((picture.height, picture.width), np.bool_)
    for layer in _layers(canvas, picture.size):
        found |= np.asarray(layer.getchannel("A")) >= PAINTED
    return Image.fromarray(found.astype(np.uint8) * np.uint8(255))


def inverted(canvas: Canvas) -> dict[str, Any] | None:
    """The canvas with white paint wherever it had none, and nowhere else; None = there is no picture."""
    picture, found = background(canvas), mask(canvas)
    if picture is None or found is None:
        return None
    layer = Image.new("RGBA", picture.size, "white")
    layer.putalpha(ImageChops.invert(found))
    below = picture.convert("RGBA")
    return {"background": picture, "layers": [layer], "composite": Image.alpha_composite(below, layer)}


def with_pictures(
    request: Request, source: Picture, mask: Picture | None = None, depth: Picture | None = None
) -> Request:
    """A request that starts from these pictures."""
    return replace(
        request,
        source=replace(request.source, image=source, depth=depth),
        mask=replace(request.mask, image=mask),
    )


def scaled(request: Request, source: Picture, scale: float) -> Request:
    """A request for `scale` times the source's own size, in whole multiples of 8."""
    width, height = (max(8, int(side * scale) // 8 * 8) for side in size_of(source))
    return replace(request, canvas=replace(request.canvas, width=width, height=height))


def size_of(picture: Picture) -> tuple[int, int]:
    """Width and height of a picture when it is upright."""
    return (read_picture(picture) if isinstance(picture, Path) else picture).size


def _layers(canvas: Canvas, size: tuple[int, int]) -> list[Image.Image]:
    layers = [each.convert("RGBA") for each in (canvas or {}).get("layers") or []]
    return [each if each.size == size else each.resize(size, Image.Resampling.NEAREST) for each in layers]
