"""Whatever is refused: a code that programs go by, the request's number, and the shape its clients expect."""

import ast
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import sfumato.errors
from sfumato.app.engine import Engine
from sfumato.app.outcome import fault_of
from sfumato.errors import QueueFullError, SfumatoError
from sfumato.server.app import create_app
from sfumato.server.gate import add_guard
from sfumato.server.problems import STATUSES, retry_after

SOURCE = Path(__file__).parents[2] / "src" / "sfumato"
OPENAI = "/v1/images/generations"
CASES: dict[str, tuple[int, str, dict[str, Any]]] = {
    "a name that is not the server's": (403, "/api/v1/jobs", {"headers": {"Host": "evil.example"}}),
    "a page elsewhere": (403, "/api/v1/jobs", {"headers": {"Origin": "https://evil.example"}}),
    "no such route": (404, "/nothing", {}),
    "no such route of OpenAI's": (404, "/v1/nothing", {}),
    "a method that it has not": (405, "/internal/ping", {"method": "POST"}),
    "no such job": (404, "/api/v1/jobs/none", {}),
    "no such picture": (404, "/api/v1/gallery/none", {}),
    "a field of another form": (422, "/api/v1/jobs?limit=x", {}),
    "a value out of range": (422, "/sdapi/v1/txt2img", {"method": "POST", "json": {"steps": -1}}),
    "OpenAI's, a field missing": (422, OPENAI, {"method": "POST", "json": {}}),
    "OpenAI's, no such size": (422, OPENAI, {"method": "POST", "json": {"prompt": "a", "size": "x"}}),
    "OpenAI's, no such model": (404, OPENAI, {"method": "POST", "json": {"prompt": "a", "model": "none"}}),
}


@pytest.fixture(scope="module")
def guarded(engine: Engine) -> TestClient:
    app = create_app(engine)
    add_guard(app, engine.settings, "127.0.0.1")
    return TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 5000))


@pytest.mark.parametrize("case", CASES)
def test_every_error_has_a_code_and_the_requests_number(guarded: TestClient, case: str) -> None:
    status, path, call = CASES[case]
    number = {"X-Request-ID": "abcdefgh-1"}
    headers = {**number, **call.get("headers", {})}
    answer = guarded.request(call.get("method", "GET"), path, json=call.get("json"), headers=headers)
    assert answer.status_code == status, answer.text
    told = answer.json()
    if path.startswith("/v1/"):
        assert set(told) == {"error"}
        told = told["error"]
        assert set(told) == {"message", "type", "param", "code", "request_id"}
    else:
        assert set(told) == {"error", "detail", "body", "errors", "code", "request_id"}
    assert told["code"] in STATUSES
    assert told["request_id"] == answer.headers["X-Request-ID"] == number["X-Request-ID"]


def test_every_error_of_ours_has_a_row() -> None:
    for error in vars(sfumato.errors).values():
        if isinstance(error, type) and issubclass(error, SfumatoError):
            made = error("x", 1) if issubclass(error, QueueFullError) else error("x")
            assert fault_of(made).code in STATUSES


def test_every_code_of_the_guard_and_of_jobs_has_a_row() -> None:
    """Codes that stand in the source, of which no test meets each."""
    found = set()
    for path in (*SOURCE.glob("server/*.py"), *SOURCE.glob("app/*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "RefusedError":
                found.add(ast.literal_eval(node.args[1]))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Fault":
                codes = [each.value for each in node.keywords if each.arg == "code"]
                found |= {each.value for each in codes if isinstance(each, ast.Constant)}
    assert {"host", "rate", "crashed", "timeout"} <= found <= set(STATUSES)


def test_seconds_until_it_is_worth_coming_back_are_rounded_up() -> None:
    waits = {0.0: "1", 0.2: "1", 1.0: "1", 1.1: "2", 60: "60"}
    assert {seconds: retry_after(seconds)["Retry-After"] for seconds in waits} == waits


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_json_that_is_not_announced_is_answered_with_what_to_send(
    guarded: TestClient, kind: str | None
) -> None:
    for path in ("/sdapi/v1/txt2img", "/api/v1/jobs"):
        headers = {} if kind is None else {"Content-Type": kind}
        answer = guarded.post(path, content=b'{"prompt": "a"}', headers=headers)
        assert answer.status_code == 422
        assert "Content-Type: application/json" in answer.json()["detail"]
