"""Who wants to know: the present progress of each running job, and a word to everyone who waits for more."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from sfumato.app.jobs import Progress

TOUCHED = 10_000  # jobs whose last change is remembered


class Board:
    """Progress by job. Readers take the newest and are never waited for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing runs yet.

        Args:
            clock: seconds, which never go back.
        """
        self.clock = clock
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._settled = threading.Condition(lock)  # woken by changes of state alone
        self._running: dict[str, Progress] = {}
        self._touched: OrderedDict[str, int] = OrderedDict()
        self._version = self._state = 0

    def post(self, progress: Progress) -> None:
        """Say how far a job is."""
        with self._changed:
            self._version += 1
            self._running[progress.job] = replace(progress, version=self._version, posted=self.clock())
            self._changed.notify_all()

    def clear(self, job: str) -> None:
        """A job runs no more."""
        with self._changed:
            self._running.pop(job, None)
        self.touch(job)

    def touch(self, job: str) -> None:
        """A job has another state, or another picture."""
        with self._changed:
            self._version += 1
            self._touched[job] = self._state = self._version
            self._touched.move_to_end(job)
            if len(self._touched) > TOUCHED:
                self._touched.popitem(last=False)
            self._changed.notify_all()
            self._settled.notify_all()

    def read(self, job: str) -> Progress | None:
        """How far a job is; None where it does not run here."""
        with self._changed:
            return self._running.get(job)

    def here(self) -> list[Progress]:
        """How far the jobs are that this process makes."""
        with self._changed:
            return [progress for progress in self._running.values() if not progress.worker]

    def touched(self, job: str) -> int:
        """The version at which a job was last touched; 0 = not, as far as is remembered."""
        with self._changed:
            return self._touched.get(job, 0)

    def version(self) -> int:
        """A number that rises with every change."""
        with self._changed:
            return self._version

    def settled(self) -> int:
        """The version of the last change of any job's state or pictures."""
        with self._changed:
            return self._state

    def wait(self, version: int, timeout: float) -> int:
        """Wait until something has changed since `version`; the present version."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != version, timeout)
            return self._version

    def wait_for(self, job: str, version: int, timeout: float) -> None:
        """Wait until this job has changed since `version`; the steps of running jobs wake nobody."""
        with self._settled:
            self._settled.wait_for(lambda: self._touched.get(job, 0) > version, timeout)
