"""A place that all machines reach, a shared folder or an S3-type store, and copies of it on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.errors import OutputError, RequestError
from sfumato.weights.atomic import atomic_file

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


class Store:
    """Files by name. Every file is whole or not there."""

    def __init__(self, url: str) -> None:
        """Use a place.

        Args:
            url: a folder, or what fsspec understands: s3://bucket/folder, gs://…, sftp://….

        Raises:
            RequestError: an unknown kind of place, or its library is missing.
        """
        from fsspec.core import url_to_fs

        self._files: AbstractFileSystem
        try:
            self._files, self._root = url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise RequestError(f"store: {' '.join(str(error).split())}") from error

    def put(self, name: str, path: Path) -> None:
        """Copy a file of this machine into the store, in place of what has the name. Raises OutputError."""
        place = f"{self._root}/{name}"
        try:
            self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
            if "file" in self._files.protocol:
                with atomic_file(Path(place)) as file:
                    file.write(path.read_bytes())
            else:
                self._files.pipe_file(place, path.read_bytes())
        except OutputError:
            raise
        except Exception as error:  # every kind of store has errors of its own
            raise OutputError(
                f"{name} was not stored: {_line(error)}; see that the store is there"
            ) from error

    def fetch(self, name: str, path: Path) -> bool:
        """Copy a file of the store to this machine, unless it is there; whether it is there then.

        Raises OutputError: the store is out of reach, or there is no room.
        """
        if path.is_file():
            return True
        try:
            data = self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return False
        except Exception as error:  # every kind of store has errors of its own
            raise OutputError(
                f"{name} cannot be read: {_line(error)}; see that the store is there"
            ) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(data)
        return True

    def remove(self, name: str) -> None:
        """Remove a file, where there is one. Raises OutputError: the store is out of reach."""
        try:
            self._files.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            pass
        except Exception as error:  # every kind of store has errors of its own
            raise OutputError(
                f"{name} was not removed: {_line(error)}; see that the store is there"
            ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
