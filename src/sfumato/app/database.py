"""The table of jobs: one row each, in SQLite by default, in PostgreSQL for many machines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from sfumato.app.codec import Inputs, decode, encode
from sfumato.app.jobs import ENDED, Fault, Job, Made, Script, State
from sfumato.errors import ConflictError, JobNotFoundError, StorageError
from sfumato.types import Request

METADATA = sa.MetaData()
JOBS = sa.Table(
    "sfumato_jobs",
    METADATA,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("id", sa.String(64), unique=True, nullable=False),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("key", sa.String(200)),
    sa.Column("request", sa.Text, nullable=False),  # JSON
    sa.Column("script", sa.Text),  # JSON
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("turn", sa.BigInteger, nullable=False),  # the lowest of the highest priority is next
    sa.Column("units", sa.Float, nullable=False),  # of work, as `units_of` counts it
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("wish", sa.String(16)),  # "cancel" or "skip", for the worker that runs it
    sa.Column("worker", sa.String(64)),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float),
    sa.Column("made", sa.Text, nullable=False),  # JSON
    sa.Column("fault", sa.Text),  # JSON
    sa.Column("timings", sa.Text, nullable=False),  # JSON
    sa.UniqueConstraint("owner", "key"),
    sa.Index("sfumato_jobs_state", "state", "priority", "turn"),
    sa.Index("sfumato_jobs_owner", "owner", "number"),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked of the queue."""

    id: str
    owner: str
    kind: str
    request: Request
    script: Script | None
    priority: int
    units: float
    key: str | None


class JobTable:
    """Jobs, durable."""

    def __init__(self, url: str, inputs: Inputs) -> None:
        """Open the database, making the table if it is new.

        Args:
            url: sqlite:///… or postgresql://….
            inputs: where the requests' pictures are.

        Raises:
            StorageError: it cannot be reached, is locked, or is damaged.
        """
        self._inputs = inputs
        self.engine = connect(url)
        try:
            METADATA.create_all(self.engine)
        except DatabaseError as error:
            raise StorageError(f"the database of jobs cannot be used: {error.orig}; {REMEDY}") from error

    def add(self, order: Order) -> tuple[Job, bool]:
        """Put a job into the queue; whether it is new.

        Owners take turns: a job's turn comes after the owner's last waiting job, and never before what runs.

        Raises ConflictError: the key stands for another request.
        """
        written = json.dumps(encode(order.request, self._inputs.keep), sort_keys=True)
        script = None if order.script is None else json.dumps(asdict(order.script), sort_keys=True)
        with self.engine.begin() as db:
            if order.key is not None:
                row = db.execute(
                    sa.select(JOBS).where(JOBS.c.owner == order.owner, JOBS.c.key == order.key)
                ).first()
                if row is not None:
                    if (row.request, row.script, row.kind) != (written, script, order.kind):
                        raise ConflictError(
                            f"key {order.key[:80]!r} stands for another request; use a new key for a new one"
                        )
                    return self._job(row), False
            values = {
                "id": order.id,
                "owner": order.owner,
                "kind": order.kind,
                "key": order.key,
                "request": written,
                "script": script,
                "priority": order.priority,
                "turn": self._turn(db, order),
                "units": order.units,
                "state": "queued",
                "created": time.time(),
                "made": "[]",
                "timings": "{}",
            }
            try:
                db.execute(sa.insert(JOBS).values(values))
            except IntegrityError as error:
                raise ConflictError(f"job {order.id[:80]!r} exists already") from error
            row = db.execute(sa.select(JOBS).where(JOBS.c.id == order.id)).one()
            return self._job(row, self._before(db, row)), True

    def _turn(self, db: sa.Connection, order: Order) -> int:
        """Start-time fair queueing (Goyal et al. 1996): each owner's jobs line up behind one another only."""
        now = db.scalar(sa.select(sa.func.max(JOBS.c.turn)).where(JOBS.c.state != "queued")) or 0
        mine = db.scalar(
            sa.select(sa.func.max(JOBS.c.turn)).where(
                JOBS.c.owner == order.owner, JOBS.c.state == "queued", JOBS.c.priority == order.priority
            )
        )
        return max(now, mine or 0) + 1

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """The job of this id. Raises JobNotFoundError: there is none, or it is another owner's."""
        with self.engine.connect() as db:
            row = db.execute(sa.select(JOBS).where(JOBS.c.id == job_id)).first()
            if row is None or (owner is not None and row.owner != owner):
                raise JobNotFoundError(f"no job {job_id[:80]!r}")
            return self._job(row, self._before(db, row))

    def page(
        self, *, owner: str | None, states: Sequence[State], before: int | None, limit: int
    ) -> list[Job]:
        """Jobs, the newest first.

        Args:
            owner: whose; None = everybody's.
            states: which; empty = all.
            before: those with a lower number only.
            limit: how many at most.
        """
        wanted = sa.select(JOBS).order_by(JOBS.c.number.desc()).limit(limit)
        if owner is not None:
            wanted = wanted.where(JOBS.c.owner == owner)
        if states:
            wanted = wanted.where(JOBS.c.state.in_(states))
        if before is not None:
            wanted = wanted.where(JOBS.c.number < before)
        with self.engine.connect() as db:
            return [self._job(row, self._before(db, row)) for row in db.execute(wanted)]

    def unfinished(self) -> list[Job]:
        """All jobs that wait or run, in the order of their turns."""
        wanted = sa.select(JOBS).where(JOBS.c.state.not_in(ENDED))
        with self.engine.connect() as db:
            rows = db.execute(wanted.order_by(JOBS.c.priority.desc(), JOBS.c.turn, JOBS.c.number))
            return [self._job(row) for row in rows]

    def turn(self, job_id: str) -> tuple[int, int]:
        """Priority and turn of a job."""
        with self.engine.connect() as db:
            row = db.execute(sa.select(JOBS.c.priority, JOBS.c.turn).where(JOBS.c.id == job_id)).one()
            return row.priority, row.turn

    def waiting_units(self) -> float:
        """Work that waits, in units."""
        with self.engine.connect() as db:
            return db.scalar(sa.select(sa.func.sum(JOBS.c.units)).where(JOBS.c.state == "queued")) or 0.0

    def units(self, job_id: str) -> float:
        """Work of a job, in units."""
        with self.engine.connect() as db:
            return float(db.scalar(sa.select(JOBS.c.units).where(JOBS.c.id == job_id)) or 0.0)

    def units_before(self, job_id: str) -> float:
        """Work that comes before a waiting job, in units: what runs, and what waits ahead of it."""
        with self.engine.connect() as db:
            row = db.execute(sa.select(JOBS).where(JOBS.c.id == job_id)).one()
            ahead = sa.or_(JOBS.c.state == "running", sa.and_(JOBS.c.state == "queued", _ahead(row)))
            return db.scalar(sa.select(sa.func.sum(JOBS.c.units)).where(ahead)) or 0.0

    def tally(self, states: Sequence[State]) -> int:
        """How many jobs are in these states."""
        with self.engine.connect() as db:
            return db.scalar(_count(JOBS.c.state.in_(states))) or 0

    def counts(self) -> dict[State, int]:
        """How many jobs there are, by state."""
        wanted = sa.select(JOBS.c.state, sa.func.count()).group_by(JOBS.c.state)
        with self.engine.connect() as db:
            return {state: int(count) for state, count in db.execute(wanted)}

    def start(self, job_id: str, worker: str) -> bool:
        """Mark a job as running; False if it has ended meanwhile."""
        values: dict[str, Any] = {"state": "running", "worker": worker}
        started = sa.func.coalesce(JOBS.c.started, time.time())
        return self._change(job_id, (*_WAITING,), {**values, "started": started})

    def add_made(self, job_id: str, made: Made) -> None:
        """Record a finished picture, in place of an earlier one of the same index."""
        with self.engine.begin() as db:
            old = json.loads(db.scalar(sa.select(JOBS.c.made).where(JOBS.c.id == job_id)) or "[]")
            rows = [row for row in old if row["index"] != made.index] + [asdict(made)]
            db.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(made=json.dumps(rows)))

    def end(
        self,
        job_id: str,
        state: State,
        *,
        fault: Fault | None = None,
        timings: Mapping[str, float] | None = None,
    ) -> bool:
        """Bring a job to its end; False if it has one already."""
        values = {
            "state": state,
            "finished": time.time(),
            "fault": None if fault is None else json.dumps(asdict(fault)),
            "timings": json.dumps(dict(timings or {})),
            "wish": None,
        }
        return self._change(job_id, _WAITING, values)

    def wish(self, job_id: str, wish: str | None) -> None:
        """Leave word for the worker that runs the job."""
        self._change(job_id, _WAITING, {"wish": wish})

    def wished(self, job_id: str) -> str | None:
        """The word left for a job's worker."""
        with self.engine.connect() as db:
            return db.scalar(sa.select(JOBS.c.wish).where(JOBS.c.id == job_id))

    def rates(self, last: int = 20) -> Sequence[tuple[float, float]]:
        """Units and seconds of the last finished jobs."""
        wanted = (
            sa.select(JOBS.c.units, JOBS.c.finished - JOBS.c.started)
            .where(JOBS.c.state == "done", JOBS.c.started.is_not(None), JOBS.c.script.is_(None))
            .order_by(JOBS.c.number.desc())
            .limit(last)
        )
        with self.engine.connect() as db:
            return [(float(units), float(seconds)) for units, seconds in db.execute(wanted)]

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    def _change(self, job_id: str, states: Sequence[State], values: Mapping[str, Any]) -> bool:
        change = sa.update(JOBS).where(JOBS.c.id == job_id, JOBS.c.state.in_(states)).values(**values)
        with self.engine.begin() as db:
            return bool(db.execute(change).rowcount)

    def _before(self, db: sa.Connection, row: Any) -> int:
        if row.state != "queued":
            return 0
        return db.scalar(_count(sa.and_(JOBS.c.state == "queued", _ahead(row)))) or 0

    def _job(self, row: Any, position: int = 0) -> Job:
        made = sorted((Made(**each) for each in json.loads(row.made)), key=lambda each: each.index)
        return Job(
            id=row.id,
            number=row.number,
            owner=row.owner,
            kind=row.kind,
            request=decode(json.loads(row.request), self._inputs.path),
            script=None if row.script is None else Script(**json.loads(row.script)),
            priority=row.priority,
            state=row.state,
            position=position if row.state == "queued" else None,
            key=row.key,
            created=row.created,
            started=row.started,
            finished=row.finished,
            made=tuple(made),
            fault=None if row.fault is None else Fault(**json.loads(row.fault)),
            timings=MappingProxyType(json.loads(row.timings)),
        )


REMEDY = "close the program that has it open, or bring the file back from a copy"
_WAITING: tuple[State, ...] = ("queued", "running")


def connect(url: str) -> sa.Engine:
    """Open a database; an SQLite file is checked first.

    Raises StorageError: it is damaged, locked or out of reach.
    """
    engine = sa.create_engine(url, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _pragmas)
    try:
        with engine.connect() as db:
            if engine.dialect.name == "sqlite":
                answer = db.scalar(sa.text("pragma quick_check(1)"))
                if answer != "ok":
                    raise StorageError(f"{engine.url.database} is damaged: {answer}; {REMEDY}")
    except (OperationalError, DatabaseError) as error:
        where = engine.url.render_as_string(hide_password=True)
        raise StorageError(f"{where}: {error.orig}; {REMEDY}") from error
    return engine


def _pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        cursor.execute(f"pragma {pragma}")
    cursor.close()


def sqlite_url(path: Path) -> str:
    """The address of an SQLite file."""
    return f"sqlite:///{path.absolute().as_posix()}"


def _count(condition: Any) -> Any:
    return sa.select(sa.func.count()).select_from(JOBS).where(condition)


def _ahead(row: Any) -> Any:
    """The condition that a waiting job comes before the one of this row."""
    earlier = sa.or_(JOBS.c.turn < row.turn, sa.and_(JOBS.c.turn == row.turn, JOBS.c.number < row.number))
    return sa.or_(JOBS.c.priority > row.priority, sa.and_(JOBS.c.priority == row.priority, earlier))
