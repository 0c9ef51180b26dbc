"""A PostgreSQL of the tests' own, where the machine has its programs."""

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from sfumato.app.gallery import Gallery
from sfumato.app.settings import Settings
from sfumato.app.storage import connect, sqlite_url


def program(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a server without databases; it never runs as root."""
    initdb, pg_ctl = program("initdb"), program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL is not installed")
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="sfumato-pg-"))
    if os.getuid() == 0:
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        switch = {"user": user, "group": pwd.getpwnam(user).pw_gid} if os.getuid() == 0 else {}
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **switch)  # type: ignore[call-overload]

    data = str(folder / "data")
    run(initdb, "-D", data, "-U", "postgres", "--auth=trust", "--no-sync")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=200"
    try:
        run(pg_ctl, "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        yield f"postgresql://postgres@/DATABASE?host={folder}"
    finally:
        run(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def database_url(postgres: str) -> str:
    """The address of an empty database."""
    name = f"d{uuid.uuid4().hex}"
    with psycopg.connect(postgres.replace("DATABASE", "postgres"), autocommit=True) as db:
        db.execute(f"create database {name}".encode())
    return postgres.replace("DATABASE", name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """An empty database of each kind."""
    own = request.param == "sqlite"
    engine = connect(sqlite_url(tmp_path / "own.sqlite") if own else request.getfixturevalue("database_url"))
    yield engine
    engine.dispose()


@pytest.fixture
def gallery(tmp_path: Path, database: sa.Engine) -> Gallery:
    """An empty gallery."""
    (tmp_path / "outputs").mkdir()
    return Gallery(database, tmp_path / "outputs", tmp_path / "thumbnails")


@pytest.fixture
def settings(tmp_path: Path, tiny_checkpoint: Path) -> Settings:
    return Settings(
        data=tmp_path / "data",
        outputs=tmp_path / "outputs",
        models=tiny_checkpoint.parent,
        checkpoint="tiny",
        device="cpu",
        dtype="float32",
    )
