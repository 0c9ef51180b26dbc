"""A server around an engine with the tiny checkpoint, once for all tests of a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from sfumato.app.engine import Engine
from sfumato.app.jobs import Job
from sfumato.app.settings import Settings
from sfumato.server.app import create_app
from sfumato.types import Request


class Fleeting(Engine):
    """Takes everything in and cancels it: pictures of any size and number would take for ever."""

    def submit(self, request: Request, **given: Any) -> Job:
        """Take in, and cancel."""
        return self.cancel(super().submit(request, **given).id)


def settings_in(folder: Path, models: Path) -> Settings:
    (folder / "styles.csv").write_text('name,prompt,negative_prompt\nred,"{prompt}, red",grey\n', "utf-8")
    return Settings(
        data=folder / "data",
        outputs=folder / "outputs",
        models=models,
        styles=folder / "styles.csv",
        checkpoint="tiny",
        device="cpu",
        dtype="float32",
    )


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Engine]:
    with Engine(settings_in(tmp_path_factory.mktemp("server"), tiny_checkpoint.parent)) as engine:
        yield engine


@pytest.fixture(scope="module")
def fleeting(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Engine]:
    with Fleeting(settings_in(tmp_path_factory.mktemp("fleeting"), tiny_checkpoint.parent)) as engine:
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
