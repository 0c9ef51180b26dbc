"""Sheets of pictures with a legend: labels above the columns and left of the rows.

Text is wrapped to the room it has, then set smaller, and at the smallest size cut with an ellipsis, so that a
label of any length leaves the pictures where they are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

SMALLEST = 9  # size of letters in pixels
MAX_LABEL = 4000  # characters of a label that are looked at
_PAPER, _INK, _PALE = (255, 255, 255), (0, 0, 0), (153, 153, 153)
_SPACING = 1.25  # from line to line, in sizes

Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"


@dataclass(frozen=True)
class Line:
    """One text of a label; one that does not hold is set pale and struck through."""

    text: str
    holds: bool = True


Label: TypeAlias = Sequence[Line]


@dataclass(frozen=True, kw_only=True)
class Legend:
    """What stands around a sheet; whatever is empty takes no room."""

    columns: Sequence[Label] = ()
    rows: Sequence[Label] = ()


@dataclass(frozen=True)
class _Block:
    """A label, set: each line with whether it holds."""

    font: Font
    step: float  # pixels from line to line
    lines: tuple[Line, ...]

    @property
    def height(self) -> int:
        return round(self.step * len(self.lines))

    @property
    def width(self) -> int:
        return max((_width(self.font, line.text) for line in self.lines), default=0)


def sheet(
    pictures: Sequence[Image.Image],
    columns: int,
    legend: Legend | None = None,
    margin: int = 0,
    letters: int | None = None,
) -> Image.Image:
    """Lay pictures out row by row.

    Args:
        pictures: at least one; each is centred in a cell as large as the largest.
        columns: number of them; the last row may stay incomplete.
        legend: labels, as many as there are columns and rows, or none.
        margin: pixels between the cells.
        letters: size of the legend's, in pixels; None = `letter_size` of the cells.
    """
    assert pictures, "a sheet of nothing"
    assert columns > 0, f"columns={columns}"
    legend = legend or Legend()
    width, height = (max(picture.size[side] for picture in pictures) for side in (0, 1))
    rows = -(-len(pictures) // columns)
    inner = columns * width + (columns - 1) * margin, rows * height + (rows - 1) * margin
    size = letters or letter_size(width, height)
    gap = size // 2
    tops = [_set(label, width - 2 * gap, max(height // 2, 3 * size), size) for label in legend.columns]
    sides = [_set(label, max(width * 3 // 4, 60), height, size) for label in legend.rows]
    left = max((block.width for block in sides), default=-2 * gap) + 2 * gap
    top = max((block.height for block in tops), default=-2 * gap) + 2 * gap
    paper = Image.new("RGB", (left + inner[0], top + inner[1]), _PAPER)
    for place, picture in enumerate(pictures):
        x = left + place % columns * (width + margin) + (width - picture.width) // 2
        y = top + place // columns * (height + margin) + (height - picture.height) // 2
        paper.paste(picture, (x, y))
    draw = ImageDraw.Draw(paper)
    for place, block in enumerate(tops):
        _write(draw, block, left + place * (width + margin) + width / 2, top / 2)
    for place, block in enumerate(sides):
        _write(draw, block, left / 2, top + place * (height + margin) + height / 2)
    return paper


def letter_size(width: int, height: int) -> int:
    """Pixels that suit the legend of pictures of this size."""
    return max(SMALLEST, (width + height) // 25)


def _set(label: Label, width: int, height: int, size: int) -> _Block:
    """Wrap a label, in the largest letters up to `size` with which it fits into `width` × `height`."""
    for letters in range(size, SMALLEST - 1, -1):
        font = ImageFont.load_default(letters)
        step = letters * _SPACING
        room = max(1, int(height / step))
        lines = tuple(
            Line(text, line.holds) for line in label for text in _wrap(line.text[:MAX_LABEL], font, width)
        )
        broken = any(_width(font, word) > width for line in label for word in line.text[:MAX_LABEL].split())
        if len(lines) <= room and (not broken or letters <= size * 2 // 3):
            return _Block(font, step, lines)
    cut = lines[:room]
    last = cut[-1].text
    while last and _width(font, f"{last}…") > width:
        last = last[:-1]
    return _Block(font, step, (*cut[:-1], Line(f"{last}…", cut[-1].holds)))


def _wrap(text: str, font: Font, width: int) -> Iterator[str]:
    """Lines of whole words, of letters where a word alone is too wide. Every kind of space counts as one."""
    line = ""
    for word in text.split():
        if not line or _width(font, f"{line} {word}") > width:
            if line:
                yield line
            while _width(font, word) > width and len(word) > 1:
                fits = _fitting(word, font, width)
                yield word[:fits]
                word = word[fits:]
            line = word
        else:
            line = f"{line} {word}"
    if line:
        yield line


def _fitting(word: str, font: Font, width: int) -> int:
    """How many of the first letters fit; at least one."""
    return 1 + bisect_right(range(2, len(word)), width, key=lambda k: _width(font, word[:k]))


def _width(font: Font, text: str) -> int:
    return round(font.getlength(text))


def _write(draw: ImageDraw.ImageDraw, block: _Block, x: float, y: float) -> None:
    """Write a block, every line centred at `x` and all of them at `y`."""
    y += (block.step - block.height) / 2
    for line in block.lines:
        ink = _INK if line.holds else _PALE
        draw.text((x, y), line.text, fill=ink, font=block.font, anchor="mm")
        if not line.holds:
            half = _width(block.font, line.text) / 2
            draw.line((x - half, y, x + half, y), fill=ink, width=max(1, round(block.step / 14)))
        y += block.step
