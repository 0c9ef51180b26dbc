"""A network over a picture of any size: tile by tile, joined without a seam, in bounded memory.

Every tile is computed with real pixels around it (reflected ones at the picture's edge) that are cut off
again, so that a network sees no border where there is none; where two tiles overlap one fades into the other.
Shape letters: H W the picture's size, S the network's scale, h w a tile's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.weights.upscalers import Enlarger

TILE = 192  # pixels of the input that a network sees at once
OVERLAP = 8  # of neighbouring tiles, faded
CONTEXT = 10  # pixels around a tile that are computed and cut off; without them corners show artefacts


@dataclass(frozen=True, kw_only=True)
class TileStep:
    """One tile is done."""

    done: int
    total: int


def tile_count(height: int, width: int) -> int:
    """How many tiles a picture is cut into."""
    return len(spans(height)) * len(spans(width))


def enlarge(network: Enlarger, pixels: Tensor, tile: int = TILE) -> Iterator[TileStep | Tensor]:
    """Enlarge a picture. Memory beside the result holds one row of tiles and one tile's features.

    Args:
        network: what enlarges; its parameters say the device and dtype it computes in.
        pixels: (H,W,3) uint8.
        tile: largest side of what the network sees at once.

    Yields:
        A TileStep after each tile, then the picture (S·H,S·W,3) uint8. Stop iterating to cancel.

    Raises:
        WeightsError: the network's result is not finite.
    """
    height, width, _ = pixels.shape
    rows, columns = spans(height, tile), spans(width, tile)
    around = _surrounded(pixels)  # (3,H+2·CONTEXT,W+2·CONTEXT)
    scale, done = network.scale, 0
    canvas = torch.empty((scale * height, scale * width, 3), dtype=torch.uint8)
    carry = torch.empty(0)
    for number, (top, bottom) in enumerate(rows):
        band = torch.zeros((3, scale * (bottom - top), scale * width))
        for index, (left, right) in enumerate(columns):
            seen = around[:, top : bottom + 2 * CONTEXT, left : right + 2 * CONTEXT]
            piece = _run(network, seen) * fades(columns, index, scale)  # (3,S·h,S·w)
            band[:, :, scale * left : scale * right] += piece
            done += 1
            yield TileStep(done=done, total=len(rows) * len(columns))
        band *= fades(rows, number, scale)[:, None]
        if number:
            band[:, : carry.shape[1]] += carry
        ready = scale * ((rows[number + 1][0] if number + 1 < len(rows) else bottom) - top)
        canvas[scale * top : scale * top + ready] = _to_bytes(band[:, :ready])
        carry = band[:, ready:].clone()
    yield canvas


def spans(length: int, tile: int = TILE) -> list[tuple[int, int]]:
    """Equal pieces of a side, at most `tile` long with their CONTEXT, sharing OVERLAP or a bit more."""
    most = tile - 2 * CONTEXT
    assert most > 3 * OVERLAP, "a tile too small for its overlaps"
    count = max(1, -(-(length - OVERLAP) // (most - OVERLAP)))
    size = -(-(length + (count - 1) * OVERLAP) // count)
    starts = [round(number * (length - size) / max(1, count - 1)) for number in range(count)]
    return [(start, start + size) for start in starts]


def fades(pieces: list[tuple[int, int]], index: int, scale: int) -> Tensor:
    """Weights of one piece along its side, (scale·size,): all pieces' weights sum to one everywhere."""
    start, stop = pieces[index]
    weights = torch.ones(scale * (stop - start))
    shared = [scale * (before[1] - after[0]) for before, after in pairwise(pieces)]
    if index > 0:
        weights[: shared[index - 1]] = _ramp(shared[index - 1])
    if index + 1 < len(pieces):
        weights[len(weights) - shared[index] :] = _ramp(shared[index]).flip(0)
    return weights


def _ramp(length: int) -> Tensor:
    return (torch.arange(length) + 0.5) / length


@torch.no_grad()
def _run(network: Enlarger, seen: Tensor) -> Tensor:
    """The network's result (3,S·h,S·w) for a tile and its context (3,h+2·CONTEXT,w+2·CONTEXT) uint8."""
    wanted = next(network.parameters())
    colours = seen.to(wanted.device, wanted.dtype).div(255)[None]
    out = network(colours.contiguous(memory_format=torch.channels_last))[0]
    edge = CONTEXT * network.scale
    out = out[:, edge : out.shape[1] - edge, edge : out.shape[2] - edge]
    out = out.to("cpu", torch.float32)
    if not out.isfinite().all():
        kind = str(wanted.dtype).removeprefix("torch.")
        raise WeightsError(f"the upscaler's numbers leave what {kind} holds; try --dtype float32, or another")
    return out.clamp(0, 1)


def _surrounded(pixels: Tensor) -> Tensor:
    """(H,W,3) → (3,H+2·CONTEXT,W+2·CONTEXT), mirrored at the edges."""
    height, width, _ = pixels.shape
    return pixels.permute(2, 0, 1)[:, _mirrored(height)][:, :, _mirrored(width)]


def _mirrored(length: int) -> Tensor:
    """Places in a side for the places in it and around it."""
    places = torch.arange(-CONTEXT, length + CONTEXT).abs()
    return (length - 1 - (length - 1 - places).abs()).clamp(min=0)


def _to_bytes(band: Tensor) -> Tensor:
    """(3,h,w) in [0, 1] → (h,w,3) uint8, rounded."""
    return band.mul(255).round().to(torch.uint8).permute(1, 2, 0)
