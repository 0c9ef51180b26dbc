"""Files and folders that are there whole or not at all."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sfumato.errors import OutputError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a hidden file beside `path` for writing; at the end it is flushed to disk and takes the name.

    Args:
        path: what to write; its folder must exist. An existing file is replaced at once, by rename.

    Raises:
        OutputError: the file cannot be written (folder missing, no permission, disk full); nothing is left.
    """
    part = _part_name(path)
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise write_error(path, error) from error
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a hidden empty folder beside `path` that takes the name at the end.

    Args:
        path: the folder to make; it must not exist yet.

    Raises:
        OutputError: it exists already, or cannot be written; nothing is left.
    """
    if path.exists():
        raise OutputError(f"{path} exists already; remove it or choose another name")
    part = _part_name(path)
    try:
        part.mkdir()
        yield part
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise write_error(path, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot; the rename itself has succeeded
        return
    finally:
        os.close(descriptor)


def write_error(path: Path, error: OSError) -> OutputError:
    """Say in one line why a file was not written."""
    return OutputError(
        f"{path} was not written: {error.strerror or error}; "
        "check that the folder exists, is writable and has room, or choose another place"
    )


def _part_name(path: Path) -> Path:
    return path.parent / f".{path.name[:100]}.{secrets.token_hex(4)}.part"
