"""A server without a password answers this machine, and no page of another."""

import pytest
from fastapi import FastAPI, WebSocket
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from sfumato.cli import run
from sfumato.errors import RequestError
from sfumato.server.local import OnlyHere, require_local


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()

    @app.post("/change")
    def change() -> str:
        return "changed"

    @app.websocket("/talk")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    return TestClient(OnlyHere(app), base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "localhost:7860"},
        {"Host": "[::1]:7860"},
        {"Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
def test_this_machine_is_answered(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/change", headers=headers).json() == "changed"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "evil.example@127.0.0.1"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://localhost@evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_other_hosts_and_other_pages_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post("/change", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"] == "Forbidden"
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/talk", headers=headers):
        pass


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org", ""])
def test_an_address_that_others_can_reach_is_refused(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RequestError, match="password"):
        require_local(host)
    assert run(["serve", "--host", host]) == 2
    assert "password" in capsys.readouterr().err
