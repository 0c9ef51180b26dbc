"""What a source of pictures holds, before any picture is decoded: entries, and what is wrong with others."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from sfumato.errors import TrainingError

MAX_FILE_BYTES = 2**28

LEFT_OUT: Mapping[str, str] = MappingProxyType(  # kind of finding: what becomes of the picture
    {
        "empty file": "left out",
        "unreadable": "left out",
        "too small": "left out",
        "too large": "left out",
        "duplicate": "left out; the first of them counts",
        "missing": "left out",
        "outside": "left out",
        "bad row": "left out",
        "bad caption": "left out",
        "long caption": "left out; shorten it, or let captions be longer",
        "bad mask": "left out",
        "other format": "left out",
    }
)
USED: Mapping[str, str] = MappingProxyType(
    {
        "no caption": "used",
        "empty caption": "used",
        "no mask": "trained everywhere",
        "transparent": "laid on white",
        "much cropped": "used",
    }
)
PASSED_OVER: Mapping[str, str] = MappingProxyType(
    {
        "caption alone": "not read: there is no picture of its name",
        "other file": "not read",
        "other folder": "not read: its name is not NUMBER_name",
    }
)
WHAT_HAPPENS: Mapping[str, str] = MappingProxyType({**LEFT_OUT, **USED, **PASSED_OVER})


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A picture that a source names."""

    name: str  # as reports call it
    address: str  # as the source finds it
    caption: bytes | str | None = None  # a file's bytes or a row's text; None = there is none
    words: str = ""  # of its folder, where there is no caption
    mask: str | None = None  # address of a picture: where white, the loss counts
    repeats: int = 1


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about a file that its owner should know."""

    name: str
    kind: str  # of `WHAT_HAPPENS`
    detail: str = ""

    @property
    def consequence(self) -> str:
        """Say what happens with the file."""
        return WHAT_HAPPENS[self.kind]

    def __str__(self) -> str:
        """Say all of it in one line."""
        return f"{self.name}: {self.kind}{f' ({self.detail})' if self.detail else ''}: {self.consequence}"


class Source(Protocol):
    """Where pictures come from."""

    def entries(self) -> Iterator[Entry | Finding]:
        """List what there is, in an order that is the same every time."""

    def stamp(self, address: str) -> str:
        """Say which file, of which size and when changed, an address leads to: as `make` looks at files.

        Raises:
            OSError: there is none.
        """

    def read(self, address: str) -> bytes:
        """Give a file's bytes.

        Raises:
            OSError: it cannot be read; ValueError: it is larger than `MAX_FILE_BYTES`.
        """


def bounded(data: bytes) -> bytes:
    """Pass on what was read of a file, at most one byte more than there may be.

    Raises:
        ValueError: that byte is there.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"more than {MAX_FILE_BYTES:,} bytes")
    return data


def stamp_of(path: Path) -> str:
    """Say where a file is, how large, and when it was changed. Raises OSError: there is none."""
    told = path.stat()
    return f"{path.absolute()} {told.st_size} {told.st_mtime_ns}"


def require_readable(error: Exception, what: str) -> TrainingError:
    """Say in one line that a source as a whole cannot be read."""
    return TrainingError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}")
