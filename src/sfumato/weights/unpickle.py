"""Reads a PyTorch pickle without executing it, in a process of its own with limits.

`python -m sfumato.weights.unpickle FILE OUTPUT` writes the tensors of FILE to OUTPUT as safetensors; with
`--list` in OUTPUT's place it only describes them. It prints one line of JSON. Limits are set on memory,
processor time, output, open files and child processes before a byte of the file is read.

Containers: the zip archives of `torch.save` since 1.6 and the older stream
(https://docs.pytorch.org/docs/stable/notes/serialization.html).
"""

import io
import json
import math
import os
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from sfumato.errors import UnsafeFileError, WeightsError
from sfumato.weights import apart
from sfumato.weights.header import ITEM_BYTES, MAX_NAME, MAX_TENSORS
from sfumato.weights.pickle_machine import MAX_PICKLE_BYTES, Machine, Storage, TensorView

MAX_ENTRIES = 20_000
MAX_RATIO = 20  # of a compressed entry; weights hardly compress
MAX_DEPTH = 4  # of dictionaries around tensors
MAX_VISITS = 1_000_000
MEMORY_BYTES = 2 * 2**30
SECONDS = 600
CHUNK = 2**23
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


# --- the two containers ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Content:
    """A file's value and a way to its storages' bytes."""

    value: Any
    open_storage: Callable[[Storage], BinaryIO]


def open_content(file: BinaryIO, size: int) -> Content:
    """Run the pickle of a file that `torch.save` wrote, in either container."""
    start = file.read(4)
    file.seek(0)
    return _open_zip(file, size) if start == b"PK\x03\x04" else _open_stream(file)


def _open_zip(file: BinaryIO, size: int) -> Content:
    _check_directory(file, size)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        raise WeightsError(f"the archive is damaged ({error})") from error
    entries = {info.filename: info for info in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        raise WeightsError("the archive has two entries of one name")
    tops = {name.split("/")[0] for name in entries}
    for name, info in entries.items():
        _check_entry(name, info)
    if sum(info.compress_size for info in entries.values()) > size:
        raise WeightsError("entries of the archive overlap")
    if len(tops) != 1:
        raise WeightsError(f"the archive has {len(tops)} folders, one is expected")
    top = tops.pop()
    if f"{top}/data.pkl" not in entries:
        raise WeightsError("the archive has no data.pkl; it was not written by torch.save")
    if f"{top}/byteorder" in entries and _read(archive, entries[f"{top}/byteorder"], 16) != b"little":
        raise WeightsError("the numbers are stored most significant byte first")
    value = Machine(io.BytesIO(_read(archive, entries[f"{top}/data.pkl"], MAX_PICKLE_BYTES))).run()

    def open_storage(storage: Storage) -> BinaryIO:
        info = entries.get(f"{top}/data/{storage.key}")
        wanted = storage.count * ITEM_BYTES[storage.dtype]
        if info is None or info.file_size != wanted:
            found = "nothing" if info is None else f"{info.file_size} bytes"
            raise WeightsError(f"storage {storage.key} has {found}, expected {wanted} bytes")
        return archive.open(info)  # type: ignore[return-value]

    return Content(value, open_storage)


def _check_directory(file: BinaryIO, size: int) -> None:
    """Check that there is one central directory, of a sane size, right at the end, before it is read."""
    file.seek(max(0, size - 22))
    end = file.read()
    if len(end) < 22 or end[:4] != b"PK\x05\x06":
        raise WeightsError("the archive is truncated, or something follows it")
    entries, length, start = struct.unpack("<HII", end[10:20])
    stop = size - 22
    if entries == 0xFFFF or 0xFFFFFFFF in (length, start):
        file.seek(max(0, stop - 76))
        wide = file.read(76)
        if len(wide) < 76 or wide[:4] != b"PK\x06\x06" or wide[56:60] != b"PK\x06\x07":
            raise WeightsError("the archive's large directory is damaged")
        entries, length, start = struct.unpack("<QQQ", wide[32:56])
        stop -= 76
    elif size >= 98:
        file.seek(stop - 20)
        if file.read(4) == b"PK\x06\x07":  # the large directory is there though it is not needed
            stop -= 76
    file.seek(0)
    if entries > MAX_ENTRIES:
        raise WeightsError(f"the archive has {entries} entries, at most {MAX_ENTRIES} are accepted")
    if start + length != stop:
        raise WeightsError("the archive has more than one directory, or something beside its entries")


def _check_entry(name: str, info: zipfile.ZipInfo) -> None:
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or len(name) > MAX_NAME:
        raise WeightsError(f"the archive has an entry named {name[:80]!r}")
    if info.flag_bits & ~0x0808:  # sizes after the data, and UTF-8 names, are fine
        raise WeightsError(f"entry {name[:80]!r} has the flags {info.flag_bits:#06x}: encrypted or patched")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise WeightsError(f"entry {name[:80]!r} is compressed by an unknown method")
    if info.file_size > MAX_RATIO * info.compress_size + 2**16:
        raise WeightsError(f"entry {name[:80]!r} grows from {info.compress_size} to {info.file_size} bytes")


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    if info.file_size > limit:
        raise WeightsError(
            f"entry {info.filename[-40:]!r} has {info.file_size} bytes, at most {limit} are accepted"
        )
    return archive.read(info)


def _open_stream(file: BinaryIO) -> Content:
    if Machine(file).run() != LEGACY_MAGIC:
        raise WeightsError("the file is a pickle, but not one of torch.save")
    Machine(file).run()  # protocol
    system = Machine(file).run()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsError("the numbers are stored most significant byte first")
    value = Machine(file).run()
    keys = Machine(file).run()
    if not isinstance(keys, list) or len(keys) > MAX_ENTRIES:
        raise WeightsError("the list of storages is damaged")
    storages = {storage.key: storage for storage in _storages(value)}
    places: dict[str, int] = {}
    for key in keys:
        if key not in storages or key in places:
            raise WeightsError(f"storage {str(key)[:40]!r} belongs to nothing")
        count = int.from_bytes(file.read(8), "little")
        if count != storages[key].count:
            raise WeightsError(f"storage {key} has {count} numbers, expected {storages[key].count}")
        places[key] = file.tell()
        file.seek(count * ITEM_BYTES[storages[key].dtype], os.SEEK_CUR)

    def open_storage(storage: Storage) -> BinaryIO:
        if storage.key not in places:
            raise WeightsError(f"storage {storage.key} is not in the file")
        file.seek(places[storage.key])
        return file

    return Content(value, open_storage)


def _storages(value: Any) -> Iterator[Storage]:
    """Find the storages of everything in a value, each container once."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, TensorView):
            yield item.storage
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, dict) else item)


# --- from the value to named tensors --------------------------------------------------------------

_INNER = ("state_dict", "model_state_dict", "params_ema", "params", "model", "module")


def named_tensors(value: Any) -> tuple[dict[str, TensorView], dict[str, str]]:
    """Find the tensors in a file's value, with names joined by dots, and the plain facts beside them."""
    facts: dict[str, str] = {}
    chosen = value
    if isinstance(value, dict):
        inner = next((k for k in _INNER if isinstance(value.get(k), dict)), None)
        chosen = value[inner] if inner else value
        plain = ((k, v) for k, v in value.items() if isinstance(k, str) and isinstance(v, str | int | float))
        facts = {k[:100]: str(v)[:200] for k, v in list(plain)[:32]}
    found: dict[str, TensorView] = {}
    visits = 0

    def visit(name: str, item: Any, depth: int) -> None:
        nonlocal visits
        visits += 1
        if visits > MAX_VISITS or len(found) > MAX_TENSORS or len(name) > MAX_NAME:
            raise WeightsError(
                f"more than {MAX_TENSORS} tensors, or names of more than {MAX_NAME} characters"
            )
        if isinstance(item, TensorView):
            if name in found:
                raise WeightsError(f"two tensors are named {name[:80]!r}")
            found[name or "tensor"] = item
        elif depth and isinstance(item, dict):
            for key, inside in item.items():
                if isinstance(key, str | int):
                    visit(f"{name}.{key}" if name else str(key), inside, depth - 1)
        elif depth and isinstance(item, list | tuple):
            for index, inside in enumerate(item):
                visit(f"{name}.{index}" if name else str(index), inside, depth - 1)

    visit("", chosen, MAX_DEPTH)
    if not found:
        raise WeightsError("the file holds no tensors")
    return found, facts


# --- output ---------------------------------------------------------------------------------------


def _byte_count(view: TensorView) -> int:
    return math.prod(view.shape) * ITEM_BYTES[view.storage.dtype]


def write(
    content: Content, tensors: dict[str, TensorView], facts: dict[str, str], output: str, limit: int
) -> None:
    """Write the tensors as safetensors, storage by storage.

    Args:
        content: where the bytes come from.
        tensors: by name.
        facts: strings for the header.
        output: a path that does not exist yet.
        limit: the most bytes of data.
    """
    if sum(map(_byte_count, tensors.values())) > limit:
        raise WeightsError("the tensors are together much larger than the file")
    header: dict[str, Any] = {"__metadata__": facts} if facts else {}
    by_storage: dict[str, list[str]] = {}
    for name in sorted(tensors, key=lambda n: (-ITEM_BYTES[tensors[n].storage.dtype], n)):
        by_storage.setdefault(tensors[name].storage.key, []).append(name)
    end = 0
    for name in (name for names in by_storage.values() for name in names):
        view = tensors[name]
        start, end = end, end + _byte_count(view)
        header[name] = {"dtype": view.storage.dtype, "shape": list(view.shape), "data_offsets": [start, end]}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with open(output, "xb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for names in by_storage.values():
            views = [tensors[name] for name in names]
            if len({view.storage for view in views}) != 1:
                raise WeightsError(f"storage {views[0].storage.key} is described in two ways")
            source = content.open_storage(views[0].storage)
            _copy(source, views, file)
        file.flush()
        os.fsync(file.fileno())


def _copy(source: BinaryIO, views: list[TensorView], file: BinaryIO) -> None:
    storage = views[0].storage
    size = storage.count * ITEM_BYTES[storage.dtype]
    if len(views) == 1 and _is_contiguous(views[0]) and _byte_count(views[0]) == size:
        for data in _chunks(source, size):
            file.write(data)
        return
    if size > MEMORY_BYTES // 4:
        raise WeightsError(f"storage {storage.key} of {size} bytes is shared by several tensors")
    whole = b"".join(_chunks(source, size))
    for view in views:
        _gather(whole, view, file)


def _chunks(source: BinaryIO, size: int) -> Iterator[bytes]:
    """Read exactly `size` bytes; for an archive's entry this checks its checksum at the end."""
    left = size
    while left:
        data = source.read(min(left, CHUNK))
        if not data:
            raise WeightsError("a storage is truncated")
        left -= len(data)
        yield data
    if isinstance(source, zipfile.ZipExtFile) and source.read(1):
        raise WeightsError("a storage is longer than announced")


def _is_contiguous(view: TensorView) -> bool:
    expected = 1
    for side, step in zip(reversed(view.shape), reversed(view.stride), strict=True):
        if side != 1 and step != expected:
            return False
        expected *= side
    return True


_UNSIGNED: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


def _gather(whole: bytes, view: TensorView, file: BinaryIO) -> None:
    item = ITEM_BYTES[view.storage.dtype]
    if _is_contiguous(view):
        start = view.offset * item
        file.write(whole[start : start + _byte_count(view)])
        return
    numbers = memoryview(whole).cast(_UNSIGNED[item])
    starts = [view.offset]
    for side, step in zip(view.shape[:-1], view.stride[:-1], strict=True):
        starts = [start + index * step for start in starts for index in range(side)]
    side, step = view.shape[-1], max(1, view.stride[-1])
    if view.stride[-1] == 0:
        raise WeightsError("a tensor repeats its storage")
    for start in starts:
        file.write(numbers[start : start + (side - 1) * step + 1 : step].tobytes())


def main(path: str, output: str) -> dict[str, Any]:
    """Read `path` and write `output` (or describe, for `--list`); give what is to be printed."""
    size = os.stat(path).st_size
    apart.limit(memory=MEMORY_BYTES, output=2 * size + 2**24)
    apart.allow(SECONDS)
    try:
        with open(path, "rb") as file:
            content = open_content(file, size)
            tensors, facts = named_tensors(content.value)
            described = {n: [v.storage.dtype, list(v.shape)] for n, v in tensors.items()}
            if output != "--list":
                write(content, tensors, facts, output, 2 * size)
                described = {}
    except UnsafeFileError as error:
        return {"status": "unsafe", "message": str(error)}
    except (WeightsError, zipfile.BadZipFile, EOFError) as error:
        return {"status": "broken", "message": str(error)}
    except (MemoryError, RecursionError):
        return {"status": "broken", "message": "reading it needs too much memory"}
    except OSError as error:
        return {"status": "system", "message": error.strerror or str(error)}
    return {"status": "ok", "tensors": described, "facts": facts}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2])) + "\n")
