"""The header of a safetensors file, read and checked before a byte of the data is trusted.

Layout: eight bytes of header length (little-endian), a JSON object, then the tensors back to back without
holes. The checks follow the format's specification (https://github.com/huggingface/safetensors, "Format")
with tighter limits of our own.
"""

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from sfumato.errors import ModelNotFoundError, UnsafeFileError, WeightsError

MAX_HEADER_BYTES = 32 * 2**20  # the format allows 100,000,000
MAX_TENSORS = 10_000  # an SD checkpoint with its averaged copy has some 2,000
MAX_NAME = 512
MAX_RANK = 8
_MAX_DEPTH = 3  # object, entry, list
_MAX_BRACKETS = 3 * (MAX_TENSORS + 2)

ITEM_BYTES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip

_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+\\?(?:"|\Z)|[\[\]{}]', re.DOTALL)
_FOREIGN = (  # first bytes of files that are often taken for weights, and what to do
    (
        b"PK\x03\x04",
        "is a PyTorch zip file, not safetensors; `sfumato models convert` reads it without running it",
    ),
    (b"\x80", "is a pickle, not safetensors; `sfumato models convert` reads it without running it"),
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the weights; fetch the real file (`git lfs pull`)",
    ),
    (b"<", "is a web page, not weights; the download was refused or needs a login"),
    (b"GGUF", "is a GGUF file, which is not supported; get the safetensors version"),
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a tensor is and where; `start` and `stop` count bytes from the file's beginning."""

    dtype: str  # a key of ITEM_BYTES
    shape: tuple[int, ...]
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True, kw_only=True)
class Header:
    """A checked header: the tensors tile the file's data exactly, in bounds, without holes or overlaps."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    file_size: int


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; folders, pipes and devices are refused before they can block.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: it is not a regular file, or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise WeightsError(f"{path} is not a regular file; give the path of a weights file")
        file = path.open("rb")
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path} does not exist; check the path or the models folder") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # exchanged in between
        file.close()
        raise WeightsError(f"{path} is not a regular file; give the path of a weights file")
    return file


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file, and nothing else of it.

    Raises:
        ModelNotFoundError: there is no such file.
        UnsafeFileError: it is a pickle or a PyTorch archive.
        WeightsError: it is truncated, inconsistent or beyond the limits; the message says where.
    """
    with open_regular(path) as file:
        return parse_header(file, path)


def parse_header(file: BufferedReader, path: Path) -> Header:
    """Read and check the header of an open safetensors file; see `read_header`."""
    size = os.fstat(file.fileno()).st_size
    first = file.read(32)
    for magic, message in _FOREIGN:
        if first.startswith(magic) and first[8:9] != b"{":
            kind = UnsafeFileError if "without running it" in message else WeightsError
            raise kind(f"{path} {message}")
    if size < 8:
        _refuse(path, f"truncated header: {size} bytes, a safetensors file has at least 10")
    length = int.from_bytes(first[:8], "little")
    if length > MAX_HEADER_BYTES:
        _refuse(path, f"a header of {length} bytes, at most {MAX_HEADER_BYTES} are accepted")
    if length > size - 8:
        _refuse(path, f"truncated header: {length} bytes announced, the file has {size - 8} left")
    if length < 2:
        _refuse(path, f"a header of {length} bytes cannot hold a JSON object")
    file.seek(8)
    raw = file.read(length)
    if len(raw) < length:
        _refuse(path, "truncated header: the file became shorter while it was read")
    entries = _parse_json(raw, path)
    metadata = _metadata(entries.pop("__metadata__", {}), path)
    if len(entries) > MAX_TENSORS:
        _refuse(path, f"{len(entries)} tensors, at most {MAX_TENSORS} are accepted")
    begin = 8 + length
    tensors = {name: _tensor(name, entry, begin, path) for name, entry in entries.items()}
    _check_tiling(tensors, begin, size, path)
    return Header(tensors=tensors, metadata=metadata, file_size=size)


def _refuse(path: Path, fault: str) -> NoReturn:
    raise WeightsError(
        f"{path} is not a usable safetensors file: {fault}; get the file again from its source"
    )


def _parse_json(raw: bytes, path: Path) -> dict[str, Any]:
    if raw.startswith(b"\xef\xbb\xbf"):
        _refuse(path, "the header starts with a byte order mark instead of {")
    if not raw.startswith(b"{"):
        _refuse(path, f"the header starts with {raw[:1]!r} instead of {{")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(path, f"the header is not UTF-8 at byte {8 + error.start}")
    _check_nesting(text, path)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            _refuse(path, f"the header has the key {twice[:80]!r} twice")
        return result

    def not_integer(token: str) -> NoReturn:
        _refuse(path, f"the header has the number {token[:40]} where an integer is expected")

    try:
        parsed = json.loads(
            text, object_pairs_hook=unique, parse_float=not_integer, parse_constant=not_integer
        )
    except WeightsError:
        raise
    except ValueError as error:  # JSONDecodeError, or an integer of thousands of digits
        _refuse(path, f"the header is not JSON ({str(error)[:100]})")
    assert isinstance(parsed, dict)  # it starts with {
    return parsed


def _check_nesting(text: str, path: Path) -> None:
    """Bound depth and number of brackets before a recursive parser sees them. Linear in the length."""
    depth = brackets = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        token = match[0][0]
        if token in "[{":
            depth += 1
            brackets += 1
            if depth > _MAX_DEPTH:
                _refuse(
                    path, f"the header is nested deeper than {_MAX_DEPTH} levels at character {match.start()}"
                )
            if brackets > _MAX_BRACKETS:
                _refuse(path, f"more than {MAX_TENSORS} tensors are announced")
        elif token in "]}":
            depth -= 1


def _metadata(entry: Any, path: Path) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        _refuse(path, "__metadata__ is not an object of strings")
    return entry


def _tensor(name: str, entry: Any, begin: int, path: Path) -> TensorInfo:
    short = name[:80]
    if not 0 < len(name) <= MAX_NAME:
        _refuse(path, f"a tensor name of {len(name)} characters ({short!r}…), 1 to {MAX_NAME} are accepted")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"tensor {short!r} is not described by exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        _refuse(path, f"tensor {short!r} has dtype {str(dtype)[:40]!r}, known are {', '.join(ITEM_BYTES)}")
    if not _integers(shape):
        _refuse(path, f"tensor {short!r} has shape {str(shape)[:80]}, expected a list of integers from 0")
    if len(shape) > MAX_RANK:
        _refuse(path, f"tensor {short!r} has {len(shape)} dimensions, at most {MAX_RANK} are accepted")
    if not _integers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(
            path,
            f"tensor {short!r} has data_offsets {str(offsets)[:80]}, expected two rising integers from 0",
        )
    needed = math.prod(shape) * ITEM_BYTES[dtype]
    if needed != offsets[1] - offsets[0]:
        _refuse(
            path,
            f"tensor {short!r} of {dtype} {shape} needs {_count(needed)} bytes, "
            f"its data_offsets give {_count(offsets[1] - offsets[0])}",
        )
    return TensorInfo(dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def _integers(value: Any) -> bool:
    """Tell whether `value` is a list of integers from 0 to 2^63 - 1 (JSON's true is not an integer)."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _count(number: int) -> str:
    return str(number) if number < 2**63 else "more than 2^63"


def _check_tiling(tensors: Mapping[str, TensorInfo], begin: int, size: int, path: Path) -> None:
    expected = begin
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.start < expected:
            _refuse(path, f"tensor {name[:80]!r} overlaps the one before it by {expected - info.start} bytes")
        if info.start > expected:
            _refuse(path, f"a hole of {info.start - expected} bytes before tensor {name[:80]!r}")
        if info.stop > size:
            _refuse(path, f"truncated: tensor {name[:80]!r} ends at byte {info.stop}, the file at {size}")
        expected = info.stop
    if expected < size:
        _refuse(path, f"{size - expected} bytes after the last tensor belong to nothing")
