"""What people see of the server's own, and the commands about who may use it."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from sfumato.app.engine import Engine
from sfumato.app.settings import Settings
from sfumato.cli import app as commands
from sfumato.errors import RequestError
from sfumato.server.accounts import Accounts, change_user, read_users
from sfumato.server.app import create_app


def test_the_document_has_every_route_and_no_script(client: TestClient) -> None:
    text = client.get("/docs").text
    for path in client.get("/openapi.json").json()["paths"]:
        assert path.replace("{", "{") in text
    assert "<script" not in text
    assert "http" not in text
    assert "hr_second_pass_steps" in text


def test_pictures_are_fetched_where_the_setting_allows_it(engine: Engine, client: TestClient) -> None:
    url = "http://pictures.example/a.png"
    assert client.post("/sdapi/v1/png-info", json={"image": url}).status_code == 422
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return b"no picture"

    app = create_app(engine)
    assert app.state.desk.fetch is None
    app.state.desk.fetch = fetch
    for path, body in (
        ("png-info", {"image": url}),
        ("img2img", {"init_images": [url], "mask": url}),
        ("extra-single-image", {"image": url}),
    ):
        answer = TestClient(app, raise_server_exceptions=False).post(f"/sdapi/v1/{path}", json=body)
        assert answer.status_code == 422
        assert "not a PNG" in answer.json()["detail"]
    assert asked == [url] * 4


def test_users_are_made_and_removed_by_commands(home: Path, tmp_path: Path) -> None:
    run: Any = CliRunner().invoke
    data = ["--data", str(tmp_path / "data")]
    assert "nobody yet" in run(commands, ["users", "list", *data]).output
    line = ["users", "add", "ann", "--admin", "--password-stdin", *data]
    first = run(commands, line, input="correct horse\n")
    assert first.exit_code == 0
    assert "next start" in first.output
    assert "next start" not in run(commands, line, input="correct horse\n").output
    token = run(commands, ["users", "token", "ann", *data]).output.strip()
    assert run(commands, ["users", "list", *data]).output == "ann\tadmin\tpassword, token\n"
    known = Accounts(Settings(data=tmp_path / "data"))
    visitor = known.by_password("ann", "correct horse")
    assert visitor is not None
    assert visitor == known.by_token(token)
    assert run(commands, ["users", "remove", "ann", *data]).exit_code == 0
    assert read_users(tmp_path / "data") == {}


@pytest.mark.parametrize("name", ["local", "", "../x", "a b", "-x", "x" * 65, "a:b"])
def test_names_of_users_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError):
        change_user(tmp_path, name, None, "correct horse")


def test_no_answer_tells_a_secret(engine: Engine) -> None:
    settings = engine.settings.model_copy(
        update={"api_auth": "me:topsecret", "database_url": "postgresql://me:topsecret@host/db"}
    )
    app = create_app(engine)
    app.state.desk.engine = Told(settings)
    client = TestClient(app, raise_server_exceptions=False)
    for path in ("/sdapi/v1/cmd-flags", "/sdapi/v1/options", "/internal/sysinfo", "/internal/ping"):
        assert "topsecret" not in client.get(path).text
    assert "topsecret" not in repr(settings)


class Told:
    """An engine that only tells its settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
