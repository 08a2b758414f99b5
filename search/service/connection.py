"""One connection of a client, which does not wait for ever for a request: uvicorn itself limits only idle ones."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_S = 10.0  # for a request's headers to come, and for what is left of a body that nobody wants any more


class Connection(H11Protocol):
    """Closes itself where no request has begun in time. How long one may then take the doorkeeper says."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As asyncio calls it."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio calls it."""
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """As uvicorn calls it."""
        super().on_response_complete()
        self._wait()

    def _wait(self) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = self.loop.call_later(HEADER_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
