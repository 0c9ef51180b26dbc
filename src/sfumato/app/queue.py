"""The durable queue: DBOS decides who runs next and sees that what was begun is brought to its end.

DBOS keeps one workflow a job in its own tables, in the database where the table of jobs is; a job and its
workflow are written in one transaction. A workflow that a killed process had begun goes back into the queue
when that process starts again, or when another takes it over. There is one DBOS in a process, so there is one
queue.

DBOS looks for work at fixed times: too seldom for who waits for a picture, too often for a machine that has
nothing to do or is busy with one. Its thread is run here, and rung for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, error
from dbos._queue import queue_worker_thread

from sfumato.errors import StorageError

NAME = "sfumato"
QUEUE = "generate"
WORKFLOW = "make"
FORM = "1"  # of the workflow, not of the program: a new program ends what an old one has begun
SOON = 0.02  # seconds from the look after the bell to the next; each that follows takes twice as long
TURNS = 10**8  # turns that each priority has room for

Work = Callable[[str], str]


class Unfinished(BaseException):  # no error, and nothing may catch it as one
    """Raised by the work on a job that is to be begun again by another process."""


class Bell(threading.Event):
    """Stops a thread that looks for work, or makes it look: at once when rung, then less and less often."""

    def __init__(self, rest: float) -> None:
        """Begin as if rung.

        Args:
            rest: seconds between two looks, at most.
        """
        super().__init__()
        self._rest, self._pause, self._rung = rest, SOON, False
        self._changed = threading.Condition()

    def ring(self) -> None:
        """There may be work, now or in a moment."""
        with self._changed:
            self._rung = True
            self._changed.notify_all()

    def set(self) -> None:
        """Stop."""
        super().set()
        self.ring()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the next look, whatever `timeout` says; whether to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._rung, self._pause)
            self._pause = SOON if self._rung else min(2 * self._pause, self._rest)
            self._rung = False
        return self.is_set()


class DurableQueue:
    """Runs jobs by their ids, one at a time in this process."""

    def __init__(self, engine: sa.Engine, work: Work, *, worker: str, rest: float) -> None:
        """Get ready; nothing runs before `start`.

        Args:
            engine: the database.
            work: makes the job of an id, and says how it ended; or raises Unfinished. It is called again for
                the same job where a process was killed in the midst of it.
            worker: a name that this process keeps over restarts, and no other that runs has.
            rest: seconds between two looks for what others have queued.
        """
        logging.getLogger("dbos").setLevel(logging.WARNING)
        config: DBOSConfig = {
            "name": NAME,
            "system_database_url": engine.url.render_as_string(hide_password=False),
            "executor_id": worker,
            "application_version": FORM,
            "log_level": "WARNING",
            "enable_otlp": False,
        }
        self._dbos = DBOS(config=config)
        self._bell = Bell(rest)
        self._thread: threading.Thread | None = None

        def make(job_id: str) -> str:
            try:
                return work(job_id)
            finally:
                self._bell.ring()

        # However often a process was killed under a job, it is DBOS that never gives it up; the work may.
        DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)(make)
        self._client = DBOSClient(system_database_engine=engine, application_name=NAME, lazy=True)

    def start(self, *, listen: bool = True) -> None:
        """Begin to run jobs, the interrupted ones first.

        Args:
            listen: whether this process makes jobs, or only takes them in for others.

        Raises:
            StorageError: the database cannot be used.
        """
        try:
            DBOS.listen_queues([])
            DBOS.launch()
            queue = DBOS.register_queue(QUEUE, worker_concurrency=1)
        except (error.DBOSException, sa.exc.DBAPIError, OSError) as fault:
            raise StorageError(f"the queue cannot be started: {str(fault).splitlines()[0]}") from fault
        if listen:
            self._thread = threading.Thread(
                target=queue_worker_thread, args=(self._bell, self._dbos, queue), name="queue", daemon=True
            )
            self._thread.start()

    def ring(self) -> None:
        """Look for work now: a job has been put, and its transaction has ended."""
        self._bell.ring()

    def put(self, db: sa.Connection, job_id: str, priority: int, turn: int) -> None:
        """Queue a job, with the transaction in which it is written.

        Args:
            db: the transaction.
            job_id: of the job.
            priority: -10 to 10, the highest first.
            turn: among jobs of a priority, the lowest first.
        """
        self._client.enqueue_in_transaction(
            db,
            {
                "workflow_name": WORKFLOW,
                "queue_name": QUEUE,
                "workflow_id": job_id,
                "app_version": FORM,
                "priority": _rank(priority, turn),
            },
            job_id,
        )

    def move(self, db: sa.Connection, job_id: str, priority: int, turn: int) -> None:
        """Give a waiting job another place, with the transaction in which that is written; see `put`."""
        table = sa.table(
            "workflow_status",
            sa.column("workflow_uuid"),
            sa.column("priority"),
            schema=None if db.dialect.name == "sqlite" else "dbos",
        )
        change = sa.update(table).where(table.c.workflow_uuid == job_id)
        db.execute(change.values(priority=_rank(priority, turn)))

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Take waiting jobs out of the queue."""
        self._client.cancel_workflows(list(job_ids))

    def take_over(self, worker: str) -> None:
        """Put back into the queue what a worker had begun that runs no more."""
        DBOS._recover_pending_workflows([worker])
        self._bell.ring()

    def stop(self) -> None:
        """Let go of everything. What runs is left to be begun again."""
        self._bell.set()
        if self._thread is not None:
            self._thread.join(10)
        DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=0)


def _rank(priority: int, turn: int) -> int:
    """DBOS's priority, of which the lowest is next."""
    return (10 - priority) * TURNS + turn % TURNS + 1
