"""Prompt matrix: parts of a prompt between `|`, the first always there, the others in every combination."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sfumato.errors import RequestError
from sfumato.pipeline.scripts import fields
from sfumato.pipeline.scripts.grids import Legend, Line, sheet
from sfumato.pipeline.scripts.work import (
    MAX_SHEET_PIXELS,
    Event,
    Make,
    Sheet,
    make_cells,
    settled,
    with_parameters,
)
from sfumato.types import Request


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """How the combinations are made and shown."""

    at_start: bool = False  # the changing parts before the fixed one
    different_seeds: bool = False  # the seed counts up; else it is the same everywhere
    negative: bool = False  # the parts are those of the negative prompt
    separator: str = ", "
    margin: int = 0  # pixels between the cells

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 500:
            raise RequestError(f"margin={self.margin} is outside 0 to 500")

    @property
    def field(self) -> str:
        """Of the prompt that is split."""
        return "prompt.negative" if self.negative else "prompt.text"

    def shape(self, base: Request) -> tuple[int, int]:
        """Columns and rows of the sheet: columns go through the first half of the parts, rows the second."""
        parts = len(_parts(self, base)) - 1
        return 2 ** (parts - parts // 2), 2 ** (parts // 2)


def arrange(matrix: Matrix, base: Request, cell: tuple[int, int]) -> list[Request]:
    """Requests of all 2^(n-1) combinations of n parts; number k has part i (from 1) if bit i - 1 of k is set.

    Args:
        matrix: how.
        base: its prompt holds the parts.
        cell: width and height of a picture in pixels.

    Raises:
        RequestError: nothing to combine, or more than a sheet holds; says how many.
    """
    parts = _parts(matrix, base)
    if len(parts) < 2:
        raise RequestError(
            f"{matrix.field}: no | in it; write the parts as in: a cat | at night | oil painting"
        )
    number = count(matrix, base)
    if number * cell[0] * cell[1] > MAX_SHEET_PIXELS:
        raise RequestError(
            f"{len(parts)} parts have {number:,} combinations, more than fit a sheet of "
            f"{MAX_SHEET_PIXELS // 10**6} megapixels at {cell[0]}×{cell[1]}; use fewer parts"
        )
    seed = settled(base.canvas.seed)
    requests = []
    for k in range(number):
        chosen = [part for bit, part in enumerate(parts[1:]) if k >> bit & 1]
        texts = [*chosen, parts[0]] if matrix.at_start else [parts[0], *chosen]
        text = matrix.separator.join(text for text in texts if text)
        values = {matrix.field: text, "canvas.seed": seed + (k if matrix.different_seeds else 0)}
        requests.append(fields.with_values(base, values))
    return requests


def run(matrix: Matrix, base: Request, requests: Sequence[Request], make: Make) -> Iterator[Event]:
    """Make the pictures of `arrange`, and a sheet whose labels show which parts hold."""
    made = yield from make_cells(requests, make)
    parts = _parts(matrix, base)[1:]
    half = len(parts) - len(parts) // 2
    columns = matrix.shape(base)[0]
    legend = Legend(columns=_labels(parts[:half]), rows=_labels(parts[half:]))
    image = sheet([picture for picture, _ in made], columns, legend, matrix.margin)
    yield Sheet(
        image=image, label="matrix", infotext=with_parameters(made[0][1], [("Script", "Prompt matrix")])
    )


def count(matrix: Matrix, base: Request) -> int:
    """Combinations of the prompt's parts."""
    return int(2 ** (len(_parts(matrix, base)) - 1))


def _parts(matrix: Matrix, base: Request) -> list[str]:
    return [part.strip().strip(",").strip() for part in str(fields.value(base, matrix.field)).split("|")]


def _labels(parts: Sequence[str]) -> list[tuple[Line, ...]]:
    """One label a combination, none where there are no parts."""
    if not parts:
        return []
    return [
        tuple(Line(part, bool(k >> bit & 1)) for bit, part in enumerate(parts))
        for k in range(2 ** len(parts))
    ]
