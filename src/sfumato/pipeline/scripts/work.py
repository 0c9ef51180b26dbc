"""What scripts are made of: something that makes the pictures of a request, and pictures made of pictures.

A script is a generator. It asks `make` for requests, hands on every event, and ends with its sheets.
Progress, saving and cancelling belong to whoever iterates.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from PIL.Image import Image

from sfumato.pipeline import images
from sfumato.pipeline.infotext import layout
from sfumato.pipeline.plan import draw_seed
from sfumato.types import Request, Result, StepInfo

Make: TypeAlias = Callable[[Request], Iterator[StepInfo | Result]]  # `generate`, its models given
MAX_SHEET_PIXELS = 200_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Sheet:
    """A picture that a script made of others."""

    image: Image
    label: str
    infotext: str


Event: TypeAlias = "StepInfo | Result | Sheet"


def make_cells(
    requests: Iterable[Request], make: Make
) -> Generator[StepInfo | Result, None, list[tuple[Image, str]]]:
    """Make request after request, each to one cell of a sheet.

    Yields every event of `make`. Returns, to `yield from`, for each request its picture (several as one
    grid) and the infotext of the first.
    """
    cells: list[tuple[Image, str]] = []
    for request in requests:
        made: list[Result] = []
        for event in make(request):
            if isinstance(event, Result):
                made.append(event)
            yield event
        picture = made[0].image if len(made) == 1 else images.grid([each.image for each in made])
        cells.append((picture, made[0].infotext))
    return cells


def settled(seed: int) -> int:
    """The seed, or one drawn for -1."""
    return draw_seed() if seed < 0 else seed


def with_parameters(infotext: str, parameters: Iterable[tuple[str, object]]) -> str:
    """Infotext with more parameters, before the version if it names one; those of value None are left out."""
    more = layout("", "", parameters)
    if not more:
        return infotext
    head, version, tail = infotext.rpartition(", Version: ")
    return f"{head}, {more}{version}{tail}" if version else f"{infotext}, {more}"
