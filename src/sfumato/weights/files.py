"""Weights files: safetensors read and written, PyTorch pickles read without running them.

Reading maps the file: tensors are views of it, private to the process, and memory is filled as they are used.
"""

import hashlib
import json
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.weights.atomic import atomic_file
from sfumato.weights.header import (
    ITEM_BYTES,
    MAX_NAME,
    MAX_RANK,
    MAX_TENSORS,
    Header,
    TensorInfo,
    open_regular,
    parse_header,
    read_header,
)

__all__ = [
    "DTYPES",
    "Header",
    "TensorInfo",
    "TensorStep",
    "file_sha256",
    "read_header",
    "read_safetensors",
    "read_tensor",
    "stream_safetensors",
    "write_safetensors",
]

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class TensorStep:
    """A tensor, or a module's tensors, of a new file are done."""

    done: int
    total: int
    name: str


def read_safetensors(
    path: Path,
    *,
    names: Iterable[str] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
) -> dict[str, Tensor]:
    """Read tensors from a safetensors file.

    A tensor that stays as it is on the CPU is a view of the mapped file (changing it changes neither the file
    nor another reader's view). One that is cast or moved is read, converted and let go before the next.

    Args:
        path: the file.
        names: which tensors; all of them when left out.
        dtype: cast floating-point tensors to this; integers and booleans stay.
        device: where the tensors go.
        channels_last: lay four-dimensional tensors out as convolutions want; they are read, not mapped, so
            that no second copy stays in memory.

    Returns:
        Tensors by name.

    Raises:
        ModelNotFoundError: there is no such file.
        UnsafeFileError: it is a pickle or a PyTorch archive.
        WeightsError: it is truncated or inconsistent, or lacks one of `names`.
    """
    device = torch.device(device)
    with open_regular(path) as file:
        header = parse_header(file, path)
        wanted = list(header.tensors if names is None else names)
        for name in wanted:
            if name not in header.tensors:
                raise WeightsError(f"{path} has no tensor {name!r}")
        # A private writable mapping: torch needs writable memory, and nothing is ever written back.
        mapped = mmap.mmap(file.fileno(), header.file_size, access=mmap.ACCESS_COPY)
        tensors = {}
        for name in wanted:
            info = header.tensors[name]
            target = (
                dtype if dtype is not None and DTYPES[info.dtype].is_floating_point else DTYPES[info.dtype]
            )
            turned = channels_last and len(info.shape) == 4
            as_stored = device.type == "cpu" and target == DTYPES[info.dtype] and not turned
            if info.start == info.stop:
                tensors[name] = torch.empty(info.shape, dtype=target, device=device)
            elif as_stored and _is_aligned(info):
                flat = torch.frombuffer(
                    mapped, dtype=target, offset=info.start, count=(info.stop - info.start) // target.itemsize
                )
                tensors[name] = flat.view(info.shape)
            else:
                tensor = read_tensor(file, info, path)
                layout = torch.channels_last if turned else torch.preserve_format
                tensors[name] = tensor.to(device, target, memory_format=layout)
    return tensors


def read_tensor(file: BufferedReader, info: TensorInfo, path: Path) -> Tensor:
    """Read one tensor of an open file into memory of its own.

    Raises:
        WeightsError: the file ends before the tensor does.
    """
    if info.start == info.stop:
        return torch.empty(info.shape, dtype=DTYPES[info.dtype])
    buffer = bytearray(info.stop - info.start)
    file.seek(info.start)
    if file.readinto(buffer) < len(buffer):
        raise WeightsError(f"{path} became shorter while it was read; get the file again")
    return torch.frombuffer(buffer, dtype=DTYPES[info.dtype]).view(info.shape)


def _is_aligned(info: TensorInfo) -> bool:
    return info.start % ITEM_BYTES[info.dtype] == 0


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write tensors to a safetensors file, complete or not at all.

    Equal input gives an equal file: tensors are ordered by item size, then name.

    Args:
        path: the file; an existing one is replaced at once.
        tensors: by name; any device and memory layout.
        metadata: strings for the header.
        dtype: cast floating-point tensors to this, one after another.

    Raises:
        OutputError: the file cannot be written; an existing one is left as it was.
        WeightsError: a tensor that the format or `read_header` would refuse.
    """
    outline = {
        name: torch.empty(tensor.shape, dtype=_stored_dtype(name, tensor, dtype), device="meta")
        for name, tensor in tensors.items()
    }
    for _ in stream_safetensors(path, outline, tensors.__getitem__, metadata):
        pass


def stream_safetensors(
    path: Path,
    outline: Mapping[str, Tensor],
    produce: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Write tensors that are made one by one, while the file is written; see `write_safetensors`.

    Args:
        path: the file; an existing one is replaced at once, after the last tensor.
        outline: what will be written, by name: tensors without memory, of the stored shape and dtype.
        produce: gives the tensor of a name; it is cast to the outline's dtype and let go.
        metadata: strings for the header.

    Yields:
        The name of each tensor written. Stop iterating to leave nothing behind.

    Raises:
        OutputError, WeightsError: as `write_safetensors`.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    order = sorted(outline, key=lambda name: (-outline[name].itemsize, name))
    if len(order) > MAX_TENSORS:
        raise WeightsError(f"{len(order)} tensors cannot be written, at most {MAX_TENSORS} are accepted")
    end = 0
    for name in order:
        tensor, stored = outline[name], _stored_dtype(name, outline[name], None)
        if not 0 < len(name) <= MAX_NAME or name == "__metadata__" or tensor.ndim > MAX_RANK:
            raise WeightsError(f"tensor {name[:80]!r} of shape {list(tensor.shape)} cannot be written")
        start, end = end, end + tensor.numel() * stored.itemsize
        header[name] = {"dtype": _NAMES[stored], "shape": list(tensor.shape), "data_offsets": [start, end]}
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    raw += b" " * (-len(raw) % 8)
    with atomic_file(path) as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for name in order:
            tensor = produce(name).detach().to("cpu", outline[name].dtype).contiguous()
            assert tensor.shape == outline[name].shape, name
            file.write(tensor.view(-1).view(torch.uint8).numpy().data)
            yield name


def _stored_dtype(name: str, tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    stored = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    if stored not in _NAMES:
        raise WeightsError(f"tensor {name[:80]!r} of {tensor.dtype} cannot be written")
    return stored


def file_sha256(path: Path) -> str:
    """Give the SHA-256 of a file's bytes as 64 hexadecimal digits.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: it cannot be read.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
