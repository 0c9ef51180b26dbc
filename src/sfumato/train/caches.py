"""What is dear to compute, above all tensors, kept on disk under the hash of all it was made from.

Each value is in its file whole or not at all, whenever the process is killed. What is made from other
pictures, captions or networks has another name, so nothing stale is ever found. The files may be deleted.
"""

import hashlib
import io
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.errors import TrainingError

FILE, SEEN = "tensors.sqlite", "seen.sqlite"
_PATIENCE = 60.0  # seconds, while another run writes
_MARK = 8  # bytes of checksum before each value


class ByteStore:
    """One file of bytes by name."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """Open a store, or begin one; a damaged one is begun anew.

        Args:
            path: of the file; its folder is made if need be.
            durable: what was kept survives a power cut, too; without, it is quicker by far.

        Raises:
            TrainingError: it cannot be written.
        """
        self.path, self.durable = path, durable
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"{path.parent} cannot be made: {error.strerror}") from error
        with self._told():
            self.database = self._connect()
            try:
                self._make_table()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._begin_anew()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=_PATIENCE, check_same_thread=False)

    def _make_table(self) -> None:
        if not self.durable:
            self.database.execute("PRAGMA synchronous = OFF")
        self.database.execute("CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value BLOB)")

    def _begin_anew(self) -> None:
        self.database.close()
        self.path.unlink()
        self.database = self._connect()
        self._make_table()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise TrainingError(
                f"the cache {self.path} failed: {error}; see that there is room and no lock, or delete it"
            ) from error

    def get(self, name: str) -> bytes | None:
        """Give what has a name; None = nothing has, or it is damaged."""
        with self._told():
            try:
                row = self.database.execute("SELECT value FROM kept WHERE name = ?", (name,)).fetchone()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._begin_anew()
                return None
        if row is None or _checksum(row[0][_MARK:]) != row[0][:_MARK]:
            return None
        value: bytes = row[0][_MARK:]
        return value

    def put(self, name: str, value: bytes) -> None:
        """Keep something, in the file when this returns."""
        with self._told(), self.database:
            self.database.execute(
                "INSERT OR REPLACE INTO kept VALUES (?, ?)", (name, _checksum(value) + value)
            )

    def close(self) -> None:
        """Close the file."""
        self.database.close()


class TensorStore:
    """One file of tensors by name."""

    def __init__(self, folder: Path) -> None:
        """Open the store of a folder, or begin one. Raises TrainingError: it cannot be written."""
        self.file = ByteStore(folder / FILE)

    def get(self, name: str) -> Tensor | None:
        """Give the tensor of a name; None = there is none, or it is damaged."""
        value = self.file.get(name)
        return None if value is None else torch.from_numpy(np.load(io.BytesIO(value), allow_pickle=False))

    def put(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor, on disk when this returns."""
        buffer = io.BytesIO()
        np.save(buffer, tensor.detach().cpu().numpy(), allow_pickle=False)
        self.file.put(name, buffer.getvalue())

    def get_or_make(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Give the tensor of a name, made and kept if it is not there."""
        found = self.get(name)
        if found is None:
            found = make()
            self.put(name, found)
        return found

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def name_of(*parts: object) -> str:
    """Name a tensor by all it is made from."""
    digest = hashlib.sha256()
    for part in parts:
        text = str(part).encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.hexdigest()


def _checksum(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()[:_MARK]
