"""The values of an axis, as people write them.

    1, 2, 5          a list; texts with commas in them in double quotes
    1-5              every whole number from 1 to 5
    1-5 (+2)         in steps of 2; 10-5 (-3) downwards
    1-10 [5]         five numbers, evenly spread, both ends among them
    0.2-0.6 (+0.2)   the same with fractions

Ranges are counted before they are written out, so that no text can make a list that fills the memory.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from decimal import ROUND_FLOOR, Decimal
from itertools import chain, islice

from sfumato.errors import RequestError

MAX_VALUES = 10_000  # of an axis that are written out; more are only counted

_NUMBER = r"[+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})"
_RANGE = re.compile(rf"({_NUMBER})\s*-\s*({_NUMBER})(?:\s*\(\s*({_NUMBER})\s*\)|\s*\[\s*(\d{{1,20}})\s*\])?")


def split(text: str) -> list[str]:
    """Texts between commas, trimmed; a text in double quotes may hold commas, line breaks and "" for a quote.

    Raises RequestError: a text beyond the limit of the reader.
    """
    try:
        rows = csv.reader(text.splitlines(keepends=True), skipinitialspace=True)
        return [cell.strip() for row in rows for cell in row if cell.strip()]
    except csv.Error as error:
        raise RequestError(f"values {text[:40]!r}: {error}") from error


def numbers(text: str, *, whole: bool) -> tuple[tuple[str, ...], int]:
    """The values of a numeric axis, ranges written out.

    Args:
        text: values and ranges between commas.
        whole: numbers without a fraction; the numbers of a count `[n]` are then truncated.

    Returns:
        At most `MAX_VALUES` of them as text, and how many there are.

    Raises:
        RequestError: a range that never arrives: a step of 0 or of the wrong sign, a count of 0.
    """
    counts, parts = 0, []
    for cell in split(text):
        match = _RANGE.fullmatch(cell)
        count, values = (1, iter([cell])) if match is None else _spread(cell, match, whole)
        counts += count
        parts.append(values)
    return tuple(islice(chain(*parts), MAX_VALUES)), counts


def _spread(cell: str, match: re.Match[str], whole: bool) -> tuple[int, Iterator[str]]:
    """Number and values of a range."""
    first, last = Decimal(match[1]), Decimal(match[2])
    if match[4] is not None:
        count = int(match[4])
        step = (last - first) / (count - 1) if count > 1 else Decimal(0)
    else:
        step = Decimal(match[3]) if match[3] else Decimal(1)
        if step == 0:
            raise RequestError(f"the range {cell!r} has a step of 0")
        count = int(((last - first) / step).to_integral_value(ROUND_FLOOR)) + 1
    if count < 1:
        raise RequestError(
            f"the range {cell!r} holds nothing; give it a step like ({'+1' if step < 0 else '-1'})"
        )
    exact = (first + step * k for k in range(count))
    return count, (str(int(each)) if whole else str(float(round(each, 12))) for each in exact)
