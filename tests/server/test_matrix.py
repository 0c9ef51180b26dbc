"""Every route of the server against everything that should not get in: the list of routes is generated."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from sfumato.app.engine import Engine
from sfumato.server import accounts
from sfumato.server.app import create_app
from sfumato.server.gate import add_guard
from sfumato.server.policy import PUBLIC
from sfumato.types import Canvas, Prompt, Request, Sampling

HOME = "http://192.168.1.5:7860"
PEER = ("192.168.1.77", 50000)
MAX_BODY = 2**18
CANARY = "root:canary"  # in a file that nobody may read, change or remove


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
def lab(fleeting: Engine) -> Lab:
    settings = fleeting.settings.model_copy(update={"rate_limit": 1e6, "max_body": MAX_BODY})
    for name in ("ann", "bob"):
        accounts.change_user(settings.data, name, "user", None)
    tokens = {name: accounts.new_token(settings.data, name) for name in ("ann", "bob")}
    (settings.data.parent / "canary").write_text(CANARY)
    app = create_app(fleeting)
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


CHANGING = ("POST", "PUT", "PATCH", "DELETE")


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
    "text": b'"x"',
    "doubled": b'{"steps": 1, "steps": 0, "id": "a", "id": "b"}',
    "many keys": json.dumps({f"k{n}": n for n in range(20_000)})[:MAX_BODY].encode(),
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
SIMPLE = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b")  # of forms
COST = 40  # times what refusing one character takes: work on 256 KiB that is not linear takes thousands
GROWTH = (
    64 * 2**20
)  # bytes: each route may hold a body of 256 KiB once, and the allocator is slow to give back


@pytest.fixture(scope="module")
def plain(lab: Lab) -> float:
    """Seconds of this process that it takes to refuse a character everywhere."""
    client, began = lab.client(lab.tokens["ann"]), time.process_time()
    for method, path in private(lab):
        if method in CHANGING:
            ask(client, method, path, content=b"{", headers={"Content-Type": "application/json"})
    return time.process_time() - began


@pytest.mark.parametrize(
    ("kind", "content"),
    [(kind, "application/json") for kind in BODIES]
    + [(kind, content) for kind in ("oversize", "traversal", "bytes") for content in SIMPLE],
)
def test_bodies_that_make_no_sense_are_answered_in_words(
    lab: Lab, plain: float, kind: str, content: str
) -> None:
    client = lab.client(lab.tokens["ann"])
    before, memory, began = files(lab), psutil.Process().memory_info().rss, time.process_time()
    for method, path in private(lab):
        if method in CHANGING:
            status = ask(client, method, path, content=BODIES[kind], headers={"Content-Type": content})
            assert status in ALLOWED, (method, path, status)
            if kind == "oversize":
                assert status == 413
    assert time.process_time() - began < COST * plain
    assert psutil.Process().memory_info().rss - memory < GROWTH
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
        "a" * 1000,
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
    before = files(lab)
    for method, path in lab.routes:
        if method != "WS" and ("{" in path or (method == "GET" and path != "/docs")):
            target = (
                f"{filled(path, value)}?filename={value}&name={value}&page={value}&item={value}&next={value}"
            )
            answer = client.request(method, target)
            assert answer.status_code in ALLOWED, (path, answer.status_code)
            assert "root:" not in answer.text
            assert "location" not in answer.headers
    assert {name for name in files(lab) ^ before if not inside(lab, name)} == set()
    assert (lab.folder / "canary").read_text() == CANARY
    assert client.get("/healthz").status_code == 200


NAMES = (
    *("../canary", "..\\canary", "%2e%2e%2fcanary", "%252e%252e%252fcanary", "....//canary", "../" * 20),
    *("/etc/passwd", "C:\\x", "\\\\?\\C:\\x", "\\\\host\\share", "~/canary", "file:///etc/passwd"),
    *("http://127.0.0.1/x", "x\0.png", "x.png.", "x ", "CON", "NUL.png", "a:b", "x" * 300, "a/" * 2048),
    *("\U0001f600", "e\u0301", "\u00e9", "a\nb", "a\r\nSet-Cookie: x=y", "-rf", ".", "..", ""),
    *(
        "$(touch canary2)",
        "`touch canary2`",
        "; touch canary2",
        "{0.__class__}",
        "%s%n",
        "<lora:../canary:1>",
    ),
)


def texts(document: dict[str, Any], schema: dict[str, Any]) -> bool:
    """Whether a field may be a text, or a list of them."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    kinds = [schema, *schema.get("anyOf", ())]
    return any(
        texts(document, kind["items"]) if kind.get("items") else kind.get("type") == "string"
        for kind in kinds
    )


def fields(lab: Lab) -> Iterator[tuple[str, str, str, bool]]:
    """Every field of a body that takes a text: method, path, name, and whether it takes a list."""
    document = lab.app.openapi()
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            content = told.get("requestBody", {}).get("content", {}).get("application/json", {})
            name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
            for field, schema in (
                document["components"]["schemas"].get(name, {}).get("properties", {}).items()
            ):
                if texts(document, schema):
                    listed = any(each.get("type") == "array" for each in (schema, *schema.get("anyOf", ())))
                    yield method.upper(), path, field, listed


def test_names_in_bodies_lead_nowhere(lab: Lab) -> None:
    """Each field is given some of the names, one after another, and each name to many fields."""
    client, before, turn, seen = lab.client(lab.tokens["ann"]), files(lab), count(), set()
    for method, path, field, listed in fields(lab):
        for _ in range(4):
            name = NAMES[next(turn) % len(NAMES)]
            answer = client.request(method, filled(path), json={field: [name] if listed else name})
            assert answer.status_code in ALLOWED, (path, field, name, answer.text)
            assert "root:" not in answer.text, (path, field, name)
            assert "x=y" not in answer.headers.get("set-cookie", "")
            seen.add(field)
    assert {"prompt", "init_images", "sampler_name", "styles", "id_task", "image", "folder", "mask"} <= seen
    assert {each for each in files(lab) ^ before if not inside(lab, each)} == set()
    assert (lab.folder / "canary").read_text() == CANARY


@pytest.mark.parametrize("value", ["%00", "a%00.png", "a%0d%0aX:%20y", "%0a"])
def test_control_characters_in_paths_are_refused_everywhere(lab: Lab, value: str) -> None:
    client = lab.client(lab.tokens["ann"])
    for method, path in lab.routes:
        if "{" in path and method != "WS":
            target = filled(path, value)
            assert ask(client, method, target) == 400, (method, path)


def test_what_one_user_has_is_not_there_for_the_other(lab: Lab) -> None:
    body = {"request": {"canvas": {"width": 32, "height": 32}, "sampling": {"steps": 1}}}
    job = lab.client(lab.tokens["ann"]).post("/api/v1/jobs", json=body).json()["id"]
    other = lab.client(lab.tokens["bob"])
    for method, path in lab.routes:
        if "{job_id}" in path:
            assert ask(other, method, filled(path, job)) in (403, 404), (method, path)
    for path in ("/sdapi/v1/progress", "/internal/pending-tasks", "/api/v1/jobs"):
        assert job not in other.get(path).text


def test_a_page_elsewhere_changes_nothing_with_a_persons_cookie(lab: Lab, fleeting: Engine) -> None:
    """Neither a form, nor a script without an answer, nor a picture's address, whatever headers are sent."""
    client = lab.client()
    login = {"name": "", "password": lab.tokens["ann"]}
    assert client.post("/login", json=login, headers={"Origin": HOME}).status_code == 200
    assert client.get("/sdapi/v1/options").status_code == 200  # the cookie is one

    def state() -> Any:
        jobs = len(fleeting.jobs(owner="ann", limit=1000))
        return jobs, client.get("/sdapi/v1/options").json(), fleeting.space.used("ann")

    before = state()
    bodies = (b'{"sd_model_checkpoint": "x", "steps": 1}', b'{"a": "', b"--b--")
    for headers in (
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        for content, body in zip(SIMPLE, bodies, strict=True):
            for method, path in private(lab):
                if method in CHANGING:
                    given = {"Content-Type": content, **headers}
                    assert ask(client, method, path, content=body, headers=given) in (401, 403), (
                        method,
                        path,
                    )
    picture = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    for method, path in private(lab):
        if method == "GET":
            assert ask(client, method, path, headers=picture) == 403, path
    assert state() == before


def test_what_a_client_wrote_is_never_a_page(lab: Lab, fleeting: Engine) -> None:
    script = "<script>alert(1)</script><svg onload=alert(2)>"
    request = Request(
        prompt=Prompt(text=script, negative=script),
        sampling=Sampling(steps=1),
        canvas=Canvas(width=32, height=32),
    )
    made = Engine.submit(fleeting, request, owner="ann")
    assert fleeting.wait(made.id, 60).state == "done"
    client, told = lab.client(lab.tokens["ann"]), 0
    found = client.get("/api/v1/gallery", params={"job": made.id}).json()["pictures"][0]["id"]
    for method, path in lab.routes:
        if method != "GET":
            continue
        for name in (made.id, found, "%3Cscript%3Ealert(1)%3C%2Fscript%3E"):
            answer = client.get(
                filled(path, name), params={"filename": script, "item": script, "page": script}
            )
            kind = answer.headers.get("content-type", "").partition(";")[0]
            assert answer.headers["x-content-type-options"] == "nosniff"
            if kind == "text/html":
                assert path in ("/docs", "/login")
                assert "alert(" not in answer.text
                assert "'unsafe-inline'" not in re.sub("style-src[^;]*", "", policy_of(answer))
            else:
                assert kind in INERT, (path, kind)
                assert "sandbox" in policy_of(answer)
                told += "alert(" in answer.text
    assert told > 3  # jobs, pictures, export …: it is there, as data


INERT = {"", "application/json", "text/plain", "text/csv", "text/event-stream", "application/x-ndjson"} | {
    f"image/{kind}" for kind in ("png", "jpeg", "webp", "gif")
}


def policy_of(answer: Any) -> str:
    return str(answer.headers["content-security-policy"])


def files(lab: Lab) -> set[str]:
    """Everything below the server's folder, and below where it stands."""
    return {str(each) for root in (lab.folder, Path.cwd() / "src") for each in root.rglob("*")}


def inside(lab: Lab, name: str) -> bool:
    return any(Path(name).is_relative_to(lab.folder / each) for each in ("data", "outputs"))
