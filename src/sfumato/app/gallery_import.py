"""Folders of pictures that AUTOMATIC1111's web UI, ComfyUI, InvokeAI and others have made, into the gallery.

What lies inside the outputs folder stays where it is. Everything else is copied into `imported/` there, under
a name of its content: the gallery never touches a file outside, and a second run finds everything there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from sfumato.app.codec import Inputs
from sfumato.app.gallery import Gallery
from sfumato.app.gallery_entries import of_file, read_file
from sfumato.app.gallery_files import TRASH
from sfumato.errors import OutputError
from sfumato.pipeline import images
from sfumato.weights.atomic import atomic_file, write_error

MAX_BYTES = 256 * 2**20  # of a file
Outcome = Literal["new", "known", "broken"]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """One file dealt with."""

    done: int  # files, this one included
    total: int
    path: Path
    outcome: Outcome
    note: str = ""  # why it is broken, or what of it could not be read


def import_folder(
    gallery: Gallery, inputs: Inputs, folder: Path, *, owner: str = "local"
) -> Iterator[Imported]:
    """Take the pictures of a folder and the folders in it into the gallery, the oldest first.

    A broken file is told of and the others go on. Stop iterating to stop; what is in stays in.

    Args:
        gallery: that takes them.
        inputs: where the pictures of requests are.
        folder: where they are.
        owner: whose they become.

    Raises:
        OutputError: there is no such folder, or no room for copies.
    """
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder; give one with pictures in it")
    found = sorted(_pictures(folder))
    for done, (_, path) in enumerate(found, 1):
        outcome, note = _import(gallery, inputs, path, owner)
        yield Imported(done=done, total=len(found), path=path, outcome=outcome, note=note)


def _import(gallery: Gallery, inputs: Inputs, path: Path, owner: str) -> tuple[Outcome, str]:
    """Take one file in; what came of it, and a note."""
    try:
        status = path.stat()
        if status.st_size > MAX_BYTES:
            return "broken", f"{status.st_size:,} bytes; at most {MAX_BYTES:,} are read"
        inside = _inside(gallery, path)
        if inside is not None and gallery.holds(inside):
            return "known", ""
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        if gallery.knows(sha256, owner):
            return "known", ""
        reading = read_file(data, path)
    except OutputError as error:
        return "broken", str(error)
    except OSError as error:
        return "broken", error.strerror or str(error)
    when = max(0.0, status.st_mtime)
    file = inside or _copied(gallery.files.outputs, data, sha256, when, owner, path.suffix.lower())
    gallery.files.publish(file)
    gallery.add(of_file(reading, owner, file, sha256, when, inputs))
    return "new", reading.note


def _pictures(folder: Path) -> Iterator[tuple[float, Path]]:
    """Times and places of the pictures below a folder. Links and hidden things are passed over."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != TRASH]
        for name in names:
            path = Path(root) / name
            if path.suffix.lower() in images.ENDINGS and not name.startswith(".") and not path.is_symlink():
                with suppress(OSError):
                    yield path.stat().st_mtime, path


def _inside(gallery: Gallery, path: Path) -> str | None:
    """The name of a file inside the outputs folder; None = it is not in there."""
    real, outputs = path.resolve(), gallery.files.outputs.resolve()
    if not real.is_relative_to(outputs):
        return None
    name = real.relative_to(outputs).as_posix()
    return name if len(name) <= 1000 and _storable(name) else None


def _storable(name: str) -> bool:
    """Whether a name is text that a database holds, and the same again when it is read."""
    return re.search("[\0\ud800-\udfff\\\\]", name) is None


def _copied(outputs: Path, data: bytes, sha256: str, when: float, owner: str, suffix: str) -> str:
    """Write a file into the outputs folder; its name there. Raises OutputError: no room."""
    day = datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d")
    name = hashlib.sha256(f"{owner}\n{sha256}".encode()).hexdigest()[:24]
    file = f"imported/{day}/{name}{suffix}"
    target = outputs / file
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as copy:
            copy.write(data)
        os.utime(target, (when, when))
    except OSError as error:
        raise write_error(target, error) from error
    return file
