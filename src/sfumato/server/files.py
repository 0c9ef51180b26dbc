"""Files that clients may have: by a name below one folder, and never another."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from sfumato.errors import OutputError, RequestError

MAX_NAME = 400  # characters
KINDS: Mapping[str, str] = MappingProxyType(  # of pictures, by the endings of their names
    {
        ".png": "image/png",
        ".jpg": "image/jpeg",
        ".jpeg": "image/jpeg",
        ".webp": "image/webp",
        ".gif": "image/gif",
    }
)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


def resolve_inside(root: Path, name: str) -> Path:
    """Where a file is.

    Args:
        root: the folder it has to be in.
        name: below it, with forward slashes; letters, digits and _ . - only.

    Raises:
        RequestError: a name of another form, or it leads out of the folder, by a link, too.
    """
    parts = name.split("/")
    plain = len(name) <= MAX_NAME and all(_PART.fullmatch(part) for part in parts)
    if not plain or any(part.endswith(".") for part in parts):
        raise RequestError(f"no file {name[:80]!r}")
    path = root.joinpath(*parts)
    if os.path.realpath(path) != os.path.join(os.path.realpath(root), *parts):
        raise RequestError(f"no file {name[:80]!r}")
    return path


def read_inside(root: Path, name: str) -> bytes:
    """A file's bytes; links are not followed.

    Raises RequestError: see `resolve_inside`. OutputError: it cannot be read.
    """
    path = resolve_inside(root, name)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
    except OSError as error:
        raise OutputError(f"{name}: {error.strerror or error}") from error
