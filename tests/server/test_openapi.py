"""Whatever the OpenAPI document allows, and near misses of it: no answer is the server's own failure."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from starlette.testclient import TestClient

from sfumato.app.engine import Engine
from sfumato.server.app import create_app

EXAMPLES = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)
def test_nothing_a_client_can_send_is_a_failure_of_the_server(fleeting: Engine) -> None:
    app = create_app(fleeting)
    document = schemathesis.openapi.from_asgi("/openapi.json", app)
    seen = 0
    for found in document.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @EXAMPLES
            @given(case=operation.as_strategy(generation_mode=mode))
            def answered(case: schemathesis.Case) -> None:
                answer = case.call()
                assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text}"

            with suppress(Unsatisfiable):  # a route that takes nothing cannot be given anything wrong
                answered()
        seen += 1
    assert seen > 40


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("", "application/json"),
        ("null", "application/json"),
        ("[]", "application/json"),
        ('"x"', "application/json"),
        ("{", "application/json"),
        ('{"steps": 1} x', "application/json"),
        ('{"denoising_strength": NaN}', "application/json"),
        ('{"cfg_scale": 1e400}', "application/json"),
        ('{"script_args": [NaN], "script_name": "none", "width": 7}', "application/json"),
        ('{"comments": {"x": Infinity}, "steps": 0}', "application/json"),
        ("[" * 100_000, "application/json"),
        ('{"prompt": "' + "(" * 100_000 + '", "steps": 0}', "application/json"),
        ("a=b", "application/x-www-form-urlencoded"),
        ("\xff\xfe", "application/json"),
        ("{}", "text/plain"),
    ],
)
def test_bodies_that_are_none_are_refused(fleeting: Engine, body: str, kind: str) -> None:
    client = TestClient(create_app(fleeting), raise_server_exceptions=False)
    answer = client.post("/sdapi/v1/txt2img", content=body.encode("latin-1"), headers={"Content-Type": kind})
    assert answer.status_code in (400, 422), answer.text
    assert set(answer.json()) == {"error", "detail", "body", "errors", "code", "request_id"}


def test_numbers_json_has_not_come_back_as_null(fleeting: Engine) -> None:
    client = TestClient(create_app(fleeting), raise_server_exceptions=False)
    body = '{"comments": {"x": NaN, "y": [Infinity]}, "prompt": "half \\ud83d", "width": 32, "height": 32}'
    answer = client.post("/sdapi/v1/txt2img", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["parameters"]["comments"] == {"x": None, "y": [None]}


def open_texts(document: Any, schema: Any, place: str) -> Iterator[str]:
    """Where a body may hold a text of any length."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for each in (*schema.get("anyOf", ()), *(schema[key] for key in ("items",) if key in schema)):
        yield from open_texts(document, each, place)
    for name, each in schema.get("properties", {}).items():
        yield from open_texts(document, each, f"{place} {name}")
    if schema.get("type") == "string" and not {"maxLength", "enum", "const", "pattern"} & set(schema):
        yield place


def test_every_text_of_a_body_has_a_greatest_length(fleeting: Engine) -> None:
    document, bodies = create_app(fleeting).openapi(), 0
    found: list[str] = []
    for path, methods in document["paths"].items():
        for told in methods.values():
            for content in told.get("requestBody", {}).get("content", {}).values():
                found += open_texts(document, content.get("schema", {}), path)
                bodies += 1
    assert bodies > 15
    assert found == []


@pytest.mark.parametrize("field", ["override_settings", "script_args", "alwayson_scripts", "comments"])
@pytest.mark.parametrize("kind", ["long", "many", "deep"])
def test_fields_that_may_hold_anything_hold_so_much_and_no_more(
    fleeting: Engine, field: str, kind: str
) -> None:
    value = {
        "long": '"' + "x" * 2**20 + '"',
        "many": "[" + "1," * 2**19 + "1]",
        "deep": "[" * 900 + "1" + "]" * 900,
    }[kind]
    body = f'{{"{field}": ' + (f"[{value}]" if field == "script_args" else f'{{"x": {value}}}') + "}"
    with TestClient(create_app(fleeting), raise_server_exceptions=False) as client:
        for route in ("txt2img", "img2img"):
            headers = {"Content-Type": "application/json"}
            answer = client.post(f"/sdapi/v1/{route}", content=body, headers=headers)
            if kind == "deep":
                assert answer.status_code < 500, answer.text
            else:
                assert answer.status_code == 422, answer.text
                assert "at most" in answer.json()["detail"]
