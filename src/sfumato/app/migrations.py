"""Tables of older programs become those of this one, step by step, each step in a transaction.

A new database is made whole, and so is a table that is missing; a step is for what is left: changing a table
that is there. Steps only add, so that on a shared database programs of the version before go on while they
are replaced. A step never changes once it is released.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from sfumato.errors import StorageError

log = logging.getLogger(__name__)

LOCK = 7860  # of PostgreSQL, for programs that start at once

Step = Callable[[sa.Connection], None]


def _interrupted(db: sa.Connection) -> None:
    _add_column(db, "sfumato_jobs", "interrupted", "boolean not null default false")


def _checkpoint(db: sa.Connection) -> None:
    _add_column(db, "sfumato_jobs", "checkpoint", "varchar(1000)")
    if sa.inspect(db).has_table("sfumato_jobs"):
        db.exec_driver_sql("drop index if exists sfumato_jobs_order")
        columns = "state, priority desc, turn, number, units, checkpoint"
        db.exec_driver_sql(f"create index if not exists sfumato_jobs_queue on sfumato_jobs ({columns})")


STEPS: tuple[Step, ...] = (_interrupted, _checkpoint)  # the first leads from version 1 to 2


def migrate(engine: sa.Engine, version: sa.Table, metadata: sa.MetaData) -> None:
    """Make the tables those of this program.

    Args:
        engine: the database.
        version: the table of its version.
        metadata: all tables.

    Raises:
        StorageError: they are a newer program's, or an SQLite file cannot be copied before a step.
    """
    newest = 1 + len(STEPS)
    known = None
    with engine.connect() as db:
        if sa.inspect(db).has_table(version.name):
            known = db.scalar(sa.select(sa.func.max(version.c.version)))
    if known is not None and known > newest:
        raise StorageError(
            f"the database has tables of a newer sfumato: version {known}, this one knows {newest};"
            " update sfumato, or use another data folder"
        )
    if known is not None and known < newest and engine.dialect.name == "sqlite":
        _copy(Path(engine.url.database or ""), known)
    with engine.connect() as db:
        while known != newest:
            _begin(db)
            if known is not None:  # another process may have done it meanwhile
                known = db.scalar(sa.select(sa.func.max(version.c.version)))
            if known is None:
                metadata.create_all(db)
                db.execute(sa.delete(version))
                db.execute(sa.insert(version).values(version=newest))
                known = newest
            elif known < newest:
                STEPS[known - 1](db)
                known += 1
                db.execute(sa.update(version).values(version=known))
                log.warning("the database's tables are those of version %d now", known)
            db.commit()
        _begin(db)
        metadata.create_all(db)
        db.commit()


def _begin(db: sa.Connection) -> None:
    if db.dialect.name == "sqlite":
        db.exec_driver_sql("begin immediate")  # its driver would begin after the first change of a table
    else:
        db.execute(sa.text(f"select pg_advisory_xact_lock({LOCK})"))


def _add_column(db: sa.Connection, table: str, column: str, kind: str) -> None:
    """Add a column, unless the table is not there yet, or has it."""
    look = sa.inspect(db)
    if look.has_table(table) and column not in {each["name"] for each in look.get_columns(table)}:
        db.exec_driver_sql(f"alter table {table} add column {column} {kind}")


def _copy(path: Path, version: int) -> None:
    """Keep an SQLite file as it is; the copy is there whole or not at all."""
    copy = path.with_name(f"{path.name}.version-{version}")
    part = path.with_name(f".{copy.name}.part")
    try:
        part.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(part)) as new:
            old.backup(new)
        os.replace(part, copy)
    except (OSError, sqlite3.Error) as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be copied before its tables change: {error}; make room") from error
    log.warning("the database as it was is kept in %s", copy)
