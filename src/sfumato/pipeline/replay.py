"""A picture made again from the parameters it carries, and how far the second one is from the first."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np
import torch
from PIL import Image

from sfumato.errors import RequestError
from sfumato.pipeline import infotext
from sfumato.pipeline.dialects import Origin
from sfumato.pipeline.infotext import Infotext
from sfumato.text import grammar
from sfumato.types import Picture, Request

_DECISIVE = (
    "Model hash",
    "VAE hash",
    "Lora hashes",
    "TI hashes",
    "Hypernet hashes",
    "Init image hash",
    "Device",
    "Precision",
    "Lora method",
    "Torch",
)  # beside the request
_FROM_A_PICTURE = ("Init image hash", "Mask blur", "Masked content", "Outpaint left", "Resize mode")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of two pictures, value by value of their colour channels."""

    largest: int  # of 255
    mean: float
    share: float  # of the values that differ, 0 to 1

    def __str__(self) -> str:
        if self.largest == 0:
            return "the same, every pixel"
        where = f"in {self.share:.2%} of the values, {self.mean:.3f} on average"
        return f"differs by up to {self.largest}/255, {where}"


def difference(first: Image.Image, second: Image.Image) -> Difference:
    """Compare two pictures of one size. Raises RequestError where the sizes differ."""
    if first.size != second.size:
        raise RequestError(
            f"the picture is {first.width}×{first.height}, made again it is {second.width}×{second.height}"
        )
    one, other = (np.asarray(image.convert("RGB"), dtype=np.int16) for image in (first, second))
    apart = np.abs(one - other)
    return Difference(largest=int(apart.max()), mean=float(apart.mean()), share=float((apart > 0).mean()))


def request_again(
    origin: Origin,
    *,
    source: Picture | None = None,
    mask: Picture | None = None,
    depth: Picture | None = None,
    checkpoint: str | None = None,
) -> Request:
    """The request that makes the picture once more.

    Args:
        origin: what the picture says of itself.
        source: the picture it was made from, which no text can carry; likewise the mask and the depth map.
        mask: see `source`.
        depth: see `source`.
        checkpoint: in place of the one named in the picture.

    Raises:
        RequestError: the parameters are no request, a source is missing, or the picture names a model by
            a path: a picture must not choose which file of this machine is opened.
    """
    if origin.request is None:
        raise RequestError(f"its parameters cannot be used: {origin.fault}")
    request, info = origin.request, origin.info
    if source is None and _made_from_a_picture(info, request):
        raise RequestError(
            "it was made from another picture; give it with --source (and --mask, if there was one)"
        )
    model = request.model if checkpoint is None else replace(request.model, checkpoint=checkpoint)
    for name in (model.checkpoint, model.vae, request.hires.checkpoint, request.refiner.checkpoint):
        if name is not None and name != checkpoint and _is_path(name):
            raise RequestError(f"it names a model by a path, {name[:80]!r}; choose one with --model")
    for prompt in (request.prompt.text, request.hires.prompt):
        for tag in grammar.split_tags(grammar.strip_comments(prompt))[1]:
            if tag.positional and _is_path(tag.positional[0]):
                raise RequestError(f"it names a model by a path, {str(tag)[:80]!r}; it is not made again")
    return replace(
        request,
        model=model,
        source=replace(request.source, image=source, depth=depth),
        mask=replace(request.mask, image=mask),
    )


def _made_from_a_picture(info: Infotext, request: Request) -> bool:
    denoised = info.text("Denoising strength") is not None and not request.hires.enabled
    return denoised or any(info.text(key) is not None for key in _FROM_A_PICTURE)


def _is_path(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor) or ".." in name


def reasons(origin: Origin, again: str, *, lossless: bool) -> Sequence[str]:
    """Why the picture made again may differ from the first, most likely cause first.

    Args:
        origin: what the first picture says of itself.
        again: infotext of the second.
        lossless: whether the first picture's file keeps its pixels exactly.
    """
    found = [] if lossless else ["the file keeps its pixels only roughly; a PNG keeps them exactly"]
    now = infotext.parse(again)
    for key in _DECISIVE:
        before, after = origin.info.text(key), now.text(key)
        if before is not None and before != after:
            found.append(f"{key}: then {before[:80]}, now {after}")
    if origin.program != now.text("Version"):
        found.append(f"made by {origin.program}, this is {now.text('Version')}")
    found += origin.notes
    if not found:
        found.append(f"none that the picture tells; here are torch {torch.__version__}, {platform.machine()}")
    return found
