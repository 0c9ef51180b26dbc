"""The database: opened with care, never made anew over what is there, its faults told in one line."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from sfumato.app.migrations import migrate
from sfumato.app.settings import Settings
from sfumato.errors import StorageError

BUSY = 10_000  # milliseconds that a locked file is waited for
REMEDY = "close the program that has it open, or bring the file back from a copy"

METADATA = sa.MetaData()
_VERSION = sa.Table("sfumato_schema", METADATA, sa.Column("version", sa.Integer, primary_key=True))


def sqlite_url(path: Path) -> str:
    """The address of an SQLite file."""
    return f"sqlite:///{path.absolute().as_posix()}"


def database_url(settings: Settings) -> str:
    """The address of the database that settings name."""
    return settings.database_url or sqlite_url(settings.data / "jobs.sqlite")


def reach(settings: Settings) -> sa.Engine:
    """Open a database that another process has just opened with `connect`."""
    return _engine(database_url(settings))


def connect(url: str) -> sa.Engine:
    """Open a database, making its tables where it is new, and those of an older program anew.

    Args:
        url: sqlite:///… or postgresql://….

    Raises:
        StorageError: it is damaged, locked, out of reach, or written by a newer program.
    """
    engine = _engine(url)
    try:
        with faults(engine):
            if engine.dialect.name == "sqlite":
                _check_file(engine, Path(engine.url.database or ""))
            migrate(engine, _VERSION, METADATA)
    except StorageError:
        engine.dispose()
        raise
    return engine


def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(_address(url), pool_pre_ping=True, pool_size=10, max_overflow=20)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _pragmas)
    return engine


@contextmanager
def faults(engine: sa.Engine) -> Iterator[None]:
    """Say in one line what is wrong with a database.

    Raises StorageError for whatever its driver raises, but for values that are there already.
    """
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        where = engine.url.render_as_string(hide_password=True)
        reason = str(error.orig).splitlines() or ["no answer"]
        raise StorageError(f"{where}: {reason[0]}; {_remedy(reason[0])}") from error


def _remedy(reason: str) -> str:
    if "full" in reason:
        return "make room; then it goes on by itself"
    if "connect" in reason:
        return "see that the database server runs and can be reached"
    return REMEDY


def _address(url: str) -> sa.URL:
    try:
        address = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise StorageError("database_url is no address of a database; expected postgresql://…") from error
    if address.get_backend_name() == "postgresql":
        return address.set(drivername="postgresql+psycopg")
    if address.get_backend_name() != "sqlite":
        raise StorageError(f"{address.drivername} is no database for the queue; use postgresql://…")
    return address


def _check_file(engine: sa.Engine, path: Path) -> None:
    """See that an SQLite file is whole; a new one appears complete."""
    if not path.exists():
        if path.with_name(path.name + "-wal").exists():
            raise StorageError(f"{path} is gone, but what was written last is in {path.name}-wal; {REMEDY}")
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        with closing(sqlite3.connect(part)) as db:
            db.execute("pragma journal_mode=WAL")
        os.replace(part, path)
    if not path.stat().st_size:
        raise StorageError(f"{path} is empty; bring it back from a copy, or delete it to begin anew")
    with engine.connect() as db:
        answer = db.scalar(sa.text("pragma quick_check(1)"))
        if answer != "ok":
            raise StorageError(f"{path} is damaged: {' '.join(str(answer).split())}; {REMEDY}")


def _pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={BUSY}", "journal_mode=WAL", "synchronous=FULL"):
        cursor.execute(f"pragma {pragma}")
    cursor.close()
