"""The web server, as it says where it listens and as it leaves."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from sfumato.server.desk import Leaving


class Server(uvicorn.Server):
    """Leaves in order at the first signal, at once at the second, and as it stands at the third."""

    def __init__(
        self, config: uvicorn.Config, leaving: Leaving, grace: float, say: Callable[[str], object]
    ) -> None:
        """Get ready.

        Args:
            config: what to serve, and where.
            leaving: told when a signal comes.
            grace: seconds that what runs has then.
            say: tells the address.
        """
        super().__init__(config)
        self._leaving, self._grace, self._say = leaving, grace, say

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
