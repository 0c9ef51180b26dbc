"""The worker of a process: takes jobs one after another from the queue and brings each to one end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from sfumato.app.board import Board
from sfumato.app.database import JobTable
from sfumato.app.jobs import Fault, Job, Progress
from sfumato.app.outcome import End, outcome
from sfumato.app.pace import Pace, Taken
from sfumato.app.queue import Unfinished
from sfumato.app.runner import HALTS, Halt, Runner
from sfumato.errors import StorageError

log = logging.getLogger(__name__)

STOP = 60.0  # seconds that a job has to come to its next step
RETRY = 1.0  # seconds between two attempts to write an end down
T = TypeVar("T")


@dataclass(kw_only=True, eq=False)
class Maker:
    """Makes jobs; knows what it was told about them."""

    table: JobTable
    board: Board
    pace: Pace
    worker: str  # its name
    attempts: int  # beginnings of a job without a picture, before it is made in a process of its own
    step_limit: float  # seconds between two signs of life, at most
    shared: bool  # whether other processes may leave word in the table
    forget: Callable[[], object]  # lets go of what fills the memory
    alone: Callable[[Job, threading.Event], End]  # makes a job in a process of its own
    phases: dict[str, tuple[int, float]] = field(default_factory=dict)  # how often, and seconds in all
    _halts: dict[str, Halt] = field(default_factory=dict)
    _draining: threading.Event = field(default_factory=threading.Event)
    _left: threading.Event = field(default_factory=threading.Event)
    _turn: threading.Lock = field(default_factory=threading.Lock)  # of one job at a time
    _idle: threading.Condition = field(default_factory=threading.Condition)
    _busy: str | None = None

    @property
    def draining(self) -> bool:
        """Whether nothing more is begun."""
        return self._draining.is_set()

    @property
    def busy(self) -> bool:
        """Whether a job is being made."""
        return self._busy is not None

    def drain(self) -> None:
        """Begin nothing more; what runs goes on."""
        self._draining.set()

    def finish(self) -> None:
        """Begin nothing more, and stop what runs at its next step."""
        self.drain()
        with self._idle:
            if self._busy is not None:
                self._halts[self._busy] = "stop"
            self._idle.wait_for(lambda: self._busy is None, STOP)

    def leave(self) -> None:
        """Give back what was not begun or not finished; the queue is stopped."""
        self._left.set()

    def halt(self, job_id: str, halt: Halt) -> None:
        """Tell a job that runs here; the stronger word counts."""
        with self._idle:
            told = self._halts.get(job_id)
            if self._busy == job_id and (told is None or HALTS.index(halt) >= HALTS.index(told)):
                self._halts[job_id] = halt

    def halted(self, job_id: str) -> Halt | None:
        """What a job was told; to skip is told once."""
        halt = self._halts.get(job_id)
        if halt == "skip":
            self._halts.pop(job_id)
        if halt is None and self.shared:
            return self.table.take_wish(job_id)
        return halt

    def work(self, job_id: str, runner: Runner) -> str:
        """Make a job, called by the queue; how it ended. Raises Unfinished: another process has to go on."""
        with self._turn:  # the queue may hand one out before it has seen that another runs
            return self._work(job_id, runner)

    def _work(self, job_id: str, runner: Runner) -> str:
        if self.draining:
            self._give_back(job_id)
        attempt = self._insist(job_id, lambda: self.table.start(job_id, self.worker))
        job = self._insist(job_id, lambda: self.table.get(job_id))
        if not attempt:
            return job.state
        told = self._insist(job_id, lambda: self.table.take_wish(job_id))  # before this process began it
        with self._idle:
            self._busy = job_id
        if told is not None:
            self.halt(job_id, told)
        self.board.post(Progress(job=job_id))
        self.board.touch(job_id)
        try:
            end = self._guarded(job, runner, alone=attempt > self.attempts)
            if end.state != "running":
                whole = attempt == 1 and not job.made and end.state == "done" and not end.interrupted
                seconds = end.timings["sample"] + end.timings["save"] if whole else None
                self._insist(
                    job_id, lambda: self.table.end(job_id, self.worker, seconds=seconds, **vars(end))
                )
                self._count(job, end.timings, seconds)
        finally:
            self._halts.pop(job_id, None)
            self.board.clear(job_id)
            with self._idle:
                self._busy = None
                self._idle.notify_all()
        if end.state == "running":
            self._give_back(job_id)
        return end.state

    def _guarded(self, job: Job, runner: Runner, *, alone: bool) -> End:
        """Run a job in a thread of its own, which is left alone where it gives no sign of life any more."""
        ended: list[End] = []
        given_up = threading.Event()

        def make() -> None:
            if alone:
                self.forget()
                ended.append(self.alone(job, given_up))
            else:
                ended.append(outcome(job, runner, self.forget))

        thread = threading.Thread(target=make, name="make", daemon=True)
        thread.start()
        version, seen = -1, time.monotonic()
        try:
            while thread.is_alive():
                thread.join(min(1.0, self.step_limit / 4))
                if self._left.is_set():
                    raise Unfinished(job.id)
                progress = self.board.read(job.id)
                if progress is not None and progress.version != version:
                    version, seen = progress.version, time.monotonic()
                elif time.monotonic() - seen > self.step_limit and thread.is_alive():
                    self.forget()
                    text = f"no step in {self.step_limit:.0f} s; given up"
                    log.error("job %s: %s", job.id, text)
                    return End(state="failed", fault=Fault(code="timeout", message=text))
        finally:
            given_up.set()
        return ended[0]

    def _insist(self, job_id: str, write: Callable[[], T]) -> T:
        """Write until it succeeds: a full disk is no reason to forget how a job ended."""
        while True:
            try:
                return write()
            except StorageError as error:
                log.error("job %s: %s", job_id, error)
                if self._left.wait(RETRY):
                    raise Unfinished(job_id) from error

    def _give_back(self, job_id: str) -> None:
        """Hold the queue's only place until the queue has stopped, so that it hands out nothing more."""
        self._left.wait()
        raise Unfinished(job_id)

    def _count(self, job: Job, timings: Mapping[str, float], seconds: float | None) -> None:
        if seconds is not None:
            checkpoint = job.request.model.checkpoint or ""
            self.pace.learn(Taken(checkpoint=checkpoint, units=job.units, seconds=seconds))
        for phase, seconds in {"wait": (job.started or job.created) - job.created, **timings}.items():
            count, total = self.phases.get(phase, (0, 0.0))
            self.phases[phase] = count + 1, total + max(0.0, seconds)
