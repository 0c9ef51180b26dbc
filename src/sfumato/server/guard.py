"""The one layer around every route, page, socket and file: nothing behind it is reached by who may not.

name ─ headers ─ page ─ visitor ─ rate ─┬─ the application ─ headers of safety ─ answer
                                        └─ refused: {error, detail, code, request_id}
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfumato.server.accounts import COOKIE, Accounts, Visitor
from sfumato.server.limits import MAX_TARGET, SLOWEST, Buckets, Crowd, Intake, Load, check_headers
from sfumato.server.metrics import Metrics
from sfumato.server.policy import (
    PUBLIC,
    SAFE_METHODS,
    Policy,
    RefusedError,
    check_page,
    host_name,
    is_trusted,
    knows_host,
)
from sfumato.server.problems import Problem, retry_after

log = logging.getLogger("sfumato.access")
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{8,64}")
NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox"
PAGE = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
SAFETY: Mapping[str, str] = MappingProxyType(
    {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }
)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request as the guard sees it."""

    method: str  # "GET" for a WebSocket, too
    path: str  # below the subpath
    headers: Mapping[str, str]  # by their names in lower case
    client: str  # address
    socketed: bool
    own_page: bool  # whether a page of ours surely sends it


class Guard:
    """Lets requests through to the application, or answers them."""

    def __init__(self, app: ASGIApp, policy: Policy, accounts: Accounts, metrics: Metrics) -> None:
        """Stand before an application.

        Args:
            app: what is guarded.
            policy: what is let in.
            accounts: who there is.
            metrics: counts what passes.
        """
        self.app, self.policy, self.accounts, self.metrics = app, policy, accounts, metrics
        self.crowd = Crowd(policy.connections)
        self.load = Load(policy.max_bodies)
        self._calls = Buckets(policy.rate, 2 * policy.rate)
        self._wrong = Buckets(1 / 6, 10)  # passwords that were not right
        self._hashing = asyncio.Semaphore(2)  # each takes 16 MiB and a core

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or socket."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        answer = Answer(send, scope, request_id, self.policy)
        began = time.perf_counter()
        owner = "-"
        try:
            call = self._read(scope)
            answer.allow(call, self.policy)
            if _is_preflight(call):
                await answer.preflight()
                return
            visitor = await self._visitor(call)
            owner = visitor.owner if visitor else "-"
            key = owner if visitor and owner != "local" else call.client
            self._take(key)
            with self.crowd.inside(key):
                await self._serve(scope, receive, answer, call, visitor)
        except RefusedError as refused:
            await answer.refuse(refused)
        except Exception:  # the outermost handler: whatever nobody foresaw
            log.exception("unforeseen", extra={"request_id": request_id})
            await answer.refuse(RefusedError(500, "internal", "an unforeseen error; the log has its details"))
        finally:
            self._note(scope, answer, owner, time.perf_counter() - began)

    def _read(self, scope: Scope) -> Call:
        """Look at a request. Raises RefusedError: it is malformed, for another name, or from another page."""
        headers = check_headers(scope["headers"], self.policy)
        path = scope["path"]
        if len(path) + len(scope.get("query_string", b"")) > MAX_TARGET:
            raise RefusedError(414, "path", f"path and query are longer than {MAX_TARGET:,} bytes")
        if not path.startswith("/") or any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
            raise RefusedError(400, "path", "the path is not one")
        name = host_name(headers.get("host", ""))
        if name is None:
            raise RefusedError(400, "host", "the header Host is missing or malformed")
        if not knows_host(self.policy, name):
            raise RefusedError(403, "host", "the server is not known by this name; see the setting hosts")
        subpath = self.policy.subpath
        if subpath:
            if path != subpath and not path.startswith(f"{subpath}/"):
                scope["path"] = subpath + path  # the proxy has cut it off
            scope["root_path"] = subpath
            path = scope["path"].removeprefix(subpath) or "/"
        socketed = scope["type"] == "websocket"
        method = "GET" if socketed else scope["method"]
        own = check_page(self.policy, headers, method=method, socketed=socketed)
        client = (scope.get("client") or ("",))[0]
        return Call(method=method, path=path, headers=headers, client=client, socketed=socketed, own_page=own)

    async def _visitor(self, call: Call) -> Visitor | None:
        """Who asks; None = somebody who may see what is public. Raises RefusedError: nobody we know."""
        host = host_name(call.headers["host"]) or ""
        if is_trusted(self.policy, call.headers, call.client, host):
            return Visitor()
        visitor = await self._known(call)
        if visitor is None and call.path not in PUBLIC:
            if "authorization" not in call.headers and _is_page(call):
                raise RefusedError(303, "login", "log in", {"Location": f"{self.policy.subpath}/login"})
            raise RefusedError(
                401, "login", "a token or password is needed", {"WWW-Authenticate": 'Basic realm="sfumato"'}
            )
        return visitor

    async def _known(self, call: Call) -> Visitor | None:
        kind, _, value = call.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self.accounts.by_token(value.strip())
        if kind.lower() == "basic":
            name, password = _basic(value)
            return self.accounts.by_token(password) or await self.password(call.client, name, password)
        changes = call.method not in SAFE_METHODS or call.socketed
        if changes and not call.own_page:
            return None  # a cookie alone may be sent by any page
        return self.accounts.by_cookie(_cookie(call.headers.get("cookie", "")))

    async def password(self, client: str, name: str, password: str) -> Visitor | None:
        """Who has this name and password; None = nobody. Raises RefusedError: too many were wrong."""
        if not name or not password:
            return None
        if self.accounts.is_proved(name, password):
            return self.accounts.by_password(name, password)
        wait = self._wrong.take(client)
        if wait:
            raise RefusedError(429, "login", "too many wrong passwords", retry_after(wait))
        async with self._hashing:
            visitor = await asyncio.to_thread(self.accounts.by_password, name, password)
        if visitor is not None:
            self._wrong.give(client)
        return visitor

    def _take(self, key: str) -> None:
        wait = self._calls.take(key)
        if wait:
            raise RefusedError(429, "rate", "too many requests", retry_after(wait))

    async def _serve(
        self, scope: Scope, receive: Receive, answer: Answer, call: Call, visitor: Visitor | None
    ) -> None:
        state = {
            **scope.get("state", {}),
            "owner": visitor.owner if visitor else "",
            "role": visitor.role if visitor else "",
            "request_id": answer.request_id,
            "guard": self,
        }
        if call.socketed:
            await self.app({**scope, "state": state}, receive, answer)
            return
        intake = Intake(receive, self.policy, self.load)
        answer.intake = intake
        try:
            await self.app({**scope, "state": state}, intake, answer)
        except RefusedError:
            if intake.refusal is None:
                raise
        finally:
            intake.close()
        if intake.refusal is not None:
            await answer.refuse(intake.refusal)

    def _note(self, scope: Scope, answer: Answer, owner: str, seconds: float) -> None:
        method = scope.get("method", "WS")
        self.metrics.request(method, answer.status, seconds)
        log.info(
            "request",
            extra={
                "request_id": answer.request_id,
                "method": method,
                "path": scope["path"][:200],
                "status": answer.status,
                "owner": owner,
                "seconds": round(seconds, 4),
            },
        )


class Answer:
    """Sends an answer, with the headers that every answer has; or the guard's own in its place."""

    def __init__(self, send: Send, scope: Scope, request_id: str, policy: Policy) -> None:
        """Answer one request."""
        self._send, self._scope, self._policy = send, scope, policy
        self._socketed = scope["type"] == "websocket"
        self._origin: str | None = None
        self._begun = False
        self.request_id = request_id
        self.status = 0  # that was sent
        self.intake: Intake | None = None

    def allow(self, call: Call, policy: Policy) -> None:
        """Let a page elsewhere read the answer, if it is one of those that may."""
        origin = call.headers.get("origin")
        if origin is not None and origin.lower() in policy.origins:
            self._origin = origin

    async def __call__(self, message: Message) -> None:
        """Send what the application says. Slow readers are waited for, but not for ever."""
        if self.intake is not None and self.intake.refusal is not None and not self._begun:
            return  # what it makes of half a body is of no interest
        if message["type"] == "http.response.start":
            message = {**message, "headers": self._headers(message.get("headers", []))}
            self._begun, self.status = True, message["status"]
        elif message["type"] == "websocket.accept":
            self._begun, self.status = True, 101
        elif message["type"] == "websocket.close" and not self._begun:
            self.status = 403
        try:
            async with asyncio.timeout(self._policy.patience + len(message.get("body") or b"") / SLOWEST):
                await self._send(message)
        except TimeoutError:
            raise RefusedError(408, "timeout", "the answer was not read in time") from None

    async def refuse(self, refused: RefusedError) -> None:
        """Answer with an error, unless another answer has begun."""
        if self._begun:
            if self._socketed:
                with suppress(RuntimeError):  # it may be closed already
                    await self._send({"type": "websocket.close", "code": 1011})
            return
        self._begun, self.status = True, refused.status
        if self._socketed:
            await self._send({"type": "websocket.close", "code": 1008})
            return
        problem = Problem(
            status=refused.status, code=refused.code, name=type(refused).__name__, detail=refused.detail
        )
        scope = {**self._scope, "state": {"request_id": self.request_id}}
        extra = {**refused.headers, "Content-Type": "application/json"}
        if refused.status in (408, 413):
            extra["Connection"] = "close"
        await self._whole(refused.status, extra, problem.body(scope))

    async def preflight(self) -> None:
        """Answer a browser that asks on behalf of a page whether it may call."""
        self._begun, self.status = True, 204
        allowed = {
            "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
            "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, X-Request-ID",
            "Access-Control-Max-Age": "600",
        }
        await self._whole(204, allowed if self._origin else {}, b"")

    async def _whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        raw.append((b"content-length", str(len(body)).encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": self._headers(raw)})
        await self._send({"type": "http.response.body", "body": body})

    def _headers(self, raw: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        there = {name.lower(): value for name, value in raw}
        html = there.get(b"content-type", b"").startswith(b"text/html")
        extra = {**SAFETY, "content-security-policy": PAGE if html else NOTHING}
        if self._origin is not None:
            extra |= {
                "access-control-allow-origin": self._origin,
                "access-control-allow-credentials": "true",
                "access-control-expose-headers": "Retry-After, X-Request-ID",
                "cross-origin-resource-policy": "cross-origin",
            }
        if self._policy.origins:
            extra["vary"] = "Origin"
        added = [
            (name.encode(), value.encode()) for name, value in extra.items() if name.encode() not in there
        ]
        return [*raw, *added, (b"x-request-id", self.request_id.encode())]


def _is_preflight(call: Call) -> bool:
    return call.method == "OPTIONS" and "access-control-request-method" in call.headers


def _is_page(call: Call) -> bool:
    """Whether a person's browser asks for a page, and not a program for an answer."""
    return call.method == "GET" and not call.socketed and "text/html" in call.headers.get("accept", "")


def _basic(value: str) -> tuple[str, str]:
    """Name and password of an Authorization header (RFC 7617); two empty texts if it has none."""
    try:
        name, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (ValueError, binascii.Error):
        return "", ""
    return name, password


def _cookie(header: str) -> str:
    """Our cookie of a Cookie header; "" if it is not there."""
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""
