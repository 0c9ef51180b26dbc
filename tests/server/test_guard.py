"""The guard before any application: whose requests come through, and what is answered to the others."""

import asyncio
import base64
import json
import os
import stat
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import HTMLResponse
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from sfumato.app.settings import Settings
from sfumato.errors import RequestError
from sfumato.server import accounts, login
from sfumato.server.gate import add_guard
from sfumato.server.limits import SLOWEST, Buckets, Crowd, Intake, Load
from sfumato.server.policy import Policy, RefusedError, host_name, is_loopback, origin_of

HOME = "http://127.0.0.1:7860"
HERE = ("127.0.0.1", 50000)
THERE = ("192.168.1.77", 50000)


def application(reached: list[str]) -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    app.include_router(login.router)

    @app.api_route("/thing", methods=["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
    async def thing(request: Request) -> dict[str, Any]:
        body = await request.body()
        reached.append(request.state.owner)
        return {"owner": request.state.owner, "role": request.state.role, "bytes": len(body)}

    @app.get("/page")
    def page() -> HTMLResponse:
        return HTMLResponse("<p>hello")

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError(f"secret in {__file__}")

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        reached.append("socket")
        await socket.send_json({"owner": socket.state.owner})
        await socket.close()

    return app


class Lab:
    """An application behind a guard, and a note of what came through."""

    def __init__(self, folder: Path, bind: str = "127.0.0.1", **settings: Any) -> None:
        self.reached: list[str] = []
        self.folder = folder
        self.app = application(self.reached)
        self.token = add_guard(self.app, Settings(data=folder, **settings), bind)

    def client(self, peer: tuple[str, int] = HERE, url: str = HOME, **headers: str) -> TestClient:
        return TestClient(
            self.app,
            base_url=url,
            client=peer,
            headers=headers,
            raise_server_exceptions=False,
            follow_redirects=False,
        )


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def open_lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, bind="0.0.0.0")


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def test_this_machines_user_needs_no_token(lab: Lab) -> None:
    assert lab.token is None
    assert lab.client().post("/thing").json() == {"owner": "local", "role": "admin", "bytes": 0}


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "192.168.1.5",
        "",
        "[::1",
        "a b",
        "127.0.0.1@evil",
        "2130706433",
        "0x7f.1",
        "127.0.0.1:99999999",
        "evilé",
    ],
)
def test_other_names_are_refused_before_anything_else(lab: Lab, host: str) -> None:
    answer = lab.client(Host=host.encode("latin-1")).get("/thing")  # type: ignore[arg-type]
    assert answer.status_code in (400, 403)
    assert not lab.reached


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:7860", "x.localhost."])
def test_names_of_this_machine_are_known(lab: Lab, host: str) -> None:
    assert lab.client(Host=host).get("/thing").status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},  # another program of this machine
        {"Origin": "http://127.0.0.1:7860.evil.example"},
        {"Origin": "http://127.0.0.1:7860@evil.example"},
        {"Origin": "file://"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Site": "anything"},
    ],
    ids=str,
)
def test_pages_of_other_sites_change_and_read_nothing(lab: Lab, method: str, headers: dict[str, str]) -> None:
    answer = lab.client(**headers).request(method, "/thing")
    assert answer.status_code == 403
    assert not any(name.startswith("access-control") for name in answer.headers)
    assert not lab.reached


def test_a_link_from_elsewhere_may_be_followed_and_a_form_not_sent(lab: Lab) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert lab.client(**headers).get("/thing").status_code == 200
    assert lab.client(**headers).post("/thing").status_code == 403


@pytest.mark.parametrize(
    "headers", [{"Origin": HOME}, {"Origin": HOME.upper()}, {"Sec-Fetch-Site": "same-origin"}]
)
def test_own_pages_may_do_everything(lab: Lab, headers: dict[str, str]) -> None:
    assert lab.client(**headers).post("/thing").status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000"])
def test_sockets_of_other_pages_are_refused(lab: Lab, origin: str) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        lab.client(Origin=origin).websocket_connect("ws://127.0.0.1:7860/socket"),
    ):
        pass
    assert not lab.reached
    with lab.client(Origin=HOME).websocket_connect("ws://127.0.0.1:7860/socket") as socket:
        assert socket.receive_json() == {"owner": "local"}


@pytest.mark.parametrize(
    "headers", [{"X-Forwarded-For": "8.8.8.8"}, {"Forwarded": "for=8.8.8.8"}, {"Via": "1.1 x"}]
)
def test_what_a_proxy_passes_on_is_not_this_machines_users(lab: Lab, headers: dict[str, str]) -> None:
    assert lab.client(**headers).get("/thing").status_code == 401


def test_another_address_needs_a_token_that_is_made_once(tmp_path: Path) -> None:
    lab = Lab(tmp_path, bind="0.0.0.0")
    assert lab.token
    assert Lab(tmp_path, bind="0.0.0.0").token is None
    path = tmp_path / "token"
    assert path.read_text().strip() == lab.token
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for peer in (HERE, THERE):
        for url in (HOME, "http://192.168.1.5:7860"):
            client = lab.client(peer, url)
            assert client.get("/thing").status_code == 401
            assert client.get("/thing", headers={"Authorization": f"Bearer {lab.token}"}).status_code == 200
            assert client.get("/thing", headers={"Authorization": basic("any", lab.token)}).status_code == 200
    assert lab.client(THERE, "http://evil.example").get("/thing").status_code == 403


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Basic",
        "Basic !",
        "Basic Og==",
        "Digest x",
        "Bearer " + "x" * 5000,
        basic("local", ""),
        basic("", ""),
        basic("me", "wrong"),
        "bearer\ttoken",
        "Bearer é",
    ],
)
def test_every_wrong_token_is_refused(tmp_path: Path, given: str) -> None:
    lab = Lab(tmp_path, bind="0.0.0.0", api_auth="me:right")
    answer = lab.client(THERE, "http://192.168.1.5").post(
        "/thing",
        headers={"Authorization": given.encode("latin-1")},  # type: ignore[dict-item]
    )
    assert answer.status_code == 401
    assert answer.json()["code"] == "login"
    assert answer.headers["www-authenticate"].startswith("Basic")


def test_prefixes_cases_and_addresses_with_the_token_are_refused(open_lab: Lab) -> None:
    token = open_lab.token or ""
    client = open_lab.client(THERE, "http://192.168.1.5")
    for wrong in (token[:-1], token + "x", token.swapcase(), f"{token},{token}"):
        assert client.get("/thing", headers={"Authorization": f"Bearer {wrong}"}).status_code == 401
    assert client.get(f"/thing?token={token}").status_code == 401
    (open_lab.folder / "token").unlink()
    (open_lab.folder / "token").write_text("another")
    assert client.get("/thing", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    assert client.get("/thing", headers={"Authorization": "Bearer another"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/thing",
        "/thing/",
        "//thing",
        "/THING",
        "/%74hing",
        "/login/../thing",
        "/login/",
        "/LOGIN",
        "/login%2f",
        "/login;/thing",
        "/healthz/x",
        "/docs",
        "/openapi.json",
        "/",
        "/metrics",
        "/file=/etc/passwd",
        "/%2e%2e/x",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "TRACE"])
def test_every_spelling_of_a_path_needs_the_token(open_lab: Lab, path: str, method: str) -> None:
    client = open_lab.client(THERE, "http://192.168.1.5")
    assert client.request(method, path).status_code == 401
    assert not open_lab.reached


def test_users_come_by_password_with_the_basic_scheme(tmp_path: Path) -> None:
    lab = Lab(tmp_path, api_auth="me:se:cret, you:other")
    client = lab.client()
    assert client.get("/thing").status_code == 401  # with users, this machine's user is one of them, too
    answer = client.get("/thing", headers={"Authorization": basic("me", "se:cret")})
    assert answer.json() == {"owner": "me", "role": "user", "bytes": 0}
    assert client.get("/thing", headers={"Authorization": basic("you", "se:cret")}).status_code == 401


@pytest.mark.parametrize("text", ["me", "me:", ":x", "local:x", "a b:x"])
def test_users_of_another_form_are_refused_without_telling_the_password(tmp_path: Path, text: str) -> None:
    with pytest.raises(RequestError) as refused:
        Lab(tmp_path, api_auth=f"good:topsecret,{text}")
    assert "topsecret" not in str(refused.value)


def test_stored_users_have_hashed_passwords_roles_and_tokens(tmp_path: Path) -> None:
    accounts.change_user(tmp_path, "ann", "admin", "correct horse")
    accounts.change_user(tmp_path, "bob", None, "battery staple")
    token = accounts.new_token(tmp_path, "bob")
    text = (tmp_path / "users.json").read_text()
    assert "horse" not in text
    assert token not in text
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "users.json").stat().st_mode) == 0o600
    lab = Lab(tmp_path)
    client = lab.client()

    def who(authorization: str) -> Any:
        answer = client.get("/thing", headers={"Authorization": authorization})
        return (answer.json()["owner"], answer.json()["role"]) if answer.status_code == 200 else None

    assert who(basic("ann", "correct horse")) == ("ann", "admin")
    assert who(basic("ann", "correct horse")) == ("ann", "admin")  # from memory
    assert who(basic("bob", "correct horse")) is None
    assert who(f"Bearer {token}") == ("bob", "user")
    accounts.change_user(tmp_path, "ann", "user", "another one")
    os.utime(tmp_path / "users.json", ns=(1, 1))
    assert who(basic("ann", "correct horse")) is None
    assert who(basic("ann", "another one")) == ("ann", "user")
    accounts.remove_user(tmp_path, "bob")
    os.utime(tmp_path / "users.json", ns=(2, 2))
    assert who(f"Bearer {token}") is None


def test_passwords_are_not_tried_without_end(tmp_path: Path) -> None:
    lab = Lab(tmp_path, api_auth="me:right")
    client = lab.client(THERE)
    wrong = [client.get("/thing", headers={"Authorization": basic("me", str(n))}) for n in range(12)]
    assert [each.status_code for each in wrong] == [401] * 10 + [429] * 2
    assert int(wrong[-1].headers["retry-after"]) >= 1
    assert lab.client().get("/thing", headers={"Authorization": basic("me", "right")}).status_code == 200


def test_a_page_gets_a_cookie_for_the_token(tmp_path: Path) -> None:
    lab = Lab(tmp_path, bind="0.0.0.0")
    client = lab.client(THERE, "http://192.168.1.5", Accept="text/html")
    assert client.get("/page").headers["location"] == "/login"
    assert "<form" in client.get("/login").text
    page = {"Origin": "http://192.168.1.5"}
    assert client.post("/login", json={"name": "", "password": "wrong"}, headers=page).status_code == 401
    answer = client.post("/login", json={"name": "", "password": lab.token}, headers=page)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert lab.token not in cookie
    assert client.get("/page").status_code == 200
    assert client.post("/thing", headers=page).json()["owner"] == "local"
    for headers in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}):  # a cookie proves no page
        assert client.post("/thing", headers=headers).status_code in (401, 403)
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("ws://192.168.1.5/socket"):
        pass
    with client.websocket_connect("ws://192.168.1.5/socket", headers=page) as socket:
        assert socket.receive_json() == {"owner": "local"}
    (tmp_path / "token").unlink()
    (tmp_path / "token").write_text("another")
    assert client.post("/thing", headers=page).status_code == 401  # it ends with what it was given for
    client.post("/logout", headers=page | {"Authorization": "Bearer another"})
    assert not client.cookies


@pytest.mark.parametrize(
    "value", ["", "x", "a.b.c", "6c6f63616c.99999999999.00", "6c6f63616c.-1.00", "é.1.2", "." * 2000]
)
def test_forged_cookies_are_nobodys(open_lab: Lab, value: str) -> None:
    client = open_lab.client(THERE, "http://192.168.1.5", Cookie=f"sfumato={value}".encode("latin-1"))  # type: ignore[arg-type]
    assert client.get("/thing").status_code == 401


def test_cookies_grow_old(tmp_path: Path) -> None:
    now = [1000.0]
    known = accounts.Accounts(Settings(data=tmp_path), clock=lambda: now[0])
    cookie = known.cookie(accounts.Visitor())
    assert known.by_cookie(cookie) == accounts.Visitor()
    now[0] += accounts.COOKIE_DAYS * 86400 + 1
    assert known.by_cookie(cookie) is None


def test_what_everybody_may_see_tells_nothing(open_lab: Lab) -> None:
    client = open_lab.client(THERE, "http://192.168.1.5")
    assert client.get("/healthz").json() == {"status": "ok"}
    for path in ("/login", "/healthz"):
        text = client.get(path).text
        assert str(open_lab.folder) not in text
        assert (open_lab.token or "-") not in text


def test_every_answer_has_the_headers_of_safety(lab: Lab) -> None:
    for path in ("/thing", "/page", "/nothing", "/broken", "/login"):
        headers = lab.client().get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert len(headers["x-request-id"]) == 16
    assert "sandbox" in lab.client().get("/thing").headers["content-security-policy"]
    given = lab.client(**{"X-Request-ID": "client-chosen-1"}).get("/thing").headers["x-request-id"]
    assert given == "client-chosen-1"
    assert len(lab.client(**{"X-Request-ID": "a b; <script>"}).get("/thing").headers["x-request-id"]) == 16


def test_an_unforeseen_error_shows_neither_trace_nor_path(lab: Lab) -> None:
    answer = lab.client().get("/broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_bodies_are_cut_at_the_limit(tmp_path: Path) -> None:
    lab = Lab(tmp_path, max_body=2**16)
    client = lab.client()
    assert client.post("/thing", content=b"x" * 2**16).json()["bytes"] == 2**16
    assert client.post("/thing", content=b"x" * (2**16 + 1)).status_code == 413
    answer = client.post("/thing", content=b"", headers={"Content-Length": str(10**12)})
    assert answer.status_code == 413
    assert client.post("/thing", headers={"Content-Length": "-1"}).status_code == 400
    assert len(lab.reached) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X": "x" * 10_000}, 431),
        ({f"X{n}": "x" for n in range(200)}, 431),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Range": "bytes=" + ",".join("0-1" for _ in range(1500))}, 416),
        ({"Content-Type": "multipart/form-data; boundary=" + "-" * 5000}, 400),
        ({"Content-Type": "multipart/form-data"}, 400),
        ({"Content-Type": "multipart/form-data; boundary=a; boundary=b"}, 400),
        ({"Content-Type": "Multipart/Form-Data; Boundary="}, 400),
    ],
    ids=["long", "many", "packed", "ranges", "boundary", "no boundary", "two boundaries", "empty boundary"],
)
def test_headers_that_only_do_harm_are_refused(lab: Lab, headers: dict[str, str], status: int) -> None:
    assert lab.client(**headers).post("/thing", content=b"x").status_code == status
    assert not lab.reached


@pytest.mark.parametrize("path", ["/a%00b", "/a%0ab", "/%0d%0aX:y", "/%7f"])
def test_control_characters_in_paths_are_refused(lab: Lab, path: str) -> None:
    assert lab.client().get(path).status_code == 400


def test_a_client_that_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    lab = Lab(tmp_path, rate_limit=1)
    statuses = [lab.client().get("/thing").status_code for _ in range(4)]
    assert statuses[:2] == [200, 200]
    assert 429 in statuses
    assert lab.client(("127.0.0.2", 1)).get("/thing").status_code == 200  # another one is not held up


def test_buckets_fill_steadily_and_forget_whom_they_have_not_seen() -> None:
    now = [0.0]
    buckets = Buckets(2, 3, clock=lambda: now[0], most=2)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    now[0] = 0.5
    assert buckets.take("a") == 0
    for other in ("b", "c"):
        buckets.take(other)
    assert buckets.level("a") == 3  # forgotten


def test_listed_pages_elsewhere_may_call(tmp_path: Path) -> None:
    lab = Lab(tmp_path, cors="https://App.example, http://localhost:3000")
    page = lab.client(Origin="https://app.example", **{"Sec-Fetch-Site": "cross-site"})
    asked = page.options("/thing", headers={"Access-Control-Request-Method": "POST"})
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == "https://app.example"
    assert not lab.reached
    assert page.post("/thing").headers["access-control-allow-origin"] == "https://app.example"
    other = lab.client(Origin="https://other.example")
    assert other.options("/thing", headers={"Access-Control-Request-Method": "POST"}).status_code == 403


@pytest.mark.parametrize("cors", ["*", "null", "https://*", "example.org", "https://a.example/path"])
def test_lists_of_pages_that_let_everybody_in_are_refused(tmp_path: Path, cors: str) -> None:
    with pytest.raises(RequestError, match="cors"):
        Lab(tmp_path, cors=cors)


@pytest.mark.parametrize("path", ["/sd/thing", "/thing"])
def test_a_proxy_may_show_it_below_a_path_and_needs_a_token(tmp_path: Path, path: str) -> None:
    lab = Lab(tmp_path, subpath="/sd/", hosts="example.org")
    proxy = {"X-Forwarded-For": "8.8.8.8", "Origin": "https://example.org"}
    assert lab.client(**proxy).get(path).status_code == 401
    answer = lab.client(**proxy, Authorization=f"Bearer {lab.token}").get(path)
    assert answer.status_code == 200
    assert lab.client(Accept="text/html").get("/sd/page").headers["location"] == "/sd/login"


def test_logs_are_json_and_hold_no_query(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    from sfumato.server.logs import JsonLines

    with caplog.at_level("INFO", "sfumato.access"):
        lab.client().get("/thing?prompt=private")
    line = JsonLines().format(caplog.records[-1])
    said = json.loads(line)
    assert said["path"] == "/thing"
    assert said["status"] == 200
    assert "private" not in line


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("A.example:80", "a.example"),
        ("[::1]:7860", "[::1]"),
        ("[::1]", "[::1]"),
        ("a.", "a"),
        ("a:b", None),
        ("", None),
        (":80", None),
        ("a/b", None),
        ("[x]", None),
    ],
)
def test_names_are_read_from_the_host_header(header: str, name: str | None) -> None:
    assert host_name(header) == name


def test_loopback_addresses_are_told_from_others() -> None:
    for address in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "a.localhost", "::ffff:127.0.0.1"):
        assert is_loopback(address)
    for address in ("0.0.0.0", "::", "192.168.1.1", "localhost.evil", "127.0.0.1.evil", "", "testclient"):
        assert not is_loopback(address)


def test_origins_are_compared_without_their_own_port() -> None:
    assert origin_of("https://A.example:443") == ("https", "a.example")
    assert origin_of("http://a.example:443") == ("http", "a.example:443")
    assert origin_of("http://a.example/x") is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tls_cert": Path("c.pem")}, "belong together"),
        ({"tls_cert": Path("c.pem"), "tls_key": Path("k.pem")}, "no such file"),
        ({"subpath": "sd"}, "not of the form"),
        ({"subpath": "/../x"}, "not of the form"),
        ({"subpath": "/a//b"}, "not of the form"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_the_start(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        Lab(tmp_path, **settings)


def test_a_body_that_dawdles_is_given_up(tmp_path: Path) -> None:
    async def never() -> Any:
        await asyncio.Event().wait()

    intake = Intake(never, Policy(patience=0.0), Load(100))
    with pytest.raises(RefusedError, match="in time") as refused:
        asyncio.run(intake())
    assert refused.value.status == 408


def test_a_body_that_drips_is_given_up_and_a_slow_one_is_not() -> None:
    now = [0.0]

    async def piece(size: int) -> Any:
        now[0] += 59.0  # a second less than the patience
        return {"type": "http.request", "body": b"x" * size, "more_body": True}

    def pieces(size: int) -> int:
        """How many are taken of twenty."""
        intake = Intake(lambda: piece(size), Policy(), Load(2**40), clock=lambda: now[0])
        taken = 0
        with suppress(RefusedError):
            for _ in range(20):
                asyncio.run(intake())
                taken += 1
        return taken

    assert pieces(1) == 2
    assert pieces(60 * SLOWEST) == 20


def test_targets_are_bounded(lab: Lab) -> None:
    assert lab.client().get("/thing?" + "x" * 8000).status_code == 200
    for path in ("/thing?" + "x" * 9000, "/" + "x" * 9000):
        assert lab.client().get(path).status_code == 414
    assert len(lab.reached) == 1


def test_bodies_of_all_requests_together_are_bounded() -> None:
    async def piece() -> Any:
        return {"type": "http.request", "body": b"x" * 60, "more_body": True}

    load = Load(100)
    first, second = Intake(piece, Policy(), load), Intake(piece, Policy(), load)
    asyncio.run(first())
    with pytest.raises(RefusedError, match="too much") as refused:
        asyncio.run(second())
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})
    second.close()
    first.close()
    assert load.held == 0
    asyncio.run(Intake(piece, Policy(), load)())


def test_a_body_without_an_end_is_cut_and_leaves_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path, max_body=2**16)
    sent: list[Any] = []
    pieces = count()

    async def receive() -> Any:
        assert next(pieces) < 100, "read to the end"
        return {"type": "http.request", "body": b"x" * 2**14, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1:7860"), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "POST", "path": "/thing", "headers": headers, "client": HERE}
    asyncio.run(lab.app({**scope, "query_string": b"", "scheme": "http", "root_path": ""}, receive, send))
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]
    assert not lab.reached


def test_one_client_leaves_room_for_others() -> None:
    crowd = Crowd(4)
    with crowd.inside("a"), crowd.inside("a"):
        with pytest.raises(RefusedError) as mine, crowd.inside("a"):
            pass
        with crowd.inside("b"), crowd.inside("b"), pytest.raises(RefusedError) as all_, crowd.inside("c"):
            pass
    assert (mine.value.status, all_.value.status) == (429, 503)
    assert crowd.total == 0
    assert not crowd.here
