"""How owners stand: looked up once for all who ask, until something changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sfumato.app.board import Board
from sfumato.app.database import JobTable
from sfumato.app.jobs import Job

FRESH = 0.5  # seconds that an answer holds: what other processes take in or begin, no board tells


@dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """What an owner has in the queue."""

    running: Job | None
    waiting: int  # jobs


@dataclass(kw_only=True, eq=False)
class Standings:
    """The last standing of each owner."""

    table: JobTable
    board: Board
    clock: Callable[[], float] = time.monotonic  # seconds
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _kept: dict[str, tuple[int, float, Standing]] = field(default_factory=dict)  # by owner; at, and until

    def known(self, owner: str) -> Standing | None:
        """How an owner stands, where that is at hand; None = it has to be looked up."""
        kept = self._kept.get(owner)
        if kept is None or kept[0] != self.board.settled() or kept[1] <= self.clock():
            return None
        return kept[2]

    def look(self, owner: str) -> Standing:
        """How an owner stands; of many who ask at once, one looks. Raises StorageError as the table does."""
        with self._lock:
            standing = self.known(owner)
            if standing is None:
                version = self.board.settled()
                running = self.table.page(owner=owner, states=["running"], before=None, limit=1)
                waiting = self.table.tally(["queued"], owner)
                standing = Standing(running=next(iter(running), None), waiting=waiting)
                self._kept[owner] = version, self.clock() + FRESH, standing
            return standing
