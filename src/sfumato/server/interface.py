"""The place of the browser interface behind the API: whatever is no route of ours is the page's.

It is made in the background when the server already answers; until then there is a page that says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack

from fastapi import FastAPI
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sfumato</title>
<meta name="viewport" content="width=device-width">{refresh}<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 30em; margin: 18vh auto; padding: 0 1em;
  color-scheme: light dark }}
</style></head><body><h1>Sfumato</h1><p role="status">{line}</p></body></html>
"""
SOON = PAGE.format(refresh='<meta http-equiv="refresh" content="1">', line="The page is being prepared …")
NEVER = PAGE.format(refresh="", line="The page could not be made; the log has its details. The API answers.")
Make = Callable[[FastAPI, ASGIApp], ASGIApp]  # from a bare application, and what answers otherwise


class Interface:
    """Answers what no route answers."""

    def __init__(self, app: FastAPI, make: Make) -> None:
        """Take the place behind the routes of `app`; `make` is called by `prepare`, in a thread."""
        self._make = make
        self._otherwise = app.router.default
        self._stack = AsyncExitStack()
        self._page: ASGIApp | None = None
        self._meanwhile = SOON
        app.router.default = self

    async def prepare(self) -> None:
        """Make the page."""
        outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
        try:
            page = await asyncio.to_thread(self._make, outer, self._otherwise)
            await self._stack.enter_async_context(outer.router.lifespan_context(outer))
        except Exception:  # the interface's outermost handler: the API goes on without it
            log.exception("the page could not be made")
            self._meanwhile = NEVER
            return
        self._page = page

    async def close(self) -> None:
        """Let go of it."""
        self._page, self._meanwhile = None, SOON
        await self._stack.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the page, or say that it is not there yet."""
        if self._page is not None:
            await self._page(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "GET" and _asks_for_page(scope):
            await HTMLResponse(self._meanwhile, 503, {"Retry-After": "1"})(scope, receive, send)
        else:
            await self._otherwise(scope, receive, send)


def _asks_for_page(scope: Scope) -> bool:
    return bool(scope["path"].removeprefix(scope.get("root_path", "")) in ("", "/"))
