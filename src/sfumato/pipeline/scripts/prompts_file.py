"""Prompts from a file: one job a line, a plain prompt or options: `--prompt "a cat" --steps 10 --seed 1`.

Empty lines and lines that begin with # are passed over. The options are AUTOMATIC1111's names for the API and
the dotted names of a request's fields.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from sfumato.errors import PromptError, RequestError
from sfumato.pipeline.scripts import fields
from sfumato.text.styles import Style
from sfumato.types import MAX_SEED, Request

Insert = Literal["replace", "start", "end"]
SWITCHES = ("tiling", "restore_faces", "do_not_save_samples", "do_not_save_grid")
"""Options that may stand without a value."""
_PROMPTS: Mapping[str, str] = MappingProxyType(
    {"prompt": "prompt.text", "negative_prompt": "prompt.negative"}
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How lines join the request they stand on."""

    insert: Insert = "replace"  # where the request's own prompts go
    iterate_seed: bool = False  # each line counts the seed on by the pictures of the one before

    def __post_init__(self) -> None:
        if self.insert not in get_args(Insert):
            raise RequestError(f"insert={self.insert!r} is not one of {', '.join(get_args(Insert))}")


def read_lines(
    text: str, base: Request, reading: Reading, styles: Mapping[str, Style] | None = None
) -> list[Request]:
    """The requests of a file of prompts.

    Args:
        text: of the file.
        base: what the lines leave open; its seed is drawn already, if the lines shall share it or count on.
        reading: how.
        styles: those there are, by name.

    Raises:
        RequestError: no such option (the nearest are named), a value out of range; with the line.
        PromptError: no such style; with the line.
    """
    assert base.canvas.seed >= 0 or not reading.iterate_seed, "no seed to count on from"
    requests: list[Request] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            request = _line(line, base, reading, styles or {})
        except (RequestError, PromptError) as error:
            raise type(error)(f"line {number}: {error}") from error
        requests.append(request)
        if reading.iterate_seed:
            pictures = request.canvas.batch_size * request.canvas.batch_count
            base = fields.with_values(base, {"canvas.seed": (base.canvas.seed + pictures) % (MAX_SEED + 1)})
    return requests


def _line(line: str, base: Request, reading: Reading, styles: Mapping[str, Style]) -> Request:
    row = _options(line) if line.startswith("--") else {"prompt": line}
    for name, field in _PROMPTS.items():
        if row.get(name) and reading.insert != "replace":
            own, of_line = fields.value(base, field), row[name]
            first, second = (own, of_line) if reading.insert == "start" else (of_line, own)
            row[name] = f"{first} {second}".strip()
    return fields.from_row(base, row, styles)


def _options(line: str) -> dict[str, str]:
    """Names and values of a line of options."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise RequestError(f"{line[:40]!r}: {str(error).lower()}; put texts in double quotes") from error
    row: dict[str, str] = {}
    while words:
        name = words.pop(0)
        if not name.startswith("--"):
            raise RequestError(f"{name[:40]!r} is not an option like --steps; put texts in double quotes")
        name = name.removeprefix("--")
        fields.check_name(name)
        if words and not words[0].startswith("--"):
            row[name] = words.pop(0)
        elif name in SWITCHES:
            row[name] = "true"
        else:
            raise RequestError(f"--{name} has no value")
    return row
