"""Folders of pictures: which there are, the mask of each, and what one says of its own making.

Knows no networks: it turns one request into those of single pictures.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from sfumato.errors import OutputError, RequestError
from sfumato.pipeline import images, metadata
from sfumato.types import Request

REUSABLE: Mapping[str, tuple[str, ...]] = MappingProxyType(  # name: fields that are taken over
    {
        "prompt": ("prompt.text",),
        "negative": ("prompt.negative",),
        "seed": ("canvas.seed",),
        "guidance": ("sampling.guidance",),
        "sampler": ("sampling.sampler", "sampling.schedule"),
        "steps": ("sampling.steps",),
        "model": ("model.checkpoint",),
    }
)


def pictures_in(folder: Path) -> list[Path]:
    """The PNG, JPEG and WebP files of a folder, by name. Raises OutputError: there are none."""
    inside = folder.iterdir() if folder.is_dir() else ()
    found = sorted(path for path in inside if path.suffix.lower() in images.ENDINGS)
    if not found:
        raise OutputError(f"{folder}: holds no PNG, JPEG or WebP pictures")
    return found


def mask_for(picture: Path, masks: Path) -> Path:
    """The mask of a picture: a file serves all, a folder's only one too, else the one of the same stem.

    Raises OutputError: the folder has none for it.
    """
    if not masks.is_dir():
        return masks
    found = pictures_in(masks)
    return found[0] if len(found) == 1 else of_same_name(picture, masks)


def of_same_name(picture: Path, folder: Path) -> Path:
    """The picture of the same stem in a folder. Raises OutputError: there is none."""
    for path in pictures_in(folder):
        if path.stem == picture.stem:
            return path
    raise OutputError(f"{folder}: nothing for {picture.name}; name it {picture.stem}.png")


def check_reusable(names: Collection[str]) -> None:
    """Refuse a name that is not in `REUSABLE`. Raises RequestError."""
    for name in names:
        if name not in REUSABLE:
            raise RequestError(f"reuse={name!r} is not one of {', '.join(REUSABLE)}")


def reuse(request: Request, told_by: Path, names: Collection[str]) -> Request:
    """The request with some fields as in the parameters that a picture's file carries.

    A prompt, positive or negative, is put behind the request's own.

    Args:
        request: what else is asked.
        told_by: the picture.
        names: from `REUSABLE`.

    Raises:
        OutputError: the file cannot be read or carries no parameters.
        RequestError: they make no sense.
    """
    text = images.read_infotext(told_by)
    if text is None:
        raise OutputError(f"{told_by}: carries no generation parameters to reuse")
    told = metadata.read(text)
    for field in (field for name in names for field in REUSABLE[name]):
        part, name = field.split(".")
        own, other = getattr(request, part), getattr(getattr(told, part), name)
        value = f"{getattr(own, name)} {other}".strip() if part == "prompt" else other
        request = replace(request, **{part: replace(own, **{name: value})})
    return request


def named_error(picture: Path, error: Exception) -> str:
    """An error in one line that names the picture it is about."""
    message = " ".join(str(error).split())
    return message if str(picture) in message else f"{picture}: {message}"
