"""What a terminal can show: a progress bar, text made harmless, pictures where it knows a protocol for them.

All of it is left out where no terminal listens: a pipe gets paths or JSON and nothing else.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from PIL.Image import Image

Protocol = Literal["kitty", "iterm2", "sixel"]

_KITTY_PIECE = 4096  # bytes of base64 a message
_SIXEL_TERMS = ("foot", "mlterm", "contour", "yaft", "sixel")
_SIXEL_COLOURS = 255


class ProgressBar:
    """What is done, how fast and how long still, on standard error; nothing where that is no terminal."""

    def __init__(self, total: int | None, unit: Literal["steps", "bytes"] = "steps") -> None:
        """Count to `total`, None while it is not known."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        counted = {
            "steps": (MofNCompleteColumn(), TextColumn("{task.fields[rate]}")),
            "bytes": (DownloadColumn(), TransferSpeedColumn()),
        }[unit]
        columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeRemainingColumn(compact=True))
        console = Console(stderr=True)
        self._progress = Progress(
            *columns,
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total, rate="")

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def update(self, done: int, what: str, *, total: int | None = None) -> None:
        """Tell how much is done, and what is going on."""
        speed = self._progress.tasks[0].speed
        rate = "" if not speed else f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step"
        self._progress.update(self._task, completed=done, description=what, rate=rate, total=total)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar away while something else is written."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()


def printable(text: str) -> str:
    """`text` without what a terminal would obey: control and direction characters, lone surrogates."""
    return "".join(
        char
        if char == "\n" or unicodedata.category(char) not in ("Cc", "Cf", "Cs") or char == "\u200d"
        else "�"
        for char in text
    )


def picture_protocol(stream: TextIO, environment: Mapping[str, str]) -> Protocol | None:
    """How pictures can be shown on `stream`; None where it is no terminal or shows none.

    Goes by what terminals say of themselves in the environment; nothing is asked, so nothing can hang.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if not stream.isatty() or term.startswith(("screen", "tmux", "dumb")):
        return None
    if "kitty" in term or "KITTY_WINDOW_ID" in environment or program in ("ghostty", "WezTerm"):
        return "kitty"
    if program == "iTerm.app" or environment.get("LC_TERMINAL") == "iTerm2" or program == "vscode":
        return "iterm2"
    if any(name in term for name in _SIXEL_TERMS) or program in ("mintty", "mlterm"):
        return "sixel"
    return None


def picture_escape(image: Image, protocol: Protocol) -> str:
    """The characters that make a terminal show `image`, with the line break behind it."""
    if protocol == "sixel":
        return _sixel(image) + "\n"
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    if protocol == "iterm2":
        size = len(buffer.getvalue())
        return f"\x1b]1337;File=inline=1;size={size};preserveAspectRatio=1:{data}\x07\n"
    pieces = [data[k : k + _KITTY_PIECE] for k in range(0, len(data), _KITTY_PIECE)]
    messages = [f"m={int(k < len(pieces) - 1)};{piece}" for k, piece in enumerate(pieces)]
    return (
        "".join(
            f"\x1b_G{'a=T,f=100,' if k == 0 else ''}{message}\x1b\\" for k, message in enumerate(messages)
        )
        + "\n"
    )


def show_picture(image: Image, stream: TextIO | None = None) -> None:
    """Show `image` on the terminal (standard output by default), if it is one and can."""
    stream = stream or sys.stdout
    protocol = picture_protocol(stream, os.environ)
    if protocol is not None:
        stream.write(picture_escape(image, protocol))
        stream.flush()


def _sixel(image: Image) -> str:
    """Bands of six rows; in each, colour by colour, a character for six pixels of a column."""
    import numpy as np

    indexed = image.convert("RGB").quantize(_SIXEL_COLOURS)
    palette = np.asarray(indexed.getpalette()).reshape(-1, 3) * 100 // 255
    pixels = np.asarray(indexed)  # (H,W)
    out = [f'\x1bPq"1;1;{image.width};{image.height}']
    out += [f"#{k};2;{r};{g};{b}" for k, (r, g, b) in enumerate(palette)]
    for top in range(0, image.height, 6):
        band = pixels[top : top + 6]
        bits = (1 << np.arange(len(band)))[:, None]
        for colour in np.unique(band):
            columns = ((band == colour) * bits).sum(0)  # (W,)
            starts = np.flatnonzero(np.r_[True, columns[1:] != columns[:-1]])
            runs = np.diff(np.r_[starts, len(columns)])
            out.append(
                f"#{colour}"
                + "".join(f"!{n}{chr(63 + columns[s])}" for s, n in zip(starts, runs, strict=True))
                + "$"
            )
        out.append("-")
    return "".join(out) + "\x1b\\"
