"""The way to Gradio: a page, its files, its events, uploads. Every other of its routes is shut.

    /                      the page, with the hashes of its scripts in its policy
    /ui/now                what happens to the visitor's job
    /ui/words              names of the signs on small buttons, and what our scripts say
    /ui/queue              the visitor's jobs
    /ui/pulls              downloads of models, for who may begin some
    /ui/cards              what can be called by name in a prompt, a page of it
    /ui/cards/picture      the picture of one
    /ui/map, /ui/walk      the map of the visitor's pictures, the frames of their walk
    /ui/gallery            words of the gallery, and whether the visitor may import folders
    /ui/static/<file>      our scripts and style sheets
    /gradio_api/…          events and uploads, as far as the page needs them

What a client sends may name files of the upload folder and no others, and no addresses.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from html import escape
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, unquote

from sfumato.app.engine import Engine
from sfumato.ui import cards, lists
from sfumato.ui.latent_space import map_told, walk_told
from sfumato.ui.live import now
from sfumato.ui.site import Visit, visit_in
from sfumato.ui.strings import words_below
from sfumato.ui.tabs import gallery

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FILES: Mapping[str, str] = MappingProxyType(  # ours, in the order in which the page loads them
    {
        "page.css": "text/css",
        "closer.css": "text/css",
        "gallery.css": "text/css",
        "page.js": "text/javascript",
        "refusals.js": "text/javascript",
        "cards.js": "text/javascript",
        "zoom.js": "text/javascript",
        "latent.js": "text/javascript",
        "rows.js": "text/javascript",
        "gallery_grid.js": "text/javascript",
        "gallery_view.js": "text/javascript",
        "gallery.js": "text/javascript",
    }
)
TOLD: Mapping[str, Callable[[Engine, Visit, Mapping[str, str]], dict[str, Any]]] = MappingProxyType(
    {  # as JSON, by the address
        "/ui/cards": cards.page,
        "/ui/gallery": lambda engine, visit, query: gallery.told(visit),
        "/ui/map": lambda engine, visit, query: map_told(engine, visit, query.get("by", "")),
        "/ui/walk": lambda engine, visit, query: walk_told(engine, visit),
        "/ui/queue": lambda engine, visit, query: lists.jobs(engine, visit),
        "/ui/pulls": lambda engine, visit, query: lists.pulls(engine, visit),
    }
)
OPEN: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("GET", re.compile(r"/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?")),
    ("GET", re.compile(r"/(assets|static)(/[\w-][\w.-]*)+")),
    ("GET", re.compile(r"/gradio_api/(startup-events|upload_progress|queue/data)")),
    ("GET", re.compile(r"/gradio_api/heartbeat/[\w-]+")),
    ("GET", re.compile(r"/gradio_api/file=.+")),
    ("POST", re.compile(r"/gradio_api/(upload|reset|component_server)/?")),
    ("POST", re.compile(r"/gradio_api/(queue/join|run/predict|cancel)/?")),
)
JSON_BODIES = re.compile(r"/gradio_api/(queue/join|run/predict|cancel|reset|component_server)/?")
SESSIONS = 10_000  # that are remembered
_OURS = re.compile(r"api/v1/pictures/\w+/-?\d+")  # an address that a gallery shows; no file
_SCRIPT = re.compile(rb"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.DOTALL)
_CARD = re.compile(rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>', re.DOTALL)
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval' {hashes}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; object-src 'none'; frame-ancestors 'none'; base-uri 'self'; "
    "form-action 'self'"
)


class Shut(Exception):  # noqa: N818 - no error of ours: a door
    """There is nothing here for this client."""


class Doors:
    """Lets through to Gradio what the page needs, and answers the rest itself."""

    def __init__(self, inner: App, engine: Engine, uploads: Path, otherwise: App) -> None:
        """Stand before Gradio.

        Args:
            inner: Gradio's application.
            engine: whose jobs are shown.
            uploads: the folder that what a client sends may name files of.
            otherwise: answers where there is nothing.
        """
        self._inner, self._engine, self._otherwise = inner, engine, otherwise
        self._uploads = Path(uploads).resolve()
        self._sessions: OrderedDict[str, str] = OrderedDict()  # their owners
        files = resources.files("sfumato.ui").joinpath("static")
        self._files = {name: files.joinpath(name).read_bytes() for name in FILES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._otherwise(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        visit = visit_in(scope.get("state", {}), headers.get("accept-language", ""))
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        try:
            if path == "/" and method == "GET":
                await self._page(scope, receive, send, visit)
            elif path.startswith("/ui/") and method == "GET":
                await self._own(path, _query(scope), visit, send)
            elif any(method == verb and pattern.fullmatch(path) for verb, pattern in OPEN):
                await self._pass(scope, receive, send, path, visit)
            else:
                raise Shut
        except Shut:
            await self._otherwise(scope, receive, send)

    async def _own(self, path: str, query: Mapping[str, str], visit: Visit, send: Send) -> None:
        name = path.removeprefix("/ui/static/")
        if name in FILES:
            await _answer(send, self._files[name], FILES[name], cache="private, max-age=31536000, immutable")
        elif path == "/ui/now":
            seen = query.get("preview", "")
            told = await asyncio.to_thread(
                now, self._engine, visit, query.get("tab", "")[:20], int(seen) if seen.isdecimal() else 0
            )
            await _answer(send, json.dumps(told).encode("ascii"), "application/json")
        elif path in TOLD:
            told = await asyncio.to_thread(TOLD[path], self._engine, visit, query)
            await _answer(send, json.dumps(told).encode("ascii"), "application/json")
        elif path == "/ui/cards/picture":
            picture = await asyncio.to_thread(cards.picture, self._engine, query)
            if picture is None:
                raise Shut
            await _answer(send, picture, "image/webp", cache="private, max-age=31536000, immutable")
        elif path == "/ui/words":
            words = words_below(visit.language, "tool", "say.page")
            await _answer(send, json.dumps(words).encode("ascii"), "application/json")
        else:
            raise Shut

    async def _page(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        """Gradio's page, in the visitor's language, with our files, and a policy for exactly its scripts."""
        plain = {**scope, "headers": [row for row in scope["headers"] if row[0] != b"accept-encoding"]}
        collected = Collected()
        await self._inner(plain, receive, collected)
        if collected.status != 200:
            raise Shut
        body = self._dressed(collected.body, visit)
        hashes = " ".join(f"'sha256-{_hash(found)}'" for found in _SCRIPT.findall(body))
        await _answer(send, body, "text/html; charset=utf-8", policy=_POLICY.format(hashes=hashes))

    def _dressed(self, page: bytes, visit: Visit) -> bytes:
        page = _CARD.sub(b"", page).replace(
            b'<html\n\tlang="en"', f'<html lang="{visit.language}"'.encode(), 1
        )
        links = [
            f'<link rel="stylesheet" href="{self._address(name)}">'
            if kind == "text/css"
            else f'<script defer src="{self._address(name)}"></script>'
            for name, kind in FILES.items()
        ]
        return page.replace(b"</head>", "".join([*links, "</head>"]).encode(), 1)

    def _address(self, name: str) -> str:
        return escape(f"ui/static/{name}?{_hash(self._files[name])[:12]}")

    async def _pass(self, scope: Scope, receive: Receive, send: Send, path: str, visit: Visit) -> None:
        query = _query(scope)
        if path.startswith("/gradio_api/file="):
            self._check_file(unquote(path.removeprefix("/gradio_api/file=")))
        session = query.get("session_hash") or (path.split("/")[3] if "/heartbeat/" in path else "")
        if JSON_BODIES.fullmatch(path) and not _is_form(scope):
            body = await _body(receive)
            said = _json(body)
            for each in _paths(said):
                self._check_file(each)
            session = str(said.get("session_hash") or "") if isinstance(said, dict) else ""
            receive = _again(body, receive)
        self._check_session(session, visit.owner)
        await self._inner(scope, receive, send)

    def _check_file(self, name: str) -> None:
        """Raises Shut: a name that is not of a file in the upload folder."""
        if "\0" in name or not Path(name).is_absolute():
            raise Shut
        try:
            inside = Path(name).resolve().is_relative_to(self._uploads)
        except OSError:
            inside = False
        if not inside:
            raise Shut

    def _check_session(self, session: str, owner: str) -> None:
        """Raises Shut: a session that is another's."""
        if not session:
            return
        if self._sessions.setdefault(session, owner) != owner:
            raise Shut
        self._sessions.move_to_end(session)
        while len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)


class Collected:
    """An answer, kept."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.status, self.body = 0, b""

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Take a piece of it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")


async def _answer(send: Send, body: bytes, kind: str, *, policy: str = "", cache: str = "") -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    if policy:
        headers.append((b"content-security-policy", policy.encode()))
    if cache:
        headers.append((b"cache-control", cache.encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _query(scope: Scope) -> dict[str, str]:
    given = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return {name: values[-1] for name, values in given.items()}


def _is_form(scope: Scope) -> bool:
    return any(name == b"content-type" and b"multipart/" in value for name, value in scope["headers"])


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, for the next who reads it."""
    read = False

    async def give() -> MutableMapping[str, Any]:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give


def _json(body: bytes) -> Any:
    """Raises Shut: it is none."""
    try:
        return json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Shut from None


def _paths(said: Any) -> Iterator[str]:
    """Every name of a file in what a client says."""
    waiting = [said]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            for name, value in each.items():
                if name == "path" and isinstance(value, str) and not _OURS.fullmatch(value):
                    yield value
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _hash(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode("ascii")
