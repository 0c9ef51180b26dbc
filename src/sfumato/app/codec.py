"""Requests as JSON and back, exactly; their pictures beside them, named by what is in them."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from PIL import Image

from sfumato.app.store import Store
from sfumato.errors import RequestError
from sfumato.pipeline.source import read_picture
from sfumato.types import Picture, Request
from sfumato.weights.atomic import atomic_file, write_error

_NAME = re.compile(r"[0-9a-f]{64}\.png")
PICTURES = ("source.image", "source.depth", "mask.image")


class Inputs:
    """The folder of pictures that requests start from; equal pictures are kept once."""

    def __init__(self, folder: Path, store: Store | None = None) -> None:
        """Use `folder`, which is made with the first picture, and a store where others find them, too."""
        self.folder = folder
        self._store = store

    def keep(self, picture: Picture, allow: Callable[[str, int], object] = lambda name, size: None) -> str:
        """Store a picture and give its name.

        Args:
            picture: of any size and mode.
            allow: told its name and bytes before it is written; may raise.

        Raises:
            OutputError: it cannot be read, or the folder not be written.
        """
        if isinstance(picture, Path) and picture.parent == self.folder and picture.is_file():
            return picture.name
        image = read_picture(picture)
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", icc_profile=None)  # pixels, and nothing that somebody else wrote
        data = buffer.getvalue()
        name = f"{hashlib.sha256(data).hexdigest()}.png"
        path = self.folder / name
        allow(name, len(data))
        if not path.exists():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise write_error(self.folder, error) from error
            with atomic_file(path) as file:
                file.write(data)
        if self._store is not None:
            self._store.put(f"inputs/{name}", path)
        return name

    def fetch(self, request: Request) -> None:
        """See that a request's pictures are on this machine. Raises RequestError: one is nowhere."""
        for picture in (request.source.image, request.source.depth, request.mask.image):
            if not isinstance(picture, Path) or picture.parent != self.folder or picture.is_file():
                continue
            if self._store is None or not self._store.fetch(f"inputs/{picture.name}", picture):
                raise RequestError(f"the input picture {picture.name} has vanished; send it again")

    def remove(self, path: Path) -> None:
        """Remove a picture, where there is one. Raises OutputError: it stays."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(path, error) from error
        if self._store is not None:
            self._store.remove(f"inputs/{path.name}")

    def path(self, name: str) -> Path:
        """Where the picture of this name is, if it is there. Raises RequestError: no such name."""
        if not _NAME.fullmatch(name):
            raise RequestError(f"no input picture {name[:80]!r}; send it again")
        return self.folder / name


def encode(request: Request, keep: Callable[[Picture], str]) -> dict[str, dict[str, Any]]:
    """A request as plain values, without what stands at its default.

    Args:
        request: what to write.
        keep: stores a picture and gives its name, as `Inputs.keep` does.
    """
    written: dict[str, dict[str, Any]] = {}
    default = Request()
    for part in fields(Request):
        mine, usual = getattr(request, part.name), getattr(default, part.name)
        for each in fields(mine):
            value = getattr(mine, each.name)
            if isinstance(value, Path | Image.Image):
                value = keep(value)
            elif value == getattr(usual, each.name):
                continue
            written.setdefault(part.name, {})[each.name] = value
    return written


def decode(written: Mapping[str, Mapping[str, Any]], find: Callable[[str], Path]) -> Request:
    """The request that `encode` wrote.

    Args:
        written: its plain values.
        find: where the picture of a name is, as `Inputs.path` says.

    Raises:
        RequestError: a field that does not exist or is out of range, or a picture that is gone.
    """
    kinds: dict[str, Any] = {part.name: part.default_factory for part in fields(Request)}
    parts = {}
    for name, values in written.items():
        if name not in kinds:
            raise RequestError(f"a request has no part {name[:40]!r}; there are {', '.join(kinds)}")
        known = {each.name for each in fields(kinds[name])}
        strange = sorted(set(values) - known)
        if strange:
            raise RequestError(
                f"{name} has no field {strange[0][:40]!r}; there are {', '.join(sorted(known))}"
            )
        parts[name] = kinds[name](
            **{
                field: find(value) if f"{name}.{field}" in PICTURES and value is not None else value
                for field, value in values.items()
            }
        )
    return Request(**parts)
