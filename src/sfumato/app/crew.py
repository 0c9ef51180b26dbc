"""Processes that share a database: who is alive, how far the others are, whose jobs have to be taken over.

Nobody compares clocks. A worker that lives counts up in its row; another holds it for dead when, by its own
clock, the count has stood still for long while the database answered all the time.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from sfumato.app.board import Board
from sfumato.app.jobs import Progress
from sfumato.app.storage import METADATA, faults
from sfumato.errors import StorageError

log = logging.getLogger(__name__)

LOOK = 0.5  # seconds between two looks
KEPT = 60.0  # seconds that the last word on a job stays
GONE = -1  # beat of a worker that has left in order

WORKERS = sa.Table(
    "sfumato_workers",
    METADATA,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("beat", sa.BigInteger, nullable=False),
)
PROGRESS = sa.Table(
    "sfumato_progress",
    METADATA,
    sa.Column("job", sa.String(64), primary_key=True),
    sa.Column("worker", sa.String(200), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("progress", sa.Text),  # JSON; null = it runs no more
    sa.Column("preview", sa.LargeBinary),
)


@dataclass(kw_only=True, eq=False)
class Crew:
    """This process among the others."""

    database: sa.Engine
    board: Board
    worker: str  # this process's name
    works: bool  # whether it makes jobs
    patience: float  # seconds after which a worker that gives no sign is held for dead
    take_over: Callable[[str], object]  # of a dead worker's jobs
    _beat: int = 0
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)  # beats of others, and since when
    _heard: dict[str, tuple[str, int]] = field(default_factory=dict)  # by job: whose progress, its version
    _told: dict[str, int] = field(default_factory=dict)  # versions of what runs here
    _ended: dict[str, float] = field(default_factory=dict)  # jobs that ran here, and when they ended
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def workers(self) -> int:
        """How many workers live, as far as is known; at least 1."""
        return max(1, len(self._seen) + self.works)

    def start(self) -> None:
        """Begin to look around."""
        with faults(self.database), self.database.begin() as db:
            db.execute(sa.delete(PROGRESS).where(PROGRESS.c.worker == self.worker))
        self._thread = threading.Thread(target=self._run, name="crew", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Leave in order: what was begun here may be taken over at once."""
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join()
        try:
            with faults(self.database), self.database.begin() as db:
                db.execute(sa.delete(PROGRESS).where(PROGRESS.c.worker == self.worker))
                db.execute(sa.update(WORKERS).where(WORKERS.c.name == self.worker).values(beat=GONE))
        except StorageError as error:
            log.warning("%s", error)

    def _run(self) -> None:
        while not self._stop.wait(LOOK):
            try:
                with faults(self.database):
                    self.look()
            except StorageError as error:
                self._seen.clear()  # while nobody can write, nobody is dead
                log.warning("%s", error)
            except Exception:  # whatever it is, the next look may succeed
                log.exception("crew")

    def look(self) -> None:
        """Give a sign of life, tell what runs here, hear what runs elsewhere, and see who is dead."""
        with self.database.begin() as db:
            if self.works:
                self._beat += 1
                _put(db, WORKERS, {"name": self.worker, "beat": self._beat})
                self._tell(db)
            others = {
                name: beat
                for name, beat in db.execute(sa.select(WORKERS.c.name, WORKERS.c.beat))
                if name != self.worker
            }
            wanted = sa.select(PROGRESS.c.job, PROGRESS.c.worker, PROGRESS.c.version)
            heard = db.execute(wanted.where(PROGRESS.c.worker != self.worker)).all()
        self._hear({job: (worker, version) for job, worker, version in heard})
        now = time.monotonic()
        for name, beat in others.items():
            if self._seen.get(name, (None, now))[0] != beat:
                self._seen[name] = beat, now
            if beat == GONE or now - self._seen[name][1] > self.patience:
                self._bury(name, beat)
        for name in self._seen.keys() - others.keys():
            del self._seen[name]

    def _bury(self, name: str, beat: int) -> None:
        log.warning("worker %s %s; its jobs are taken over", name, "has left" if beat == GONE else "is dead")
        self.take_over(name)
        with self.database.begin() as db:
            db.execute(sa.delete(WORKERS).where(WORKERS.c.name == name, WORKERS.c.beat == beat))
            silent = sa.update(PROGRESS).where(PROGRESS.c.worker == name)
            db.execute(silent.values(progress=None, version=PROGRESS.c.version + 1))

    def _tell(self, db: sa.Connection) -> None:
        """Write down how far the jobs are that run here."""
        running = self.board.here()
        for progress in running:
            if self._told.get(progress.job) != progress.version:
                plain = asdict(replace(progress, preview=None))
                row = {"job": progress.job, "worker": self.worker, "version": progress.version}
                _put(db, PROGRESS, row | {"progress": json.dumps(plain), "preview": progress.preview})
                self._told[progress.job] = progress.version
        now = time.monotonic()
        for job in self._told.keys() - {progress.job for progress in running}:
            row = {"job": job, "worker": self.worker, "version": self._told.pop(job) + 1}
            _put(db, PROGRESS, row | {"progress": None, "preview": None})
            self._ended[job] = now
        for job in [job for job, ended in self._ended.items() if now - ended > KEPT]:
            del self._ended[job]
            db.execute(sa.delete(PROGRESS).where(PROGRESS.c.job == job, PROGRESS.c.worker == self.worker))

    def _hear(self, versions: dict[str, tuple[str, int]]) -> None:
        """Put onto the board how far the jobs are that run elsewhere."""
        news = [job for job, version in versions.items() if self._heard.get(job) != version]
        if news:
            with self.database.begin() as db:
                rows = db.execute(sa.select(PROGRESS).where(PROGRESS.c.job.in_(news))).all()
            for row in rows:
                self._heard[row.job] = row.worker, row.version
                if row.progress is None:
                    self._clear(row.job)
                else:
                    progress = Progress(**json.loads(row.progress))
                    self.board.post(replace(progress, preview=row.preview, worker=row.worker))
                    self.board.touch(row.job)
        for job in self._heard.keys() - versions.keys():
            del self._heard[job]
            self._clear(job)

    def _clear(self, job: str) -> None:
        progress = self.board.read(job)
        if progress is None or progress.worker:
            self.board.clear(job)


def _put(db: sa.Connection, table: sa.Table, row: dict[str, Any]) -> None:
    """Write a row, in place of the one with its key."""
    insert = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    (key,) = table.primary_key.columns
    statement = insert(table).values(row)
    db.execute(statement.on_conflict_do_update(index_elements=[key], set_=row))
