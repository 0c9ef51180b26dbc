"""The page where a person says who they are, and gets a cookie; whether the server is well."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from sfumato.app.engine import Engine
from sfumato.errors import StorageError
from sfumato.server.accounts import COOKIE, COOKIE_DAYS
from sfumato.server.guard import Guard

SCRIPT = """
const form = document.querySelector("form"), said = document.querySelector("output");
async function enter(body) {
  const answer = await fetch(location.pathname, {method: "POST", body: JSON.stringify(body),
    headers: {"Content-Type": "application/json"}});
  if (answer.ok) location.replace(location.pathname.replace(/login$/, ""));
  else said.textContent = (await answer.json()).detail;
}
form.addEventListener("submit", event => {
  event.preventDefault();
  enter({name: form.elements.name.value, password: form.elements.password.value});
});
if (location.hash.length > 1) {
  const token = location.hash.slice(1);
  history.replaceState(null, "", location.pathname);
  enter({name: "", password: token});
}
"""
PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sfumato</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 22em; margin: 18vh auto; padding: 0 1em;
  color-scheme: light dark }}
label {{ display: block; margin: 1em 0 }}
input, button {{ font: inherit; width: 100%; padding: .5em; box-sizing: border-box }}
output {{ display: block; min-height: 1.5em; margin-top: 1em }}
</style></head><body>
<h1>Sfumato</h1>
<form method="post">
<label>Name <input name="name" autocomplete="username" placeholder="empty with the server's token"></label>
<label>Password or token
<input name="password" type="password" autocomplete="current-password" required></label>
<button>Enter</button>
<output role="alert"></output>
</form>
<script>{SCRIPT}</script>
</body></html>
"""
_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
POLICY = (
    f"default-src 'none'; script-src 'sha256-{_HASH}'; style-src 'unsafe-inline'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
MAX_LOGIN = 4096  # bytes of what the page sends

router = APIRouter()


async def engine_of(request: Request) -> Engine:
    """The engine behind the server."""
    engine: Engine = request.app.state.engine
    return engine


AnEngine = Annotated[Engine, Depends(engine_of)]


@router.get("/login", include_in_schema=False)
def page() -> HTMLResponse:
    """The page."""
    return HTMLResponse(PAGE, headers={"content-security-policy": POLICY})


@router.post("/login", include_in_schema=False)
async def enter(request: Request) -> Response:
    """A cookie for a name and password, or for a token."""
    guard: Guard = request.state.guard
    name, password = _said(await request.body())
    client = request.client.host if request.client else ""
    visitor = guard.accounts.by_token(password) or await guard.password(client, name, password)
    if visitor is None:
        raise HTTPException(401, "this name and password are not known here")
    response = JSONResponse({"owner": visitor.owner, "role": visitor.role})
    response.set_cookie(
        COOKIE,
        guard.accounts.cookie(visitor),
        max_age=COOKIE_DAYS * 86400,
        path=guard.policy.subpath or "/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


@router.post("/logout", include_in_schema=False)
def leave(request: Request) -> Response:
    """Take the cookie away."""
    guard: Guard = request.state.guard
    response = JSONResponse({})
    response.delete_cookie(COOKIE, path=guard.policy.subpath or "/", httponly=True, samesite="strict")
    return response


@router.get("/healthz", include_in_schema=False)
async def alive() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@router.get("/readyz", include_in_schema=False)
def ready(engine: AnEngine) -> JSONResponse:
    """Whether jobs can be taken in."""
    try:
        fine = engine.takes_jobs()
    except StorageError:
        fine = False
    return JSONResponse({"status": "ok" if fine else "unavailable"}, 200 if fine else 503)


@router.get("/metrics", include_in_schema=False)
def metrics(request: Request, engine: AnEngine) -> PlainTextResponse:
    """What is counted, for Prometheus; for admins."""
    if request.state.role != "admin":
        raise HTTPException(403, "for admins only")
    guard: Guard = request.state.guard
    text = guard.metrics.text(engine.counts(), engine.phases(), guard.crowd.total)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _said(body: bytes) -> tuple[str, str]:
    """Name and password of what the page sends. Raises HTTPException: something else was sent."""
    try:
        said: Any = json.loads(body) if len(body) <= MAX_LOGIN else None
        name, password = said["name"], said["password"]
    except (ValueError, TypeError, KeyError, RecursionError):
        name = password = None
    if not isinstance(name, str) or not isinstance(password, str):
        raise HTTPException(422, 'send {"name": …, "password": …}')
    return name, password
