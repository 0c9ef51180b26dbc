"""Folders of models beside the models folder: read where they are, nothing copied.

They stand in `folders.json` of the models folder, each with a name that its models' names begin with:
`webui/Stable-diffusion/dream`.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from sfumato.errors import ModelNotFoundError, OutputError
from sfumato.weights.atomic import atomic_file
from sfumato.weights.trees import Holds, Place, Tree, recognise, walk

FILE = "folders.json"
MAX_NAME = 60  # characters


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A folder beside the models folder."""

    name: str
    tree: Tree

    def entries(self) -> Iterator[tuple[str, Path]]:
        """Names and paths of its models; see `trees.walk`."""
        for place in self.tree.places:
            for name, path in walk(place.path):
                yield "/".join(part for part in (self.name, place.name, name) if part), path


def listed(models: Path) -> list[ModelFolder]:
    """The folders beside a models folder. Raises OutputError: the list is damaged."""
    file = models / FILE
    try:
        rows = json.loads(file.read_text("utf-8"))
        return [
            ModelFolder(
                name=str(row["name"]),
                tree=Tree(
                    program=row["program"],
                    path=Path(row["path"]),
                    places=tuple(
                        Place(name=str(name), path=Path(path), holds=holds)
                        for name, path, holds in row["places"]
                    ),
                ),
            )
            for row in rows
        ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise OutputError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise OutputError(f"{file} is no list of folders; repair or remove it") from error


def add(models: Path, path: Path, name: str | None = None) -> ModelFolder:
    """List a folder; one that is listed is looked at anew.

    Args:
        models: the models folder; it is made if need be.
        path: see `trees.recognise`.
        name: what its models' names begin with; None = the folder's own, or with a number behind it.

    Raises:
        ModelNotFoundError: there are no models.
        OutputError: the name is none or taken, the folder is in the models folder or around it, or the list
            cannot be written.
    """
    tree, there = recognise(path), listed(models)
    for place in tree.places:
        if _within(models, place.path) or _within(place.path, models):
            raise OutputError(f"{place.path} overlaps the models folder {models}; choose another folder")
    old = next((each for each in there if each.tree.path == tree.path), None)
    others = [each for each in there if each is not old]
    taken = {each.name.casefold() for each in others}
    taken |= {each.name.casefold() for each in models.iterdir()} if models.is_dir() else set()
    if name is None:
        plain = _plain(tree.path.name)
        name = old.name if old else next(each for each in _numbered(plain) if each.casefold() not in taken)
    elif name != _plain(name) or name.casefold() in taken:
        raise OutputError(f"{name[:80]!r} is taken or no name of a folder; give another --name")
    folder = ModelFolder(name=name, tree=tree)
    _write(models, [*others, folder])
    return folder


def remove(models: Path, name: str) -> ModelFolder:
    """Take a folder off the list; the folder itself stays as it is.

    Args:
        models: the models folder.
        name: of the folder, or its path.

    Raises:
        ModelNotFoundError: it is not listed.
        OutputError: the list cannot be written.
    """
    there = listed(models)
    for folder in there:
        if name in (folder.name, str(folder.tree.path)):
            _write(models, [each for each in there if each is not folder])
            return folder
    known = ", ".join(each.name for each in there) or "none"
    raise ModelNotFoundError(f"no folder {name[:80]!r} is listed; there are {known}")


def places(models: Path, holds: Holds) -> list[tuple[str, Path]]:
    """Folders beside the models folder for one kind: their names, and where they are."""
    return [
        (f"{folder.name}/{place.name}".rstrip("/"), place.path)
        for folder in listed(models)
        for place in folder.tree.places
        if place.holds == holds
    ]


def _write(models: Path, folders: list[ModelFolder]) -> None:
    rows = [
        {
            "name": folder.name,
            "program": folder.tree.program,
            "path": str(folder.tree.path),
            "places": [(place.name, str(place.path), place.holds) for place in folder.tree.places],
        }
        for folder in folders
    ]
    try:
        models.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{models} cannot be made: {error.strerror}") from error
    with atomic_file(models / FILE) as file:
        file.write(json.dumps(rows, indent=1, ensure_ascii=False).encode("utf-8"))


def _plain(name: str) -> str:
    """The name without what does not belong into the name of a model."""
    return re.sub(r"[^\w .+-]", "", name).strip(" .")[:MAX_NAME] or "models"


def _numbered(name: str) -> Iterator[str]:
    return (name if n == 1 else f"{name}-{n}" for n in count(1))


def _within(inner: Path, outer: Path) -> bool:
    return inner.resolve().is_relative_to(outer.resolve())
