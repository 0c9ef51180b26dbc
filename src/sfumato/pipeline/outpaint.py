"""A picture continued beyond its edges: one strip after another, each painted window by window.

    picture ─ strip of matched noise at one side ─┬─ window ─ inpaint ─ lay back ─┬─▶ larger picture
                                                  └────────── next window ◀───────┘

Shape letters: H W picture or strip in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image

from sfumato.pipeline import metadata
from sfumato.pipeline.masks import Box
from sfumato.pipeline.opening import picture_hash
from sfumato.pipeline.plan import make_plan
from sfumato.pipeline.shelf import ModelShelf
from sfumato.pipeline.source import flatten, match_histograms
from sfumato.types import MAX_SEED, Outpaint, Request, Result, StepInfo

Side = Literal["left", "right", "up", "down"]
SIDES: tuple[Side, ...] = ("left", "right", "up", "down")  # in this order
Making: TypeAlias = "Generator[StepInfo | Result, bool | None, None]"
Generate = Callable[[Request], Making]

_SHADE = 0.25  # share of a strip over which the picture's edge fades into noise
_NEAR = 0.25  # pixels of the picture that are looked at, in pixels of the strip
_CELL = 16  # pixels along an edge that share a colour


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One inpainting of a part of the enlarged picture."""

    window: Box  # what is looked at
    paint: Box  # what is new in it, and the seam


@torch.no_grad()
def outpaint(request: Request, shelf: ModelShelf, generate: Generate) -> Making:
    """Make the pictures of a request that continues its source beyond its edges.

    Each strip is inpainted in windows of the canvas's size (unset: the checkpoint's own) at the source's
    scale, so what was there stays as it was, bit for bit, except for the seam. Each side grows by exactly
    the pixels that were asked for.

    Args:
        request: with a source, some pixels of `outpaint`, and no mask.
        shelf: where the checkpoints come from.
        generate: makes the pictures of a request that asks for no more than inpainting.

    Yields:
        As `generate`; each window counts as a pass, each picture as a batch of its own. When it is enough,
        the present window is laid in as far as it has come, and those after it are left out.

    Raises:
        All that `generate` does.
    """
    plan = make_plan(request, shelf)
    assert plan.source is not None, "nothing to continue"
    models, canvas = plan.passes[0].models, plan.request.canvas
    assert canvas.width is not None
    assert canvas.height is not None
    window = canvas.width, canvas.height
    for index in range(len(plan.seeds)):
        asked = plan.picture(index)
        image, seconds = flatten(plan.source, asked.source.background), 0.0
        passes = count_passes(image.size, asked.outpaint, window)
        number, enough = 0, False
        for side, pixels in strips(asked.outpaint, window):
            if enough:
                break
            image = extended(image, side, pixels, asked.outpaint, asked.canvas.seed + number)
            for tile in tiles(image.size, side, pixels, window, asked.outpaint.mask_blur):
                if enough:
                    break
                number += 1
                making = generate(window_request(asked, image, tile, number))
                event = next(making, None)
                while event is not None:
                    if isinstance(event, StepInfo):
                        told = replace(
                            event, batch=index + 1, batches=len(plan.seeds), pass_=number, passes=passes
                        )
                        enough = bool((yield told)) or enough
                    else:
                        seconds += event.seconds
                        left, top, right, bottom = tile.window
                        image.paste(event.image.crop((0, 0, right - left, bottom - top)), (left, top))
                    event = _following(making, enough)
        cut = (("Interrupted", f"window {number}/{passes}"),) if enough else ()
        yield Result(
            image=image,
            request=asked,
            infotext=metadata.write(
                asked,
                model_hash=models.sha256,
                vae_hash=models.vae_sha256,
                extra=(("Init image hash", picture_hash(plan.source)), *cut, *models.circumstances),
            ),
            index=index,
            seconds=seconds,
        )
        if enough:
            return


def _following(making: Making, enough: bool) -> StepInfo | Result | None:
    """The next event; None at the end."""
    try:
        return making.send(enough)
    except StopIteration:
        return None


def strips(outpaint: Outpaint, window: tuple[int, int]) -> list[tuple[Side, int]]:
    """Side and pixels of each strip, none wider than half a window, so that half of what is seen is known."""
    made: list[tuple[Side, int]] = []
    for side in SIDES:
        wanted = getattr(outpaint, side)
        widest = max(1, window[_axis(side)] // 2)
        made += [(side, min(widest, wanted - done)) for done in range(0, wanted, widest)]
    return made


def tiles(size: tuple[int, int], side: Side, pixels: int, window: tuple[int, int], seam: int) -> list[Tile]:
    """The windows in which a strip is painted, from its top or left end; each sees a quarter of the last.

    Args:
        size: width and height of the picture with the strip.
        side: where the strip is.
        pixels: its width.
        window: width and height of one inpainting.
        seam: pixels of what was there that are painted anew where old and new meet.
    """
    along, across = _axis(side), 1 - _axis(side)
    depth, span = min(window[along], size[along]), min(window[across], size[across])
    if side in ("left", "up"):
        near, strip = (0, depth), (0, min(pixels + seam, depth))
    else:
        near, strip = (
            (size[along] - depth, size[along]),
            (size[along] - min(pixels + seam, depth), size[along]),
        )
    made, painted = [], 0
    while painted < size[across]:
        first = min(max(0, painted - span // 4), size[across] - span)
        made.append(
            Tile(
                window=_box(along, near, (first, first + span)),
                paint=_box(along, strip, (max(first, painted - seam), first + span)),
            )
        )
        painted = first + span
    return made


def count_passes(size: tuple[int, int], outpaint: Outpaint, window: tuple[int, int]) -> int:
    """How many windows are painted around a picture of this size."""
    total, grown = 0, list(size)
    for side, pixels in strips(outpaint, window):
        grown[_axis(side)] += pixels
        total += len(tiles((grown[0], grown[1]), side, pixels, window, outpaint.mask_blur))
    return total


def window_request(asked: Request, image: Image.Image, tile: Tile, number: int) -> Request:
    """The inpainting of one window, each with a seed of its own; its sides rounded up to multiples of 8."""
    left, top, right, bottom = tile.window
    width, height = (-(-side // 8) * 8 for side in (right - left, bottom - top))
    mask = Image.new("L", image.size, 0)
    mask.paste(255, tile.paint)
    seed = (asked.canvas.seed + number - 1) % (MAX_SEED + 1)
    blur = asked.outpaint.mask_blur
    return replace(
        asked,
        source=replace(asked.source, image=_padded(image.crop(tile.window), width, height)),
        mask=replace(
            asked.mask,
            image=_padded(mask.crop(tile.window), width, height),
            invert=False,
            blur_x=blur,
            blur_y=blur,
            area="Whole picture",
            content="original",
            overlay=True,
        ),
        canvas=replace(asked.canvas, width=width, height=height, seed=seed),
        outpaint=Outpaint(),
    )


def extended(image: Image.Image, side: Side, pixels: int, outpaint: Outpaint, seed: int) -> Image.Image:
    """The picture with a strip at one side, filled with what looks like the part of it next to the strip.

    Along the strip run the colours of that part, coarsely; on them lies noise that varies as it does. The
    outermost pixels are drawn out and fade into that, so that there is no edge.

    Args:
        image: RGB.
        side: where.
        pixels: width of the strip.
        outpaint: `falloff` and `color_variation` of the noise.
        seed: of the noise.
    """
    turns = {"right": 0, "down": 1, "left": 2, "up": 3}[side]
    known = np.rot90(np.asarray(image), turns)  # (H,W,3), the strip comes to the right
    height = len(known)
    near = known[:, -max(1, round(pixels * _NEAR)) :]
    cells = Image.fromarray(near).resize((1, -(-height // _CELL)), Image.Resampling.BOX)
    colors = np.asarray(cells.resize((1, height), Image.Resampling.BICUBIC), np.float64)  # (H,1,3)
    noise = matched_noise(near - colors, height, pixels, outpaint.falloff, outpaint.color_variation, seed)
    fade = np.clip((np.arange(pixels) + 0.5) / max(1.0, pixels * _SHADE), 0, 1)[None, :, None]
    strip = known[:, -1:] * (1 - fade) + (colors + noise) * fade
    whole = np.concatenate([known, np.rint(strip).clip(0, 255).astype(np.uint8)], 1)
    return Image.fromarray(np.ascontiguousarray(np.rot90(whole, -turns)))


def matched_noise(
    known: Any, height: int, width: int, falloff: float, color_variation: float, seed: int
) -> Any:
    """Noise with the spectrum and the values of a picture.

    White noise is multiplied, frequency by frequency, by the picture's amplitudes to the power of `falloff`,
    and its values are then moved to the distribution of the picture's.

    Source: own; noise of a given spectrum as in Galerne, Gousseau & Morel 2011, "Random phase textures".

    Args:
        known: (h,w,3).
        height: of the noise, pixels.
        width: of the noise.
        falloff: 0 = white, 1 = as the picture, above = smoother.
        color_variation: 0 = one pattern in all channels, 1 = each has its own.
        seed: of the noise.

    Returns:
        (height,width,3), of the values of `known`.
    """
    patch = np.asarray(known[:height, -width:], np.float64)  # (h',w',3)
    taper = np.outer(np.hanning(patch.shape[0] + 2)[1:-1], np.hanning(patch.shape[1] + 2)[1:-1])[..., None]
    smooth = (patch - patch.mean((0, 1))) * taper
    amplitude = np.abs(np.fft.rfft2(smooth, s=(height, width), axes=(0, 1)))  # (H,W/2+1,3)
    amplitude /= max(amplitude.max(), 1e-12)
    draw = np.random.default_rng(seed).standard_normal((height, width, 4))
    white = (1 - color_variation) * draw[..., 3:] + color_variation * draw[..., :3]
    shaped = np.fft.irfft2(
        np.fft.rfft2(white, axes=(0, 1)) * amplitude**falloff, s=(height, width), axes=(0, 1)
    )
    return match_histograms(shaped, patch)


def _axis(side: Side) -> int:
    return 0 if side in ("left", "right") else 1


def _box(along: int, interval: tuple[int, int], other: tuple[int, int]) -> Box:
    (left, right), (top, bottom) = (interval, other) if along == 0 else (other, interval)
    return left, top, right, bottom


def _padded(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture with its last column and row repeated up to a size."""
    pixels = np.asarray(image)
    more = [(0, height - image.height), (0, width - image.width), (0, 0)][: pixels.ndim]
    return Image.fromarray(np.pad(pixels, more, mode="edge"))
