"""What the routes share: the engine, the owners' settings, names of tasks, and what to do at the end."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from sfumato.app.engine import Engine
from sfumato.app.jobs import Job
from sfumato.app.leaving import Leaving
from sfumato.app.standing import Standing
from sfumato.pipeline.faces import RESTORERS, find_restorer
from sfumato.server.catalogue import Catalogue
from sfumato.server.darkroom import Darkroom
from sfumato.server.kept import Kept
from sfumato.server.options import OptionStore
from sfumato.server.problems import retry_after
from sfumato.text.styles import Style, find_styles

WAITERS = 512  # requests that wait for their pictures at once; more wait for their turn to wait
TASKS = 2000  # names of tasks that are remembered
LOOK = 0.5  # seconds between two looks at whether the server is leaving


@dataclass(kw_only=True, eq=False)
class Desk:
    """One for each app."""

    engine: Engine
    options: OptionStore
    catalogue: Catalogue
    leaving: Leaving = field(default_factory=Leaving)
    fetch: Callable[[str], bytes] | None = None  # a picture from an address; None = addresses are refused
    darkroom: Darkroom = field(default_factory=Darkroom)
    waiters: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(WAITERS, thread_name_prefix="waiter")
    )
    kept: Kept = field(default_factory=Kept)  # answers to those who ask again and again
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _tasks: OrderedDict[tuple[str, str], tuple[str, ...]] = field(default_factory=OrderedDict)

    def keep(self, data: bytes, owner: str) -> Path:
        """Where the engine has a picture that was sent. Raises as `Darkroom.opened` and `Engine.keep` do."""
        with self.darkroom.opened(data) as image:
            return self.engine.keep(image, owner)

    def name_task(self, owner: str, task: str, job_ids: Sequence[str]) -> None:
        """Remember what a client calls the jobs of one of its requests."""
        with self._lock:
            self._tasks[owner, task] = tuple(job_ids)
            self._tasks.move_to_end((owner, task))
            while len(self._tasks) > TASKS:
                self._tasks.popitem(last=False)

    def task(self, owner: str, task: str) -> tuple[str, ...]:
        """The jobs that an owner calls so; none = nothing is called so."""
        with self._lock:
            return self._tasks.get((owner, task), ())

    def tasks(self, owner: str) -> dict[str, str]:
        """Names by job."""
        with self._lock:
            mine = [(task, ids) for (whose, task), ids in self._tasks.items() if whose == owner]
        return {job_id: task for task, ids in mine for job_id in ids}

    async def ended(self, job_id: str) -> Job:
        """Wait for a job without keeping others waiting.

        Raises HTTPException: 503, the server stops before the job is done; it will be made after the start.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.waiters, self._ended, job_id)

    def _ended(self, job_id: str) -> Job:
        while True:
            job = self.engine.wait(job_id, LOOK)
            if job.ended:
                return job
            if self.leaving.now and (job.state == "queued" or not self.leaving.left):
                raise HTTPException(
                    503,
                    f"the server is stopping; job {job_id} is kept and made when it starts again",
                    retry_after(60),
                )

    async def standing(self, owner: str) -> Standing:
        """How an owner stands; next to nothing for those who ask again and again."""
        standings = self.engine.standings
        standing = standings.known(owner)
        return await run_in_threadpool(standings.look, owner) if standing is None else standing

    def running(self, owner: str) -> Job | None:
        """The owner's job that runs."""
        return next(iter(self.engine.jobs(owner=owner, states=["running"], limit=1)), None)

    def restorers(self) -> tuple[str, ...]:
        """What restores faces, as far as it is here."""
        folder = self.engine.settings.models
        return tuple(name for name in RESTORERS if find_restorer(name, folder))

    def styles(self) -> dict[str, Style]:
        """Those there are, by name."""
        return find_styles(self.engine.settings.styles)


async def owner_of(request: Request) -> str:
    """Who asks, as the guard says."""
    return str(getattr(request.state, "owner", "local"))


async def desk_of(request: Request) -> Desk:
    """What the routes share."""
    desk: Any = request.app.state.desk
    assert isinstance(desk, Desk)
    return desk


Here = Annotated[Desk, Depends(desk_of)]
Owner = Annotated[str, Depends(owner_of)]
