"""One picture made larger: passes of a network until the size is reached, then Lanczos to the exact size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling

from sfumato.errors import RequestError
from sfumato.pipeline import memory
from sfumato.pipeline.images import MAX_PIXELS
from sfumato.pipeline.upscale_tiles import TileStep, enlarge, tile_count
from sfumato.pipeline.upscalers import Upscaler

PASSES = 3  # of a network, at most
MULTIPLE = 8  # sides made by a factor are rounded down to this


def scaled_size(width: int, height: int, factor: float) -> tuple[int, int]:
    """The size a factor leads to: each side rounded down to a multiple of 8, at least 8."""
    exact = (side * factor + 1e-6 for side in (width, height))  # 1000 / 3 times 3 is 1000
    sides = (int(side) // MULTIPLE * MULTIPLE for side in exact)
    wide, high = (max(MULTIPLE, side) for side in sides)
    return wide, high


def upscale_image(
    image: Image.Image, width: int, height: int, upscaler: Upscaler
) -> Iterator[TileStep | Image.Image]:
    """Resize a picture to exactly `width`×`height`.

    A network runs while the picture is smaller than that in width or height, at most three times, and once
    where the picture has that size already (there are networks that clean without enlarging). Lanczos does
    the rest. Transparency is resampled by Lanczos.

    Args:
        image: any mode; it comes back as RGBA if it had transparency, else as RGB.
        width: of the result, pixels.
        height: of the result, pixels.
        upscaler: what `upscalers.load` gave.

    Yields:
        A TileStep after each tile of a network, then the picture. Stop iterating to cancel.

    Raises:
        RequestError: a size of no pixels, or of more than can be read again.
        OutOfMemoryError: a pass would need more memory than there is.
    """
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise RequestError(
            f"{width}×{height} is not a size of 1 to {MAX_PIXELS:,} pixels; choose a smaller one"
        )
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    colours = image.convert("RGB")
    network = upscaler.network
    if network is not None:
        sizes = _passes(colours.size, (width, height), network.scale)
        counts = [tile_count(*size) for size in sizes]
        for number, (wide, high) in enumerate(sizes):
            _require_memory(wide * high * network.scale**2)
            for event in enlarge(network, torch.from_numpy(np.array(colours))):
                if isinstance(event, TileStep):
                    yield TileStep(done=sum(counts[:number]) + event.done, total=sum(counts))
                else:
                    colours = Image.fromarray(event.numpy())
    if colours.size != (width, height):
        colours = colours.resize((width, height), upscaler.filter)
    if alpha is not None:
        colours.putalpha(alpha.resize((width, height), Resampling.LANCZOS))
    yield colours


def tiles_needed(size: tuple[int, int], target: tuple[int, int], upscaler: Upscaler) -> int:
    """How many steps `upscale_image` will take for a picture of this size."""
    if upscaler.network is None:
        return 0
    return sum(tile_count(*given) for given in _passes(size, target, upscaler.network.scale))


def _passes(size: tuple[int, int], target: tuple[int, int], scale: int) -> list[tuple[int, int]]:
    """Sizes that the network is given, one a pass."""
    if size == target or scale == 1:
        return [size] if size[0] <= target[0] or size[1] <= target[1] else []
    sizes: list[tuple[int, int]] = []
    wide, high = size
    while len(sizes) < PASSES and (wide < target[0] or high < target[1]):
        sizes.append((wide, high))
        wide, high = wide * scale, high * scale
    return sizes


def _require_memory(pixels: int) -> None:
    memory.require(
        8 * pixels,  # the canvas, the picture made of it, and what resizing takes
        memory.available_bytes(torch.device("cpu")),
        f"a pass to {pixels:,} pixels",
        "choose a smaller factor, or Lanczos",
    )
