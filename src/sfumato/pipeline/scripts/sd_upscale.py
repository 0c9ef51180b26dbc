"""SD upscale: a picture is enlarged, cut into tiles that overlap, repainted tile by tile, and put together.

    enlarge ─ cut ─ image to image, tile by tile ─ join, the overlaps faded into one another

Shape letters: H W of the whole picture, T U height and width of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from sfumato.errors import RequestError
from sfumato.pipeline.scripts import fields
from sfumato.pipeline.scripts.work import MAX_SHEET_PIXELS, Event, Make, Sheet, settled, with_parameters
from sfumato.pipeline.source import flatten, read_picture
from sfumato.types import MAX_SEED, Request, Result

Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How much larger, and how the tiles lie; they are as large as the request's canvas."""

    scale: float = 2.0
    overlap: int = 64  # pixels
    upscaler: str = "Lanczos"

    def __post_init__(self) -> None:
        if not 1 <= self.scale <= 8:
            raise RequestError(f"scale={self.scale:g} is outside 1 to 8")
        if not 0 <= self.overlap <= 256:
            raise RequestError(f"overlap={self.overlap} is outside 0 to 256")


def enlarged_size(tiling: Tiling, request: Request) -> tuple[int, int]:
    """Width and height of the result. Raises RequestError: no source, a mask, too large."""
    if request.source.image is None:
        raise RequestError("sd-upscale needs a source picture")
    if request.mask.image is not None:
        raise RequestError("sd-upscale takes no mask; it repaints the whole picture")
    image = read_picture(request.source.image)
    width, height = (round(side * tiling.scale) for side in image.size)
    if width * height > MAX_SHEET_PIXELS:
        raise RequestError(
            f"{width}×{height} is more than {MAX_SHEET_PIXELS // 10**6} megapixels; choose a smaller scale"
        )
    return width, height


def count(tiling: Tiling, request: Request) -> int:
    """Tiles of all results. Raises RequestError: see `enlarged_size` and `boxes`."""
    tiles = sum(len(row) for row in _places(tiling, request))
    return tiles * request.canvas.batch_size * request.canvas.batch_count


def boxes(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> list[list[Box]]:
    """Where the tiles lie, row by row: as few as reach with this overlap, spread evenly.

    Args:
        size: width and height of the whole picture.
        tile: of a tile; one larger than the picture is cut to it.
        overlap: pixels that neighbours share at least.

    Raises:
        RequestError: an overlap that leaves nothing of a tile.
    """
    lefts, tops = (_starts(size[k], min(tile[k], size[k]), overlap) for k in (0, 1))
    width, height = (min(tile[k], size[k]) for k in (0, 1))
    return [[(left, top, left + width, top + height) for left in lefts] for top in tops]


def join(
    tiles: Sequence[Sequence[Image.Image]], places: Sequence[Sequence[Box]], overlap: int
) -> Image.Image:
    """Put tiles together. Each fades in over the first `overlap` pixels that it shares with those before.

    Args:
        tiles: pictures, row by row.
        places: of each, as `boxes` gave them.
        overlap: pixels.
    """
    width, height = places[-1][-1][2:]
    whole = np.zeros((height, width, 3), np.uint8)  # (H,W,3)
    for row, (pictures, row_places) in enumerate(zip(tiles, places, strict=True)):
        top, bottom = row_places[0][1], row_places[0][3]
        strip = np.zeros((bottom - top, width, 3), np.float32)  # (T,W,3)
        for column, (picture, (left, _, right, _)) in enumerate(zip(pictures, row_places, strict=True)):
            fade = _fade(right - left, overlap * (column > 0))[None, :, None]  # (1,U,1)
            strip[:, left:right] += fade * (np.asarray(picture, np.float32) - strip[:, left:right])
        fade = _fade(bottom - top, overlap * (row > 0))[:, None, None]  # (T,1,1)
        whole[top:bottom] = (whole[top:bottom] + fade * (strip - whole[top:bottom])).round()
    return Image.fromarray(whole)


def run(
    tiling: Tiling,
    request: Request,
    make: Make,
    enlarge: Callable[[Image.Image, int, int], Iterator[Any]],
) -> Iterator[Event]:
    """Enlarge the source of a request and repaint it.

    Args:
        tiling: how much larger, and how the tiles lie.
        request: image to image; its canvas is the size of a tile, and each of its pictures a whole result.
            Tile k of result n has the seed of the request + n + k.
        make: makes the pictures of a request.
        enlarge: from a picture, a width and a height: progress, then the picture.

    Yields:
        The events of every tile, and a Sheet for every result.

    Raises:
        RequestError, OutputError: see `enlarged_size`.
    """
    size = enlarged_size(tiling, request)
    image = flatten(read_picture(request.source.image), request.source.background)  # type: ignore[arg-type]
    for event in enlarge(image, *size):
        if isinstance(event, Image.Image):
            image = event
    canvas = request.canvas
    places = _places(tiling, request)
    seed = settled(canvas.seed)
    told = [("SD upscale overlap", tiling.overlap), ("SD upscale upscaler", tiling.upscaler)]
    for number in range(canvas.batch_size * canvas.batch_count):
        rows: list[list[Image.Image]] = []
        infotext = ""
        tile = 0
        for row in places:
            rows.append([])
            for box in row:
                part = image.crop(box)
                asked = _tile_request(request, part, (seed + number + tile) % (MAX_SEED + 1))
                tile += 1
                for event in make(asked):
                    if isinstance(event, Result):
                        infotext = infotext or event.infotext
                        rows[-1].append(_fitted(event.image, part.size))
                    yield event
        yield Sheet(
            image=join(rows, places, tiling.overlap),
            label=str((seed + number) % (MAX_SEED + 1)),
            infotext=with_parameters(infotext, told),
        )


def _places(tiling: Tiling, request: Request) -> list[list[Box]]:
    width, height = request.canvas.width, request.canvas.height
    if width is None or height is None:
        raise RequestError("sd-upscale needs the size of a tile: width and height")
    return boxes(enlarged_size(tiling, request), (width, height), tiling.overlap)


def _tile_request(request: Request, part: Image.Image, seed: int) -> Request:
    """Image to image of one tile; a side that is no multiple of 8 is made so, and brought back afterwards."""
    width, height = (-(-side // 8) * 8 for side in part.size)
    return fields.with_values(
        request,
        {
            "source.image": part,
            "source.resize_mode": "Just resize",
            "canvas.width": width,
            "canvas.height": height,
            "canvas.seed": seed,
            "canvas.batch_size": 1,
            "canvas.batch_count": 1,
        },
    )


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _starts(whole: int, tile: int, overlap: int) -> list[int]:
    """Left or top edges of the tiles along one side."""
    if whole == tile:
        return [0]
    if overlap >= tile:
        raise RequestError(
            f"overlap={overlap} leaves nothing of tiles of {tile} pixels; choose a smaller one"
        )
    count = -(-(whole - overlap) // (tile - overlap))
    return [int(k * (whole - tile) / (count - 1)) for k in range(count)]


def _fade(length: int, overlap: int) -> Any:
    """Weights (length,): 0 rising to 1 over the overlap, then 1."""
    return (
        (np.arange(length, dtype=np.float32) / overlap).clip(max=1)
        if overlap
        else np.ones(length, np.float32)
    )
