"""How much one client may ask: requests a second, requests at once, bytes, and how long it may dawdle."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from starlette.types import Message, Receive

from sfumato.server.policy import Policy, RefusedError
from sfumato.server.problems import retry_after

MAX_HEADERS = 100
MAX_HEADER = 8 * 2**10  # bytes of one
MAX_TARGET = 8 * 2**10  # bytes of path and query
MAX_RANGES = 4
MAX_BOUNDARY = 70  # characters: RFC 2046, section 5.1.1
SLOWEST = 16 * 2**10  # bytes a second that a client sends and reads, beyond the patience it finds


class Buckets:
    """A bucket of tokens a client, filled at a steady rate; those seen last are remembered."""

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic, most: int = 10_000
    ) -> None:
        """Begin with full buckets.

        Args:
            rate: tokens a second.
            burst: what a bucket holds.
            clock: seconds.
            most: clients that are remembered.
        """
        self.rate, self.burst = rate, burst
        self._clock, self._most = clock, most
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when

    def take(self, client: str) -> float:
        """Take a token; 0 if there was one, else the seconds until there is."""
        level = self.level(client)
        if level < 1:
            return (1 - level) / self.rate
        self._levels[client] = level - 1, self._clock()
        self._levels.move_to_end(client)
        while len(self._levels) > self._most:
            self._levels.popitem(last=False)
        return 0.0

    def give(self, client: str) -> None:
        """Put a token back."""
        self._levels[client] = self.level(client) + 1, self._clock()

    def level(self, client: str) -> float:
        """Tokens that a client has."""
        now = self._clock()
        level, then = self._levels.get(client, (self.burst, now))
        return min(self.burst, level + (now - then) * self.rate)


class Crowd:
    """Requests under way."""

    def __init__(self, most: int) -> None:
        """Nobody is here yet; `most` may be, and half of them of one client."""
        self.most = most
        self.here: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many there are."""
        return self.here.total()

    @contextmanager
    def inside(self, client: str) -> Iterator[None]:
        """Count a request while it is under way. Raises RefusedError: there are too many."""
        if self.here[client] >= max(1, self.most // 2):
            raise RefusedError(429, "connections", "too many requests at once", retry_after(1))
        if self.total >= self.most:
            raise RefusedError(503, "busy", "the server is busy", retry_after(1))
        self.here[client] += 1
        try:
            yield
        finally:
            self.here[client] -= 1
            if not self.here[client]:
                del self.here[client]


class Load:
    """Bytes of all bodies that are held."""

    def __init__(self, most: int) -> None:
        """Nothing is held yet; `most` may be."""
        self.most, self.held = most, 0

    def add(self, size: int) -> bool:
        """Hold some more; whether that fits."""
        self.held += size
        return self.held <= self.most


class Intake:
    """A request's body, counted while it comes."""

    def __init__(
        self, receive: Receive, policy: Policy, load: Load, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Count what `receive` gives, from now on by a clock of seconds."""
        self._receive, self._policy, self._load, self._clock = receive, policy, load, clock
        self._began = clock()
        self._bytes = 0
        self.whole = False
        self.refusal: RefusedError | None = None

    async def __call__(self) -> Message:
        """The next message. Raises RefusedError: too much has come, nothing for too long, or too slowly."""
        if self.whole:
            return await self._receive()
        patience = self._policy.patience
        left = self._began + patience + self._bytes / SLOWEST - self._clock()
        try:
            if left <= 0:
                raise TimeoutError
            async with asyncio.timeout(min(patience, left)):
                message = await self._receive()
        except TimeoutError:
            self.refusal = RefusedError(408, "timeout", "the request's body did not arrive in time")
            raise self.refusal from None
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._bytes += size
            self.whole = not message.get("more_body", False)
            fits = self._load.add(size)
            if self._bytes > self._policy.max_body:
                self.refusal = too_large(self._policy)
                raise self.refusal
            if not fits:
                self.refusal = RefusedError(
                    503, "busy", "too much is being sent to the server", retry_after(5)
                )
                raise self.refusal
        return message

    def close(self) -> None:
        """Hold nothing any more."""
        self._load.add(-self._bytes)


def too_large(policy: Policy) -> RefusedError:
    """What is answered to a body beyond the limit."""
    return RefusedError(413, "too_large", f"the body is larger than {policy.max_body:,} bytes")


def check_headers(raw: list[tuple[bytes, bytes]], policy: Policy) -> dict[str, str]:
    """A request's headers by name, in lower case.

    Raises RefusedError: too many or too large, doubled where two would be ambiguous, announcing too large a
    body, or one that has to be unpacked first.
    """
    size = sum(len(name) + len(value) + 4 for name, value in raw)
    if len(raw) > MAX_HEADERS or size > policy.max_headers or any(len(v) > MAX_HEADER for _, v in raw):
        raise RefusedError(431, "headers", "the request's headers are too large")
    headers: dict[str, str] = {}
    for name, value in raw:
        key = name.decode("latin-1").lower()
        if key in headers and key in ("host", "content-length", "origin", "authorization", "content-type"):
            raise RefusedError(400, "headers", f"more than one header {key}")
        headers[key] = (
            f"{headers[key]}, {value.decode('latin-1')}" if key in headers else value.decode("latin-1")
        )
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        raise RefusedError(400, "headers", "content-length is not a number")
    if "content-length" in headers and "transfer-encoding" in headers:
        raise RefusedError(400, "headers", "content-length beside transfer-encoding")
    if len(length) > 18 or int(length) > policy.max_body:
        raise too_large(policy)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusedError(415, "encoding", "packed bodies are not read; send it as it is")
    if headers.get("range", "").count(",") >= MAX_RANGES:
        raise RefusedError(416, "ranges", f"at most {MAX_RANGES} ranges at once")
    _check_boundary(headers)
    return headers


def _check_boundary(headers: Mapping[str, str]) -> None:
    kind, _, rest = headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "multipart/form-data":
        return
    found = [
        part.partition("=")[2].strip().strip('"') for part in rest.split(";") if "boundary" in part.lower()
    ]
    if len(found) != 1 or not 1 <= len(found[0]) <= MAX_BOUNDARY:
        raise RefusedError(400, "boundary", f"multipart/form-data needs one boundary of 1 to {MAX_BOUNDARY}")
