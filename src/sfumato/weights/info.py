"""What a file or folder is, said from headers alone."""

import contextlib
import json
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from sfumato.errors import SfumatoError
from sfumato.types import Prediction
from sfumato.weights import folders, pickles
from sfumato.weights.detect import Detection, detect
from sfumato.weights.header import Header, TensorInfo, read_header

_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A file or folder of weights, described. With a `fault`, only the first four fields say something."""

    path: Path
    name: str  # within its models folder, without the ending
    size: int  # bytes
    fault: str = ""  # why it cannot be used; empty = it can be read
    kind: str = "unknown"  # see detect.Kind; "pickle" where nothing was read
    family: str = ""
    prediction: Prediction | None = None  # None = not known, or none
    told_by: str = ""  # what decided the prediction type
    native_size: int | None = None  # pixels
    in_channels: int | None = None  # of the U-Net
    dtype: str = ""  # of most of the numbers, as safetensors calls it
    parameters: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether pictures can be made of it as it stands."""
        return not self.fault and self.kind == "checkpoint" and self.prediction is not None

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON's types."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"path": str(self.path), "metadata": dict(self.metadata)}

    def text(self) -> str:
        """Say everything that is known, a field a line."""
        known = {name: value for name, value in self.to_dict().items() if value not in ("", None, {})}
        return "\n".join(f"{name}:{_indented(value)}" for name, value in known.items())

    def line(self) -> str:
        """Say it in one line."""
        if self.fault:
            return f"{self.name}: broken: {self.fault}"
        parts = [self.kind, self.family, self.dtype, f"{self.size / 1e9:.2f} GB"]
        if self.kind == "checkpoint":
            parts.insert(2, f"{self.prediction or '?'}-prediction, {self.native_size or '?'} px")
        return f"{self.name}: " + ", ".join(part for part in parts if part)


def _indented(value: Any, depth: int = 0) -> str:
    """Write a value in readable lines; JSON within strings is unfolded."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    indent = "  " * (depth + 1)
    if isinstance(value, dict):
        return "".join(f"\n{indent}{key}:{_indented(each, depth + 1)}" for key, each in value.items())
    text = str(value).strip()
    return "\n" + textwrap.indent(text, indent) if "\n" in text else " " + text


def describe(path: Path, *, name: str | None = None, read_pickles: bool = True) -> ModelInfo:
    """Describe a file or folder of weights from its header; whatever is wrong with it becomes its `fault`.

    Args:
        path: a safetensors file, a pickle, or a folder in diffusers' layout.
        name: what to call it; its stem where left out.
        read_pickles: whether the restricted process looks into a pickle, which takes some tenths of a second.
    """
    name = name or (path.name if path.is_dir() else path.stem)
    size = 0
    try:
        if path.is_dir():
            folder = folders.read_folder(path)
            headers = {part.file: part.header for parts in folder.parts.values() for part in parts}
            size = sum(header.file_size for header in headers.values())
            tensors = [info for header in headers.values() for info in header.tensors.values()]
            return _described(path, name, size, folder.found, tensors, folder.metadata)
        size = path.stat().st_size if path.exists() else 0
        header = _header(path, read_pickles)
        if header is None:
            return ModelInfo(path=path, name=name, size=size, kind="pickle")
        found = detect(header, path)
        return _described(path, name, size, found, list(header.tensors.values()), header.metadata)
    except (SfumatoError, OSError) as error:
        return ModelInfo(path=path, name=name, size=size, fault=str(error))


def _header(path: Path, read_pickles: bool) -> Header | None:
    if not path.exists() or not pickles.is_pickle(path):
        return read_header(path)
    return pickles.pickle_header(path) if read_pickles else None


def _described(
    path: Path,
    name: str,
    size: int,
    found: Detection,
    tensors: list[TensorInfo],
    metadata: Mapping[str, str],
) -> ModelInfo:
    numbers: Counter[str] = Counter()
    for info in tensors:
        numbers[info.dtype] += prod(info.shape)
    floats = Counter({dtype: count for dtype, count in numbers.items() if dtype in _FLOATS})
    spec, is_checkpoint = found.spec, found.kind == "checkpoint"
    rows = found.rows if is_checkpoint else ()
    return ModelInfo(
        path=path,
        name=name,
        size=size,
        kind=found.kind,
        family=found.family,
        prediction=spec.prediction if spec and is_checkpoint else None,
        told_by=found.told_by if spec and is_checkpoint else "",
        native_size=spec.native_size if spec and is_checkpoint else None,
        in_channels=rows[0].unet.in_channels if rows else None,
        dtype=max(floats, key=lambda dtype: floats[dtype]) if floats else "",
        parameters=sum(floats.values()),
        metadata=metadata,
    )
