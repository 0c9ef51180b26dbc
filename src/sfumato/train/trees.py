"""Folders and zip files, read in one way; nothing is ever unpacked to disk."""

import errno
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from sfumato.errors import TrainingError
from sfumato.train.entries import MAX_FILE_BYTES, bounded, require_readable, stamp_of

MAX_ZIP_FILES = 200_000


class Tree(Protocol):
    """Files below a place; their addresses have forward slashes, whatever the system."""

    name: str

    def listing(self, folder: str) -> tuple[list[str], list[str]]:
        """Name the files and the folders in a folder ("" = the top), each sorted, hidden ones left out."""

    def open(self, address: str) -> BinaryIO:
        """Open a file. Raises OSError: there is none, or it is outside."""

    def stamp(self, address: str) -> str:
        """See `entries.Source`."""

    def read(self, address: str) -> bytes:
        """Give a file's bytes. Raises OSError, ValueError: not readable, too large."""


class FolderTree:
    """A folder on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = root.absolute().name

    def listing(self, folder: str) -> tuple[list[str], list[str]]:
        """See `Tree`."""
        files: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(self.root / folder) as found:
                for each in found:
                    if not each.name.startswith("."):
                        (folders if each.is_dir() else files).append(each.name)
        except OSError as error:
            raise require_readable(error, str(self.root / folder)) from error
        return sorted(files), sorted(folders)

    def stamp(self, address: str) -> str:
        """See `entries.Source`."""
        return stamp_of(self._path(address))

    def open(self, address: str) -> BinaryIO:
        """See `Tree`."""
        return self._path(address).open("rb")

    def _path(self, address: str) -> Path:
        inner = Path(address)
        if "\0" in address or inner.is_absolute() or inner.drive or ".." in inner.parts:
            raise PermissionError(errno.EPERM, f"not a name inside {self.name}")
        path = self.root / inner
        if path.exists() and not path.is_file():  # a pipe would never end
            raise OSError(errno.EINVAL, "not a file")
        return path

    def read(self, address: str) -> bytes:
        """See `Tree`."""
        with self.open(address) as file:
            return bounded(file.read(MAX_FILE_BYTES + 1))


class ZipTree:
    """A zip file. A single folder that holds everything is taken for the top."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        try:
            self.archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise require_readable(error, str(path)) from error
        names = [name for name in self.archive.namelist() if not _is_clutter(name)]
        if len(names) > MAX_ZIP_FILES:
            raise TrainingError(f"{path} holds {len(names):,} files; unpack what has over {MAX_ZIP_FILES:,}")
        self.top = _common_folder(names)
        self.folders: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}
        for name in names:
            self._place(name.removeprefix(self.top))

    def _place(self, name: str) -> None:
        folder, _, leaf = name.rpartition("/")
        self.folders.setdefault(folder, (set(), set()))
        if leaf:
            self.folders[folder][0].add(leaf)
        while folder:
            above, _, own = folder.rpartition("/")
            self.folders.setdefault(above, (set(), set()))[1].add(own)
            folder = above

    def listing(self, folder: str) -> tuple[list[str], list[str]]:
        """See `Tree`."""
        files, folders = self.folders.get(folder, (set(), set()))
        return sorted(files), sorted(folders)

    def stamp(self, address: str) -> str:
        """See `entries.Source`."""
        return f"{stamp_of(self.path)} {self.top}{address}"

    def open(self, address: str) -> BinaryIO:
        """See `Tree`."""
        try:
            return self.archive.open(self.top + address)  # type: ignore[return-value]  # it is one to read
        except KeyError as error:
            raise FileNotFoundError(errno.ENOENT, "no such file in the zip") from error
        except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
            raise OSError(f"encrypted, or packed in an unknown way: {error}") from error

    def read(self, address: str) -> bytes:
        """See `Tree`."""
        with self.open(address) as file:
            try:
                return bounded(file.read(MAX_FILE_BYTES + 1))
            except (zipfile.BadZipFile, EOFError, zlib.error) as error:
                raise OSError(f"damaged in the zip: {error}") from error


def _common_folder(names: list[str]) -> str:
    tops = {name.partition("/")[0] for name in names if "/" in name}
    alone = len(tops) == 1 and all("/" in name for name in names)
    top = next(iter(tops), "")
    if not alone or top.partition("_")[0].isdigit():  # its repeats are told by its name
        return ""
    return f"{top}/"


def _is_clutter(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def lines_of(file: BinaryIO, longest: int) -> Iterator[bytes]:
    """Read a file line by line, none longer than `longest` bytes held in memory.

    Raises:
        ValueError: a line is longer.
    """
    while line := file.readline(longest + 1):
        if len(line) > longest:
            raise ValueError(f"a line of more than {longest:,} bytes")
        yield line
