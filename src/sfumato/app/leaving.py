"""How a process leaves: it is told to by signals, and may finish what runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType


class Leaving:
    """Whether this process is about to stop, and until when it waits for what runs."""

    def __init__(self, drain: Callable[[], object] = lambda: None, grace: float = 0.0) -> None:
        """Not yet.

        Args:
            drain: called when it begins.
            grace: seconds that what runs has after the first signal.
        """
        self._drain, self._grace = drain, grace
        self._ends: list[float] = []  # the earliest counts; a list, since one signal may interrupt another
        self._signals: list[int] = []

    def listen(self) -> None:
        """Be told by SIGTERM and Ctrl-C from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.told)

    def told(self, number: int, frame: FrameType | None) -> None:
        """Hear a signal: the first begins, the second hastens, the third ends the process as it stands."""
        self._signals.append(number)
        if len(self._signals) > 2:
            os._exit(128 + number)
        self.begin(self._grace if len(self._signals) == 1 else 0.0)

    def begin(self, grace: float) -> None:
        """Wait for what runs, for `grace` seconds at most; the earliest end counts."""
        first = not self.now
        self._ends.append(time.monotonic() + grace)
        if first:
            self._drain()

    @property
    def now(self) -> bool:
        """Whether the process is about to stop."""
        return bool(self._ends)

    @property
    def left(self) -> float:
        """Seconds that what runs still has."""
        return max(0.0, min(self._ends) - time.monotonic()) if self.now else float("inf")
