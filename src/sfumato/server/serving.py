"""The web server, as it says where it listens and as it leaves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from sfumato.server.desk import Leaving
from sfumato.server.interface import Interface


class Server(uvicorn.Server):
    """Leaves in order at the first signal, at once at the second, and as it stands at the third."""

    def __init__(
        self,
        config: uvicorn.Config,
        leaving: Leaving,
        grace: float,
        say: Callable[[str], object],
        interface: Interface | None = None,
    ) -> None:
        """Get ready.

        Args:
            config: what to serve, and where.
            leaving: told when a signal comes.
            grace: seconds that what runs has then.
            say: tells the address.
            interface: made when the server answers; None = there is none.
        """
        super().__init__(config)
        self._leaving, self._grace, self._say = leaving, grace, say
        self._interface = interface
        self._opening: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to leave, or hasten."""
        self.force_exit = self._leaving.now and not self._leaving.left
        self._leaving.begin(0.0 if self.should_exit else self._grace)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        scheme = "https" if self.config.is_ssl else "http"
        for server in self.servers if self.started else ():
            for each in server.sockets:
                host, port = each.getsockname()[:2]
                self._say(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
        if self._interface is not None:
            self._opening = asyncio.create_task(self._interface.open())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the interface, and stop listening."""
        if self._interface is not None and self._opening is not None:
            await self._opening
            await self._interface.close()
        await super().shutdown(sockets)
