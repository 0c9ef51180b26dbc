"""Who wants to know: the present progress of each running job, and a word to everyone who waits for more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from sfumato.app.jobs import Progress


class Board:
    """Progress by job. Readers take the newest and are never waited for."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._changed = threading.Condition()
        self._running: dict[str, Progress] = {}
        self._version = 0

    def post(self, progress: Progress) -> None:
        """Say how far a job is."""
        with self._changed:
            self._version += 1
            self._running[progress.job] = replace(progress, version=self._version)
            self._changed.notify_all()

    def clear(self, job: str) -> None:
        """A job runs no more."""
        with self._changed:
            self._version += 1
            self._running.pop(job, None)
            self._changed.notify_all()

    def touch(self) -> None:
        """Something else has changed."""
        with self._changed:
            self._version += 1
            self._changed.notify_all()

    def read(self, job: str) -> Progress | None:
        """How far a job is; None where it does not run here."""
        with self._changed:
            return self._running.get(job)

    def version(self) -> int:
        """A number that rises with every change."""
        with self._changed:
            return self._version

    def wait(self, version: int, timeout: float, also: Callable[[], bool] = lambda: False) -> int:
        """Wait until something has changed since `version`; the present version."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != version or also(), timeout)
            return self._version
