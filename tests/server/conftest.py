"""A server around an engine with the tiny checkpoint, once for all tests of a file."""

from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="module")
def fleeting(
    tmp_path_factory: pytest.TempPathFactory, settings_in: Callable[[Path], Settings]
) -> Iterator[Engine]:
    with Fleeting(settings_in(tmp_path_factory.mktemp("fleeting"))) as engine:
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
