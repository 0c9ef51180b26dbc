"""A connection that waits for a request's headers, but neither for ever nor for any number of bytes."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 2**16  # bytes of a request before its body; what `limits` says of headers is stricter


class Punctual(HttpToolsProtocol):
    """Closes a connection over which no whole request has come in time; its body's pace is the guard's."""

    within = 20.0  # seconds, from the connection or the request's first byte to its last header
    _limit: asyncio.TimerHandle | None = None
    _seen = 0  # bytes since then

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._hurry()

    def data_received(self, data: bytes) -> None:
        """Take bytes in, of headers only so many."""
        if self._limit is None and (self.cycle is None or self.cycle.response_complete):
            self._hurry()
        super().data_received(data)
        if self._limit is not None:
            self._seen += len(data)
            if self._seen > MAX_HEAD:
                self.send_400_response("The headers are too large.")

    def on_headers_complete(self) -> None:
        """Wait no more."""
        self._calm()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._calm()
        super().connection_lost(exc)

    def _hurry(self) -> None:
        self._seen = 0
        self._limit = self.loop.call_later(self.within, self.transport.close)

    def _calm(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
