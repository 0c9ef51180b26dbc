"""The line of waiting jobs: which of an owner's are next, and what it may change about its own places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from sfumato.app.board import Board
from sfumato.app.database import JOBS, ORDER, JobTable
from sfumato.app.queue import DurableQueue
from sfumato.app.storage import faults
from sfumato.errors import ConflictError


@dataclass(kw_only=True, eq=False)
class Line:
    """Jobs that wait. Every method raises StorageError where the database cannot be used."""

    table: JobTable
    queue: DurableQueue
    board: Board

    def next(self, owner: str, limit: int) -> list[str]:
        """Ids of the jobs that an owner has waiting, the next first; `limit` of them at most."""
        with faults(self.table.engine), self.table.engine.begin() as db:
            return list(db.scalars(_mine(JOBS.c.id, owner=owner).limit(limit)))

    def clear(self, owner: str) -> list[str]:
        """Cancel all that an owner has waiting; their ids."""
        cancelled = self.table.cancel_waiting(owner=owner)
        self.queue.cancel(cancelled)
        for job_id in cancelled:
            self.board.touch(job_id)
        return cancelled

    def first(self, job_id: str, owner: str) -> None:
        """Let a waiting job be the next of its owner's.

        It takes the place of the first of them, each that it passes that of the one behind, and other owners'
        jobs stay where they are.

        Raises:
            JobNotFoundError: there is none, or it is another owner's.
            ConflictError: it does not wait any more.
        """
        self.table.get(job_id, owner)
        with faults(self.table.engine), self.table.engine.begin() as db:
            rows = db.execute(_mine(JOBS.c.id, JOBS.c.priority, JOBS.c.turn, owner=owner)).all()
            ids = [row.id for row in rows]
            if job_id not in ids:
                raise ConflictError("this job does not wait any more; only one that does can be moved")
            passed = ids.index(job_id)
            for moved, place in zip([job_id, *ids[:passed]], rows, strict=False):
                change = sa.update(JOBS).where(JOBS.c.id == moved, JOBS.c.state == "queued")
                db.execute(change.values(priority=place.priority, turn=place.turn))
                self.queue.move(db, moved, place.priority, place.turn)
        for moved in ids[: passed + 1]:
            self.board.touch(moved)


def _mine(*columns: Any, owner: str) -> Any:
    waiting = sa.select(*columns).where(JOBS.c.owner == owner, JOBS.c.state == "queued")
    return waiting.order_by(*ORDER)
