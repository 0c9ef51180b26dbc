"""The styles that everybody here shares, as a page changes them: files of A1111's format, in place."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from sfumato.errors import RequestError
from sfumato.text.styles import Style, edit_styles, find_styles, read_styles

MAX_NAME = 200  # characters


class StyleBook:
    """Reads and changes style files. Every method raises OutputError where one is broken or out of reach."""

    def __init__(self, path: Path) -> None:
        """Use a file, or several where its name holds a `*`; nothing is read yet."""
        self._path = path
        self._lock = threading.Lock()

    def read(self) -> Mapping[str, Style]:
        """All styles, by name."""
        return find_styles(self._path)

    def put(self, style: Style) -> None:
        """Keep a style, where its name stands already, or at the end of the first file.

        Raises RequestError: a name that is none.
        """
        name = style.name
        if not (0 < len(name) <= MAX_NAME and name.isprintable() and name == name.strip()) or name[0] == "#":
            raise RequestError(
                f"style {name[:60]!r}: a name has 1 to {MAX_NAME} printable characters and no # before them"
            )
        with self._lock:
            files = self._files()
            holding = [file for file in files if file.exists() and name in read_styles([file])]
            edit_styles(holding[-1] if holding else files[0], put=[style])

    def remove(self, name: str) -> None:
        """Remove a style from every file that has it."""
        with self._lock:
            for file in self._files():
                if file.exists() and name in read_styles([file]):
                    edit_styles(file, remove=[name])

    def _files(self) -> list[Path]:
        """Those there are, or the one to be made."""
        there = sorted(self._path.parent.glob(self._path.name))
        return there or [self._path.with_name(self._path.name.replace("*", ""))]
