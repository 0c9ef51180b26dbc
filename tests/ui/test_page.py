"""The page as it is built, and the doors before Gradio: what is let through and what is not."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from sfumato.app.engine import Engine
from sfumato.server.app import create_app
from sfumato.server.interface import Interface
from sfumato.ui.doors import Doors
from sfumato.ui.mount import open_page
from sfumato.ui.page import TABS


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def doors(engine: Engine, uploads: Path) -> Iterator[Doors]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        yield open_page(engine, FastAPI(), create_app(engine), uploads)


@pytest.fixture(scope="module")
def client(doors: Doors) -> TestClient:
    async def owned(scope: Any, receive: Any, send: Any) -> None:
        owner = dict(scope["headers"]).get(b"x-test-owner", b"local").decode()
        await doors({**scope, "state": {"owner": owner, "role": "user"}}, receive, send)

    return TestClient(owned, raise_server_exceptions=False)


def config(client: TestClient) -> dict[str, Any]:
    answer = client.get("/config")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_no_event_can_be_called_by_name(client: TestClient) -> None:
    events = config(client)["dependencies"]
    assert len(events) > 10
    assert {each["api_visibility"] for each in events} == {"private"}
    assert not any(each["queue"] for each in events if each["backend_fn"])


def test_the_page_names_no_other_host(client: TestClient) -> None:
    page = client.get("/").text
    assert set(re.findall(r"""(?:src|href|content)=["'](?:https?:)?//[^"']*""", page)) == set()
    assert "googleapis" not in page
    assert "url(http" not in client.get("/theme.css").text
    assert config(client)["analytics_enabled"] is False


def test_the_policy_allows_the_scripts_of_the_page_and_no_others(client: TestClient) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    inline = re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", answer.text)
    assert policy.count("sha256-") == len(inline) > 0
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    assert "frame-ancestors 'none'" in policy


def test_the_page_says_its_language(client: TestClient) -> None:
    answer = client.get("/", headers={"accept-language": "de-DE,de;q=0.9"})
    assert '<html lang="de"' in answer.text
    assert client.get("/ui/words", headers={"accept-language": "de"}).json()["swap"].startswith("Breite")


SHUT = [
    ("GET", "/gradio_api/info"),
    ("GET", "/gradio_api/openapi.json"),
    ("GET", "/gradio_api/proxy=http://127.0.0.1/"),
    ("GET", "/gradio_api/file/etc/passwd"),
    ("GET", "/gradio_api/runs"),
    ("GET", "/gradio_api/token"),
    ("GET", "/gradio_api/user"),
    ("GET", "/gradio_api/app_id"),
    ("GET", "/gradio_api/deep_link?session_hash=x"),
    ("GET", "/gradio_api/vibe-code"),
    ("GET", "/monitoring"),
    ("GET", "/svelte/svelte.js"),
    ("GET", "/custom_component/x/client/component/index.js"),
    ("POST", "/gradio_api/run/generate"),
    ("POST", "/gradio_api/call/generate"),
    ("POST", "/gradio_api/call/v2/generate"),
    ("POST", "/gradio_api/api/predict"),
    ("POST", "/gradio_api/process_recording"),
    ("POST", "/gradio_api/vibe-edit"),
    ("GET", "/logout"),
    ("GET", "/ui/static/../page.py"),
    ("GET", "/ui/else"),
    ("GET", "/assets/../../../../etc/passwd"),
    ("GET", "/static/%2e%2e/%2e%2e/%2e%2e/index.html"),
]


@pytest.mark.parametrize(("method", "path"), SHUT)
def test_what_the_page_does_not_need_is_shut(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path, json={})
    assert answer.status_code in (403, 404, 405), answer.text
    assert set(answer.json()) <= {"error", "detail", "body", "errors", "code", "request_id"}


@pytest.mark.parametrize("prefix", ["/gradio_api/file=", "/gradio_api/file%3D"])
@pytest.mark.parametrize("form", ["{}", "{}/", "{}%00", "/..{}", "file://{}", "//evil/{}"])
def test_no_file_of_the_machine_is_given_out(
    client: TestClient, engine: Engine, uploads: Path, tmp_path: Path, prefix: str, form: str
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret words")
    (uploads / "link.txt").unlink(missing_ok=True)
    (uploads / "link.txt").symlink_to(secret)
    inside = [uploads / "link.txt", uploads / ".." / secret.relative_to(uploads.parents[1]) / "..", secret]
    for path in (*inside, Path("/etc/passwd"), Path(__file__), engine.settings.data / "jobs.sqlite"):
        answer = client.get(prefix + form.format(path))
        assert answer.status_code in (400, 403, 404), path
        assert "secret words" not in answer.text


def test_uploads_come_back_and_nothing_runs_in_them(client: TestClient) -> None:
    text = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    for name in ("a.svg", "a.html", "../../a.png"):
        (path,) = client.post("/gradio_api/upload", files={"files": (name, text)}).json()
        answer = client.get(f"/gradio_api/file={path}")
        assert answer.status_code == 200
        assert answer.headers["content-disposition"].startswith("attachment") or name.endswith(".png")


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:1/x.png", "../x", "relative.png"])
@pytest.mark.parametrize("route", ["run/predict", "queue/join", "component_server"])
def test_what_a_client_sends_names_no_file_but_uploads(client: TestClient, path: str, route: str) -> None:
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"fn_index": 0, "session_hash": "s1", "data": [{"deep": [file]}]}
    assert client.post(f"/gradio_api/{route}", json=body).status_code == 404


def test_a_session_stays_its_owners(client: TestClient) -> None:
    fields = [each["id"] for each in config(client)["dependencies"] if each["backend_fn"]]
    body = {"fn_index": fields[-1], "session_hash": "ann-1", "data": []}
    ann, bob = {"x-test-owner": "ann"}, {"x-test-owner": "bob"}
    assert client.post("/gradio_api/run/predict", json=body, headers=ann).status_code == 200
    assert client.post("/gradio_api/run/predict", json=body, headers=bob).status_code == 404


def test_the_page_is_there_when_it_is_made(engine: Engine, doors: Doors) -> None:
    app = create_app(engine)
    interface = Interface(app, lambda outer, otherwise: doors)

    async def opened() -> None:
        await interface.prepare()

    client = TestClient(app, raise_server_exceptions=False)
    soon = client.get("/")
    assert (soon.status_code, soon.headers["retry-after"]) == (503, "1")
    assert client.get("/nothing").status_code == 404
    assert client.get("/sdapi/v1/samplers").status_code == 200
    assert client.portal is None
    import anyio

    anyio.run(opened)
    assert client.get("/").status_code == 200
    assert client.post("/sdapi/v1/samplers").status_code == 405
    assert json.loads(client.get("/nothing").text)["detail"] == "Not Found"


def test_a_page_that_cannot_be_made_leaves_the_api(engine: Engine) -> None:
    app = create_app(engine)

    def fail(outer: FastAPI, otherwise: Any) -> Any:
        raise RuntimeError("broken")

    import anyio

    anyio.run(Interface(app, fail).prepare)
    client = TestClient(app, raise_server_exceptions=False)
    assert "could not be made" in client.get("/").text
    assert client.get("/sdapi/v1/samplers").status_code == 200


def test_maps_and_walks_are_told(client: TestClient) -> None:
    assert client.get("/ui/map", params={"by": "looks"}).json()["total"] == 0
    assert client.get("/ui/walk").json()["frames"] == []


def test_tabs_have_names(client: TestClient) -> None:
    from sfumato.ui.strings import table

    assert all(f"tab.{name}" in table("en") for name, _ in TABS)
