"""A PostgreSQL of the tests' own, where the machine has its programs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks import postgresql
from sfumato.app.gallery import Gallery
from sfumato.app.settings import Settings
from sfumato.app.storage import connect, sqlite_url


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a server without databases."""
    if not postgresql.installed():
        pytest.skip("PostgreSQL is not installed")
    with postgresql.server() as address:
        yield address


@pytest.fixture
def database_url(postgres: str) -> str:
    """The address of an empty database."""
    return postgresql.database(postgres)


@pytest.fixture
def postgres_beside(postgres: str) -> str:
    """The address of another."""
    return postgresql.database(postgres)


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
