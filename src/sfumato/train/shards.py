"""A webdataset: tar files in which neighbours of one name are a picture, its caption and its mask."""

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.pipeline.images import ENDINGS
from sfumato.train.captions import MAX_CAPTION_BYTES
from sfumato.train.entries import MAX_FILE_BYTES, Entry, Finding, stamp_of
from sfumato.train.rows import row_entry

_PICTURES = tuple(each.removeprefix(".") for each in ENDINGS)
_CAPTIONS = ("txt", "caption", "text")
_MASKS = tuple(f"mask.{suffix}" for suffix in _PICTURES)


@dataclass(kw_only=True)
class _Sample:
    """What has been read of one name."""

    key: str
    addresses: dict[str, str] = field(default_factory=dict)  # by the name's end
    caption: bytes | None = None
    row: bytes | None = None


class ShardSource:
    """Tar files; an address is `shard:offset:size` of a picture's bytes."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def entries(self) -> Iterator[Entry | Finding]:
        """See `entries.Source`."""
        for number, path in enumerate(self.paths):
            try:
                with tarfile.open(path, "r:") as shard:
                    yield from self._samples(shard, number)
            except (tarfile.TarError, OSError, EOFError, ValueError) as error:
                yield Finding(name=path.name, kind="unreadable", detail=str(error)[:200])

    def _samples(self, shard: tarfile.TarFile, number: int) -> Iterator[Entry | Finding]:
        sample = _Sample(key="")
        while member := shard.next():
            shard.members = []  # type: ignore[attr-defined]  # else it keeps a million of them
            folder, slash, leaf = member.name.rpartition("/")
            stem, _, end = leaf.partition(".")
            if not member.isreg() or not stem:
                continue
            if (key := folder + slash + stem) != sample.key:
                yield from self._entry(sample, number)
                sample = _Sample(key=key)
            end = end.lower()
            sample.addresses[end] = f"{number}:{member.offset_data}:{member.size}"
            if end in (*_CAPTIONS, "json"):
                file = shard.extractfile(member)
                assert file is not None
                data = file.read((16 if end == "json" else 1) * MAX_CAPTION_BYTES + 1)
                if end == "json":
                    sample.row = data
                else:
                    sample.caption = data
        yield from self._entry(sample, number)

    def _entry(self, sample: _Sample, number: int) -> Iterator[Entry | Finding]:
        if not sample.key:
            return
        name = f"{self.paths[number].name}/{sample.key}"
        picture = next((sample.addresses[end] for end in _PICTURES if end in sample.addresses), None)
        if picture is None:
            yield Finding(name=name, kind="missing", detail=f"only {', '.join(sample.addresses)[:60]}")
            return
        caption: bytes | str | None = sample.caption
        repeats = 1
        if caption is None and sample.row is not None:
            told = _told(sample.row, name)
            if isinstance(told, Finding):
                yield told
                return
            caption, repeats = told.caption, told.repeats
        mask = next((sample.addresses[end] for end in _MASKS if end in sample.addresses), None)
        yield Entry(name=name, address=picture, caption=caption, mask=mask, repeats=repeats)

    def stamp(self, address: str) -> str:
        """See `entries.Source`."""
        return f"{stamp_of(self.paths[int(address.partition(':')[0])])} {address}"

    def read(self, address: str) -> bytes:
        """See `entries.Source`."""
        number, offset, size = map(int, address.split(":"))
        if size > MAX_FILE_BYTES:
            raise ValueError(f"more than {MAX_FILE_BYTES:,} bytes")
        with self.paths[number].open("rb") as file:
            file.seek(offset)
            return file.read(size)


def _told(data: bytes, name: str) -> Entry | Finding:
    try:
        row = json.loads(data)
    except (ValueError, RecursionError):
        return Finding(name=name, kind="bad row", detail="its .json is not JSON")
    if not isinstance(row, dict):
        return Finding(name=name, kind="bad row", detail="its .json is not an object")
    return row_entry({**row, "file_name": name, "mask": None}, name)
