"""A database of an older program becomes one of this program, step by step, and loses nothing."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from sfumato.app import migrations, storage
from sfumato.app.codec import Inputs
from sfumato.app.database import JobTable
from sfumato.app.storage import METADATA, connect, sqlite_url
from sfumato.errors import StorageError

# As the first program wrote it. Never to be changed.
VERSION_1 = """
create table sfumato_schema (version integer not null primary key);
insert into sfumato_schema values (1);
create table sfumato_jobs (
    number NUMBER, id varchar(64) not null unique, owner varchar(200) not null, kind varchar(64) not null,
    key varchar(200), request text not null, script text, priority integer not null, turn bigint not null,
    units float not null, state varchar(16) not null, wish varchar(16), worker varchar(100),
    attempts integer not null, created float not null, started float, finished float, seconds float,
    made text not null, fault text, timings text not null, unique (owner, key)
);
create index sfumato_jobs_owner on sfumato_jobs (owner, number);
create index sfumato_jobs_order on sfumato_jobs (state, priority desc, turn, number, units);
create index sfumato_jobs_turn on sfumato_jobs (state, turn);
create index sfumato_jobs_state on sfumato_jobs (state, number);
insert into sfumato_jobs
    (number, id, owner, kind, request, priority, turn, units, state, attempts, created, made, timings) values
    (1, 'old', 'me', 'txt2img', '{"prompt": {"text": "a cat"}}', 0, 1, 1.0, 'queued', 0, 1e9, '[]', '{}');
"""
NUMBER = {"sqlite": "integer not null primary key autoincrement", "postgresql": "bigserial primary key"}


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database of version 1."""
    kind = request.param
    url = (
        sqlite_url(tmp_path / "jobs.sqlite") if kind == "sqlite" else request.getfixturevalue("database_url")
    )
    engine = sa.create_engine(storage._address(url))
    with engine.begin() as db:
        for statement in VERSION_1.replace("NUMBER", NUMBER[kind]).split(";"):
            if statement.strip():
                db.exec_driver_sql(statement)
    engine.dispose()
    return str(url)


def version(engine: sa.Engine) -> int:
    with engine.connect() as db:
        return int(db.exec_driver_sql("select max(version) from sfumato_schema").scalar_one())


def shape(engine: sa.Engine) -> dict[str, Any]:
    """Names, types and nullability of all columns, and all indexes with their columns."""
    look = sa.inspect(engine)
    columns = {
        table: {each["name"]: (str(each["type"]), each["nullable"]) for each in look.get_columns(table)}
        for table in METADATA.tables
    }
    indexes = {
        each["name"]: each["column_names"]
        for table in METADATA.tables
        for each in look.get_indexes(table)
        if "duplicates_constraint" not in each
    }
    return columns | indexes


def test_an_old_database_gets_the_tables_of_a_new_one_and_keeps_its_jobs(
    old: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    new = sqlite_url(tmp_path / "new.sqlite") if old.startswith("sqlite") else None
    with_new = connect(new or request.getfixturevalue("postgres_beside"))
    for _ in range(2):  # the second time there is nothing to do
        engine = connect(old)
        assert shape(engine) == shape(with_new)
        assert version(engine) == version(with_new) == 1 + len(migrations.STEPS)
        job = JobTable(engine, Inputs(tmp_path / "inputs")).get("old")
        assert (job.request.prompt.text, job.interrupted) == ("a cat", False)
        engine.dispose()
    with_new.dispose()


def test_an_sqlite_file_is_copied_before_a_step(old: str, tmp_path: Path) -> None:
    connect(old).dispose()
    copies = sorted(path.name for path in tmp_path.iterdir() if "version" in path.name)
    if not old.startswith("sqlite"):
        assert copies == []
        return
    assert copies == ["jobs.sqlite.version-1"]
    with closing(sqlite3.connect(tmp_path / copies[0])) as db:
        assert db.execute("select version from sfumato_schema").fetchall() == [(1,)]
        assert db.execute("select id from sfumato_jobs").fetchall() == [("old",)]


def test_a_step_that_fails_leaves_nothing_behind_and_is_taken_again(
    old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adds(name: str) -> Callable[[sa.Connection], None]:
        return lambda db: migrations._add_column(db, "sfumato_jobs", name, "integer")

    def breaks(db: sa.Connection) -> None:
        adds("third")(db)
        db.exec_driver_sql("insert into sfumato_jobs (nothing) values (1)")

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "STEPS", (*migrations.STEPS, adds("second"), breaks))
        with pytest.raises(StorageError):
            connect(old)
    engine = storage._engine(old)
    assert version(engine) == 2 + len(migrations.STEPS)
    names = {each["name"] for each in sa.inspect(engine).get_columns("sfumato_jobs")}
    assert "second" in names
    assert "third" not in names
    engine.dispose()
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, adds("second"), adds("third")))
    engine = connect(old)
    assert "third" in {each["name"] for each in sa.inspect(engine).get_columns("sfumato_jobs")}
    engine.dispose()


def test_without_room_for_the_copy_no_step_is_taken(old: str, tmp_path: Path) -> None:
    if not old.startswith("sqlite"):
        pytest.skip("a server's database is copied by who keeps the server")
    (tmp_path / "jobs.sqlite.version-1").mkdir()  # in the way
    before = (tmp_path / "jobs.sqlite").read_bytes()
    with pytest.raises(StorageError, match="cannot be copied"):
        connect(old)
    assert not list(tmp_path.glob(".*.part"))
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as db:
        assert db.execute("select version from sfumato_schema").fetchall() == [(1,)]
    assert len(before) == (tmp_path / "jobs.sqlite").stat().st_size
