"""What happens to jobs, for any number of readers: one thread a job asks the engine, whoever reads it.

A reader takes the newest state when it is ready for more; nothing is kept for it, so it can be as slow as it
likes without cost to the others, to the memory or to the sampling.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

from sfumato.app.engine import Engine
from sfumato.app.jobs import Event, Job, Progress
from sfumato.app.leaving import Leaving
from sfumato.errors import QueueFullError, SfumatoError
from sfumato.server.kept import Kept

log = logging.getLogger(__name__)

MAX_FEEDS = 256  # jobs that are followed at once
SHARE = 0.01  # seconds that each reader adds between two words: a hundred a second for all of a job together
BEAT = 15.0  # seconds of silence after which a reader is told that nothing has happened


class Feed:
    """One job, followed."""

    def __init__(self, job: Job) -> None:
        """Begin where the job stands."""
        self.job = job
        self.progress: Progress | None = None
        self.over = job.ended
        self.kept = Kept()  # what its readers are told, as bytes
        self._lock = threading.Lock()
        self._readers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @property
    def readers(self) -> int:
        """How many read it."""
        return len(self._readers)

    def put(self, event: Event | None) -> None:
        """Take in what has happened, None = nothing more will; from any thread."""
        with self._lock:
            if event is None:
                self.over = True
            else:
                self.job = event.job
                self.progress = event.progress or self.progress
            loops = set(self._readers.values())
        for loop in loops:
            with suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(self._wake, loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        for wake, own in list(self._readers.items()):
            if own is loop:
                wake.set()

    async def read(self) -> AsyncIterator[Event | None]:
        """What happens from now on, beginning with how things stand; None = still nothing, after a while."""
        wake = asyncio.Event()
        self._readers[wake] = asyncio.get_running_loop()
        state, shown, seen = None, 0, set[int]()
        try:
            while True:
                wake.clear()
                with self._lock:
                    job, progress, over = self.job, self.progress, self.over
                if job.state != state and not job.ended:
                    yield Event(kind="state", job=job)
                for made in job.made:
                    if made.index not in seen:
                        seen.add(made.index)
                        yield Event(kind="picture", job=job, made=made)
                if progress is not None and progress.version != shown and not job.ended:
                    shown = progress.version
                    yield Event(kind="progress", job=job, progress=progress)
                if job.state != state and job.ended:
                    yield Event(kind="state", job=job)
                state = job.state
                if over:
                    return
                try:
                    async with asyncio.timeout(BEAT):
                        await wake.wait()
                except TimeoutError:
                    yield None
        finally:
            del self._readers[wake]


class Feeds:
    """The jobs that are followed."""

    def __init__(self, engine: Engine, leaving: Leaving) -> None:
        """Follow none yet."""
        self._engine, self._leaving = engine, leaving
        self._lock = threading.Lock()
        self._feeds: dict[str, Feed] = {}

    def of(self, job: Job) -> Feed:
        """The feed of a job. Raises QueueFullError: too many are followed."""
        with self._lock:
            feed = self._feeds.get(job.id)
            if feed is not None and not feed.over:
                return feed
            feed = Feed(job)
            if feed.over:
                return feed
            if len(self._feeds) >= MAX_FEEDS:
                raise QueueFullError(f"{MAX_FEEDS} jobs are followed already; ask for their state", 5)
            self._feeds[job.id] = feed
        threading.Thread(target=self._follow, args=(feed,), daemon=True, name="feed").start()
        return feed

    def _follow(self, feed: Feed) -> None:
        idle = 0
        try:
            for event in self._engine.watch(feed.job.id, leave=self._leaves):
                feed.put(event)
                self._rest(feed)
                idle = 0 if feed.readers else idle + 1
                if idle > 10:  # the first reader may still be on its way
                    break
        except SfumatoError as error:
            log.warning("a job is followed no more: %s", error, extra={"job": feed.job.id})
        finally:
            with self._lock:
                self._feeds.pop(feed.job.id, None)
            feed.put(None)

    def _rest(self, feed: Feed) -> None:
        """Leave the sampling alone for a while, the longer the more are told; an end is told at once."""
        board = self._engine.board
        board.wait_for(feed.job.id, board.touched(feed.job.id), SHARE * feed.readers)

    def _leaves(self, job: Job) -> bool:
        """Whether nothing more will come of a job before the server has stopped."""
        return self._leaving.now and (job.state == "queued" or not self._leaving.left)
