"""The checkpoints at hand: loaded when a request names them, put away when the memory is needed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

from sfumato.pipeline import memory
from sfumato.pipeline.adapters import AdapterShelf
from sfumato.pipeline.models import Models, choose_device, choose_dtype, find_checkpoint, load_models
from sfumato.pipeline.upscalers import UpscalerShelf
from sfumato.types import ModelChoice
from sfumato.weights import store
from sfumato.weights.detect import detect
from sfumato.weights.folders import read_folder
from sfumato.weights.header import read_header
from sfumato.weights.pickles import is_pickle

Key = tuple[Path, Path | None, str | None]


class ModelShelf:
    """Loads checkpoints by name, one at a time, and keeps those used last."""

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        default: str | None = None,
        limit: int | None = None,
        paths: bool = True,
    ) -> None:
        """Load nothing yet.

        Args:
            folder: where names are looked up.
            device: "auto" or a device's name, as for `load_models`.
            dtype: "auto", "float32", "bfloat16" or "float16".
            default: the checkpoint of requests that name none; None = the embedded model.
            limit: bytes of weights kept; None = as many as the memory holds.
            paths: whether requests may name a path anywhere on the machine.

        Raises:
            RequestError: no such device or dtype here.
        """
        self.folder = folder
        self.device = choose_device(device)
        self.dtype = choose_dtype(self.device, dtype)
        self.upscalers = UpscalerShelf(folder, device=self.device, paths=paths)
        self.adapters = AdapterShelf(folder, paths=paths)
        self._paths = paths
        self._loading = threading.RLock()
        self._default = default
        self._limit = limit
        self._kept: OrderedDict[Key, Models] = OrderedDict()

    def load(self, choice: ModelChoice) -> Models:
        """Give the networks that `choice` names, loading them where they are not at hand.

        Raises ModelNotFoundError, WeightsError, OutOfMemoryError: see `load_models`.
        """
        path = self.find(choice.checkpoint)
        vae = None if choice.vae is None else store.find(self.folder, choice.vae, paths=self._paths)
        key = (path, vae, choice.prediction)
        with self._loading:
            if key not in self._kept:
                self._make_room(memory.loading_bytes(path, self.dtype))
                self._kept[key] = load_models(
                    path, vae, choice.prediction, device=self.device, dtype=self.dtype
                )
            self._kept.move_to_end(key)
            return self._kept[key]

    def find(self, checkpoint: str | None) -> Path:
        """Where a checkpoint is; None = that of requests that name none.

        Raises ModelNotFoundError: there is none of that name.
        """
        if checkpoint is None:
            return find_checkpoint(self._default, self.folder)
        return find_checkpoint(checkpoint, self.folder, paths=self._paths)

    def text_width(self, checkpoint: str | None) -> int | None:
        """The width of a checkpoint's text encoder; None where its header does not tell.

        Raises ModelNotFoundError: there is no such checkpoint. WeightsError: it is broken.
        """
        path = self.find(checkpoint)
        return _text_width(path, path.stat().st_mtime_ns)

    def hashes(self) -> dict[Path, str]:
        """SHA-256 of the checkpoints that are loaded, by file."""
        with self._loading:
            return {path: models.sha256 for (path, _, _), models in self._kept.items()}

    def clear(self) -> None:
        """Put everything away."""
        with self._loading:
            self._kept.clear()
            self.upscalers.clear()

    def _make_room(self, needed: int) -> None:
        """Put away the checkpoints used longest ago until `needed` more bytes are free."""
        while self._kept and (self._over(needed) or needed > memory.available_bytes(self.device)):
            self._kept.popitem(last=False)

    def _over(self, needed: int) -> bool:
        kept = sum(memory.weight_bytes(*models.networks) for models in self._kept.values())
        return self._limit is not None and kept + needed > self._limit


@lru_cache(64)
def _text_width(path: Path, changed: int) -> int | None:
    """Of a checkpoint that was changed then."""
    if path.is_dir():
        spec = read_folder(path).found.spec
    else:
        spec = None if is_pickle(path) else detect(read_header(path), path).spec
    return None if spec is None else spec.text.width
