"""What no HTTP library would send: whatever comes over the wire, nothing is answered without the token."""

import asyncio
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
import uvicorn

from sfumato.app.engine import Engine
from sfumato.app.leaving import Leaving
from sfumato.server.app import create_app
from sfumato.server.gate import add_guard
from sfumato.server.punctual import Punctual
from sfumato.server.serving import Server


@contextmanager
def listening(app: Any, **options: Any) -> Iterator[int]:
    """The port of a server."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="critical", server_header=False, **options
    )
    ready: list[str] = []
    there = threading.Event()

    def say(address: str) -> None:
        ready.append(address)
        there.set()

    server = Server(config, Leaving(), say)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert there.wait(60)
    yield int(ready[0].rpartition(":")[2])
    server.should_exit = True
    thread.join(60)


@pytest.fixture(scope="module")
def port(engine: Engine) -> Iterator[int]:
    """Of a server that asks everybody for a token."""
    app = create_app(engine)
    add_guard(app, engine.settings.model_copy(update={"login": True}), "127.0.0.1")
    with listening(app, http=Punctual) as port:
        yield port


def sent(port: int, data: bytes) -> list[int]:
    """The statuses of all answers to some bytes."""
    with closing(socket.create_connection(("127.0.0.1", port), 30)) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", answer)]


HOST = b"Host: 127.0.0.1\r\n"
OPTIONS = b"GET /sdapi/v1/options HTTP/1.1\r\n" + HOST
POST = b"POST /sdapi/v1/options HTTP/1.1\r\nContent-Type: application/json\r\n" + HOST
HIDDEN = b"GET /sdapi/v1/options HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"GET /sdapi/v1/options HTTP/1.0\r\n\r\n",
        b"GET /sdapi/v1/options HTTP/1.0\r\n" + HOST + b"\r\n",
        b"GET /sdapi/v1/options HTTP/1.1\r\n\r\n",
        b"GET http://127.0.0.1/sdapi/v1/options HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://evil.example/sdapi/v1/options HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET //sdapi/v1/options HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /sdapi/v1/%6fptions HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /healthz/../sdapi/v1/options HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET * HTTP/1.1\r\n" + HOST + b"\r\n",
        b"TRACE /sdapi/v1/options HTTP/1.1\r\n" + HOST + b"\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"get /sdapi/v1/options HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /sdapi/v1/options HTTP/9.9\r\n" + HOST + b"\r\n",
        OPTIONS + b"Host: localhost\r\n\r\n",
        OPTIONS + b"Host : localhost\r\n\r\n",
        OPTIONS + b"X: " + b"x" * 2**16 + b"\r\n\r\n",
        OPTIONS + b"X: a\0b\r\n\r\n",
        OPTIONS + b"X: a\r\n folded\r\n\r\n",
        OPTIONS.replace(b"\r\n", b"\n") + b"\n",
        OPTIONS + b"Authorization: Basic Og==\r\nAuthorization: Bearer x\r\n\r\n",
        OPTIONS + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}" + HIDDEN,
        POST + b"Content-Length: 2\r\n\r\n{}" + HIDDEN,
        POST + b"Content-Length: -1\r\n\r\n{}",
        POST + b"Content-Length: 1_0\r\n\r\n{}",
        POST + b"Content-Length: 99999999999999999999\r\n\r\n{}",
        POST + b"Content-Length: 100\r\n\r\n{}",  # and goes away
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n{}",
        POST + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 2**16 + b"\r\n{}\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\r\n" * 1000,
        b"\0" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /" + b"x" * 2**14 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
    ids=lambda data: repr(data[:60]),
)
def test_odd_requests_get_nothing_but_errors(port: int, data: bytes) -> None:
    assert all(400 <= status < 500 or status == 501 for status in sent(port, data))
    assert sent(port, b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n") == [200]


class Hasty(Punctual):
    """Has less time."""

    within = 0.05


async def slow(scope: Any, receive: Any, send: Any) -> None:
    """Answers much later than a request's headers have to be there."""
    if scope["type"] == "http":
        await asyncio.sleep(4 * Hasty.within)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


WHOLE = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize(
    ("pieces", "statuses"),
    [
        ((b"",), []),
        ((b"G",), []),
        ((WHOLE[:-2],), []),
        ((b"\r\n",), []),
        ((WHOLE,), [200]),
        ((WHOLE, b"GET /"), [200]),
        ((WHOLE, WHOLE, b"\r\n"), [200, 200]),
    ],
    ids=["nothing", "a letter", "no end", "a line", "whole", "half a second one", "a line after two"],
)
def test_connections_are_closed_where_headers_do_not_come(
    pieces: tuple[bytes, ...], statuses: list[int]
) -> None:
    with (
        listening(slow, http=Hasty, timeout_keep_alive=1) as port,
        closing(socket.create_connection(("127.0.0.1", port), 30)) as connection,
    ):
        found = b""
        for piece in pieces:
            connection.sendall(piece)
            if piece == WHOLE:
                found += connection.recv(65536)
        found += b"".join(iter(lambda: connection.recv(65536), b""))  # until it is closed
    assert [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", found)] == statuses


@pytest.mark.parametrize("begin", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n"])
def test_headers_without_an_end_are_cut(port: int, begin: bytes) -> None:
    rest = b"x: y\r\n" * 2**16 if begin.endswith(b"\n") else b"x" * 2**19
    with closing(socket.create_connection(("127.0.0.1", port), 30)) as connection:
        connection.sendall(begin)
        with suppress(OSError):  # it is closed meanwhile
            for start in range(0, len(rest), 2**14):
                connection.sendall(rest[start : start + 2**14])
            connection.shutdown(socket.SHUT_WR)
            assert b" 400 " in connection.recv(65536)
    assert sent(port, b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n") == [200]
