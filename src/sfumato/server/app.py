"""The server: routes around one engine. Nothing here makes pictures; it asks the engine and waits."""

from __future__ import annotations

import time

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfumato import __version__
from sfumato.app.engine import Engine
from sfumato.app.leaving import Leaving
from sfumato.server import api_page, gallery, internal, jobs, login, openai, sdapi, sdapi_lists
from sfumato.server.catalogue import Catalogue
from sfumato.server.desk import Desk
from sfumato.server.errors import SafeJSONResponse, add_handlers
from sfumato.server.feeds import Feeds
from sfumato.server.fetch import Fetcher
from sfumato.server.options import OptionStore
from sfumato.server.progress import Shortcut


def create_app(engine: Engine, leaving: Leaving | None = None) -> FastAPI:
    """The server of an engine that is started and closed by whoever made it.

    Args:
        engine: what makes the pictures.
        leaving: tells when the server is about to stop; None = it never is.

    Raises:
        OutputError: the file of settings in its data folder is damaged.
    """
    app = FastAPI(
        title="Sfumato",
        version=__version__,
        default_response_class=SafeJSONResponse,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    leaving = leaving or Leaving()
    app.state.engine = engine
    app.state.feeds = Feeds(engine, leaving)
    app.state.desk = Desk(
        engine=engine,
        options=OptionStore(engine.settings.data / "options.json"),
        catalogue=Catalogue(engine.shelf),
        leaving=leaving,
        fetch=Fetcher().picture if engine.settings.fetch_urls else None,
    )
    add_handlers(app, engine.settings)
    for each in (sdapi, jobs, api_page, login, gallery, openai, sdapi_lists, internal):  # the busiest first
        app.include_router(each.router)
    app.add_middleware(Shortcut, desk=app.state.desk)
    app.add_middleware(Timed)
    return app


class Timed:
    """Says in every answer how long it took."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, and add a header where the answer begins."""
        began = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                took = f"{time.perf_counter() - began:.4f}".encode("ascii")
                message["headers"] = [*message.get("headers", ()), (b"x-process-time", took)]
            await send(message)

        await self._app(scope, receive, timed if scope["type"] == "http" else send)
