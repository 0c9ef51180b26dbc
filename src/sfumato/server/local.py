"""Closed by default: who may speak to a server that asks for no password.

Such a server listens to this machine alone. Even so any page in a browser can send requests to it, and a name
in the network can be made to point at it. Both show in the headers: a request is answered only if it was sent
to this machine by name, and by no page of another.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from sfumato.errors import RequestError

NAMES = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:]+\]|[^\[\]:/@]+)(:\d{1,5})?")


class OnlyHere:
    """Answers requests that are sent to this machine, and not by a page from elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, or refuse with status 403."""
        if scope["type"] in ("http", "websocket") and (fault := _fault(Headers(scope=scope))):
            if scope["type"] == "websocket":
                await WebSocketClose(code=1008, reason=fault)(scope, receive, send)
                return
            answer = {"error": "Forbidden", "detail": fault, "body": "", "errors": fault}
            await JSONResponse(answer, status_code=403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def require_local(host: str) -> None:
    """Refuse to listen where others could connect. Raises RequestError."""
    if host.strip("[]") not in NAMES:
        raise RequestError(
            f"host={host!r} can be reached from other machines, and this server asks for no password yet; "
            "listen at 127.0.0.1 and let a proxy with a password stand in front"
        )


def _fault(headers: Headers) -> str | None:
    """What speaks against a request; None = nothing."""
    hosts = headers.getlist("host")
    sent = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if sent is None or sent["name"].strip("[]").lower() not in NAMES:
        return "the request was sent to another host than localhost"
    for origin in headers.getlist("origin"):
        if (urlsplit(origin).hostname or "") not in NAMES:
            return "the request comes from a page of another host"
    if headers.get("sec-fetch-site") == "cross-site":
        return "the request comes from a page of another host"
    return None
