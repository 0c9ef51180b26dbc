"""X/Y/Z plot: one request with two or three of its fields varied, as a sheet with a legend."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from PIL.Image import Image

from sfumato.errors import RequestError
from sfumato.pipeline.scripts import fields
from sfumato.pipeline.scripts.axes import NOTHING, Axis
from sfumato.pipeline.scripts.grids import Legend, Line, letter_size, sheet
from sfumato.pipeline.scripts.work import (
    MAX_SHEET_PIXELS,
    Event,
    Make,
    Sheet,
    make_cells,
    settled,
    with_parameters,
)
from sfumato.types import Request, StepInfo

_SEEDS = ("canvas.seed", "variation.seed")


@dataclass(frozen=True, kw_only=True)
class Plot:
    """What to vary and how to show it."""

    x: Axis = NOTHING
    y: Axis = NOTHING
    z: Axis = NOTHING
    legend: bool = True
    sub_grids: bool = False  # also a sheet of each value of z
    margin: int = 0  # pixels between the cells
    keep_random: bool = False  # leave seeds of -1: every cell draws its own
    vary_seeds: str = ""  # axes along which the seed counts up, as in "xy"

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 500:
            raise RequestError(f"margin={self.margin} is outside 0 to 500")
        named = [field for axis in self.axes for field in axis.fields if not field.startswith("prompt.")]
        twice = next((field for field in named if named.count(field) > 1), None)
        if twice is not None:  # words of a prompt may be replaced along several axes
            raise RequestError(f"two axes set {twice}; one would undo the other: keep one of them")
        if not set(self.vary_seeds) <= set("xyz"):
            raise RequestError(f"vary_seeds={self.vary_seeds!r} names other axes than x, y and z")

    @property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        """Columns, rows, sheets."""
        return self.x, self.y, self.z

    @property
    def count(self) -> int:
        """Number of cells."""
        return self.x.count * self.y.count * self.z.count


def fits(plot: Plot, cell: tuple[int, int]) -> bool:
    """Whether a sheet holds the cells of a plot, each `cell` pixels wide and high."""
    written_out = all(axis.count == len(axis.values) for axis in plot.axes)
    return written_out and plot.count * cell[0] * cell[1] <= MAX_SHEET_PIXELS


def check(plot: Plot, cell: tuple[int, int], steps: int, seconds: float | None = None) -> None:
    """Refuse a plot whose sheet would be larger than `MAX_SHEET_PIXELS`, before anything is written out.

    Args:
        plot: what is wanted.
        cell: width and height of a picture in pixels.
        steps: of a picture.
        seconds: that a step takes; None = not measured.

    Raises:
        RequestError: says how many cells there are, and how long they would take.
    """
    if fits(plot, cell):
        return
    pixels = plot.count * cell[0] * cell[1]
    asked = " × ".join(f"{axis.count:,}" for axis in plot.axes if axis is not NOTHING)
    taking = "" if seconds is None else f", about {_duration(plot.count * steps * seconds)}"
    most = MAX_SHEET_PIXELS // (cell[0] * cell[1])
    raise RequestError(
        f"a grid of {asked} = {plot.count:,} cells of {cell[0]}×{cell[1]} would be {pixels / 1e6:,.0f} "
        f"megapixels and {plot.count * steps:,} steps{taking}; a sheet holds {MAX_SHEET_PIXELS // 10**6} "
        f"megapixels, {most:,} such cells: give the axes fewer values"
    )


def measure_step(request: Request, make: Make) -> float:
    """Seconds a step of `request` takes, from its second; the rest of it is not made."""
    events = make(fields.with_values(request, {"sampling.steps": max(2, request.sampling.steps)}))
    times: list[float] = []
    for event in events:
        if isinstance(event, StepInfo):
            times.append(time.perf_counter())
        if len(times) == 2:
            break
    return times[1] - times[0]


@dataclass(frozen=True)
class Cells:
    """The requests of a plot."""

    plot: Plot
    base: Request

    @cached_property
    def places(self) -> list[tuple[int, int, int]]:
        """Columns, rows and sheets in the order in which they are made: what is dear to change, seldom."""
        order = sorted(range(3), key=lambda k: (self.plot.axes[k].cost, k), reverse=True)
        counts = [range(self.plot.axes[k].count) for k in order]
        return [tuple(at[order.index(k)] for k in range(3)) for at in product(*counts)]  # type: ignore[misc]

    @cached_property
    def requests(self) -> list[Request]:
        """One a place. Raises RequestError: a value out of its field's range."""
        return [self._request(at) for at in self.places]

    @property
    def edges(self) -> list[Request]:
        """Every value once: the cells in which at most one axis is beyond its first value."""
        return [self._request(at) for at in self.places if sum(index > 0 for index in at) <= 1]

    def _request(self, at: tuple[int, int, int]) -> Request:
        request = self.base
        for axis, index in zip(self.plot.axes, at, strict=True):
            request = axis.apply(request, axis.values[index])
        stride, offset = 1, 0
        for name, axis, index in zip("xyz", self.plot.axes, at, strict=True):
            if name in self.plot.vary_seeds:
                offset += index * stride
                stride *= axis.count
        if offset and request.canvas.seed >= 0:
            request = fields.with_values(request, {"canvas.seed": request.canvas.seed + offset})
        return request


def arrange(plot: Plot, base: Request) -> Cells:
    """The cells of a plot, their seeds drawn unless they shall stay random.

    Raises RequestError: a value out of range; the plot is refused before its first picture.
    """
    if not plot.keep_random:
        base = fields.with_values(base, {field: settled(fields.value(base, field)) for field in _SEEDS})
        plot = replace(plot, x=_fixed(plot.x), y=_fixed(plot.y), z=_fixed(plot.z))
    cells = Cells(plot, base)
    assert len(cells.requests) == plot.count
    return cells


def run(cells: Cells, make: Make) -> Iterator[Event]:
    """Make a plot.

    Args:
        cells: from `arrange`, after `check`.
        make: makes the pictures of a request.

    Yields:
        The events of every cell, in the order of `cells.requests`; then, if wanted, the sheet of each value
        of z, and the sheet of all. Several pictures of one cell stand in it as a grid.
    """
    plot = cells.plot
    made = yield from make_cells(cells.requests, make)
    at = dict(zip(cells.places, made, strict=True))
    size, infotext = at[0, 0, 0][0].size, with_parameters(at[0, 0, 0][1], _parameters(plot))
    below: list[Image] = []
    for z in range(plot.z.count):
        pictures = [at[x, y, z][0] for y in range(plot.y.count) for x in range(plot.x.count)]
        legend = Legend(columns=_labels(plot.x), rows=_labels(plot.y)) if plot.legend else None
        below.append(sheet(pictures, plot.x.count, legend, plot.margin))
        if plot.sub_grids and plot.z is not NOTHING:
            text = with_parameters(at[0, 0, z][1], _parameters(plot))
            yield Sheet(image=below[-1], label=f"xyz-{z + 1}", infotext=text)
    if plot.z is NOTHING:
        yield Sheet(image=below[0], label="xyz", infotext=infotext)
        return
    made.clear()
    at.clear()  # the cells stand in their sheets; not twice in memory beside the sheet of sheets
    letters = letter_size(*size) * 3 // 2
    legend = Legend(columns=_labels(plot.z)) if plot.legend else None
    image = sheet(below, len(below), legend, plot.margin + (letters if plot.legend else 0), letters)
    yield Sheet(image=image, label="xyz", infotext=infotext)


def _fixed(axis: Axis) -> Axis:
    """The axis with a seed drawn for each -1 among its values."""
    if not set(axis.fields) & set(_SEEDS):
        return axis
    drawn = tuple(settled(each) for each in axis.values)
    return replace(axis, values=drawn, labels=tuple(f"{axis.name}: {each}" for each in drawn))


def _labels(axis: Axis) -> Sequence[tuple[Line, ...]]:
    return [(Line(label),) for label in axis.labels] if axis is not NOTHING else ()


def _parameters(plot: Plot) -> Iterator[tuple[str, object]]:
    yield "Script", "X/Y/Z plot"
    for name, axis in zip("XYZ", plot.axes, strict=True):
        if axis is NOTHING:
            continue
        yield f"{name} Type", axis.name
        yield f"{name} Values", axis.text
        if set(axis.fields) & set(_SEEDS) and not plot.keep_random:
            yield f"Fixed {name} Values", ", ".join(str(each) for each in axis.values)


def _duration(seconds: float) -> str:
    """In the largest unit of which there is at least one."""
    units = (("days", 86400), ("hours", 3600), ("minutes", 60))
    name, size = next(((name, size) for name, size in units if seconds >= size), ("seconds", 1))
    return f"{seconds / size:,.3g} {name}"
