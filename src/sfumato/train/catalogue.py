"""All pictures that a run will see and all that is wrong with others, found before anything starts.

The list lies in a temporary database on disk, so that a million rows take no memory.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.errors import OutputError, PromptError, TrainingError
from sfumato.text import chunks
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.buckets import Buckets, Fit, Size
from sfumato.train.caches import ByteStore, name_of
from sfumato.train.captions import CaptionConfig, clean_caption, decode_caption, longest_prompts
from sfumato.train.entries import LEFT_OUT, Entry, Finding, Source
from sfumato.train.pictures import DIGEST_BYTES, content_hash, read_colours, read_mask

MUCH = 0.25  # share of a picture that is worth a word when it is cropped away
_SHAPE = struct.Struct("<II?")
_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -2048; -- in KiB
CREATE TABLE pictures (
    row INTEGER PRIMARY KEY, prior INTEGER, name TEXT, address BLOB, mask BLOB, digest BLOB, mask_digest BLOB,
    width INTEGER, height INTEGER, bucket_width INTEGER, bucket_height INTEGER, repeats INTEGER, caption TEXT
);
CREATE UNIQUE INDEX contents ON pictures (prior, digest);
CREATE TABLE findings (name TEXT, kind TEXT, detail TEXT);
"""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that passed."""

    name: str
    address: str
    digest: bytes  # of its pixels
    width: int
    height: int
    caption: str
    repeats: int = 1
    prior: bool = False  # a regularisation picture
    mask: str | None = None
    mask_digest: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """One entry has been looked at."""

    done: int
    name: str
    findings: tuple[Finding, ...]


class Catalogue:
    """Pictures numbered from 0, and findings, each in the order they were added."""

    def __init__(self, buckets: Buckets) -> None:
        """Begin an empty one whose pictures go into these buckets."""
        self.buckets = buckets
        self.database = sqlite3.connect("", check_same_thread=False)  # a temporary file of its own
        self.database.executescript(_SCHEMA)
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def add(self, picture: Picture) -> str | None:
        """Number a picture; the name of one with the same pixels instead, if there is one."""
        bucket = self.buckets.fit(picture.width, picture.height).bucket
        values = (
            *(self.count, picture.prior, _storable(picture.name), os.fsencode(picture.address)),
            *(None if picture.mask is None else os.fsencode(picture.mask), picture.digest),
            *(picture.mask_digest, picture.width, picture.height, *bucket, picture.repeats, picture.caption),
        )
        try:
            self._write(f"INSERT INTO pictures VALUES ({','.join('?' * len(values))})", values)
        except sqlite3.IntegrityError:
            key = (picture.prior, picture.digest)
            found = self.database.execute("SELECT name FROM pictures WHERE prior = ? AND digest = ?", key)
            return str(found.fetchone()[0])
        self.count += 1
        return None

    def note(self, finding: Finding) -> None:
        """Keep a finding."""
        row = _storable(finding.name), finding.kind, _storable(finding.detail)
        self._write("INSERT INTO findings VALUES (?, ?, ?)", row)

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self.database.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise TrainingError(
                f"the list of pictures, a temporary file, failed: {error}; make room, or name another "
                "folder in SQLITE_TMPDIR"
            ) from error

    def findings(self) -> Iterator[Finding]:
        """List what was found, in the order of the files."""
        for name, kind, detail in self.database.execute("SELECT * FROM findings ORDER BY rowid"):
            yield Finding(name=name, kind=kind, detail=detail)

    def kinds(self) -> dict[str, int]:
        """Count the findings of each kind, commonest first."""
        found = dict(self.database.execute("SELECT kind, count(*) FROM findings GROUP BY kind"))
        return {kind: int(number) for kind, number in sorted(found.items(), key=lambda row: -row[1])}

    @property
    def left_out(self) -> int:
        """Count the pictures that are not used."""
        return sum(number for kind, number in self.kinds().items() if kind in LEFT_OUT)

    def picture(self, row: int) -> Picture:
        """Give a picture by its number."""
        found = self.database.execute("SELECT * FROM pictures WHERE row = ?", (row,)).fetchone()
        return _picture(found)

    def pictures(self) -> Iterator[Picture]:
        """List the pictures."""
        return map(_picture, self.database.execute("SELECT * FROM pictures ORDER BY row"))

    def column(self, expression: str) -> NDArray[np.int32]:
        """Give a number of every picture, in order; `expression` is ours, never a user's."""
        rows = self.database.execute(f"SELECT {expression} FROM pictures ORDER BY row")
        return np.fromiter(chain.from_iterable(rows), np.int32, len(self))

    def shapes(self) -> dict[Size, tuple[int, int]]:
        """Count pictures and visits of each bucket in use, regularisation pictures left out."""
        rows = self.database.execute(
            "SELECT bucket_width, bucket_height, count(*), sum(repeats) FROM pictures WHERE NOT prior "
            "GROUP BY bucket_width, bucket_height ORDER BY bucket_width, bucket_height"
        )
        return {(width, height): (count, visits) for width, height, count, visits in rows}

    def first(self, size: Size, count: int) -> list[Picture]:
        """Give the first pictures of a bucket, regularisation pictures left out."""
        rows = self.database.execute(
            "SELECT * FROM pictures WHERE bucket_width = ? AND bucket_height = ? AND NOT prior "
            "ORDER BY row LIMIT ?",
            (*size, count),
        )
        return [_picture(row) for row in rows]

    def fit(self, picture: Picture) -> Fit:
        """Say how a picture comes into its bucket."""
        return self.buckets.fit(picture.width, picture.height)

    def hashes(self) -> dict[str, str]:
        """Say what there is, wherever it lies: a hash of each part that another run could have otherwise."""
        parts = {name: hashlib.sha256() for name in ("pictures", "captions", "masks", "repeats")}
        for each in self.pictures():
            parts["pictures"].update(bytes([each.prior]) + each.digest)
            parts["captions"].update(each.caption.encode() + b"\0")
            parts["masks"].update(each.mask_digest or b"\0")
            parts["repeats"].update(each.repeats.to_bytes(4, "little"))
        return {name: digest.hexdigest()[:16] for name, digest in parts.items()}

    def close(self) -> None:
        """Close the database, and with it all of this."""
        self.database.close()


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a picture must be to be used."""

    least_side: int  # pixels of the shorter side
    alpha_mask: bool = False  # where it is transparent, the loss does not count
    prior: bool = False
    repeats: int = 1  # times those of its folder
    prompt: str = ""  # where there is no caption; "" = the words of its folder
    captions: CaptionConfig = field(default_factory=CaptionConfig)  # how they will vary
    most_rows: int = 3  # of tokens that a prompt may fill


def scan(
    source: Source, wanted: Wanted, catalogue: Catalogue, seen: ByteStore | None = None
) -> Iterator[Scanned]:
    """Look at every entry of a source: read it whole, decode it, and add it or say what is wrong.

    Args:
        source: where the pictures are.
        wanted: of them.
        catalogue: what they are added to.
        seen: remembers pictures that were good, so that unchanged files are not decoded again.

    Yields:
        Each entry, as it is done; stop iterating to stop.
    """
    scanner = _Scanner(source, wanted, catalogue, seen)
    for done, each in enumerate(source.entries(), start=1):
        findings = [each] if isinstance(each, Finding) else list(scanner.examine(each))
        for finding in findings:
            catalogue.note(finding)
        yield Scanned(done=done, name=each.name, findings=tuple(findings))


class _FaultError(Exception):
    """A picture is left out."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What decoding a picture and its mask tells."""

    digest: bytes
    width: int
    height: int
    transparent: bool
    mask_digest: bytes

    @classmethod
    def of(cls, kept: bytes) -> _Known:
        width, height, transparent = _SHAPE.unpack(kept[: _SHAPE.size])
        digests = kept[_SHAPE.size :]
        return cls(
            digest=digests[:DIGEST_BYTES],
            width=width,
            height=height,
            transparent=transparent,
            mask_digest=digests[DIGEST_BYTES:],
        )

    def to_bytes(self) -> bytes:
        return _SHAPE.pack(self.width, self.height, self.transparent) + self.digest + self.mask_digest


class _Scanner:
    """Looks at one entry after the other."""

    def __init__(self, source: Source, wanted: Wanted, catalogue: Catalogue, seen: ByteStore | None) -> None:
        self.source, self.wanted, self.catalogue, self.seen = source, wanted, catalogue, seen
        self.tokenizer = Tokenizer.load()

    def examine(self, entry: Entry) -> Iterator[Finding]:
        """Add what is fit to the catalogue, and say what is not."""
        try:
            said = _caption(entry)
            caption = said or self.wanted.prompt or entry.words
            self._require_short(caption)
            known = self._known(entry)
            self._require_large(known)
        except _FaultError as fault:
            yield Finding(name=entry.name, kind=fault.kind, detail=str(fault))
            return
        picture = Picture(
            name=entry.name,
            address=entry.address,
            digest=known.digest,
            width=known.width,
            height=known.height,
            caption=caption,
            repeats=entry.repeats * self.wanted.repeats,
            prior=self.wanted.prior,
            mask=entry.mask,
            mask_digest=known.mask_digest,
        )
        if other := self.catalogue.add(picture):
            yield Finding(name=entry.name, kind="duplicate", detail=f"the pixels of {other}")
            return
        if not said:
            kind = "no caption" if entry.caption is None else "empty caption"
            yield Finding(
                name=entry.name,
                kind=kind,
                detail=f"trained on {caption!r}" if caption else "trained on the empty prompt",
            )
        if known.transparent and not self.wanted.alpha_mask:
            yield Finding(name=entry.name, kind="transparent")
        if (lost := self.catalogue.fit(picture).lost) > MUCH:
            yield Finding(name=entry.name, kind="much cropped", detail=f"{lost:.0%} is cut off")

    def _known(self, entry: Entry) -> _Known:
        """Decode a picture and its mask, or remember them as they were, where their files are unchanged."""
        name = None if self.seen is None else self._stamp(entry)
        if self.seen is not None and name is not None and (kept := self.seen.get(name)) is not None:
            return _Known.of(kept)
        image = _decoded(self.source, entry.address, read_colours)
        known = _Known(
            digest=content_hash(image),
            width=image.width,
            height=image.height,
            transparent=image.mode == "RGBA",
            mask_digest=b"" if entry.mask is None else _mask_digest(self.source, entry.mask, image.size),
        )
        if self.seen is not None and name is not None:
            self.seen.put(name, known.to_bytes())
        return known

    def _stamp(self, entry: Entry) -> str | None:
        try:
            stamps = [self.source.stamp(each) for each in (entry.address, entry.mask) if each is not None]
        except OSError:
            return None  # reading it says why
        return name_of("seen", *stamps)

    def _require_large(self, known: _Known) -> None:
        least = self.wanted.least_side
        if min(known.width, known.height) < least:
            raise _FaultError("too small", f"{known.width}×{known.height}, its shorter side is under {least}")

    def _require_short(self, caption: str) -> None:
        most = self.wanted.most_rows
        for prompt in longest_prompts(caption, self.wanted.captions):
            try:
                rows = len(chunks.split(prompt, self.tokenizer, emphasis="None"))
            except PromptError as error:
                raise _FaultError("long caption", str(error)) from error
            if rows > most:
                raise _FaultError(
                    "long caption", f"{rows} rows of {chunks.ROW} tokens, at most {most} are read"
                )


def _caption(entry: Entry) -> str:
    if entry.caption is None:
        return ""
    try:
        if isinstance(entry.caption, bytes):
            return decode_caption(entry.caption)
        return clean_caption(entry.caption)
    except ValueError as error:
        raise _FaultError("bad caption", str(error)) from error


def _bytes(source: Source, address: str) -> bytes:
    try:
        data = source.read(address)
    except FileNotFoundError as error:
        raise _FaultError("missing", "there is no such file") from error
    except PermissionError as error:
        raise _FaultError("outside", str(error.strerror)) from error
    except OSError as error:
        raise _FaultError("unreadable", error.strerror or str(error)) from error
    except ValueError as error:
        raise _FaultError("too large", str(error)) from error
    if not data:
        raise _FaultError("empty file", "0 bytes")
    return data


def _decoded(source: Source, address: str, decode: Callable[[bytes], Image.Image]) -> Image.Image:
    try:
        return decode(_bytes(source, address))
    except OutputError as error:
        raise _FaultError("unreadable", _without_name(str(error))) from error


def _mask_digest(source: Source, address: str, size: Size) -> bytes:
    try:
        mask = _decoded(source, address, read_mask)
    except _FaultError as fault:
        raise _FaultError("bad mask", f"{fault.kind}: {fault}") from fault
    if mask.size != size:
        raise _FaultError("bad mask", f"{mask.width}×{mask.height}, the picture is {size[0]}×{size[1]}")
    return content_hash(mask)


def _without_name(message: str) -> str:
    return message.partition(": ")[2] or message


def _storable(text: str) -> str:
    """Text that a database takes, of a name that may be any bytes."""
    return text.encode("utf-8", "replace").decode()


def _picture(values: tuple[Any, ...]) -> Picture:
    _, prior, name, address, mask, digest, mask_digest, width, height, _, _, repeats, caption = values
    return Picture(
        name=name,
        address=os.fsdecode(address),
        digest=digest,
        width=width,
        height=height,
        caption=caption,
        repeats=repeats,
        prior=bool(prior),
        mask=None if mask is None else os.fsdecode(mask),
        mask_digest=mask_digest,
    )
