"""A crowd that watches a server: pollers of /sdapi/v1/progress, and readers of a job's events.

    python -m benchmarks.crowd 127.0.0.1 7860 --pollers 50 --streams 20

All in one process at the lowest priority, over connections that stay open, and with no more than the bytes
that are needed: what it costs the machine is to be the server's share. Each line of standard input is a job
whose events are read from then on; at the end of the input the figures go to standard output as JSON.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

LINE = b"HTTP/1.1 200"


class Poller(asyncio.Protocol):
    """Asks again and again, at a steady rate, unless the last answer is still on its way."""

    def __init__(self, request: bytes, every: float) -> None:
        """Ask nothing yet.

        Args:
            request: what is sent.
            every: seconds between two requests.
        """
        self.seconds: list[float] = []  # until the whole answer was there
        self.wrong = self.bytes = self.late = 0
        self._request, self._every = request, every
        self._loop = asyncio.get_running_loop()
        self._got = bytearray()
        self._asked = self._wanted = 0.0

    def connection_made(self, transport: Any) -> None:
        """Begin at a moment of one's own."""
        self._transport = transport
        self._loop.call_later(random.random() * self._every, self._ask)

    def _ask(self) -> None:
        if self._transport.is_closing():
            return
        self._loop.call_later(self._every, self._ask)
        if self._asked:
            self.late += 1
            return
        self._asked, self._wanted = time.perf_counter(), 0
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count what comes until the answer is whole."""
        self._got += data
        self.bytes += len(data)
        if not self._wanted:
            head, end, _ = bytes(self._got).partition(b"\r\n\r\n")
            if not end:
                return
            self._wanted = len(head) + 4 + int(head.lower().partition(b"content-length:")[2].split(b"\r")[0])
            self.wrong += not head.startswith(LINE)
        if len(self._got) >= self._wanted:
            self.seconds.append(time.perf_counter() - self._asked)
            self._asked = 0.0
            self._got.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """A server that hangs up has not answered."""
        self.wrong += self._asked > 0


class Reader(asyncio.Protocol):
    """Reads events until there are no more."""

    def __init__(self, request: bytes) -> None:
        """Ask as soon as there is a connection."""
        self.events = self.bytes = 0
        self.right = False
        self._request = request

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count the events."""
        self.right = self.right or data.startswith(LINE)
        self.events += data.count(b"event: ")
        self.bytes += len(data)
        if data.endswith(b"0\r\n\r\n"):  # the last piece
            self._transport.close()


@dataclass(kw_only=True)
class Crowd:
    """Everybody."""

    host: str
    port: int
    streams: int
    pollers: list[Poller] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)

    def request(self, path: str) -> bytes:
        """A request with what has to be in it."""
        return f"GET {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n\r\n".encode("ascii")

    async def poll(self, count: int, rate: float) -> None:
        """Begin to poll."""
        loop, request = asyncio.get_running_loop(), self.request("/sdapi/v1/progress")
        for _ in range(count):
            _, poller = await loop.create_connection(lambda: Poller(request, 1 / rate), self.host, self.port)
            self.pollers.append(poller)

    async def read(self, job: str) -> None:
        """Begin to read a job's events."""
        loop, request = asyncio.get_running_loop(), self.request(f"/api/v1/jobs/{job}/events")
        for _ in range(self.streams):
            _, reader = await loop.create_connection(lambda: Reader(request), self.host, self.port)
            self.readers.append(reader)

    def figures(self) -> dict[str, Any]:
        """What has come."""
        seconds = [each for poller in self.pollers for each in poller.seconds] or [0.0, 0.0]
        return {
            "polls": len(seconds),
            "polls_not_sent_in_time": sum(poller.late for poller in self.pollers),
            "poll_median_ms": round(statistics.median(seconds) * 1000, 2),
            "poll_p99_ms": round(statistics.quantiles(seconds, n=100)[98] * 1000, 2),
            "bytes": sum(each.bytes for each in self.pollers) + sum(each.bytes for each in self.readers),
            "events": sum(reader.events for reader in self.readers),
            "wrong": sum(poller.wrong for poller in self.pollers)
            + sum(not reader.right for reader in self.readers),
            "clients_cpu_seconds": round(time.process_time(), 3),
        }


async def watch(crowd: Crowd, pollers: int, rate: float) -> None:
    """Watch until the input ends."""
    await crowd.poll(pollers, rate)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while job := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        await crowd.read(job)
    print(json.dumps(crowd.figures()), flush=True)


def main() -> None:
    """Watch a server."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--pollers", type=int, default=50)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument(
        "--rate", type=float, default=2.0, help="polls a second of each (default: %(default)s)"
    )
    chosen = parser.parse_args()
    if hasattr(os, "nice"):
        os.nice(19)
    crowd = Crowd(host=chosen.host, port=chosen.port, streams=chosen.streams)
    asyncio.run(watch(crowd, chosen.pollers, chosen.rate))


if __name__ == "__main__":
    main()
