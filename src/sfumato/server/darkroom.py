"""Where pictures that clients send are decoded: as many at once as their pixels leave room for.

A file of a few kilobytes may become a gigabyte of pixels. Each picture says in its header how many, and waits
in line until those before it have left room. What reads them is a process of its own; see `pipeline.decoder`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from PIL import Image

from sfumato.errors import QueueFullError
from sfumato.pipeline.decoder import Decoder

ROOM = 2**26  # pixels at once, each about 12 bytes while it is decoded, turned and written
PATIENCE = 60.0  # seconds that a picture waits in line


@dataclass(kw_only=True, eq=False)
class Darkroom:
    """One for each app."""

    room: int = ROOM  # a larger picture has it for itself
    patience: float = PATIENCE
    decoder: Decoder = field(default_factory=Decoder)
    _free: threading.Condition = field(default_factory=threading.Condition)
    _line: deque[object] = field(default_factory=deque)
    _taken: int = 0

    @contextmanager
    def opened(self, data: bytes) -> Iterator[Image.Image]:
        """A picture as 8-bit RGB or RGBA, upright, for as long as its pixels are needed.

        Raises:
            OutputError: see `Decoder.picture`.
            QueueFullError: too many others were there for too long.
        """
        width, height = self.decoder.size(data)
        with self.entered(width * height):
            yield self.decoder.picture(data)

    def texts(self, data: bytes) -> dict[str, str]:
        """The texts in a picture, which may stand behind its pixels. Raises as `opened` does."""
        width, height = self.decoder.size(data)
        with self.entered(width * height):
            return self.decoder.texts(data)

    @contextmanager
    def entered(self, pixels: int) -> Iterator[None]:
        """Wait for room, first come first served. Raises QueueFullError: there was none for too long."""
        wanted, turn = min(pixels, self.room), object()
        with self._free:
            self._line.append(turn)
            fits = self._free.wait_for(
                lambda: self._line[0] is turn and self._taken + wanted <= self.room, self.patience
            )
            self._line.remove(turn)
            self._taken += wanted if fits else 0
            self._free.notify_all()
        if not fits:
            raise QueueFullError("too many large pictures are being read; try again", retry_after=5)
        try:
            yield
        finally:
            with self._free:
                self._taken -= wanted
                self._free.notify_all()
