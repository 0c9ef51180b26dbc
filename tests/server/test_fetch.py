"""Fetching from addresses reaches public ones only; a private listener never sees a connection."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

import pytest

from sfumato.errors import RequestError
from sfumato.server.fetch import Fetcher, is_public

PUBLIC = "93.184.215.14"
PICTURE = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 3\r\n\r\nabc"


class Listener:
    """Answers every connection with the same bytes, and counts them."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self.seen = 0
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.seen += 1
                with connection, suppress(OSError):
                    connection.recv(65536)
                    self._answer(connection)

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def start(answer: bytes | Callable[[socket.socket], None]) -> Listener:
        made.append(Listener(answer if callable(answer) else lambda connection: connection.sendall(answer)))
        return made[-1]

    yield start
    for each in made:
        each.close()


def fetcher(
    listener: Listener, addresses: list[str] | None = None, **limits: float
) -> tuple[Fetcher, list[str]]:
    """A fetcher for whom every name has these addresses; what it connects to lands at the listener."""
    reached: list[str] = []

    def connect(address: str, port: int, timeout: float) -> socket.socket:
        reached.append(f"{address}:{port}")
        return socket.create_connection(("127.0.0.1", listener.port), timeout)

    found = addresses or [PUBLIC]
    return Fetcher(resolve=lambda host: found, connect=connect, **limits), reached  # type: ignore[arg-type]


def test_a_public_picture_is_fetched_from_the_address_that_was_checked(
    listen: Callable[..., Listener],
) -> None:
    listener = listen(PICTURE)
    fetch, reached = fetcher(listener)
    assert fetch.picture("http://pictures.example/a.png?x=1") == b"abc"
    assert reached == [f"{PUBLIC}:80"]


PRIVATE = (
    "127.0.0.1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "2002:7f00:1::",
    "2001:0:53aa:64c::1",
    "fe80::1%eth0",
)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_never_connected_to(listen: Callable[..., Listener], address: str) -> None:
    listener = listen(PICTURE)
    assert not is_public(address)
    for addresses in ([address], [PUBLIC, address]):
        fetch, reached = fetcher(listener, addresses)
        with pytest.raises(RequestError, match="not a public address"):
            fetch.picture("http://pictures.example/a.png")
        assert not reached
    assert listener.seen == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://0x7f000001/",
        "http://127.1/",
        "http://0/",
    ],
)
def test_this_machine_is_not_reached_by_any_of_its_names(listen: Callable[..., Listener], url: str) -> None:
    """The system's own resolver reads the odd spellings; what it makes of them is what is checked."""
    listener = listen(PICTURE)

    def connect(address: str, port: int, timeout: float) -> socket.socket:
        return socket.create_connection(("127.0.0.1", listener.port), timeout)

    with pytest.raises(RequestError):
        Fetcher(connect=connect).picture(url)
    assert listener.seen == 0


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://a.example/x",
        "gopher://a.example",
        "data:image/png;base64,xx",
        "//a.example/x",
        "http:///x",
        "http://",
        "",
        "http://a@b.example/",
        "http://public.example@127.0.0.1/",
        "http://a.example\\@127.0.0.1/",
        "http://a.example:22/",
        "http://a.example:99999/",
        "http://a.example:x/",
        "http://exam\u3002ple/",
        "http://\u24d4xample.com/",
        "http://a.example/\r\nX: y",
        "http://a.example/ b",
        "http://[::1",
        "http://a.example/" + "x" * 3000,
        "http://a.example\0.b.example/",
    ],
)
def test_what_is_no_plain_address_is_refused_unresolved(listen: Callable[..., Listener], url: str) -> None:
    fetch, reached = fetcher(listen(PICTURE))
    with pytest.raises(RequestError):
        fetch.picture(url)
    assert not reached


def test_a_name_is_resolved_once(listen: Callable[..., Listener]) -> None:
    asked = count()
    listener = listen(PICTURE)

    def resolve(host: str) -> list[str]:
        return [PUBLIC] if next(asked) == 0 else ["127.0.0.1"]

    def connect(address: str, port: int, timeout: float) -> socket.socket:
        assert address == PUBLIC
        return socket.create_connection(("127.0.0.1", listener.port), timeout)

    assert Fetcher(resolve=resolve, connect=connect).picture("http://rebind.example/a") == b"abc"
    assert next(asked) == 1


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest",
        "http://127.0.0.1/",
        "//127.0.0.1/",
        "file:///etc/passwd",
        "http://inner.example/",
    ],
)
def test_redirects_inward_are_not_followed(listen: Callable[..., Listener], location: str) -> None:
    listener = listen(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

    def resolve(host: str) -> list[str]:
        return [PUBLIC] if host == "pictures.example" else ["10.0.0.1" if "inner" in host else host]

    def connect(address: str, port: int, timeout: float) -> socket.socket:
        assert address == PUBLIC
        return socket.create_connection(("127.0.0.1", listener.port), timeout)

    with pytest.raises(RequestError):
        Fetcher(resolve=resolve, connect=connect).picture("http://pictures.example/a")
    assert listener.seen == 1


def test_redirects_in_a_circle_end(listen: Callable[..., Listener]) -> None:
    listener = listen(b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n")
    fetch, reached = fetcher(listener)
    with pytest.raises(RequestError, match="redirects"):
        fetch.picture("http://pictures.example/a")
    assert len(reached) == 4


def test_what_is_too_large_is_cut(listen: Callable[..., Listener]) -> None:
    def flood(connection: socket.socket) -> None:
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        while True:
            connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    fetch, _ = fetcher(listen(flood), max_bytes=100_000)
    with pytest.raises(RequestError, match="larger than"):
        fetch.picture("http://pictures.example/a")


def test_what_drips_is_cut_at_the_deadline(listen: Callable[..., Listener]) -> None:
    ticks = count()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
        while True:
            connection.sendall(b"x")

    listener = listen(drip)
    fetch = Fetcher(
        resolve=lambda host: [PUBLIC],
        connect=lambda address, port, timeout: socket.create_connection(
            ("127.0.0.1", listener.port), timeout
        ),
        seconds=20,
        clock=lambda: float(next(ticks)),  # a second a look
    )
    with pytest.raises(RequestError, match="did not arrive"):
        fetch.picture("http://pictures.example/a")


def test_a_lookup_that_hangs_is_left_alone_at_the_deadline() -> None:
    release = threading.Event()

    def resolve(host: str) -> list[str]:
        release.wait(60)
        return [PUBLIC]

    def connect(address: str, port: int, timeout: float) -> socket.socket:
        raise AssertionError("connected")

    fetch = Fetcher(resolve=resolve, connect=connect, seconds=0.02, lookups=threading.BoundedSemaphore(1))
    for _ in range(2):  # the second one finds no place to be looked up at
        with pytest.raises(RequestError, match="looked up in time"):
            fetch.picture("http://pictures.example/a")
    release.set()


def test_a_greeting_that_drips_is_cut_at_the_deadline(listen: Callable[..., Listener]) -> None:
    gone, sent = threading.Event(), count()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"\x16\x03\x03\x40\x00")  # 16 KiB of TLS's greeting are to come
        with suppress(OSError):
            while not gone.wait(0.01):
                connection.sendall(b"\x02")
                next(sent)
        gone.set()

    fetch, _ = fetcher(listen(drip), seconds=0.1)
    with pytest.raises(RequestError, match="could not be fetched"):
        fetch.picture("https://pictures.example/a")
    assert gone.wait(10)
    assert next(sent) < 1000


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>",
        b"HTTP/1.1 200 OK\r\n\r\nabc",
        b"HTTP/1.1 404 Not Found\r\nContent-Type: image/png\r\n\r\n",
        b"HTTP/1.1 302 Found\r\n\r\n",
        b"nonsense",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_picture_is_refused_in_words(listen: Callable[..., Listener], answer: bytes) -> None:
    fetch, _ = fetcher(listen(answer))
    with pytest.raises(RequestError) as refused:
        fetch.picture("http://pictures.example/a")
    assert "Traceback" not in str(refused.value)
