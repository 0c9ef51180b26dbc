"""Pictures that strangers have sent, read by a process of its own that may compute so much and no more.

Whatever a picture does to its decoder happens there: it is refused, and the next one is read by another.
What comes back is plain: numbers, texts and pixels, whose count is checked.
"""

from __future__ import annotations

import json
import subprocess
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from sfumato.errors import OutputError
from sfumato.pipeline.images import MAX_PIXELS
from sfumato.weights import apart

MEMORY = 3 * 2**30  # bytes: the largest picture takes 12 a pixel, and as many as its file has
SECONDS = 30  # of computing
WALL = 300.0  # seconds, whatever it does meanwhile
MAX_LINE = 2000  # bytes of an answer's first line
MAX_TEXTS = 2**28  # bytes of all texts of a picture
CHANNELS = {"RGB": 3, "RGBA": 4}


@dataclass(kw_only=True, eq=False)
class Decoder:
    """Reads one picture after another. Its process is started by the first, and ends with this object."""

    memory: int = MEMORY
    seconds: int = SECONDS
    wall: float = WALL
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _process: subprocess.Popen[bytes] | None = None
    _end: Any = None  # ends the process, once

    def size(self, data: bytes) -> tuple[int, int]:
        """Width and height, as a file's header tells. Raises OutputError: see `images.size_of`."""
        width, height = self._ask("size", data)[0]["size"]
        return width, height

    def picture(self, data: bytes) -> Image.Image:
        """A picture as 8-bit RGB or RGBA, upright. Raises OutputError: see `source.read_picture`."""
        told, pixels = self._ask("picture", data)
        return Image.frombytes(told["mode"], tuple(told["size"]), pixels)

    def texts(self, data: bytes) -> dict[str, str]:
        """The texts in a picture. Raises OutputError: see `images.read_texts`."""
        texts = json.loads(self._ask("texts", data)[1].decode("utf-8", "surrogatepass"))
        return {str(key): str(text) for key, text in texts.items()}

    def _ask(self, word: str, data: bytes) -> tuple[dict[str, Any], bytes]:
        with self._turn:
            process = self._running()
            watch = threading.Timer(self.wall, process.kill)
            watch.daemon = True
            watch.start()
            try:
                told, read = _asked(process, word, data)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._end()
                raise OutputError(
                    "the picture that was sent: reading it takes more memory or time than a picture may, "
                    "or it is damaged; save it again as a PNG"
                ) from error
            finally:
                watch.cancel()
        if "error" in told:
            raise OutputError("".join(c if c.isprintable() else "?" for c in str(told["error"])[:500]))
        return told, read

    def _running(self) -> subprocess.Popen[bytes]:
        """The process, a new one where there is none. Raises OutputError: the system starts none."""
        if self._process is None or self._process.poll() is not None:
            if self._end is not None:
                self._end()
            try:
                self._process = subprocess.Popen(
                    apart.command("sfumato.pipeline.decoder_program", str(self.memory), str(self.seconds)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=apart.environment(),
                    start_new_session=True,  # Ctrl-C is not meant for it
                )
            except OSError as error:
                raise OutputError(
                    f"no process can be started to read pictures: {error.strerror}; raise the system's limits"
                ) from error
            self._end = weakref.finalize(self, _ended, self._process)
        return self._process


def _asked(process: subprocess.Popen[bytes], word: str, data: bytes) -> tuple[dict[str, Any], bytes]:
    """What the process answers. Raises ValueError and its kin: it cannot be true, or it died."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{word} {len(data)}\n".encode("ascii"))
    process.stdin.write(data)
    process.stdin.flush()
    told = json.loads(process.stdout.readline(MAX_LINE))
    wanted = 0
    if "error" not in told and word == "texts":
        wanted = min(int(told["bytes"]), MAX_TEXTS)
    elif "error" not in told:
        width, height = (int(side) for side in told["size"])
        if width < 1 or height < 1 or width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} pixels")
        wanted = width * height * CHANNELS[told["mode"]] if word == "picture" else 0
    if told["bytes"] != wanted:
        raise ValueError(f"{told['bytes']} bytes of {wanted}")
    read = process.stdout.read(wanted)
    if len(read) != wanted:
        raise ValueError("it ended in the midst of a picture")
    return told, read


def _ended(process: subprocess.Popen[bytes]) -> None:
    """End a process, and let go of it."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was not sent
                continue
