"""A server around an engine with the tiny checkpoint, once for all tests of a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from sfumato.app.engine import Engine
from sfumato.app.settings import Settings
from sfumato.server.app import create_app


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "styles.csv").write_text('name,prompt,negative_prompt\nred,"{prompt}, red",grey\n', "utf-8")
    settings = Settings(
        data=folder / "data",
        outputs=folder / "outputs",
        models=tiny_checkpoint.parent,
        styles=folder / "styles.csv",
        checkpoint="tiny",
        device="cpu",
        dtype="float32",
    )
    with Engine(settings) as engine:
        yield engine


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(engine), raise_server_exceptions=False) as client:
        yield client
