"""Where a user's pictures are: a folder, folders of repeats, a zip, a table, or shards of a webdataset.

What is found at a path is decided by what is there, see `open_source`.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from sfumato.errors import TrainingError
from sfumato.pipeline.images import ENDINGS
from sfumato.train.captions import MAX_CAPTION_BYTES
from sfumato.train.entries import Entry, Finding, Source
from sfumato.train.parquet import ParquetSource
from sfumato.train.rows import MAX_REPEATS, row_entry
from sfumato.train.shards import ShardSource
from sfumato.train.trees import FolderTree, Tree, ZipTree, lines_of

OTHER_SUFFIXES = (".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl", ".psd", ".svg")
CAPTION_SUFFIXES = (".txt", ".caption")
TABLES = ("metadata.jsonl", "captions.jsonl")

_REPEATS = re.compile(r"(\d{1,5})_(.+)")
_MAX_LINE = 16 * MAX_CAPTION_BYTES


def open_source(path: Path, masks: str | None = None) -> Source:
    """Open whatever holds pictures.

    - a folder or a zip: the pictures in it, each with its caption in a `.txt` or `.caption` file of its name;
      and those of its folders that are called `NUMBER_words`, seen NUMBER times a round, with these words
      where there is no caption;
    - the same with `metadata.jsonl` in it, or such a file itself: a row a picture, with `file_name` and
      `text`, and `mask` and `repeats` where they are wanted;
    - `.parquet` files or a folder of them: the same as columns, or the pictures themselves in `image`;
    - `.tar` files or a folder of them: a webdataset.

    Args:
        path: of it.
        masks: a folder in it whose pictures are masks for those of the same name.

    Raises:
        TrainingError: nothing there that can be read, or no such masks.
    """
    source = _open(path, masks)
    if masks is not None and not isinstance(source, TreeSource):
        raise TrainingError(f"{path} says itself which masks there are; leave masks={masks!r} out")
    return source


def _open(path: Path, masks: str | None) -> Source:
    if path.is_dir():
        names = FolderTree(path).listing("")[0]
        if shards := [path / name for name in names if name.endswith(".tar")]:
            return ShardSource(shards)
        if tables := [path / name for name in names if name.endswith(".parquet")]:
            return ParquetSource(tables)
        return _in_tree(FolderTree(path), masks)
    if not path.exists():
        raise TrainingError(f"there is nothing at {path}; give a folder of pictures")
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return _in_tree(ZipTree(path), masks)
    if suffix == ".jsonl":
        return TableSource(FolderTree(path.parent), path.name)
    if suffix == ".parquet":
        return ParquetSource([path])
    if suffix == ".tar":
        return ShardSource([path])
    raise TrainingError(f"{path} holds no pictures; give a folder, .zip, .jsonl, .parquet or .tar")


def _in_tree(tree: Tree, masks: str | None) -> Source:
    files, _ = tree.listing("")
    table = next((name for name in TABLES if name in files), None)
    return TreeSource(tree, masks) if table is None else TableSource(tree, table)


class TreeSource:
    """Pictures in a folder and in its folders of repeats, captions beside them."""

    def __init__(self, tree: Tree, masks: str | None = None) -> None:
        """Read a tree; raises TrainingError: there is nothing in the folder of masks."""
        if masks is not None and not any(tree.listing(masks)):
            raise TrainingError(f"there are no masks in {masks}; it is a folder below {tree.name}")
        self.tree, self.masks = tree, masks
        self.read, self.stamp = tree.read, tree.stamp

    def entries(self) -> Iterator[Entry | Finding]:
        """See `Source`."""
        yield from self._folder("", self.tree.name)
        for name in self.tree.listing("")[1]:
            if _REPEATS.fullmatch(name):
                yield from self._folder(f"{name}/", name)
            elif name != self.masks:
                yield Finding(name=f"{name}/", kind="other folder")

    def _folder(self, folder: str, called: str) -> Iterator[Entry | Finding]:
        match = _REPEATS.fullmatch(called)
        repeats, words = (int(match[1]), match[2].replace("_", " ")) if match else (1, "")
        if repeats > MAX_REPEATS:
            raise TrainingError(f"{called}: at most {MAX_REPEATS} repeats; a folder's number is how often")
        names, _ = self.tree.listing(folder.rstrip("/"))
        here = set(names)
        masks = {} if self.masks is None else self._masks(folder)
        for name in names:
            stem, suffix = PurePosixPath(name).stem, PurePosixPath(name).suffix.lower()
            if suffix in ENDINGS:
                if not repeats:
                    yield Finding(name=folder + name, kind="bad row", detail="0 repeats")
                    continue
                if self.masks is not None and stem not in masks:
                    yield Finding(name=folder + name, kind="no mask")
                caption = next((stem + end for end in CAPTION_SUFFIXES if stem + end in here), None)
                yield Entry(
                    name=folder + name,
                    address=folder + name,
                    caption=None if caption is None else self._caption(folder + caption),
                    words=words,
                    mask=masks.get(stem),
                    repeats=repeats,
                )
            elif suffix in OTHER_SUFFIXES:
                yield Finding(name=folder + name, kind="other format", detail="save it as PNG")
            elif suffix not in CAPTION_SUFFIXES:
                yield Finding(name=folder + name, kind="other file")
            elif not any(stem + end in here for end in _both_cases(ENDINGS)):
                yield Finding(name=folder + name, kind="caption alone")

    def _caption(self, address: str) -> bytes:
        with suppress(OSError), self.tree.open(address) as file:
            return file.read(MAX_CAPTION_BYTES + 1)
        return b"\xff"  # no text: what reads it says so

    def _masks(self, folder: str) -> dict[str, str]:
        """Addresses of masks by the stem of their picture; those of `10_cat` may lie in `masks/10_cat`."""
        found = {}
        for place in (f"{self.masks}/", f"{self.masks}/{folder}"):
            with suppress(TrainingError):
                for name in self.tree.listing(place.rstrip("/"))[0]:
                    if PurePosixPath(name).suffix.lower() in ENDINGS:
                        found[PurePosixPath(name).stem] = place + name
        return found


def open_folder(folder: Path) -> TreeSource:
    """Open a folder whose captions lie beside its pictures. Raises TrainingError: it is none."""
    if not folder.is_dir():
        raise TrainingError(f"{folder} is no folder; captions lie beside pictures: unpack it")
    return TreeSource(FolderTree(folder))


class TableSource:
    """Pictures named by the lines of a JSONL file."""

    def __init__(self, tree: Tree, table: str) -> None:
        self.tree, self.table = tree, table
        self.read, self.stamp = tree.read, tree.stamp

    def entries(self) -> Iterator[Entry | Finding]:
        """See `Source`."""
        try:
            with self.tree.open(self.table) as file:
                for number, line in enumerate(lines_of(file, _MAX_LINE), start=1):
                    if line.strip():
                        yield self._entry(f"{self.table} line {number}", line)
        except (OSError, ValueError) as error:
            yield Finding(name=self.table, kind="unreadable", detail=str(error))

    def _entry(self, place: str, line: bytes) -> Entry | Finding:
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            kind = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON"
            return Finding(name=place, kind="bad row", detail=kind)
        if not isinstance(row, dict):
            return Finding(name=place, kind="bad row", detail="not an object")
        return row_entry(row, place)


def _both_cases(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    return (*suffixes, *(suffix.upper() for suffix in suffixes))
