"""A job made in a process of its own, whose death this one sees and outlives.

When a process dies, nobody can tell from within why: a crash of its own looks like a kill from outside. So a
job under which processes have died again and again is made by a process that does nothing else, and watched.
If that one dies and the watcher does not, it was the job; if both die, nothing is known and nothing is said.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from sfumato.app.board import Board
from sfumato.app.jobs import Fault, Job, Progress
from sfumato.app.outcome import End, fault_of, outcome
from sfumato.app.runner import Halt, open_runner
from sfumato.app.settings import Settings
from sfumato.app.storage import reach
from sfumato.errors import SfumatoError

log = logging.getLogger(__name__)

LOOK = 0.2  # seconds between two looks for a word to the job
PAUSE = 1.0  # seconds to see whether what ended the job's process ends this one, too
SPAWN = multiprocessing.get_context("spawn")  # forks of a process with threads and a GPU do not live long
TOUCHED = "touched"  # said by a job's process when there is a new picture

Child = Callable[[Settings, str, str, Connection], None]


@dataclass(frozen=True, kw_only=True)
class Alone:
    """Makes jobs in processes of their own."""

    settings: Settings
    worker: str  # this process's name; its jobs are the worker's
    board: Board
    halted: Callable[[str], Halt | None]  # what a job was told

    def make(self, job: Job, given_up: threading.Event, child: Child | None = None) -> End:
        """Make a job, and see how it or its process ends.

        Args:
            job: the job.
            given_up: set when nobody waits for it any more; its process is ended.
            child: what the process does; None = make the job.
        """
        log.warning("job %s: made in a process of its own", job.id)
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(
            target=child or _make, args=(self.settings, self.worker, job.id, theirs), daemon=True
        )
        with _signals_kept_off():
            process.start()
        theirs.close()
        try:
            while not given_up.is_set():
                halt = self.halted(job.id)
                if halt is not None:
                    ours.send(halt)
                if ours.poll(LOOK):
                    said = ours.recv()
                    if isinstance(said, Progress):
                        self.board.post(said)
                    elif said == TOUCHED:
                        self.board.touch(job.id)
                    else:
                        assert isinstance(said, End)
                        return said
        except (EOFError, OSError):
            if not given_up.wait(PAUSE):
                return _died(process)
        finally:
            process.kill()
            process.join()
            ours.close()
        return End(state="running")


def _died(process: SpawnProcess) -> End:
    process.join()
    code = process.exitcode or 0
    how = f"with {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
    hint = "; the system does so when memory runs out" if how.endswith("SIGKILL") else ""
    text = f"the process that made this job and nothing else ended {how}{hint}; given up"
    return End(state="failed", fault=Fault(code="crashed", message=text))


@contextmanager
def _signals_kept_off() -> Iterator[None]:
    """Start processes that Ctrl-C and SIGTERM to all do not end: it is this one that ends them, in order."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Wire(Board):
    """A board whose news go to the watching process."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def post(self, progress: Progress) -> None:
        super().post(progress)
        self._pipe.send(progress)

    def touch(self, job: str) -> None:
        super().touch(job)
        self._pipe.send(TOUCHED)


def _make(settings: Settings, worker: str, job_id: str, pipe: Connection) -> None:
    """What the job's process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):  # Linux: where memory runs out, it is this process that goes
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    halts: list[Halt] = []

    def listen() -> None:
        while True:
            try:
                halts.append(pipe.recv())
            except (EOFError, OSError):  # the watching process is dead: its successor begins the job again
                os._exit(1)

    threading.Thread(target=listen, daemon=True, name="listen").start()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    try:
        runner = open_runner(
            settings,
            reach(settings),
            board=_Wire(pipe),
            worker=worker,
            halted=lambda _: halts.pop(0) if halts else None,
            expected=lambda _: None,
        )
        end = outcome(runner.table.get(job_id), runner, runner.shelf.clear)
    except SfumatoError as error:
        end = End(state="failed", fault=fault_of(error))
    pipe.send(end)
