"""Tensors that are dear to compute, kept on disk under the hash of all they were made from.

Each is in the file whole or not at all, whenever the process is killed. What is made from other pictures,
captions or networks has another name, so nothing stale is ever found. The file may be deleted at any time.

Shape letters: B prompts, T tokens, E text width.
"""

import hashlib
import io
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.errors import TrainingError

FILE = "tensors.sqlite"
_PATIENCE = 60.0  # seconds, while another run writes
_MARK = 8  # bytes of checksum before each value


class TensorStore:
    """One file of tensors by name."""

    def __init__(self, folder: Path) -> None:
        """Open the store of a folder, or begin one; a damaged one is begun anew.

        Raises:
            TrainingError: it cannot be written.
        """
        self.path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"{folder} cannot be made: {error.strerror}") from error
        self._open()

    def _open(self) -> None:
        with self._told():
            self.database = sqlite3.connect(self.path, timeout=_PATIENCE, check_same_thread=False)
            try:
                self._make_table()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._begin_anew()

    def _make_table(self) -> None:
        self.database.execute("CREATE TABLE IF NOT EXISTS tensors (name TEXT PRIMARY KEY, value BLOB)")

    def _begin_anew(self) -> None:
        self.database.close()
        self.path.unlink()
        self.database = sqlite3.connect(self.path, timeout=_PATIENCE, check_same_thread=False)
        self._make_table()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise TrainingError(
                f"the cache {self.path} failed: {error}; see that there is room and no lock, or delete it"
            ) from error

    def get(self, name: str) -> Tensor | None:
        """Give the tensor of a name; None = there is none, or it is damaged."""
        with self._told():
            try:
                row = self.database.execute("SELECT value FROM tensors WHERE name = ?", (name,)).fetchone()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._begin_anew()
                return None
        if row is None or _checksum(row[0][_MARK:]) != row[0][:_MARK]:
            return None
        return torch.from_numpy(np.load(io.BytesIO(row[0][_MARK:]), allow_pickle=False))

    def put(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor, on disk when this returns."""
        buffer = io.BytesIO()
        np.save(buffer, tensor.detach().cpu().numpy(), allow_pickle=False)
        value = buffer.getvalue()
        with self._told(), self.database:
            self.database.execute(
                "INSERT OR REPLACE INTO tensors VALUES (?, ?)", (name, _checksum(value) + value)
            )

    def get_or_make(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Give the tensor of a name, made and kept if it is not there."""
        found = self.get(name)
        if found is None:
            found = make()
            self.put(name, found)
        return found

    def close(self) -> None:
        """Close the file."""
        self.database.close()


class TextCache:
    """What a text encoder says of prompts, each encoded once."""

    def __init__(self, store: TensorStore, encode: Callable[[str], Tensor], encoder: str) -> None:
        """Keep what `encode` says.

        Args:
            store: where.
            encode: a prompt's states (T,E), float32 or float16.
            encoder: all that decides these beside the prompt: a hash of the weights, layers left out …
        """
        self.store, self.encode, self.encoder = store, encode, encoder

    def states(self, prompts: Sequence[str]) -> Tensor:
        """Give the states of prompts (B,T,E)."""
        return torch.stack([self._one(prompt) for prompt in prompts])

    def _one(self, prompt: str) -> Tensor:
        return self.store.get_or_make(
            name_of("text", self.encoder, prompt), lambda: self.encode(prompt).detach().cpu()
        )


def name_of(*parts: object) -> str:
    """Name a tensor by all it is made from."""
    digest = hashlib.sha256()
    for part in parts:
        text = str(part).encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.hexdigest()


def _checksum(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()[:_MARK]
