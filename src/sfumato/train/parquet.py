"""Pictures named by the rows of Parquet files, or held in them as the Hugging Face hub does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import TrainingError
from sfumato.train.entries import Entry, Finding, bounded, require_readable, stamp_of
from sfumato.train.rows import FILE_KEYS, row_entry
from sfumato.train.trees import FolderTree

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_ROWS = 256  # of text read at once
_PICTURES = 8  # decoded at once


class ParquetSource:
    """A table in one or several files; an address is a file name, or `file:group:row` of a picture inside."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the files, all in one folder.

        Raises:
            TrainingError: they are damaged, or the library for them is not installed.
        """
        try:
            import pyarrow
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise TrainingError("Parquet files need one library more: pip install pyarrow") from error
        self.paths, self.tree = list(paths), FolderTree(paths[0].parent)
        self.broken = (OSError, ValueError, pyarrow.ArrowException)
        try:
            self.files: list[ParquetFile] = [ParquetFile(path) for path in paths]
        except self.broken as error:
            raise require_readable(error, ", ".join(path.name for path in paths)[:100]) from error
        self.cursor: tuple[str, Iterator[Any], int] | None = None  # where the last picture was read

    def entries(self) -> Iterator[Entry | Finding]:
        """See `entries.Source`."""
        for number, (path, file) in enumerate(zip(self.paths, self.files, strict=True)):
            inside = _picture_column(file)
            columns = [name for name in file.schema_arrow.names if name != inside]
            try:
                for group in range(file.num_row_groups):
                    row = 0
                    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=columns):
                        for values in batch.to_pylist() or [{}] * batch.num_rows:
                            place = f"{path.name} {f'group {group} ' if group else ''}row {row + 1}"
                            yield self._entry(values, inside and f"{number}:{group}:{row}", place)
                            row += 1
            except self.broken as error:
                yield Finding(name=path.name, kind="unreadable", detail=str(error))

    def _entry(self, values: Mapping[str, object], inside: str | None, place: str) -> Entry | Finding:
        if inside is None:
            return row_entry(values, place)
        return replace(row_entry({**values, FILE_KEYS[0]: inside}, place), name=place)

    def stamp(self, address: str) -> str:
        """See `entries.Source`."""
        place = _inside(address)
        return self.tree.stamp(address) if place is None else f"{stamp_of(self.paths[place[0]])} {address}"

    def read(self, address: str) -> bytes:
        """See `entries.Source`."""
        place = _inside(address)
        if place is None:
            return self.tree.read(address)
        try:
            return bounded(self._picture(*place) or b"")
        except self.broken as error:
            raise OSError(f"damaged: {error}") from error

    def _picture(self, number: int, group: int, row: int) -> bytes | None:
        """Go on from the last picture read, or begin its group anew: a whole group is never in memory."""
        place = f"{number}:{group}"
        if self.cursor is None or self.cursor[0] != place or self.cursor[2] > row:
            file = self.files[number]
            batches = file.iter_batches(_PICTURES, row_groups=[group], columns=[_picture_column(file)])
            self.cursor = place, (value for batch in batches for value in batch.column(0)), 0
        _, values, first = self.cursor
        for _ in range(row - first):
            next(values)
        value = next(values).as_py()
        self.cursor = place, values, row + 1
        found: bytes | None = value.get("bytes") if isinstance(value, dict) else value
        return found


def _inside(address: str) -> tuple[int, int, int] | None:
    """Read `file:group:row`; None = it is a name."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+)", address)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def _picture_column(file: ParquetFile) -> str | None:
    """Name the column that holds pictures themselves; None = none does."""
    from pyarrow import types

    for name in FILE_KEYS:
        index = file.schema_arrow.get_field_index(name)
        if index >= 0:
            kind = file.schema_arrow.field(index).type
            if types.is_binary(kind) or types.is_large_binary(kind) or types.is_struct(kind):
                return name
    return None
