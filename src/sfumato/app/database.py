"""The table of jobs: one row each, in SQLite by default, in PostgreSQL for many machines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from sfumato.app.codec import Inputs, decode, encode
from sfumato.app.jobs import Fault, Job, Made, Script, State
from sfumato.app.pace import PAST, Taken
from sfumato.app.storage import METADATA, faults
from sfumato.errors import ConflictError, JobNotFoundError, QueueFullError
from sfumato.types import Request

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
    sa.Column("wish", sa.String(16)),  # a Wish, for the worker that runs it
    sa.Column("worker", sa.String(100)),
    sa.Column("attempts", sa.Integer, nullable=False),  # beginnings since its last picture
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float),
    sa.Column("seconds", sa.Float),  # of work, where this was made at a stretch
    sa.Column("made", sa.Text, nullable=False),  # JSON
    sa.Column("fault", sa.Text),  # JSON
    sa.Column("timings", sa.Text, nullable=False),  # JSON
    sa.Column("checkpoint", sa.String(1000)),  # that it names
    sa.Column("interrupted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("owner", "key"),
    sa.Index("sfumato_jobs_owner", "owner", "number"),
    sqlite_autoincrement=True,
)
ORDER = (JOBS.c.priority.desc(), JOBS.c.turn, JOBS.c.number)  # in which jobs are made
sa.Index("sfumato_jobs_queue", JOBS.c.state, *ORDER, JOBS.c.units, JOBS.c.checkpoint)
sa.Index("sfumato_jobs_turn", JOBS.c.state, JOBS.c.turn)
sa.Index("sfumato_jobs_state", JOBS.c.state, JOBS.c.number)

Enqueue = Callable[[sa.Connection, str, int, int], None]  # of an id, with its priority and turn
Wish = Literal["skip", "interrupt", "cancel"]
WISHES: tuple[Wish, ...] = get_args(Wish)  # the weakest first
WAITING: tuple[State, ...] = ("queued", "running")


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """What is asked of the queue."""

    id: str
    owner: str
    kind: str
    request: Request
    script: Script | None
    priority: int
    units: float
    key: str | None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a waiting job stands."""

    position: int = 0  # jobs before it
    work: Mapping[str, float] = field(default_factory=dict)  # that waits before it: units by checkpoint


class JobTable:
    """Jobs, durable. Every method raises StorageError where the database is full, locked or out of reach."""

    def __init__(self, engine: sa.Engine, inputs: Inputs) -> None:
        """Use a database that `storage.connect` has opened; the requests' pictures are in `inputs`."""
        self.engine = engine
        self._inputs = inputs

    def add(self, order: NewJob, enqueue: Enqueue, limit: int) -> tuple[Job, bool]:
        """Take a job in and queue it, both or neither; whether it is new.

        Args:
            order: the job.
            enqueue: queues it in the same transaction.
            limit: jobs that may wait.

        Raises:
            ConflictError: the key stands for another request.
            QueueFullError: as many jobs wait as may.
        """
        written = json.dumps(encode(order.request, self._inputs.keep), sort_keys=True)
        script = None if order.script is None else json.dumps(asdict(order.script), sort_keys=True)
        try:
            with self._begin() as db:
                _lock(db)
                row = _known(db, order)
                if row is None:
                    waiting = sa.select(sa.func.count()).where(JOBS.c.state == "queued")
                    if (db.scalar(waiting) or 0) >= limit:
                        raise QueueFullError("the queue is full", retry_after=60)
                    turn = _turn(db, order)
                    values = {
                        "id": order.id,
                        "owner": order.owner,
                        "kind": order.kind,
                        "key": order.key,
                        "request": written,
                        "script": script,
                        "priority": order.priority,
                        "turn": turn,
                        "units": order.units,
                        "checkpoint": order.request.model.checkpoint,
                        "state": "queued",
                        "attempts": 0,
                        "created": time.time(),
                        "made": "[]",
                        "timings": "{}",
                    }
                    db.execute(sa.insert(JOBS).values(values))
                    enqueue(db, order.id, order.priority, turn)
                    row = db.execute(sa.select(JOBS).where(JOBS.c.id == order.id)).one()
        except IntegrityError:  # somebody else was faster with the same key
            with self._begin() as db:
                row = _known(db, order)
            assert row is not None, "ids do not repeat"
        if (row.request, row.script, row.kind) != (written, script, order.kind):
            raise ConflictError(f"key {order.key!r} stands for another request; use a new key for a new one")
        return self._job(row), row.id == order.id

    def has_key(self, owner: str, key: str | None) -> bool:
        """Whether an owner has a job of this key."""
        wanted = sa.select(JOBS.c.id).where(JOBS.c.owner == owner, JOBS.c.key == key)
        with self._begin() as db:
            return key is not None and db.scalar(wanted) is not None

    def needs(self, picture: str) -> bool:
        """Whether a job that has not ended starts from an input picture of this name."""
        wanted = sa.select(JOBS.c.id).where(JOBS.c.state.in_(WAITING), JOBS.c.request.contains(picture))
        with self._begin() as db:
            return db.scalar(wanted.limit(1)) is not None

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """The job of this id. Raises JobNotFoundError: there is none, or it is another owner's."""
        with self._begin() as db:
            row = db.execute(sa.select(JOBS).where(JOBS.c.id == job_id)).first()
            if row is None or (owner is not None and row.owner != owner):
                raise JobNotFoundError(f"no job {job_id[:80]!r}")
            return self._job(row)

    def page(
        self,
        *,
        owner: str | None,
        states: Sequence[State],
        before: int | None,
        limit: int,
        ids: Collection[str] | None = None,
    ) -> list[Job]:
        """Jobs, the newest first.

        Args:
            owner: whose; None = everybody's.
            states: which; empty = all.
            before: those with a lower number only.
            limit: how many at most.
            ids: which; None = all.
        """
        wanted = sa.select(JOBS).order_by(JOBS.c.number.desc()).limit(limit)
        if owner is not None:
            wanted = wanted.where(JOBS.c.owner == owner)
        if states:
            wanted = wanted.where(JOBS.c.state.in_(states))
        if before is not None:
            wanted = wanted.where(JOBS.c.number < before)
        if ids is not None:
            wanted = wanted.where(JOBS.c.id.in_(ids))
        with self._begin() as db:
            return [self._job(row) for row in db.execute(wanted)]

    def place(self, job_id: str) -> Place:
        """Where a waiting job stands."""
        with self._begin() as db:
            row = db.execute(
                sa.select(JOBS.c.priority, JOBS.c.turn, JOBS.c.number).where(JOBS.c.id == job_id)
            ).one()
            earlier = sa.or_(
                JOBS.c.priority > row.priority,
                sa.and_(JOBS.c.priority == row.priority, JOBS.c.turn < row.turn),
                sa.and_(JOBS.c.priority == row.priority, JOBS.c.turn == row.turn, JOBS.c.number < row.number),
            )
            wanted = sa.select(JOBS.c.checkpoint, sa.func.count(), sa.func.sum(JOBS.c.units))
            rows = db.execute(
                wanted.where(JOBS.c.state == "queued", earlier).group_by(JOBS.c.checkpoint)
            ).all()
            return Place(
                position=sum(count for _, count, _ in rows),
                work={checkpoint or "": float(units) for checkpoint, _, units in rows},
            )

    def places(self, numbers: Collection[int]) -> dict[int, Place]:
        """Where those of these jobs stand that wait, by number; read from the index alone."""
        wanted = sa.select(JOBS.c.number, JOBS.c.checkpoint, JOBS.c.units).where(JOBS.c.state == "queued")
        places: dict[int, Place] = {}
        before: dict[str, float] = {}
        if not numbers:
            return places
        with self._begin() as db:
            rows = db.execute(wanted.order_by(*ORDER)).all()
        for position, (number, checkpoint, units) in enumerate(rows):
            if number in numbers:
                places[number] = Place(position=position, work=dict(before))
            name = checkpoint or ""
            before[name] = before.get(name, 0.0) + units
        return places

    def waiting_work(self) -> dict[str, float]:
        """Work that waits: units by checkpoint."""
        wanted = sa.select(JOBS.c.checkpoint, sa.func.sum(JOBS.c.units)).where(JOBS.c.state == "queued")
        with self._begin() as db:
            rows = db.execute(wanted.group_by(JOBS.c.checkpoint))
            return {checkpoint or "": float(units) for checkpoint, units in rows}

    def running(self) -> dict[str, tuple[str, float]]:
        """Checkpoint and units of the jobs that run, by id."""
        wanted = sa.select(JOBS.c.id, JOBS.c.checkpoint, JOBS.c.units).where(JOBS.c.state == "running")
        with self._begin() as db:
            return {row.id: (row.checkpoint or "", float(row.units)) for row in db.execute(wanted)}

    def tally(self, states: Sequence[State], owner: str | None = None) -> int:
        """How many jobs are in these states; of one owner, or of all."""
        wanted = sa.select(sa.func.count()).select_from(JOBS).where(JOBS.c.state.in_(states))
        if owner is not None:
            wanted = wanted.where(JOBS.c.owner == owner)
        with self._begin() as db:
            return db.scalar(wanted) or 0

    def counts(self) -> dict[State, int]:
        """How many jobs there are, by state."""
        wanted = sa.select(JOBS.c.state, sa.func.count()).group_by(JOBS.c.state)
        with self._begin() as db:
            return {state: int(count) for state, count in db.execute(wanted)}

    def start(self, job_id: str, worker: str) -> int:
        """Mark a job as running at a worker; beginnings since its last picture, 0 if it has ended."""
        change = (
            sa.update(JOBS)
            .where(JOBS.c.id == job_id, JOBS.c.state.in_(WAITING))
            .values(
                state="running",
                worker=worker,
                attempts=JOBS.c.attempts + 1,
                started=sa.func.coalesce(JOBS.c.started, time.time()),
            )
            .returning(JOBS.c.attempts)
        )
        with self._begin() as db:
            return db.scalar(change) or 0

    def add_made(self, job_id: str, worker: str, made: Made) -> bool:
        """Record a finished picture, in place of an earlier one of the same index.

        Returns False if the job is no longer the worker's: it has ended, or another has taken it over.
        """
        mine = sa.and_(JOBS.c.id == job_id, JOBS.c.state == "running", JOBS.c.worker == worker)
        with self._begin() as db:
            old = db.scalar(sa.select(JOBS.c.made).where(mine).with_for_update())
            if old is None:
                return False
            rows = [row for row in json.loads(old) if row["index"] != made.index] + [asdict(made)]
            db.execute(sa.update(JOBS).where(mine).values(made=json.dumps(rows), attempts=0))
            return True

    def end(
        self,
        job_id: str,
        worker: str,
        state: State,
        *,
        fault: Fault | None = None,
        interrupted: bool = False,
        timings: Mapping[str, float] | None = None,
        seconds: float | None = None,
    ) -> bool:
        """Bring a worker's job to its end; False if it is no longer the worker's.

        Args:
            job_id: of the job.
            worker: that has it.
            state: how it ended.
            fault: why it failed.
            interrupted: whether it was done before its time.
            timings: seconds by phase.
            seconds: that its work took as a whole; None = that cannot be told.
        """
        change = (
            sa.update(JOBS)
            .where(JOBS.c.id == job_id, JOBS.c.state == "running", JOBS.c.worker == worker)
            .values(
                state=state,
                finished=time.time(),
                seconds=seconds,
                fault=None if fault is None else json.dumps(asdict(fault)),
                timings=json.dumps(dict(timings or {})),
                interrupted=interrupted,
                wish=None,
            )
        )
        with self._begin() as db:
            return bool(db.execute(change).rowcount)

    def cancel_waiting(self, *, owner: str | None = None, job_id: str | None = None) -> list[str]:
        """End jobs that have not begun: all of an owner, or one; their ids."""
        change = (
            sa.update(JOBS).where(JOBS.c.state == "queued").values(state="cancelled", finished=time.time())
        )
        if owner is not None:
            change = change.where(JOBS.c.owner == owner)
        if job_id is not None:
            change = change.where(JOBS.c.id == job_id)
        with self._begin() as db:
            return list(db.scalars(change.returning(JOBS.c.id)))

    def wish(self, job_id: str, wish: Wish) -> None:
        """Leave word for the worker that runs the job; the stronger word stays."""
        weaker = sa.or_(JOBS.c.wish.is_(None), JOBS.c.wish.in_(WISHES[: WISHES.index(wish)]))
        mine = sa.and_(JOBS.c.id == job_id, JOBS.c.state == "running", weaker)
        change = sa.update(JOBS).where(mine).values(wish=wish)
        with self._begin() as db:
            db.execute(change)

    def take_wish(self, job_id: str) -> Wish | None:
        """The word left for a job's worker; to skip is told once."""
        with self._begin() as db:
            wish: Wish | None = db.scalar(sa.select(JOBS.c.wish).where(JOBS.c.id == job_id))
            if wish == "skip":
                db.execute(sa.update(JOBS).where(JOBS.c.id == job_id, JOBS.c.wish == wish).values(wish=None))
            return wish

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    def past(self, last: int = PAST) -> list[Taken]:
        """What the last finished jobs took, the newest first."""
        wanted = (
            sa.select(JOBS.c.checkpoint, JOBS.c.units, JOBS.c.seconds)
            .where(JOBS.c.state == "done", JOBS.c.seconds > 0)
            .order_by(JOBS.c.number.desc())
            .limit(last)
        )
        with self._begin() as db:
            return [
                Taken(checkpoint=row.checkpoint or "", units=row.units, seconds=row.seconds)
                for row in db.execute(wanted)
            ]

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        with faults(self.engine), self.engine.begin() as db:
            yield db

    def _job(self, row: Any) -> Job:
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
            key=row.key,
            created=row.created,
            started=row.started,
            finished=row.finished,
            made=tuple(made),
            fault=None if row.fault is None else Fault(**json.loads(row.fault)),
            units=row.units,
            interrupted=row.interrupted,
            timings=MappingProxyType(json.loads(row.timings)),
        )


def _lock(db: sa.Connection) -> None:
    """Let nobody else add jobs until this transaction has ended: what it counts holds until then."""
    own = "update sfumato_jobs set turn = turn where 1 = 0"  # SQLite has one writer at a time
    db.execute(sa.text("select pg_advisory_xact_lock(7862)" if db.dialect.name == "postgresql" else own))


def _known(db: sa.Connection, order: NewJob) -> Any:
    """The row of a job with the order's key."""
    if order.key is None:
        return None
    return db.execute(sa.select(JOBS).where(JOBS.c.owner == order.owner, JOBS.c.key == order.key)).first()


def _turn(db: sa.Connection, order: NewJob) -> int:
    """Start-time fair queueing (Goyal et al. 1996): each owner's jobs line up behind one another only.

    A job's turn comes after the owner's last waiting one, and never before what has begun; what was cancelled
    while it waited has not.
    """
    begun = [
        db.scalar(sa.select(sa.func.max(JOBS.c.turn)).where(JOBS.c.state == state))
        for state in ("running", "done", "failed")
    ]
    mine = db.scalar(
        sa.select(sa.func.max(JOBS.c.turn)).where(
            JOBS.c.owner == order.owner, JOBS.c.state == "queued", JOBS.c.priority == order.priority
        )
    )
    return max(turn or 0 for turn in (*begun, mine)) + 1
