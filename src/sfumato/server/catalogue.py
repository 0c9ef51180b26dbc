"""What the models folder holds, as AUTOMATIC1111's clients list and name it. No path outside it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sfumato.errors import ModelNotFoundError
from sfumato.pipeline.models import embedded_model
from sfumato.pipeline.shelf import ModelShelf
from sfumato.weights import store
from sfumato.weights.adapters import hypernetworks
from sfumato.weights.detect import Kind
from sfumato.weights.files import file_sha256
from sfumato.weights.info import ModelInfo, describe

HASHED = 2**28  # bytes up to which a file is hashed to be listed; a larger one when it has been loaded


class Catalogue:
    """Lists models; what is dear to know of a file is known until the file changes."""

    def __init__(self, shelf: ModelShelf) -> None:
        """List the folder of this shelf."""
        self._shelf = shelf
        self._lock = threading.Lock()
        self._known: dict[tuple[Path, int, int], str] = {}

    def models(self, kind: Kind) -> list[ModelInfo]:
        """Everything of a kind in the folder; checkpoints begin with the one that comes with Sfumato."""
        first = [describe(embedded_model(), name=store.EMBEDDED)] if kind == "checkpoint" else []
        found = [each for each in store.scan(self._shelf.folder) if not each.fault]
        return first + [each for each in found if each.kind == kind or (first and each.kind == "pickle")]

    def hypernetworks(self) -> list[ModelInfo]:
        """Every hypernetwork: what is known as one, and the pickles in the folder for them."""
        found = (each for each in store.scan(self._shelf.folder) if not each.fault)
        return [
            each
            for each in found
            if each.kind == "hypernetwork"
            or (each.kind == "pickle" and hypernetworks.FOLDER in each.path.parts)
        ]

    def checkpoints(self) -> Iterator[dict[str, Any]]:
        """Every checkpoint as its clients know it."""
        for model in self.models("checkpoint"):
            sha256 = self._sha256(model.path)
            yield {
                "title": self._title(model, sha256),
                "model_name": model.name.replace("/", "_"),
                "hash": sha256[:10] if sha256 else None,
                "sha256": sha256,
                "filename": self._filename(model),
                "config": None,
            }

    def title(self, name: str | None) -> str:
        """The title of a checkpoint; None = that of requests that name none.

        Raises ModelNotFoundError: there is none.
        """
        path = self._shelf.find(name)
        embedded = path == embedded_model()
        entry = store.EMBEDDED if embedded else store.name_of(self._shelf.folder, path)
        return self._title(ModelInfo(path=path, name=entry, size=0), self._sha256(path))

    def name(self, given: str) -> str:
        """The name by which the shelf knows a checkpoint that a client names.

        Title, file name, stem, hash; then the shortest title that contains what was given.

        Raises ModelNotFoundError: none of it.
        """
        bare = given.partition(" [")[0].removesuffix(".safetensors")
        if bare == store.EMBEDDED:
            return bare
        try:
            self._shelf.find(given)
            return given
        except ModelNotFoundError:
            rows = list(self.checkpoints())
            for row in rows:
                if given in (row["model_name"], row["title"]):
                    return str(row["title"])
            near = sorted((row["title"] for row in rows if given and given in row["title"]), key=len)
            if not near:
                raise
            return self.name(near[0]) if near[0] != given else given

    def _title(self, model: ModelInfo, sha256: str | None) -> str:
        name = self._filename(model)
        return f"{name} [{sha256[:10]}]" if sha256 else name

    def _filename(self, model: ModelInfo) -> str:
        return model.name + ("" if model.path.is_dir() else model.path.suffix)

    def _sha256(self, path: Path) -> str | None:
        """Of a file: known since it was loaded, remembered, or small enough to be found out."""
        if path.is_dir():
            return None
        loaded = self._shelf.hashes().get(path)
        if loaded:
            return loaded
        status = path.stat()
        key = (path, status.st_mtime_ns, status.st_size)
        with self._lock:
            if key not in self._known and status.st_size <= HASHED:
                self._known[key] = file_sha256(path)
            return self._known.get(key)
