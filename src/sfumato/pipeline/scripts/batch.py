"""Many requests from a file, one a row, with a manifest of what has been made; it goes on where it stopped.

JSONL has an object a line, CSV a header of names; the names are those of `fields.from_row`. The manifest is
JSONL too, one line a finished picture, appended whole and flushed. A row counts as the same row as long as it
asks for the same, wherever it stands in the file.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from sfumato.errors import OutputError, PromptError, RequestError, SfumatoError
from sfumato.pipeline.scripts import fields
from sfumato.pipeline.scripts.work import Make
from sfumato.text.styles import Style
from sfumato.types import MAX_SEED, Request, Result, StepInfo

MANIFEST = "manifest.jsonl"
MAX_BYTES = 256 * 2**20  # of a file of rows

Key: TypeAlias = tuple[str, int]  # of a row, place of the picture in it


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: a request, or why there is none."""

    number: int  # line of the file, from 1
    request: Request | None = None
    key: str = ""
    error: str = ""

    @property
    def pictures(self) -> int:
        """How many it asks for."""
        canvas = (self.request or Request()).canvas
        return canvas.batch_size * canvas.batch_count


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """A picture of a row, to be saved and then recorded."""

    row: Row
    index: int  # place in the row, from 0
    result: Result


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A row that gave no picture, or not all."""

    row: Row
    error: str


@dataclass
class Manifest:
    """What a folder holds of a batch."""

    folder: Path
    entries: dict[Key, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file it is kept in."""
        return self.folder / MANIFEST

    def has(self, key: str, index: int) -> bool:
        """Whether a picture is recorded and still there."""
        entry = self.entries.get((key, index))
        return entry is not None and (self.folder / str(entry["path"])).is_file()

    def record(self, made: Made, path: Path) -> None:
        """Note a saved picture. Raises OutputError: the manifest cannot be written."""
        request = made.result.request
        entry = {
            "row": made.row.number,
            "key": made.row.key,
            "index": made.index,
            "path": path.name,
            "seed": request.canvas.seed,
            "variation_seed": request.variation.seed,
            "infotext": made.result.infotext,
        }
        self._append(entry)
        self.entries[made.row.key, made.index] = entry

    def fail(self, failed: Failed) -> None:
        """Note a row that gave nothing. Raises OutputError: the manifest cannot be written."""
        self._append({"row": failed.row.number, "error": failed.error})

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=True).encode("ascii") + b"\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+", buffering=0) as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # a line cut short by a crash stays alone
                        line = b"\n" + line
                file.write(line)
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from error


def open_manifest(folder: Path) -> Manifest:
    """The manifest of a folder, empty if it has none; lines that are none are passed over.

    Raises OutputError: it cannot be read.
    """
    manifest = Manifest(folder)
    try:
        with manifest.path.open("rb") as file:
            for line in file:
                entry = _json(line)
                if isinstance(entry, dict) and _is_picture(entry):
                    manifest.entries[entry["key"], entry["index"]] = entry
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OutputError(f"{manifest.path}: {error.strerror or error}") from error
    return manifest


def read_rows(path: Path, base: Request, styles: Mapping[str, Style]) -> list[Row]:
    """The rows of a file. One that makes no sense is given with its error; the others do not suffer.

    Args:
        path: ending in .jsonl, .ndjson or .csv.
        base: what rows leave open.
        styles: those there are, by name.

    Raises:
        RequestError: another ending, no rows at all, too large, not UTF-8.
        OutputError: it cannot be read.
    """
    readers = {".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise RequestError(
            f"{path}: not one of {', '.join(readers)}; a batch is JSON lines or CSV with a header"
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RequestError(f"{path}: more than {MAX_BYTES:,} bytes of rows; split it")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}") from error
    seen: Counter[str] = Counter()
    rows = [_row(number, given, base, styles, seen) for number, given in readers[path.suffix.lower()](text)]
    if not rows:
        raise RequestError(f"{path}: no rows in it")
    return rows


def run(rows: Sequence[Row], manifest: Manifest, make: Make) -> Iterator[StepInfo | Made | Failed]:
    """Make what the manifest does not have.

    Args:
        rows: from `read_rows`.
        manifest: of the folder the pictures go to.
        make: makes the pictures of a request.

    Yields:
        StepInfo; Made, which the caller saves and records before it goes on; Failed for a row that is refused
        or cannot be made, after which the next row follows.
    """
    for row in rows:
        if row.request is None:
            yield Failed(row=row, error=row.error)
            continue
        for first, request in missing(row, manifest):
            events = make(request)
            while True:
                try:
                    event = next(events)
                except StopIteration:
                    break
                except SfumatoError as error:
                    yield Failed(row=row, error=str(error))
                    break
                yield (
                    Made(row=row, index=first + event.index, result=event)
                    if isinstance(event, Result)
                    else event
                )


def missing(row: Row, manifest: Manifest) -> list[tuple[int, Request]]:
    """Requests for the pictures of a row that are not there, each with the place of its first picture.

    A row of which something is there keeps the seeds it was begun with, also if they were drawn.
    """
    assert row.request is not None
    places = range(row.pictures)
    there = [index for index in places if manifest.has(row.key, index)]
    known = next((index for index in places if (row.key, index) in manifest.entries), None)
    if known is None:
        return [(0, row.request)]
    entry = manifest.entries[row.key, known]
    if not there:
        return [(0, _from_place(row.request, entry, -known))]
    single = fields.with_values(row.request, {"canvas.batch_size": 1, "canvas.batch_count": 1})
    return [(index, _from_place(single, entry, index - known)) for index in places if index not in there]


def _from_place(request: Request, entry: Mapping[str, Any], places: int) -> Request:
    """The request with the seeds that follow `places` pictures after that of an entry."""
    field = "variation.seed" if request.variation.strength > 0 else "canvas.seed"
    seeds = {"canvas.seed": int(entry["seed"]), "variation.seed": int(entry["variation_seed"])}
    seeds[field] = (seeds[field] + places) % (MAX_SEED + 1)
    return fields.with_values(request, seeds)


def _row(number: int, given: object, base: Request, styles: Mapping[str, Style], seen: Counter[str]) -> Row:
    try:
        if isinstance(given, str):
            raise RequestError(given)
        if not isinstance(given, dict):
            raise RequestError(f"{str(given)[:40]!r} is not an object of names and values")
        request = fields.from_row(base, given, styles)
    except (RequestError, PromptError) as error:
        return Row(number=number, error=str(error))
    asked = json.dumps(asdict(request), sort_keys=True, default=str)
    digest = hashlib.sha256(asked.encode()).hexdigest()[:16]
    seen[digest] += 1
    return Row(number=number, request=request, key=f"{digest}-{seen[digest]}")


def _read_jsonl(text: str) -> Iterable[tuple[int, object]]:
    """Numbers of lines and their objects; a text instead of an object says what is wrong with it."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            found = _json(line.encode("utf-8", "surrogatepass"))
            yield number, "not valid JSON" if found is None or isinstance(found, str) else found


def _read_csv(text: str) -> Iterable[tuple[int, object]]:
    """Numbers of lines and their objects; an empty cell counts as not given."""
    reader = csv.DictReader(text.splitlines(keepends=True))
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"not valid CSV: {error}"
            continue
        if None in cells:
            yield reader.line_num, f"{len(cells[None])} cells more than the header has names"
        else:
            yield reader.line_num, {name: cell for name, cell in cells.items() if cell}


def _is_picture(entry: Mapping[str, Any]) -> bool:
    """Whether a line of a manifest is a picture's, and whole."""
    texts, numbers = ("key", "path"), ("index", "seed", "variation_seed")
    return all(isinstance(entry.get(name), str) for name in texts) and all(
        isinstance(entry.get(name), int) and -1 <= entry[name] <= MAX_SEED for name in numbers
    )


def _json(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
