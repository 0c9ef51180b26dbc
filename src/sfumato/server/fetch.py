"""Pictures from addresses, for servers whose owner allows it: never from this machine or its networks.

A name is looked up once, every address it has must be a public one, and the connection goes to that address:
what is checked is what is fetched. Redirects are checked again, each.
"""

from __future__ import annotations

import http.client
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import urljoin, urlsplit

from sfumato.errors import RequestError

PORTS: Mapping[str, int] = MappingProxyType({"http": 80, "https": 443})
REDIRECTS = (301, 302, 303, 307, 308)
_TUNNELS = tuple(  # IPv6 addresses with an IPv4 address inside, which a gateway would go on to
    ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)
_CHUNK = 64 * 2**10
LOOKUPS = 16  # names looked up at once; those that hang keep their place

Resolve = Callable[[str], list[str]]  # a name's addresses
Connect = Callable[[str, int, float], socket.socket]  # address, port, seconds


@dataclass(frozen=True, kw_only=True)
class Parts:
    """An address, taken apart once: what is checked is what is asked."""

    host: str
    port: int
    secure: bool
    target: str


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Fetches pictures."""

    max_bytes: int = 32 * 2**20
    seconds: float = 30.0  # for everything
    redirects: int = 3
    resolve: Resolve | None = None  # None = the system's
    connect: Connect | None = None
    clock: Callable[[], float] = time.monotonic
    lookups: threading.Semaphore = field(default_factory=lambda: threading.BoundedSemaphore(LOOKUPS))

    def picture(self, url: str) -> bytes:
        """The bytes of a picture.

        Raises:
            RequestError: no public address, no picture, too large, too slow, or nothing there.
        """
        until = self.clock() + self.seconds
        for _ in range(self.redirects + 1):
            parts = _parts(url)
            found = self._ask(parts, until)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise RequestError(f"more than {self.redirects} redirects; give the picture's own address")

    def _ask(self, parts: Parts, until: float) -> bytes | str:
        """A picture's bytes, or where a redirect leads."""
        try:
            with self._socket(parts, until) as plain:
                end = threading.Timer(max(0.0, until - self.clock()), _cut, [plain])
                end.daemon = True  # of greetings and headers that drip, too
                end.start()
                try:
                    if isinstance(plain, ssl.SSLSocket):
                        plain.do_handshake()
                    connection = http.client.HTTPConnection(parts.host, parts.port)
                    connection.sock = plain
                    connection.request("GET", parts.target, headers={"Accept": "image/*"})
                    with connection.getresponse() as response:
                        if response.status in REDIRECTS:
                            return response.getheader("Location", "")
                        return self._body(response, until)
                finally:
                    end.cancel()
        except RequestError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise RequestError(f"the picture at {parts.host[:80]} could not be fetched") from error

    def _socket(self, parts: Parts, until: float) -> socket.socket:
        """Connect to one of a host's addresses. Raises RequestError: it has one that is not public."""
        make = self.connect or _connect
        plain = make(self._address(parts.host, until), parts.port, max(0.1, until - self.clock()))
        if not parts.secure:
            return plain
        try:
            return ssl.create_default_context().wrap_socket(
                plain, server_hostname=parts.host, do_handshake_on_connect=False
            )
        except OSError:
            plain.close()
            raise

    def _address(self, host: str, until: float) -> str:
        """The address to connect to. Raises RequestError: none, one that is not public, or not in time."""
        answer: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

        def look_up() -> None:
            try:
                answer.put((self.resolve or _resolve)(host))
            except (OSError, UnicodeError) as error:
                answer.put(error)
            finally:
                self.lookups.release()

        late = RequestError(f"{host[:80]} could not be looked up in time; send the picture itself, as base64")
        if not self.lookups.acquire(timeout=max(0.0, until - self.clock())):
            raise late
        # The system's lookup cannot be broken off: it is left alone where it hangs.
        threading.Thread(target=look_up, daemon=True, name="lookup").start()
        try:
            found = answer.get(timeout=max(0.0, until - self.clock()))
        except queue.Empty:
            raise late from None
        if isinstance(found, Exception):
            raise RequestError(f"{host[:80]} is not known") from found
        if not found or not all(is_public(address) for address in found):
            raise RequestError(f"{host[:80]} is not a public address; send the picture itself, as base64")
        return found[0]

    def _body(self, response: http.client.HTTPResponse, until: float) -> bytes:
        if response.status != 200:
            raise RequestError(f"the picture's server answers {response.status}")
        if not response.getheader("Content-Type", "").lower().startswith("image/"):
            raise RequestError("what is at this address is not a picture")
        data = bytearray()
        while True:
            if self.clock() >= until:
                raise RequestError(f"the picture did not arrive in {self.seconds:g} seconds")
            piece = response.read1(_CHUNK)
            if not piece:
                return bytes(data)
            data += piece
            if len(data) > self.max_bytes:
                raise RequestError(f"the picture is larger than {self.max_bytes:,} bytes")


def is_public(address: str) -> bool:
    """Whether an address belongs to no private network, this machine, or a gateway to them."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner = getattr(ip, "ipv4_mapped", None) or ip
    if any(inner.version == network.version and inner in network for network in _TUNNELS):
        return False
    return inner.is_global and not inner.is_multicast


def _parts(url: str) -> Parts:
    """An address taken apart. Raises RequestError: it is none to be fetched."""
    strange = any(ord(letter) <= 32 or ord(letter) > 126 or letter in '\\"<>^`{|}' for letter in url)
    if strange or len(url) > 2048:
        raise RequestError("an address may have ASCII characters only, 2,048 at most")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RequestError("not an address") from error
    if parts.scheme not in PORTS or not parts.hostname or "@" in parts.netloc:
        raise RequestError("an address is of the form https://example.org/picture.png")
    if port not in (None, *PORTS.values()):
        raise RequestError(f"port {port} is not fetched from; only 80 and 443 are")
    return Parts(
        host=parts.hostname,
        port=port or PORTS[parts.scheme],
        secure=parts.scheme == "https",
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
    )


def _cut(plain: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(plain, socket.SHUT_RDWR)  # below TLS, which would wait for a goodbye


def _resolve(host: str) -> list[str]:
    return [str(row[4][0]) for row in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def _connect(address: str, port: int, timeout: float) -> socket.socket:
    return socket.create_connection((address, port), timeout)
