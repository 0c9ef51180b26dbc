"""The embeddings that a prompt calls by name, found in the models folder."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

from sfumato.errors import SfumatoError
from sfumato.pipeline.embedding_pictures import read_embedding_picture
from sfumato.text.chunks import ROW
from sfumato.text.tokenizer import Tokenizer
from sfumato.weights import store
from sfumato.weights.adapters.embeddings import MOST_BYTES, Embedding, read_embedding
from sfumato.weights.info import describe

log = logging.getLogger(__name__)

FOLDER = "embeddings"  # of the models folder, in which pictures are looked into
PICTURES = (".png", ".webp")


class EmbeddingShelf:
    """Finds embeddings by the words of a prompt; only files whose names stand in it are opened."""

    def __init__(self, folder: Path) -> None:
        """Look in `folder`, the models folder."""
        self.folder = folder
        self._lock = threading.Lock()
        self._known: dict[tuple[Path, int, int], Embedding | None] = {}  # None = it is none

    def called(self, text: str, width: int, tokenizer: Tokenizer) -> tuple[Embedding, ...]:
        """The embeddings whose names stand in a text, of the text encoder's width.

        Those of another width are passed over, with a word in the log: the name is text then.
        """
        folded, ids = text.casefold(), tokenizer.encode(text)
        found: dict[str, Embedding] = {}
        for path in self._files():
            if path.suffix.lower() not in PICTURES and path.stem.casefold() not in folded:
                continue  # a picture's embedding may have another name than its file
            embedding = self.read(path)
            if embedding is None or not _stands_in(tokenizer.encode(embedding.name), ids):
                continue
            if fits(embedding, width):
                found.setdefault(embedding.name, embedding)
            else:
                shape = list(embedding.vectors.shape)
                log.warning("%s: an embedding of %s, not of width %d", path.name, shape, width)
        return tuple(found.values())

    def all(self) -> Iterator[Embedding]:
        """Every embedding; of pickles and pictures, those in the folder for them."""
        for path in self._files():
            if FOLDER not in path.parts and describe(path, read_pickles=False).kind != "embedding":
                continue
            embedding = self.read(path)
            if embedding is not None:
                yield embedding

    def _files(self) -> Iterator[Path]:
        for path in store.paths(self.folder):
            if path.is_file():
                yield path
        yield from self.pictures()

    def pictures(self) -> Iterator[Path]:
        """Pictures that may carry one."""
        for path in sorted((self.folder / FOLDER).rglob("*")):
            if path.suffix.lower() in PICTURES and not path.name.startswith("."):
                yield path

    def read(self, path: Path) -> Embedding | None:
        """The embedding of a file, read again where it has changed; None = it is none."""
        status = path.stat()
        key = (path, status.st_mtime_ns, status.st_size)
        with self._lock:
            if key not in self._known:
                self._known[key] = _read(path) if status.st_size <= MOST_BYTES else None
            return self._known[key]


def fits(embedding: Embedding, width: int) -> bool:
    """Whether a text encoder of that width can read it."""
    count, own = embedding.vectors.shape
    return own == width and count <= ROW


def _read(path: Path) -> Embedding | None:
    try:
        if path.suffix.lower() in PICTURES:
            return read_embedding_picture(path)
        return read_embedding(path)
    except SfumatoError:  # another kind of file, of which a models folder has many
        return None


def _stands_in(name: list[int], ids: list[int]) -> bool:
    return any(ids[place : place + len(name)] == name for place in range(len(ids) - len(name) + 1))
