"""A server around an engine with the tiny checkpoint, once for all tests of a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

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
    app = create_app(engine)
    app.add_middleware(Owners)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


class Owners:
    """Stands for the guard: says who asks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            owner = dict(scope["headers"]).get(b"x-test-owner", b"local").decode()
            scope.setdefault("state", {})["owner"] = owner
        await self._app(scope, receive, send)
