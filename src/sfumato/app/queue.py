"""The durable queue: DBOS decides who runs next and sees that what was begun is brought to its end.

DBOS keeps one workflow a job in its own tables, in the database where the table of jobs is. A workflow that a
killed process had begun is begun again by the next. There is one DBOS in a process, so there is one queue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from dbos import DBOS, DBOSConfig, SetEnqueueOptions, SetWorkflowID, error

from sfumato.errors import StorageError

NAME = "sfumato"
QUEUE = "generate"
POLL = 0.05  # seconds between two looks at the queue
TURNS = 10**8  # turns that each priority has room for

Work = Callable[[str], str]


class Unfinished(BaseException):  # no error, and nothing may catch it as one
    """Raised by the work on a job that is to be begun again by the next process."""


class DurableQueue:
    """Runs jobs by their ids, one at a time in this process."""

    def __init__(self, url: str, work: Work, *, worker: str, version: str) -> None:
        """Get ready; nothing runs before `start`.

        Args:
            url: of the database.
            work: makes the job of an id, and says how it ended; or raises Unfinished. It is called again for
                the same job where a process was killed in the midst of it.
            worker: a name that this process keeps over restarts, and no other has.
            version: of the program; jobs are recovered by processes of the same version.
        """
        logging.getLogger("dbos").setLevel(logging.WARNING)
        config: DBOSConfig = {
            "name": NAME,
            "system_database_url": url,
            "executor_id": worker,
            "application_version": version,
            "log_level": "WARNING",
            "enable_otlp": False,
        }
        DBOS(config=config)

        def make(job_id: str) -> str:
            return work(job_id)

        self._workflow: Any = DBOS.workflow(name="make")(make)

    def start(self, *, listen: bool = True) -> None:
        """Begin to run jobs, the interrupted ones first.

        Args:
            listen: whether this process makes jobs, or only takes them in for others.

        Raises:
            StorageError: the database cannot be used.
        """
        try:
            if not listen:
                DBOS.listen_queues([])
            DBOS.launch()
            DBOS.register_queue(QUEUE, worker_concurrency=1, polling_interval_sec=POLL)
        except (error.DBOSException, OSError) as fault:
            raise StorageError(f"the queue cannot be started: {fault}") from fault

    def put(self, job_id: str, *, priority: int, turn: int) -> None:
        """Queue a job, once however often it is called.

        Args:
            job_id: of the job.
            priority: -10 to 10, the highest first.
            turn: among jobs of a priority, the lowest first.
        """
        place = (10 - priority) * TURNS + turn % TURNS + 1
        with SetWorkflowID(job_id), SetEnqueueOptions(priority=place):
            DBOS.enqueue_workflow(QUEUE, self._workflow, job_id)

    def cancel(self, job_id: str) -> None:
        """Take a waiting job out of the queue."""
        DBOS.cancel_workflow(job_id)

    def stop(self) -> None:
        """Let go of everything. What runs is left to be recovered."""
        DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=0)
