"""Where a picture may change: a mask as pixels, as latents, and as what is laid over the result.

    mask ─ luminance or alpha ─ invert ─ blur ─┬─ whole picture ─────────────── resize ─┐
                                               └─ only masked ─ box ─ crop ─ resize ────┴─ fill ─ latents

Shape letters: H W picture, h w latents (pixels / reduction).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageChops, ImageFilter, ImageStat
from torch import Tensor

from sfumato.pipeline.source import read_picture, resize
from sfumato.types import Mask, ResizeMode

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom not included

_FILL = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))  # radius of a blur, how often it is laid over


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedMask:
    """A mask brought to a request's size. In its pictures 255 changes and 0 stays."""

    picture: Image.Image  # RGB (H,W): what is encoded to start from
    mask: Image.Image  # L (H,W): the blurred mask over it
    latent_mask: Tensor  # (1,1,h,w) float32: 1 changes
    base: Image.Image  # RGB: what the result is laid into; of the source's size where a box is set
    base_mask: Image.Image  # L, as large: where the result is seen
    box: Box | None  # in the base: where the result belongs; None = it covers the base
    blank: bool  # the mask was empty; everything changes, as without it


def prepare_mask(
    mask: Mask, source: Image.Image, width: int, height: int, resize_mode: ResizeMode, reduction: int = 8
) -> PreparedMask:
    """Bring a mask and its source to the size of a request.

    A mask of another size than the source is stretched over it. An empty mask, which would leave nothing to
    do, is passed over: all is as for a white one.

    Args:
        mask: what was asked for; its `image` is set. With `round` off, grey values stay: soft inpainting.
        source: RGB, flattened, of its own size.
        width: of the request, pixels.
        height: of the request, pixels.
        resize_mode: how source and mask come to that size; "Only masked" always fits its box and fills.
        reduction: pixels for each latent; both sides are multiples of it.

    Raises:
        OutputError: the mask's file cannot be read.
    """
    blurred = _drawn(mask, source.size)
    blank = blurred.getbbox() is None
    if blank:
        blurred = Image.new("L", source.size, 255)
        mask = replace(mask, area="Whole picture", content="original")
    if mask.area == "Only masked":
        box: Box | None = masked_box(blurred, mask.padding, width / height)
        picture = resize(source.crop(box), width, height, "Resize and fill")
        within = resize(blurred.crop(box), width, height, "Resize and fill", Image.Resampling.BILINEAR)
        base, seen = source, blurred
    else:
        box = None
        base = picture = resize(source, width, height, resize_mode)
        within = resize(blurred, width, height, resize_mode, Image.Resampling.BILINEAR)
        seen = within.point(lambda value: min(255, 2 * value))
    if not mask.overlay:
        seen = Image.new("L", base.size, 255)
    return PreparedMask(
        picture=fill(picture, within) if mask.content == "fill" else picture,
        mask=within,
        latent_mask=_latent_mask(within, width // reduction, height // reduction, mask.round),
        base=base,
        base_mask=seen,
        box=box,
        blank=blank,
    )


def is_blank(mask: Mask, size: tuple[int, int]) -> bool:
    """Whether a mask over a source of this size leaves nothing to change, and so counts as none.

    Raises OutputError: the mask's file cannot be read.
    """
    return _drawn(mask, size).getbbox() is None


def _drawn(mask: Mask, size: tuple[int, int]) -> Image.Image:
    """The mask over a source of this size: white changes; L."""
    assert mask.image is not None, "no mask to prepare"
    drawn = _white_places(read_picture(mask.image), keep_grey=not mask.round)
    drawn = drawn.resize(size, Image.Resampling.BILINEAR) if drawn.size != size else drawn
    drawn = ImageChops.invert(drawn) if mask.invert else drawn
    return blur(drawn, mask.blur_x, mask.blur_y)


def overlay(result: Image.Image, prepared: PreparedMask) -> Image.Image:
    """Lay the source over a result wherever nothing was to change; there it is kept bit for bit.

    Args:
        result: RGB, of the request's size.
        prepared: the mask it was made with.

    Returns:
        RGB of the base's size: the request's, or the source's where only the masked box was painted.
    """
    if prepared.box is not None:
        left, top, right, bottom = prepared.box
        pasted = prepared.base.copy()
        pasted.paste(resize(result, right - left, bottom - top, "Crop and resize"), (left, top))
        result = pasted
    return Image.composite(result, prepared.base, prepared.base_mask)


def seen_where_changed(prepared: PreparedMask, changed: Tensor) -> PreparedMask:
    """Let a result be seen where its latents have changed (soft inpainting), never outside the mask.

    Args:
        prepared: the mask it was made with.
        changed: (h,w) from 0 to 1 for one picture, as `diffusion.masks.changed_share` gives it.
    """
    width, height = prepared.mask.size
    share = Image.fromarray(changed.mul(255).round().to(torch.uint8).cpu().numpy())
    share = share.resize((width, height), Image.Resampling.BICUBIC)
    if prepared.box is not None:
        left, top, right, bottom = prepared.box
        whole = Image.new("L", prepared.base.size, 0)
        whole.paste(resize(share, right - left, bottom - top, "Crop and resize"), (left, top))
        share = whole
    allowed = prepared.base_mask.point(lambda value: 255 if value else 0)
    return replace(prepared, base_mask=ImageChops.darker(share, allowed))


def masked_box(mask: Image.Image, padding: int, ratio: float) -> Box:
    """The smallest box around what is masked, padded, and widened to an aspect ratio as far as there is room.

    Args:
        mask: L, not empty.
        padding: pixels on each side.
        ratio: width / height that is wanted.
    """
    drawn = mask.getbbox()
    assert drawn is not None, "a box around nothing"
    left, right = max(0, drawn[0] - padding), min(mask.width, drawn[2] + padding)
    top, bottom = max(0, drawn[1] - padding), min(mask.height, drawn[3] + padding)
    if (right - left) / (bottom - top) > ratio:
        top, bottom = _widened(top, bottom, round((right - left) / ratio), mask.height)
    else:
        left, right = _widened(left, right, round((bottom - top) * ratio), mask.width)
    return left, top, right, bottom


def blur(mask: Image.Image, sigma_x: int, sigma_y: int) -> Image.Image:
    """Gaussian blur over 2·int(2.5·sigma + 0.5) + 1 pixels, mirrored at the edges; 0 = none.

    Args:
        mask: L.
        sigma_x: standard deviation along the rows, pixels.
        sigma_y: along the columns.
    """
    values = np.asarray(mask, np.float32)
    for axis, sigma in ((1, sigma_x), (0, sigma_y)):
        if sigma > 0:
            values = _blurred(values, sigma, axis)
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))


def fill(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Paint over the masked part with what surrounds it: coarse colours first, then finer ones near the edge.

    Blurs of what is left of the picture are laid over one another, wide ones below. Where no blur reaches,
    the mean colour stands.

    Args:
        image: RGB.
        mask: L of the same size, 255 where the picture is unknown.
    """
    kept = ImageChops.invert(mask)
    known = image.copy()
    known.putalpha(kept)
    premultiplied = known.convert("RGBa")
    painted = Image.new("RGBA", image.size)
    for radius, times in _FILL:
        layer = premultiplied.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            painted.alpha_composite(layer)
    mean = ImageStat.Stat(image, kept if kept.getbbox() else None).mean
    unreached = painted.getchannel("A").point(lambda value: 0 if value else 255)
    filled = painted.convert("RGB")
    filled.paste(tuple(round(value) for value in mean), mask=unreached)
    return filled


def _white_places(image: Image.Image, *, keep_grey: bool) -> Image.Image:
    """L: the alpha of a picture that is transparent somewhere, else its luminance."""
    if image.mode != "RGBA" or image.getchannel("A").getextrema() == (255, 255):
        return image.convert("L")
    alpha = image.getchannel("A")
    return alpha if keep_grey else alpha.point(lambda value: 255 if value > 128 else 0)


def _latent_mask(mask: Image.Image, width: int, height: int, rounded: bool) -> Tensor:
    small = np.asarray(mask.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255
    return torch.from_numpy(np.rint(small) if rounded else small)[None, None]  # (1,1,h,w)


def _blurred(values: npt.NDArray[np.float32], sigma: int, axis: int) -> npt.NDArray[np.float32]:
    reach = int(2.5 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    weights /= weights.sum()
    rows = np.moveaxis(values, axis, 0)
    padded = np.pad(rows, [(reach, reach), (0, 0)], mode="reflect" if len(rows) > 1 else "edge")
    total = np.zeros_like(rows)
    for offset, weight in enumerate(weights):
        total += weight * padded[offset : offset + len(rows)]
    return np.moveaxis(total, 0, axis)


def _widened(low: int, high: int, wanted: int, limit: int) -> tuple[int, int]:
    """`low` to `high` grown around its middle to `wanted`, moved and cut to stay within 0 to `limit`."""
    size = min(limit, max(wanted, high - low))
    low = min(max(0, low - (size - (high - low)) // 2), limit - size)
    return low, low + size
