"""Whose a data folder is: one server's, and many workers', each under a name that outlives a restart."""

from __future__ import annotations

import secrets
import socket
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from sfumato.errors import ConflictError, StorageError
from sfumato.weights.atomic import atomic_file


def claim(data: Path, *, alone: bool) -> tuple[FileLock, str]:
    """Take a place in a data folder; its lock, and the name that goes with the place.

    A process that is killed gives its place up; who takes it next finds by the name what was begun there.

    Args:
        data: the folder, made where it is missing.
        alone: the server's place, of which there is one; else the first free one of the workers'.

    Raises:
        ConflictError: the server's place is taken.
        StorageError: the folder cannot be written.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        if alone:
            lock = FileLock(data / "lock")
            lock.acquire(timeout=0)
            return lock, _identity(data)
        for place in count(1):
            lock = FileLock(data / f"worker-{place}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return lock, f"{_identity(data)}-{socket.gethostname()[:100]}-{place}"
    except Timeout as error:
        raise ConflictError(
            f"{data} is in use by another sfumato; stop it, or give another folder with --data"
        ) from error
    except OSError as error:
        raise StorageError(
            f"{data} cannot be written: {error.strerror or error}; give another folder with --data"
        ) from error
    raise AssertionError("there is always another place")


def _identity(data: Path) -> str:
    """The folder's own name, drawn once."""
    path = data / "identity"
    with FileLock(data / "identity.lock"):
        if not path.is_file():
            with atomic_file(path) as file:
                file.write(secrets.token_hex(8).encode())
        return path.read_text("ascii")
