"""Folders of models as other programs lay them out, recognised by names alone; no file of weights is opened.

AUTOMATIC1111   models/Stable-diffusion, VAE, Lora, ESRGAN …, embeddings; what its start script names
ComfyUI         models/checkpoints, vae, loras, upscale_models …; extra_model_paths.yaml
InvokeAI        models/, wherever invokeai.yaml says
diffusers       model_index.json
folder          anything else with files of weights somewhere in it
"""

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import yaml

from sfumato.errors import ModelNotFoundError

ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
INDEX = "model_index.json"
Program = Literal["AUTOMATIC1111", "ComfyUI", "InvokeAI", "diffusers", "folder"]
Holds = Literal[
    "checkpoints", "vae", "lora", "upscalers", "embeddings", "controlnet", "faces", "models"
]  # "models" = of any kind
_MAX_TEXT = 2**20  # bytes of another program's settings that are read

_A1111: Mapping[str, Holds] = MappingProxyType(
    {
        "models/Stable-diffusion": "checkpoints",
        "models/VAE": "vae",
        "models/Lora": "lora",
        "models/LyCORIS": "lora",
        "models/ESRGAN": "upscalers",
        "models/RealESRGAN": "upscalers",
        "models/SwinIR": "upscalers",
        "models/DAT": "upscalers",
        "models/HAT": "upscalers",
        "models/ScuNET": "upscalers",
        "models/GFPGAN": "faces",
        "models/Codeformer": "faces",
        "models/ControlNet": "controlnet",
        "extensions/sd-webui-controlnet/models": "controlnet",
        "embeddings": "embeddings",
    }
)
_A1111_FLAGS: Mapping[str, Holds] = MappingProxyType(
    {
        "--ckpt-dir": "checkpoints",
        "--vae-dir": "vae",
        "--lora-dir": "lora",
        "--esrgan-models-path": "upscalers",
        "--realesrgan-models-path": "upscalers",
        "--swinir-models-path": "upscalers",
        "--dat-models-path": "upscalers",
        "--scunet-models-path": "upscalers",
        "--gfpgan-models-path": "faces",
        "--codeformer-models-path": "faces",
        "--controlnet-dir": "controlnet",
        "--embeddings-dir": "embeddings",
    }
)
_COMFY: Mapping[str, Holds] = MappingProxyType(
    {
        "checkpoints": "checkpoints",
        "diffusers": "checkpoints",
        "vae": "vae",
        "loras": "lora",
        "upscale_models": "upscalers",
        "embeddings": "embeddings",
        "controlnet": "controlnet",
        "facerestore_models": "faces",
    }
)
_ARGUMENTS = re.compile(r"^[ \t]*(?:export[ \t]+|set[ \t]+)?COMMANDLINE_ARGS=(.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder with models of a kind. It need not exist."""

    name: str  # within its tree; "" = the tree itself
    path: Path
    holds: Holds


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Another program's models."""

    program: Program
    path: Path
    places: tuple[Place, ...]


@dataclass(frozen=True, kw_only=True)
class Count:
    """What is in a place."""

    place: Place
    files: int  # folders in diffusers' layout count as one
    size: int  # bytes


def recognise(path: Path) -> Tree:
    """Say whose folder this is and where its models are. Nothing is changed.

    Args:
        path: a program's folder, the models folder in it, or any folder of weights.

    Raises:
        ModelNotFoundError: there is no such folder, or no models in it.
    """
    path = path.expanduser().absolute()
    if not path.is_dir():
        raise ModelNotFoundError(f"{path} is no folder; give the one that the models are in")
    tree = next((found for rule in _RULES if (found := rule(path))), None)
    if tree is None:
        if not any(walk(path)):
            raise ModelNotFoundError(f"{path} holds no models ({', '.join(ENDINGS)}); choose another folder")
        whole = Place(name="", path=path, holds="models")
        tree = Tree(program="folder", path=path, places=(whole,))
    return tree


def survey(tree: Tree) -> list[Count]:
    """Count what is in the places of a tree; those with nothing are left out."""
    counts = []
    for place in tree.places:
        found = [each for _, each in walk(place.path)]
        if found:
            counts.append(Count(place=place, files=len(found), size=sum(map(_size, found))))
    return counts


def walk(
    folder: Path, onerror: Callable[[OSError], object] | None = None, *, whole: bool = True
) -> Iterator[tuple[str, Path]]:
    """Names and paths of all models in a folder, without opening a file.

    Hidden files and folders are left out, links are followed, a folder that is met twice is taken once.

    Args:
        folder: it need not exist.
        onerror: is told of folders that cannot be read.
        whole: whether the folder itself may be one model in diffusers' layout.

    Yields:
        The path within the folder, without ending ("" = the folder itself), and the path.
    """
    seen: set[str] = set()
    for root, subfolders, files in os.walk(folder, onerror=onerror, followlinks=True):
        here = Path(root)
        real = os.path.realpath(root)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if INDEX in files and (whole or here != folder):
            subfolders.clear()
            yield ("" if here == folder else here.relative_to(folder).as_posix()), here
            continue
        for name in files:
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                path = here / name
                yield path.relative_to(folder).with_suffix("").as_posix(), path


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [each for _, each in _weights_below(path)]
    return sum(each.stat().st_size for each in files if each.exists())


def _weights_below(path: Path) -> Iterator[tuple[str, Path]]:
    for part in sorted(each for each in path.iterdir() if each.is_dir()):
        yield from walk(part)


def _a1111(path: Path) -> Tree | None:
    if path.name == "models" and (path / "Stable-diffusion").is_dir():
        path = path.parent
    if not (path / "models" / "Stable-diffusion").is_dir():
        return None
    found = [(Path(place).name, path / place, holds) for place, holds in _A1111.items()]
    for script in ("webui-user.sh", "webui-user.bat"):
        for given in _ARGUMENTS.findall(_text(path / script)):
            found += [(place.name, path / place, holds) for place, holds in _named(given)]
    return Tree(program="AUTOMATIC1111", path=path, places=_places(found))


def _named(given: str) -> Iterator[tuple[Path, Holds]]:
    """The folders that a start script's arguments name."""
    windows = "\\" in given
    try:
        words = shlex.split(given, posix=not windows)
        if len(words) == 1 and not windows:  # quoted as a whole
            words = shlex.split(words[0])
    except ValueError:  # a quotation mark is missing
        return
    words = [part for word in words for part in word.split("=", 1)]
    for flag, value in pairwise(words):
        if flag in _A1111_FLAGS:
            yield Path(value.strip("\"'")), _A1111_FLAGS[flag]


def _comfy(path: Path) -> Tree | None:
    if path.name == "models" and (path / "checkpoints").is_dir():
        path = path.parent
    if not (path / "models" / "checkpoints").is_dir() and (path / "ComfyUI" / "models").is_dir():
        path = path / "ComfyUI"  # as its package for Windows lays it out
    if not (path / "models" / "checkpoints").is_dir():
        return None
    found = [(name, path / "models" / name, holds) for name, holds in _COMFY.items()]
    for group in _yaml(path / "extra_model_paths.yaml").values():
        if isinstance(group, dict):
            base = path / _place(group.get("base_path", ""))
            for name, holds in _COMFY.items():
                lines = str(group.get(name) or "").splitlines()
                found += [(_place(each).name, base / _place(each), holds) for each in lines if each.strip()]
    return Tree(program="ComfyUI", path=path, places=_places(found))


def _invoke(path: Path) -> Tree | None:
    if not (path / "invokeai.yaml").is_file():
        return None
    settings = _yaml(path / "invokeai.yaml")
    older = settings.get("InvokeAI")
    paths = older.get("Paths") if isinstance(older, dict) else None
    given = settings.get("models_dir") or (paths.get("models_dir") if isinstance(paths, dict) else None)
    place = path / _place(given or "models")
    return Tree(program="InvokeAI", path=path, places=(Place(name="", path=place, holds="models"),))


def _diffusers(path: Path) -> Tree | None:
    if not (path / INDEX).is_file():
        return None
    return Tree(program="diffusers", path=path, places=(Place(name="", path=path, holds="checkpoints"),))


_RULES = (_a1111, _comfy, _invoke, _diffusers)


def _places(found: list[tuple[str, Path, Holds]]) -> tuple[Place, ...]:
    """Each folder once, each under a name of its own."""
    places: dict[str, Place] = {}
    names: set[str] = set()
    for name, path, holds in found:
        real = os.path.normpath(path)
        if real not in places:
            free = next(each for n in count(1) if (each := name if n == 1 else f"{name}-{n}") not in names)
            names.add(free)
            places[real] = Place(name=free, path=Path(real), holds=holds)
    return tuple(places.values())


def _place(given: object) -> Path:
    """A path as settings write it, with ~ and variables."""
    return Path(os.path.expandvars(os.path.expanduser(str(given).strip())))


def _text(path: Path) -> str:
    """A settings file's beginning; "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_TEXT).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""


def _yaml(path: Path) -> dict[str, Any]:
    """A YAML file's settings; {} if it has none that can be read."""
    try:
        found = yaml.safe_load(_text(path))
    except (yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
