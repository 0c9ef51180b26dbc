"""The web server, as it says where it listens and as it leaves."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from sfumato.app.leaving import Leaving
from sfumato.server.interface import Interface

LINGER = 2.0  # seconds after the last picture in which those who look now and then may still fetch it


class Server(uvicorn.Server):
    """Leaves in order at the first signal, at once at the second, and as it stands at the third."""

    def __init__(
        self,
        config: uvicorn.Config,
        leaving: Leaving,
        say: Callable[[str], object],
        works: Callable[[], bool] = lambda: False,
        interface: Interface | None = None,
    ) -> None:
        """Get ready.

        Args:
            config: what to serve, and where.
            leaving: told when a signal comes.
            say: tells the address.
            works: whether something runs that is worth waiting for.
            interface: made when the server answers; None = there is none.
        """
        super().__init__(config)
        self._leaving, self._say, self._works = leaving, say, works
        self._needed = 0.0  # until when
        self._interface = interface
        self._opening: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to leave, or hasten."""
        self._leaving.told(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop serving: not while what runs may be finished, for its clients look at it."""
        if self._leaving.now:
            now = time.monotonic()
            if self._works():
                self._needed = now + LINGER
            self.should_exit = not self._leaving.left or now >= self._needed
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        scheme = "https" if self.config.is_ssl else "http"
        for server in self.servers if self.started else ():
            for each in server.sockets:
                host, port = each.getsockname()[:2]
                self._say(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
        if self._interface is not None:
            self._opening = asyncio.create_task(self._interface.prepare())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the interface, and stop listening."""
        if self._interface is not None and self._opening is not None:
            await self._opening
            await self._interface.close()
        await super().shutdown(sockets)
