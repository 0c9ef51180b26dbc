"""The first start: which models to use. The embedded one is there; another program's are looked for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sfumato.app.settings import Settings
from sfumato.errors import SfumatoError
from sfumato.weights import model_folders, store, trees
from sfumato.weights.atomic import atomic_file
from sfumato.weights.model_folders import ModelFolder
from sfumato.weights.trees import Count, Tree

MARK = "first-start"  # a file of the data folder: somebody has chosen
USUAL = (  # places of other programs, below the home folder
    "stable-diffusion-webui",
    "stable-diffusion-webui-forge",
    "sd-webui",
    "ComfyUI",
    "Documents/ComfyUI",
    "ComfyUI_windows_portable",
    "invokeai",
    "InvokeAI",
)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A folder, and what is in it."""

    tree: Tree
    counts: tuple[Count, ...]

    @property
    def files(self) -> int:
        """Models in all."""
        return sum(each.files for each in self.counts)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(each.size for each in self.counts)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a page asks at the first start."""

    wanted: bool  # nobody has chosen yet, and there are no models but the embedded one
    models: int  # that are there already
    found: tuple[Survey, ...]  # folders of other programs, not in use yet


def wanted(settings: Settings) -> bool:
    """Whether to ask: nobody has chosen yet, and there are no models but the embedded one."""
    return not (settings.data / MARK).exists() and store.count(settings.models) == 0


def offer(settings: Settings, homes: Iterable[Path] | None = None) -> Offer:
    """What to offer. Looks for other programs in their usual places only, and changes nothing.

    Args:
        settings: where the models and the data are.
        homes: where to look; None = the home folder and the working directory.
    """
    models = store.count(settings.models)
    used = {each.tree.path for each in model_folders.listed(settings.models)}
    found: dict[Path, Survey] = {}
    for home in (Path.home(), Path.cwd()) if homes is None else homes:
        for place in USUAL:
            with suppress(SfumatoError, OSError):  # one that cannot be read is none to offer
                each = survey(home / place)
                real = Path(os.path.realpath(each.tree.path))
                if each.tree.program != "folder" and each.files and each.tree.path not in used:
                    found.setdefault(real, each)
    return Offer(wanted=wanted(settings), models=models, found=tuple(found.values()))


def survey(path: Path) -> Survey:
    """What is in a folder; nothing is changed. Raises ModelNotFoundError: no folder, or no models in it."""
    tree = trees.recognise(path)
    return Survey(tree=tree, counts=tuple(trees.survey(tree)))


def use_folder(settings: Settings, path: Path, name: str | None = None) -> ModelFolder:
    """Use a folder's models in place. Raises ModelNotFoundError, OutputError: see `model_folders.add`."""
    folder = model_folders.add(settings.models, path, name)
    chosen(settings)
    return folder


def chosen(settings: Settings) -> None:
    """Do not ask again. Raises OutputError: the data folder cannot be written."""
    settings.data.mkdir(parents=True, exist_ok=True)
    with atomic_file(settings.data / MARK):
        pass
