"""The gallery as a table or as JSON lines, which no program that opens it takes for anything but data."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from sfumato.app.gallery_table import Picture
from sfumato.errors import RequestError

Form = Literal["csv", "jsonl"]
KINDS: Mapping[Form, str] = MappingProxyType({"csv": "text/csv", "jsonl": "application/x-ndjson"})
FIELDS = (
    "id",
    "file",
    "created",
    "width",
    "height",
    "seed",
    "model",
    "sampler",
    "program",
    "rating",
    "tags",
    "owner",
    "sha256",
    "prompt",
    "negative",
    "infotext",
)
_FORMULA = "=+-@|%\t\r"  # what a spreadsheet begins to calculate at


def export(pictures: Iterable[Picture], form: Form) -> Iterator[str]:
    """Pictures as text, line by line.

    Args:
        pictures: which.
        form: csv, for spreadsheets: control characters are spelled out, and an apostrophe stands before what
            would be a formula; or jsonl, for programs: an object a line, exact.

    Raises:
        RequestError: another form.
    """
    if form not in get_args(Form):
        raise RequestError(f"form={form!r} is not one of {', '.join(get_args(Form))}")
    if form == "jsonl":
        for picture in pictures:
            yield json.dumps(as_json(picture)) + "\n"
        return
    yield _line(FIELDS)
    for picture in pictures:
        values = {name: getattr(picture, name) for name in FIELDS} | {"tags": ", ".join(picture.tags)}
        yield _line([cell(value) for value in values.values()])


def as_json(picture: Picture) -> dict[str, Any]:
    """A picture as plain values."""
    names = ("id", "number", "state", "job", *FIELDS[1:], "request")
    return {name: getattr(picture, name) for name in names} | {"tags": list(picture.tags)}


def cell(value: object) -> str | int | float:
    """A value for a spreadsheet, which neither calculates nor obeys it."""
    if value is None or isinstance(value, int | float):
        return "" if value is None else value
    text = "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else char
        for char in str(value)
    )
    first = unicodedata.normalize("NFKC", text.lstrip())[:1]  # wide and small forms of the signs, too
    return f"'{text}" if first and first in _FORMULA else text


def _line(values: Iterable[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n").writerow(values)
    return buffer.getvalue()
