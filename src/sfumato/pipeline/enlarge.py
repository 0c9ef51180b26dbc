"""Between two passes: the size of the second, and latents brought to it.

Shape letters: B pictures of a batch, C latent channels, H W latent size (pixels / 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from sfumato.errors import RequestError
from sfumato.nn.vae import AutoencoderKL
from sfumato.pipeline.images import to_image
from sfumato.pipeline.latents import decode, encode
from sfumato.pipeline.shelf import ModelShelf
from sfumato.pipeline.upscale import upscale_image
from sfumato.pipeline.upscalers import Upscaler
from sfumato.types import MAX_SIDE, Canvas, Hires

LATENT_UPSCALERS: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {  # name: how torch interpolates, whether it filters first
        "Latent": ("bilinear", False),
        "Latent (antialiased)": ("bilinear", True),
        "Latent (bicubic)": ("bicubic", False),
        "Latent (bicubic antialiased)": ("bicubic", True),
        "Latent (nearest)": ("nearest", False),
        "Latent (nearest-exact)": ("nearest-exact", False),
    }
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """The size a second pass has, and the one to which the first is enlarged before the edges are cut."""

    width: int  # pixels, multiples of 8
    height: int
    enlarged_width: int  # covers width × height
    enlarged_height: int
    name: str  # of the upscaler
    upscaler: Upscaler | None  # None = it interpolates latents


def second_size(canvas: Canvas, hires: Hires, upscaler: Upscaler | None) -> Target:
    """Settle the second pass's size.

    Neither side given: the first pass's times the scale. One given: the other by the first pass's shape. Both
    given: enlarged until it covers them, the rest cut off evenly.

    Args:
        canvas: of the first pass, its sides set.
        hires: what was asked for.
        upscaler: from `load_upscaler`.

    Raises:
        RequestError: smaller than 8 pixels or larger than `MAX_SIDE`.
    """
    width, height = canvas.width or 0, canvas.height or 0
    assert width
    assert height
    if not hires.width and not hires.height:
        wide, high = int(width * hires.scale), int(height * hires.scale)
        final = wide, high
    elif not hires.height:
        final = wide, high = hires.width, hires.width * height // width
    elif not hires.width:
        final = wide, high = hires.height * width // height, hires.height
    else:
        final = hires.width, hires.height
        if width * hires.height > height * hires.width:  # the first pass is the wider
            wide, high = hires.height * width // height, hires.height
        else:
            wide, high = hires.width, hires.width * height // width
    sides = [side // 8 * 8 for side in (*final, max(wide, final[0]), max(high, final[1]))]
    if min(sides) < 8 or max(sides) > MAX_SIDE:
        raise RequestError(f"hires makes {sides[0]}×{sides[1]} pixels; a side has 8 to {MAX_SIDE}")
    return Target(
        width=sides[0],
        height=sides[1],
        enlarged_width=sides[2],
        enlarged_height=sides[3],
        name=hires.upscaler,
        upscaler=upscaler,
    )


def load_upscaler(name: str, shelf: ModelShelf) -> Upscaler | None:
    """Make an upscaler of pictures ready; None for one of latents, which needs nothing.

    Raises:
        ModelNotFoundError: there is none of that name.
        WeightsError: its file is broken.
    """
    if name in LATENT_UPSCALERS:
        return None
    return shelf.upscalers.load(name)


def enlarge(
    latents: Tensor, vae: AutoencoderKL, target: Target, other: AutoencoderKL, *, wraps: bool = False
) -> Tensor:
    """Bring finished latents to the size of the second pass.

    Latents are interpolated, or decoded, made larger as pictures of 8 bits, and encoded again.

    Args:
        latents: (B,C,h,w) of the first pass.
        vae: its autoencoder.
        target: what to make of them.
        other: the second pass's autoencoder.
        wraps: opposite edges of the picture meet.

    Returns:
        (B,C,H,W) float32.
    """
    if target.upscaler is None:
        return enlarge_latents(latents, target, vae.config.reduction, wraps=wraps)
    wide, high = target.enlarged_width, target.enlarged_height
    left, top = (wide - target.width) // 2, (high - target.height) // 2
    encoded = []
    for each in latents:
        image = to_image(decode(each[None], vae, wraps=wraps)[0].numpy())
        *_, large = upscale_image(image, wide, high, target.upscaler)
        assert isinstance(large, Image)
        pixels = np.array(large.crop((left, top, left + target.width, top + target.height)))
        encoded.append(encode(torch.from_numpy(pixels)[None], other, wraps=wraps))
    return torch.cat(encoded).to(latents.device)


def enlarge_latents(latents: Tensor, target: Target, reduction: int, *, wraps: bool = False) -> Tensor:
    """Interpolate latents (B,C,h,w) to the target's size and cut the edges: (B,C,H,W).

    Where opposite edges meet (`wraps`), what lies beyond an edge is what the other has.
    """
    mode, antialias = LATENT_UPSCALERS[target.name]
    size = target.enlarged_height // reduction, target.enlarged_width // reduction
    if wraps:  # three by three, of which the one in the middle is kept
        around = F.pad(latents, (latents.shape[3],) * 2 + (latents.shape[2],) * 2, mode="circular")
        large = F.interpolate(around, (3 * size[0], 3 * size[1]), mode=mode, antialias=antialias)
        large = large[..., size[0] : 2 * size[0], size[1] : 2 * size[1]]
    else:
        large = F.interpolate(latents, size, mode=mode, antialias=antialias)
    top, left = (size[0] - target.height // reduction) // 2, (size[1] - target.width // reduction) // 2
    return large[..., top : top + target.height // reduction, left : left + target.width // reduction]
