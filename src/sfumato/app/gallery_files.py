"""The gallery's files: pictures below the outputs folder, a trash inside it, small pictures to show in lists.

    outputs/2026-11-24/000001-000-7.png      a picture
    outputs/.trash/<id>.png                  it, after it was deleted
    data/thumbnails/ab/<sha256>-256.webp     it, small; equal pictures share one

A name never leads out of the outputs folder, by a link neither.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Protocol

from sfumato.app.gallery_table import Picture
from sfumato.errors import ConflictError, OutputError, RequestError
from sfumato.pipeline import images
from sfumato.weights.atomic import atomic_file, write_error
from sfumato.weights.files import file_sha256

TRASH = ".trash"
SIDES = (128, 256, 512)  # of small pictures


class Elsewhere(Protocol):
    """A place that other machines put their pictures into, too, under the same names."""

    def fetch(self, name: str, path: Path) -> bool:
        """Copy a file to this machine, unless it is there; whether it is there then. Raises OutputError."""

    def put(self, name: str, path: Path) -> None:
        """Copy a file of this machine there. Raises OutputError."""

    def remove(self, name: str) -> None:
        """Remove a file, where there is one. Raises OutputError."""


class PictureFiles:
    """Where pictures are, and how they are moved."""

    def __init__(self, outputs: Path, thumbnails: Path, elsewhere: Elsewhere | None = None) -> None:
        """Use these folders, which need not exist yet.

        Args:
            outputs: of pictures.
            thumbnails: of small pictures.
            elsewhere: what holds the pictures that are not in `outputs`; asked for those that are wanted,
                not for all that are listed.
        """
        self.outputs, self.thumbnails, self._elsewhere = outputs, thumbnails, elsewhere

    def ready(self) -> bool:
        """Whether the outputs folder is there; where it is not, nothing is known of its pictures."""
        return self._elsewhere is not None or self.outputs.is_dir()

    def local(self) -> bool:
        """Whether all pictures have to be in the outputs folder, and that is there."""
        return self._elsewhere is None and self.outputs.is_dir()

    def place(self, file: str) -> Path:
        """Where a file of this name is. Raises OutputError: the name leads out of the outputs folder."""
        path = self.outputs / file
        inside = bool(file) and ".." not in Path(file).parts and "\\" not in file
        if not inside or not path.resolve().is_relative_to(self.outputs.resolve()):
            raise OutputError(f"{file[:80]!r} is not inside the outputs folder")
        return path

    def trashed(self, picture: Picture) -> Path:
        """Where a picture is while it is in the trash."""
        return self.outputs / TRASH / f"{picture.id}{Path(picture.file).suffix}"

    def is_there(self, file: str) -> bool:
        """Whether a picture's file is where it belongs."""
        try:
            return self.place(file).is_file() or self._elsewhere is not None
        except OutputError:
            return False

    def path(self, picture: Picture) -> Path:
        """Where a picture's file is now. Raises OutputError: it has vanished."""
        path = self.trashed(picture) if picture.state == "trash" else self.place(picture.file)
        if picture.state == "trash" and not path.exists():
            path = self.place(picture.file)  # the process ended before it was moved
        if not path.is_file() and not self._fetched(picture):
            raise OutputError(
                f"the file of picture {picture.id} has vanished; bring it back to {picture.file}"
            )
        return path

    def publish(self, file: str) -> None:
        """Let other machines have a new picture. Raises OutputError: the place they reach is not there."""
        if self._elsewhere is not None:
            self._elsewhere.put(file, self.place(file))

    def discard(self, picture: Picture) -> None:
        """Move a picture into the trash; nothing happens where it has no file. Raises OutputError."""
        source, target = self.place(picture.file), self.trashed(picture)
        with _Told(target), suppress(FileNotFoundError):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)

    def bring_back(self, picture: Picture) -> None:
        """Move a picture out of the trash.

        Raises:
            OutputError: its file has vanished, or cannot be moved.
            ConflictError: another file is in its place.
        """
        source, target = self.trashed(picture), self.place(picture.file)
        if not source.exists():
            if not target.is_file() and not self._fetched(picture):
                raise OutputError(f"the file of picture {picture.id} has vanished from the trash")
            return  # the process ended before the record of it was changed
        if target.exists() and file_sha256(target) != picture.sha256:
            raise ConflictError(f"another file has the name {picture.file}; move it away first")
        with _Told(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)

    def destroy(self, picture: Picture, *, shared: bool) -> None:
        """Remove a picture of the trash for good, and its small pictures unless others show the same."""
        place = self.place(picture.file)
        with _Told(self.outputs):
            self.trashed(picture).unlink(missing_ok=True)
            if place.is_file() and file_sha256(place) == picture.sha256:  # not another that has the name now
                place.unlink()
            if self._elsewhere is not None:
                self._elsewhere.remove(picture.file)
            for side in () if shared else SIDES:
                self._thumbnail(picture.sha256, side).unlink(missing_ok=True)

    def thumbnail(self, picture: Picture, side: int) -> bytes:
        """A small picture as WebP, kept for the next time.

        Args:
            picture: of which.
            side: the longer one, in pixels: one of `SIDES`.

        Raises:
            RequestError: another side.
            OutputError: the picture has vanished, or cannot be read.
        """
        if side not in SIDES:
            raise RequestError(f"side={side} is not one of {', '.join(map(str, SIDES))}")
        kept = self._thumbnail(picture.sha256, side)
        with suppress(FileNotFoundError):
            return kept.read_bytes()
        small = images.small_webp(images.first_frame(self.path(picture)), side)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(kept) as file:
            file.write(small)
        return small

    def _fetched(self, picture: Picture) -> bool:
        """Bring a picture to this machine; whether it is there then."""
        place = self.place(picture.file)
        return self._elsewhere is not None and self._elsewhere.fetch(picture.file, place)

    def _thumbnail(self, sha256: str, side: int) -> Path:
        return self.thumbnails / sha256[:2] / f"{sha256}-{side}.webp"


class _Told:
    """Turns what a file system refuses into OutputError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, OutputError):
            raise write_error(self._path, error) from error
