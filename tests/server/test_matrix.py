"""Every route of the server against everything that should not get in: the list of routes is generated."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from sfumato.app.engine import Engine
from sfumato.server import accounts
from sfumato.server.app import create_app
from sfumato.server.gate import add_guard
from sfumato.server.policy import PUBLIC

HOME = "http://192.168.1.5:7860"
PEER = ("192.168.1.77", 50000)
MAX_BODY = 2**18


@dataclass(frozen=True)
class Lab:
    """A server open to the network, its routes, and two users of it."""

    app: FastAPI
    folder: Path
    routes: tuple[tuple[str, str], ...]  # method and path
    tokens: dict[str, str]

    def client(self, token: str | None = None, **headers: str) -> TestClient:
        given = {"Authorization": f"Bearer {token}"} if token else {}
        return TestClient(
            self.app,
            base_url=HOME,
            client=PEER,
            headers={**given, **headers},
            raise_server_exceptions=False,
            follow_redirects=False,
        )


def routes_of(routes: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every method and path, those that the OpenAPI document leaves out, too."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from routes_of(route.original_router.routes, prefix)
        elif methods := getattr(route, "methods", None):
            yield from ((method, prefix + route.path) for method in sorted(methods))
        else:
            yield "WS", prefix + route.path


@pytest.fixture(scope="module")
def lab(engine: Engine) -> Lab:
    settings = engine.settings.model_copy(update={"rate_limit": 1e6, "max_body": MAX_BODY})
    for name in ("ann", "bob"):
        accounts.change_user(settings.data, name, "user", None)
    tokens = {name: accounts.new_token(settings.data, name) for name in ("ann", "bob")}
    app = create_app(engine)
    add_guard(app, settings, "0.0.0.0")
    return Lab(app, settings.data.parent, tuple(routes_of(app.routes)), tokens)


def filled(path: str, value: str = "x") -> str:
    """A path with something in place of its parameters."""
    return re.sub(r"{index[^}]*}", "0", re.sub(r"{(?!index)[^}]*}", value, path))


def ask(client: TestClient, method: str, path: str, **given: Any) -> int:
    """The status of a request or, as 403, of a socket that is refused."""
    if method != "WS":
        answer = client.request(method, path, **given)
        assert not re.search(r'Traceback|File "|/root/|/tmp/|/home/|\.py\b', answer.text), answer.text
        assert answer.headers["x-request-id"]
        return answer.status_code
    try:
        with client.websocket_connect("ws" + HOME.removeprefix("http") + path, headers=dict(client.headers)):
            return 101
    except WebSocketDisconnect:
        return 403


def private(lab: Lab) -> list[tuple[str, str]]:
    return [(method, filled(path)) for method, path in lab.routes if path not in PUBLIC]


def test_the_list_is_the_whole_server(lab: Lab) -> None:
    paths = {path for _, path in lab.routes}
    assert {"/sdapi/v1/txt2img", "/api/v1/jobs/{job_id}/events", "/v1/images/edits", "/metrics"} <= paths
    assert set(lab.app.openapi()["paths"]) <= paths
    for word in ("kill", "restart", "server-stop", "extension-install", "file=", "code"):
        assert not any(word in path for path in paths)


@pytest.mark.parametrize("token", [None, "wrong", "x" * 1000])
def test_without_the_right_token_every_route_is_closed(lab: Lab, token: str | None) -> None:
    client = lab.client(token)
    for method, path in private(lab):
        for each in (path, path + "/", "/" + path, path.upper()):
            assert ask(client, method, each) in ((403,) if method == "WS" else (401,)), (method, each)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "192.168.1.5.evil.example:7860"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
    ids=str,
)
def test_from_another_page_or_by_another_name_every_route_is_closed(
    lab: Lab, headers: dict[str, str]
) -> None:
    """The public ones, too; with the right token, too."""
    for token in (None, lab.tokens["ann"]):
        client = lab.client(token, **headers)
        for method, path in lab.routes:
            assert ask(client, method, filled(path)) == 403, (method, path)


BODIES = {
    "oversize": b"[" + b" " * MAX_BODY + b"]",
    "not json": b"{",
    "nothing": b"",
    "null": b"null",
    "list": b"[]",
    "number": b"5",
    "trailing": b"{} x",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"prompt":' * 20_000 + b"1" + b"}" * 20_000,
    "nan": b'{"prompt": NaN, "steps": Infinity, "cfg_scale": 1e400}',
    "null byte": json.dumps({"prompt": "\0", "image": "\0", "filename": "\0", "id_task": "\0"}).encode(),
    "traversal": json.dumps(
        dict.fromkeys(
            (
                "image",
                "mask",
                "id_task",
                "force_task_id",
                "name",
                "script_name",
                "sampler_name",
                "styles",
                "model",
            ),
            "../../../../etc/passwd",
        )
        | {"init_images": ["/etc/passwd"], "override_settings": {"sd_model_checkpoint": "../../etc/passwd"}}
    ).encode(),
    "bytes": bytes(range(256)),
}
ALLOWED = {200, 201, 202, 204, 400, 403, 404, 405, 409, 413, 415, 422, 429, 501, 503}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("content", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_bodies_that_make_no_sense_are_answered_in_words(lab: Lab, kind: str, content: str) -> None:
    client = lab.client(lab.tokens["ann"])
    before = files(lab)
    for method, path in private(lab):
        if method in ("POST", "PUT", "PATCH", "DELETE"):
            status = ask(client, method, path, content=BODIES[kind], headers={"Content-Type": content})
            assert status in ALLOWED, (method, path, status)
            if kind == "oversize":
                assert status == 413
    assert {name for name in files(lab) - before if not inside(lab, name)} == set()
    assert client.get("/sdapi/v1/samplers").status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e",
        "..%5c..%5cx",
        "%252e%252e%252f",
        "C:%5cx",
        "~",
        "x%20",
        "a" * 4000,
        "%E2%80%AE",
        "%F0%9F%98%80",
        "e%CC%81",
        "-rf",
        "NUL.png",
        "%c0%ae%c0%ae",
        "//evil.example",
        "%5cevil.example",
    ],
)
def test_names_in_paths_and_queries_lead_nowhere(lab: Lab, value: str) -> None:
    client = lab.client(lab.tokens["ann"])
    for method, path in lab.routes:
        if method in ("GET", "HEAD") and ("{" in path or "thumb" in path or "internal" in path):
            target = f"{filled(path, value)}?filename={value}&name={value}&page={value}&item={value}"
            answer = client.request(method, target)
            assert answer.status_code in ALLOWED, (path, answer.status_code)
            assert "root:" not in answer.text
            assert "location" not in answer.headers
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("value", ["%00", "a%00.png", "a%0d%0aX:%20y", "%0a"])
def test_control_characters_in_paths_are_refused_everywhere(lab: Lab, value: str) -> None:
    client = lab.client(lab.tokens["ann"])
    for method, path in lab.routes:
        if "{" in path and method != "WS":
            target = filled(path, value)
            assert ask(client, method, target) == 400, (method, path)


def test_what_one_user_has_is_not_there_for_the_other(lab: Lab, engine: Engine) -> None:
    body = {"request": {"canvas": {"width": 32, "height": 32}, "sampling": {"steps": 1}}}
    job = lab.client(lab.tokens["ann"]).post("/api/v1/jobs", json=body).json()["id"]
    engine.wait(job, 60)
    other = lab.client(lab.tokens["bob"])
    for method, path in lab.routes:
        if "{job_id}" in path:
            assert ask(other, method, filled(path, job)) in (403, 404), (method, path)
    for path in ("/sdapi/v1/progress", "/internal/pending-tasks", "/api/v1/jobs"):
        assert job not in other.get(path).text


def files(lab: Lab) -> set[str]:
    """Everything below the server's folder, and below where it stands."""
    return {str(each) for root in (lab.folder, Path.cwd() / "src") for each in root.rglob("*")}


def inside(lab: Lab, name: str) -> bool:
    return any(Path(name).is_relative_to(lab.folder / each) for each in ("data", "outputs"))
