"""The one place with state: settings, checkpoints, the durable queue and what it has made.

submit ─ checked, seeds drawn ─ table of jobs ─ queue ─ runner ─ files ─┬─ table
                                                                       └─ board ─ watch
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Self

import torch
from filelock import FileLock, Timeout

from sfumato import __version__
from sfumato.app.board import Board
from sfumato.app.codec import Inputs
from sfumato.app.database import JobTable, Order, sqlite_url
from sfumato.app.gallery import Gallery
from sfumato.app.jobs import Event, Fault, Job, Progress, Script, State
from sfumato.app.queue import DurableQueue, Unfinished
from sfumato.app.runner import Halt, Runner, StoppedError, sweep
from sfumato.app.settings import Settings
from sfumato.errors import (
    ConflictError,
    OutOfMemoryError,
    OutputError,
    QueueFullError,
    RequestError,
    SfumatoError,
)
from sfumato.pipeline.plan import draw_seed
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Request

log = logging.getLogger(__name__)

LOOK = 2.0  # seconds after which a watched job is looked up again, whatever the board says
CODES = {  # of an error's class: the word programs go by
    "RequestError": "request",
    "PromptError": "prompt",
    "ModelNotFoundError": "model_not_found",
    "WeightsError": "model_broken",
    "OutOfMemoryError": "out_of_memory",
    "OutputError": "output",
}


class Engine:
    """Takes requests in, makes them one after another, and tells what becomes of them."""

    def __init__(self, settings: Settings) -> None:
        """Open the data folder and what it holds; nothing is made before `start`.

        Raises:
            ConflictError: another process has the data folder.
            StorageError: the database is damaged or out of reach.
            RequestError: no such device or dtype here.
        """
        self.settings = settings
        settings.data.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(settings.data / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConflictError(
                f"{settings.data} is in use by another sfumato; stop it, or give another folder with --data"
            ) from error
        url = settings.database_url or sqlite_url(settings.data / "jobs.sqlite")
        self.inputs = Inputs(settings.data / "inputs")
        self.board = Board()
        self._table = JobTable(url, self.inputs)
        self.gallery = Gallery(self._table.engine, settings.outputs, settings.data / "thumbnails")
        self.shelf = ModelShelf(
            settings.models,
            device=settings.device,
            dtype=settings.dtype,
            default=settings.checkpoint,
            limit=settings.model_memory,
            paths=False,  # who asks may be anybody; a path would open any file of this machine
        )
        self._runner = Runner(
            shelf=self.shelf,
            table=self._table,
            gallery=self.gallery,
            inputs=self.inputs,
            board=self.board,
            settings=settings,
            halted=self._halted,
        )
        self._halts: dict[str, Halt] = {}
        self._closing = threading.Event()
        self._idle = threading.Condition()
        self._busy: str | None = None
        self._rate: float | None = None  # seconds a unit of work
        self._phases: dict[str, tuple[int, float]] = {}
        self._worker = self._name()
        self._queue = DurableQueue(url, self._work, worker=self._worker, version=__version__)

    def start(self) -> None:
        """Begin to make jobs, those first that an earlier process has left.

        Raises StorageError: the queue's database cannot be used.
        """
        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)
        sweep(self.settings.outputs)
        self._queue.start()
        for job in self._table.unfinished():  # taken in, but not yet in the queue when the process ended
            self._enqueue(job.id)

    def drain(self) -> None:
        """Take nothing more in and begin nothing more; what runs goes on."""
        self._closing.set()

    def close(self, grace: float = 0.0) -> None:
        """Take nothing more in, give the running job some time, and let go of everything.

        A job that is not done by then is begun again at the next start, with the pictures it has.

        Args:
            grace: seconds.
        """
        self.drain()
        with self._idle:
            if not self._idle.wait_for(lambda: self._busy is None, grace) and self._busy:
                self._halts[self._busy] = "stop"
            self._idle.wait_for(lambda: self._busy is None, 60)
        self._queue.stop()
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
            QueueFullError: as many jobs wait as may.
            ConflictError: the key stands for another request.
            RequestError: a priority out of range, or the engine is closing.
        """
        if not -10 <= priority <= 10:
            raise RequestError(f"priority={priority} is outside -10 to 10")
        if self._closing.is_set():
            raise QueueFullError("the server is shutting down; try again in a minute", retry_after=60)
        if self.waiting() >= self.settings.queue_limit:
            wait = max(1.0, self._seconds(self._table.waiting_units()) / 10)
            raise QueueFullError(
                f"{self.settings.queue_limit} jobs wait already; come back in {wait:.0f} s", retry_after=wait
            )
        settled = settled_seeds(request, key)
        order = Order(
            id=uuid.uuid4().hex,
            owner=owner,
            kind=kind,
            request=settled,
            script=script,
            priority=priority,
            units=units_of(settled),
            key=key,
        )
        job, new = self._table.add(order)
        if new:
            self._enqueue(job.id)
            self.board.touch(job.id)
        return self._told(job)

    def job(self, job_id: str, owner: str | None = None) -> Job:
        """The job of this id. Raises JobNotFoundError: none, or another owner's."""
        return self._told(self._table.get(job_id, owner))

    def jobs(
        self,
        *,
        owner: str | None = None,
        states: Sequence[State] = (),
        before: int | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """A page of jobs, the newest first; see `JobTable.page`."""
        return self._table.page(owner=owner, states=states, before=before, limit=limit)

    def waiting(self) -> int:
        """How many jobs wait."""
        return self._table.tally(["queued"])

    def counts(self) -> dict[State, int]:
        """How many jobs there are, by state."""
        return self._table.counts()

    def takes_jobs(self) -> bool:
        """Whether a job would be taken in. Raises StorageError: the database is out of reach."""
        return not self._closing.is_set() and self.waiting() < self.settings.queue_limit

    def phases(self) -> Mapping[str, tuple[int, float]]:
        """What this process's finished jobs took: how often, and seconds in all, by phase."""
        return MappingProxyType(dict(self._phases))

    def progress(self, job_id: str) -> Progress | None:
        """How far a running job is; None where it does not run in this process."""
        return self.board.read(job_id)

    def cancel(self, job_id: str, owner: str | None = None) -> Job:
        """End a job, at the next step where it runs; without effect on one that has ended.

        Raises JobNotFoundError: none, or another owner's.
        """
        return self._halt(job_id, owner, "cancel")

    def skip(self, job_id: str, owner: str | None = None) -> Job:
        """End a running job's present batch and go on to the next; a waiting job is cancelled.

        Raises JobNotFoundError: none, or another owner's.
        """
        return self._halt(job_id, owner, "skip")

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

    def watch(self, job_id: str, owner: str | None = None, every: float = 0.2) -> Iterator[Event]:
        """What happens to a job, until it has ended.

        The reader's pace is its own: between two reads only the newest progress is kept.

        Args:
            job_id: of the job.
            owner: whose it has to be; None = anybody's.
            every: seconds between two looks, at least.

        Raises:
            JobNotFoundError: none, or another owner's.
        """
        version, looked = self.board.version(), time.monotonic()
        job = self.job(job_id, owner)
        yield Event(kind="state", job=job)
        seen, shown = len(job.made), 0
        while not job.ended:
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
                time.sleep(every)

    def _enqueue(self, job_id: str) -> None:
        priority, turn = self._table.turn(job_id)
        self._queue.put(job_id, priority=priority, turn=turn)

    def _halt(self, job_id: str, owner: str | None, halt: Halt) -> Job:
        job = self._table.get(job_id, owner)
        if job.state == "queued" and self._table.end(job_id, "cancelled"):
            self._queue.cancel(job_id)
        elif not job.ended:
            self._halts[job_id] = halt
            self._table.wish(job_id, halt)
        self.board.touch(job_id)
        return self.job(job_id)

    def _halted(self, job_id: str) -> Halt | None:
        """What a running job was told; to skip is told once."""
        return self._halts.pop(job_id) if self._halts.get(job_id) == "skip" else self._halts.get(job_id)

    def _work(self, job_id: str) -> str:
        """Make a job, called by the queue; how it ended."""
        if self._closing.is_set():
            raise Unfinished(job_id)
        if not self._table.start(job_id, self._worker):
            return self._table.get(job_id).state
        job = self._table.get(job_id)
        with self._idle:
            self._busy = job_id
        self.board.post(Progress(job=job_id))
        began = time.perf_counter()
        try:
            state, fault, timings = self._made(job)
            if state == "running":
                raise Unfinished(job_id)
            if job.script is None:
                self._learn(job, time.perf_counter() - began)
            self._table.end(job_id, state, fault=fault, timings=timings)
            for phase, seconds in {"wait": (job.started or job.created) - job.created, **timings}.items():
                count, total = self._phases.get(phase, (0, 0.0))
                self._phases[phase] = count + 1, total + max(0.0, seconds)
        finally:
            self._halts.pop(job_id, None)
            self.board.clear(job_id)
            with self._idle:
                self._busy = None
                self._idle.notify_all()
        return state

    def _made(self, job: Job) -> tuple[State, Fault | None, dict[str, float]]:
        """Run a job; its state, what was wrong, seconds by phase. Nothing it can meet ends the engine."""
        try:
            return "done", None, self._runner.run(job)
        except StoppedError as stopped:
            return ("running" if stopped.halt == "stop" else "cancelled"), None, {}
        except SfumatoError as error:
            return "failed", fault_of(error), {}
        except (MemoryError, torch.OutOfMemoryError) as error:
            self.shelf.clear()
            text = f"out of memory: {str(error).splitlines()[0] if str(error) else 'no more to be had'}"
            return "failed", Fault(code="out_of_memory", message=text[:300]), {}
        except Exception:  # what nobody foresaw is the job's end, not the server's
            log.exception("job %s", job.id)
            return (
                "failed",
                Fault(code="internal", message="an unforeseen error; the log has its details"),
                {},
            )

    def _told(self, job: Job) -> Job:
        """The job with an estimate of when it will be done."""
        if job.ended:
            return job
        progress = self.board.read(job.id)
        if progress is not None and progress.seconds_left is not None:
            return replace(job, estimate=progress.seconds_left)
        own = self._seconds(self._table.units(job.id))
        if job.state == "running":
            return replace(job, estimate=own)
        ahead = self._table.units_before(job.id)
        return replace(job, estimate=own + self._seconds(ahead))

    def _seconds(self, units: float) -> float:
        """How long work takes, by what the last jobs took."""
        if self._rate is None:
            done = self._table.rates()
            total = sum(units for units, _ in done)
            self._rate = sum(seconds for _, seconds in done) / total if total else 1e-4
        return units * self._rate

    def _learn(self, job: Job, seconds: float) -> None:
        units = self._table.units(job.id)
        if units > 0:
            rate = seconds / units
            self._rate = rate if self._rate is None else 0.7 * self._rate + 0.3 * rate

    def _name(self) -> str:
        """A name that this data folder keeps: a restart finds what it had begun."""
        path = self.settings.data / "worker"
        if not path.is_file():
            path.write_text(secrets.token_hex(8), "ascii")
        return path.read_text("ascii").strip()


def settled_seeds(request: Request, key: str | None) -> Request:
    """The request with its open seeds drawn; by a key if there is one, so that it draws the same again."""
    if request.canvas.seed < 0:
        seed = draw_seed() if key is None else uuid.uuid5(uuid.NAMESPACE_OID, key).int % 2**32
        request = replace(request, canvas=replace(request.canvas, seed=seed))
    if request.variation.strength > 0 and request.variation.seed < 0:
        seed = draw_seed() if key is None else uuid.uuid5(uuid.NAMESPACE_URL, key).int % 2**32
        request = replace(request, variation=replace(request.variation, seed=seed))
    return request


def units_of(request: Request) -> float:
    """Work of a request: thousands of pixels times steps, of all its pictures and passes."""
    canvas = request.canvas
    pixels = (canvas.width or 512) * (canvas.height or 512) / 1000
    pictures = canvas.batch_size * canvas.batch_count
    units = pixels * request.sampling.steps
    if request.hires.enabled:
        units += pixels * request.hires.scale**2 * (request.hires.steps or request.sampling.steps)
    return units * pictures


def fault_of(error: SfumatoError) -> Fault:
    """An error as it stands in a job."""
    for kind in type(error).__mro__:
        if kind.__name__ in CODES:
            code = CODES[kind.__name__]
            break
    else:
        code = "error"
    if isinstance(error, OutputError) and "no space" in str(error):
        code = "no_space"
    assert not isinstance(error, OutOfMemoryError) or code == "out_of_memory"
    return Fault(code=code, message=" ".join(str(error).split()))
