"""The one place with state: settings, checkpoints, the durable queue and what it has made.

submit ─ checked, seeds drawn ─ table of jobs and queue ─ maker ─ runner ─ files ─┬─ table
                                                                                  └─ board ─ watch
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Literal, Self

import torch

from sfumato.app.alone import Alone
from sfumato.app.atlas import Atlas
from sfumato.app.board import Board
from sfumato.app.cards import Cards
from sfumato.app.checker import Checker
from sfumato.app.crew import Crew
from sfumato.app.database import NewJob, Wish
from sfumato.app.estimates import Estimates
from sfumato.app.jobs import HIGHEST, LOWEST, Event, Job, Made, Progress, Script, State
from sfumato.app.line import Line
from sfumato.app.maker import Maker
from sfumato.app.pace import Pace, units_of
from sfumato.app.presets import Presets
from sfumato.app.pulls import Pulls
from sfumato.app.queue import DurableQueue
from sfumato.app.runner import open_runner, sweep
from sfumato.app.scripts import count_requests
from sfumato.app.settings import Settings
from sfumato.app.standing import Standings
from sfumato.app.storage import connect, database_url
from sfumato.app.tenancy import claim
from sfumato.errors import (
    ClosingError,
    ConflictError,
    OutputError,
    QueueFullError,
    RequestError,
    WorkLimitError,
)
from sfumato.pipeline.plan import draw_seed
from sfumato.types import Picture, Request

LOOK = 2.0  # seconds after which a watched job is looked up again, whatever the board says
MAX_KEY = 200  # characters


Role = Literal["both", "server", "worker"]


class Engine:
    """Takes requests in, makes them one after another, and tells what becomes of them."""

    def __init__(self, settings: Settings, role: Role = "both") -> None:
        """Open the data folder and what it holds; nothing is made before `start`.

        Args:
            settings: where things are, and the limits.
            role: "server" takes jobs in for others, "worker" makes them beside others, "both" does both.

        Raises:
            ConflictError: another process has the data folder.
            StorageError: the database is damaged or out of reach, or the data folder cannot be written.
            RequestError: no such device, dtype or store here; no database_url for a role alone.
        """
        if role != "both" and not (settings.database_url or "").startswith("postgresql"):
            raise RequestError(
                f"a {role} by itself needs a database that others reach; give --database-url postgresql://…"
            )
        self.settings = settings
        self._role = role
        self._lock, worker = claim(settings.data, alone=role != "worker")
        try:
            self._open(worker)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, worker: str) -> None:
        settings = self.settings
        self.board = Board()
        database = connect(database_url(settings))
        self._runner = open_runner(
            settings,
            database,
            board=self.board,
            worker=worker,
            halted=lambda job_id: self._maker.halted(job_id),
            expected=lambda job: self._estimates.expected(job),
        )
        self._table, self.gallery = self._runner.table, self._runner.gallery
        self.inputs, self.store, self.shelf = self._runner.inputs, self._runner.store, self._runner.shelf
        self.space = self._runner.space
        self.presets, self.pulls = Presets(database), Pulls(settings.models)
        self.atlas, self.cards = Atlas(database, self.shelf), Cards(self.shelf)
        self.standings = Standings(table=self._table, board=self.board)
        self._checker = Checker(self.gallery)
        pace = Pace(self._table.past())
        self._maker = Maker(
            table=self._table,
            board=self.board,
            pace=pace,
            worker=worker,
            attempts=settings.attempts,
            step_limit=settings.step_limit,
            shared=settings.database_url is not None,
            forget=self.shelf.clear,
            alone=Alone(
                settings=settings,
                worker=worker,
                board=self.board,
                halted=lambda job_id: self._maker.halted(job_id),
            ).make,
        )
        self._queue = DurableQueue(
            database,
            lambda job_id: self._maker.work(job_id, self._runner),
            worker=worker,
            rest=0.1 if settings.database_url is not None else 1.0,
        )
        self.line = Line(table=self._table, queue=self._queue, board=self.board)
        self._crew = Crew(
            database=database,
            board=self.board,
            worker=worker,
            works=self._role != "server",
            patience=settings.patience,
            take_over=self._queue.take_over,
        )
        self._estimates = Estimates(table=self._table, board=self.board, pace=pace, crew=self._crew)

    def start(self, *, listen: bool = True) -> None:
        """Begin to make jobs, those first that an earlier process has left.

        Args:
            listen: whether jobs are made at all; a server by itself never makes any.

        Raises StorageError: the queue's database cannot be used.
        """
        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)
        shared = self.settings.database_url is not None
        sweep(self.settings.outputs, 3600 if shared else 0)  # another may be writing
        sweep(self.settings.data, 3600 if shared else 0)
        self._queue.start(listen=listen and self._role != "server")
        if self._role != "worker":
            self._checker.start()
        if shared:
            self._crew.start()

    def drain(self) -> None:
        """Take nothing more in and begin nothing more; what runs goes on."""
        self._maker.drain()

    def close(self) -> None:
        """Take nothing more in, stop what runs at its next step, and let go of everything.

        The job that was not done is begun again at the next start, with the pictures it has.
        """
        self.pulls.close()
        self._maker.finish()
        self._queue.stop()
        self._maker.leave()
        self._crew.stop()
        self._checker.stop()
        self._table.close()
        self.shelf.clear()
        self._lock.release()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def submit(
        self,
        request: Request,
        *,
        owner: str = "local",
        kind: str = "txt2img",
        priority: int = 0,
        key: str | None = None,
        script: Script | None = None,
    ) -> Job:
        """Take a request in.

        Args:
            request: what to make; seeds that are left open are drawn now.
            owner: who asks; owners take turns.
            kind: what it is called in lists.
            priority: -10 to 10; the highest is made first.
            key: the same key of the same owner gives the same job again.
            script: what is done with the request beside making it.

        Raises:
            QueueFullError: as many jobs wait as may. ClosingError: the engine is closing.
            QuotaError: the owner's files take as much of the disk as they may.
            ConflictError: the key stands for another request.
            RequestError: a priority out of range. WorkLimitError: more than one job may ask for.
        """
        if not LOWEST <= priority <= HIGHEST:
            raise RequestError(f"priority={priority} is outside {LOWEST} to {HIGHEST}")
        if key is not None and not (0 < len(key) <= MAX_KEY and key.isprintable()):
            raise RequestError(f"a key of {len(key)} characters; expected 1 to {MAX_KEY} printable ones")
        if self._maker.draining:
            raise ClosingError("the server is stopping; try again in a minute", retry_after=60)
        settled = settled_seeds(request, key)
        units, most = _units(settled, script), 1000 * self.settings.job_limit
        if units > most:
            raise WorkLimitError(
                f"{units / 1000:,.0f} megapixels times steps; one job may ask for {most / 1000:,.0f}: "
                "make fewer or smaller pictures at once"
            )
        order = NewJob(
            id=uuid.uuid4().hex,
            owner=owner,
            kind=kind,
            request=settled,
            script=script,
            priority=priority,
            units=units,
            key=key,
        )
        if not self._table.has_key(owner, key):
            self.space.check(owner)
        try:
            job, new = self._table.add(order, self._queue.put, self.settings.queue_limit)
        except QueueFullError:
            raise self._full() from None
        if new:
            self._queue.ring()
            self.board.touch(job.id)
        return self._estimates.tell(job)

    def _full(self) -> QueueFullError:
        """What is said where as many jobs wait as may."""
        waiting, all_of_it = self.waiting(), self._estimates.waiting()
        wait = min(max(1.0, all_of_it / max(1, waiting)), 600.0)
        return QueueFullError(f"{waiting} jobs wait already; come back in {wait:.0f} s", retry_after=wait)

    def keep(self, picture: Picture, owner: str) -> Path:
        """Where a picture is kept that an owner's requests may start from.

        Raises OutputError: it cannot be written. QuotaError: it does not fit the owner's share of the disk.
        """
        taken: list[str] = []

        def allow(name: str, size: int) -> None:
            self.space.take(owner, f"inputs/{name}", size)
            taken.append(f"inputs/{name}")

        try:
            return self.inputs.path(self.inputs.keep(picture, allow))
        except OutputError:
            for name in taken:
                self.space.leave(owner, name)
            raise

    def discard(self, name: str, owner: str) -> None:
        """Forget a picture that an owner has sent, and remove it unless others have sent it, too.

        Raises RequestError: no such picture. ConflictError: a job that has not ended starts from it.
        """
        path, kept = self.inputs.path(name), f"inputs/{name}"
        if not self.space.holds(owner, kept):
            raise RequestError(f"no input picture {name[:80]!r}")
        if self._table.needs(name):
            raise ConflictError(f"a job that has not ended starts from {name}; cancel it, or wait for it")
        if self.space.leave(owner, kept):
            self.inputs.remove(path)

    def job(self, job_id: str, owner: str | None = None) -> Job:
        """The job of this id. Raises JobNotFoundError: none, or another owner's."""
        return self._estimates.tell(self._table.get(job_id, owner))

    def file(self, made: Made) -> Path:
        """Where a job's picture is, brought to this machine where another has made it.

        Raises OutputError: the store is out of reach, or there is no room.
        """
        path = self.settings.outputs / made.file
        if self.store is not None:
            self.store.fetch(made.file, path)
        return path

    def jobs(
        self,
        *,
        owner: str | None = None,
        states: Sequence[State] = (),
        before: int | None = None,
        limit: int = 50,
        ids: Collection[str] | None = None,
    ) -> list[Job]:
        """A page of jobs, the newest first; see `JobTable.page`."""
        page = self._table.page(owner=owner, states=states, before=before, limit=limit, ids=ids)
        return [
            self.job(job.id) if job.state == "queued" and job.position is None else job  # begun meanwhile
            for job in self._estimates.tell_all(page)
        ]

    def waiting(self) -> int:
        """How many jobs wait."""
        return self._table.tally(["queued"])

    @property
    def worker(self) -> str:
        """This process's name among those that make jobs."""
        return self._maker.worker

    def works(self) -> bool:
        """Whether a job is being made in this process."""
        return self._maker.busy

    def counts(self) -> dict[State, int]:
        """How many jobs there are, by state."""
        return self._table.counts()

    def takes_jobs(self) -> bool:
        """Whether a job would be taken in. Raises StorageError: the database is out of reach."""
        return not self._maker.draining and self.waiting() < self.settings.queue_limit

    def phases(self) -> Mapping[str, tuple[int, float]]:
        """What this process's finished jobs took: how often, and seconds in all, by phase."""
        return MappingProxyType(dict(self._maker.phases))

    def progress(self, job_id: str) -> Progress | None:
        """How far a running job is; None where it does not run in this process."""
        return self.board.read(job_id)

    def cancel(self, job_id: str, owner: str | None = None) -> Job:
        """End a job, at the next step where it runs, and throw away what is half made.

        Raises JobNotFoundError: none, or another owner's.
        """
        return self._halt(job_id, owner, "cancel")

    def skip(self, job_id: str, owner: str | None = None) -> Job:
        """End a running job's present batch and go on to the next; a waiting job is cancelled.

        Raises JobNotFoundError: none, or another owner's.
        """
        return self._halt(job_id, owner, "skip")

    def interrupt(self, job_id: str, owner: str | None = None) -> Job:
        """End a running job at the next step and keep its pictures as far as they have come.

        A waiting job is cancelled.

        Raises JobNotFoundError: none, or another owner's.
        """
        return self._halt(job_id, owner, "interrupt")

    def cancel_all(self, owner: str) -> int:
        """Cancel all that an owner has waiting or running; how many jobs that are."""
        waiting = self.line.clear(owner)
        running = self._table.page(owner=owner, states=["running"], before=None, limit=1000)
        for job in running:
            self.cancel(job.id)
        return len(waiting) + len(running)

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Wait until a job has ended, or for `timeout` seconds; the job as it then is."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            version = self.board.version()
            job = self.job(job_id)
            left = 5.0 if until is None else min(5.0, until - time.monotonic())
            if job.ended or left <= 0:
                return job
            self.board.wait_for(job_id, version, left)

    def watch(
        self,
        job_id: str,
        owner: str | None = None,
        *,
        every: float = 0.2,
        leave: Callable[[Job], bool] = lambda job: False,
    ) -> Iterator[Event]:
        """What happens to a job, until it has ended.

        The reader's pace is its own: between two reads only the newest progress is kept.

        Args:
            job_id: of the job.
            owner: whose it has to be; None = anybody's.
            every: seconds between two looks, at least.
            leave: whether to look no more at a job that has not ended; asked every `LOOK` seconds.

        Raises:
            JobNotFoundError: none, or another owner's.
        """
        version, looked = self.board.version(), time.monotonic()
        job = self.job(job_id, owner)
        yield Event(kind="state", job=job)
        seen, shown = len(job.made), 0
        while not (job.ended or leave(job)):
            before, version = version, self.board.wait(version, LOOK)
            fresh = job
            if self.board.touched(job_id) > before or time.monotonic() - looked >= LOOK:
                fresh, looked = self.job(job_id), time.monotonic()
            for made in fresh.made[seen:]:
                yield Event(kind="picture", job=fresh, made=made)
            seen = len(fresh.made)
            progress = self.board.read(job_id)
            if progress is not None and progress.version != shown:
                shown = progress.version
                yield Event(kind="progress", job=fresh, progress=progress)
            if fresh.state != job.state:
                yield Event(kind="state", job=fresh)
            job = fresh
            if not job.ended:
                self.board.wait_for(job_id, version, every)

    def _halt(self, job_id: str, owner: str | None, halt: Wish) -> Job:
        job = self._table.get(job_id, owner)
        if self._table.cancel_waiting(job_id=job_id):
            self._queue.cancel([job_id])
        elif not job.ended:
            self._table.wish(job_id, halt)
            self._maker.halt(job_id, halt)
        self.board.touch(job_id)
        return self.job(job_id)


def _units(request: Request, script: Script | None) -> float:
    """Work of a job; a script makes the request many times."""
    return units_of(request) * (1 if script is None else count_requests(script, request))


def settled_seeds(request: Request, key: str | None) -> Request:
    """The request with its open seeds drawn; by a key if there is one, so that it draws the same again."""
    if request.canvas.seed < 0:
        seed = draw_seed() if key is None else uuid.uuid5(uuid.NAMESPACE_OID, key).int % 2**32
        request = replace(request, canvas=replace(request.canvas, seed=seed))
    if request.variation.strength > 0 and request.variation.seed < 0:
        seed = draw_seed() if key is None else uuid.uuid5(uuid.NAMESPACE_URL, key).int % 2**32
        request = replace(request, variation=replace(request.variation, seed=seed))
    return request
