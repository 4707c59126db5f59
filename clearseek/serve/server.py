"""uvicorn, which cuts off clients that let it wait, and ends with the answers that it has begun."""

from __future__ import annotations

import asyncio
import socket
import threading
from functools import partial
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from clearseek.serve.app import DRAIN_SECONDS
from clearseek.serve.guard import Guard
from clearseek.serve.service import Limits
from clearseek.serve.worker import Worker

CONNECTIONS = 1024
"""Most connections at once; others get 503."""
SYSTEM_BYTES = 1 << 17
"""Bytes that the system keeps for a client. With the megabytes of its own choice, it is long before reading shows."""
TICK = 0.5
"""Seconds between two looks at a connection."""


class Connection(H11Protocol):
    """A client's connection, which ends when the client sends no whole head of a request, or takes nothing, in time.

    uvicorn knows neither limit. It closes a connection once all is sent, which a client that reads nothing puts off for
    ever: the place of such a client is freed by aborting.
    """

    def __init__(self, limits: Limits, **settings: Any) -> None:
        super().__init__(**settings)
        self._limits = limits
        self._unsent = 0
        self._taken = self._heard = self.loop.time()
        self._look_again: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look at the connection."""
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SYSTEM_BYTES)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """End looking at it."""
        if self._look_again is not None:
            self._look_again.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent:
            self._taken = now
        self._unsent = unsent
        if self.conn.their_state is not h11.IDLE or self.timeout_keep_alive_task is not None:
            self._heard = now  # the head is whole, or none has begun since the last answer
        if now - self._taken > self._limits.send_seconds:
            self.transport.abort()
        elif now - self._heard > self._limits.head_seconds:
            self.transport.close()
        self._look_again = self.loop.call_later(TICK, self._look)


class Server(uvicorn.Server):
    """A server whose first signal lets open answers end, and whose second one ends them at once."""

    def __init__(self, app: Guard, worker: Worker, seconds: float = DRAIN_SECONDS, **settings: Any) -> None:
        # h11 bounds a head by 64 KiB, and the other parser of HTTP does not. Websockets would pass the guard by.
        config = uvicorn.Config(
            app, http=partial(Connection, app.limits), ws="none",  # type: ignore[arg-type]
            # No configuration of logging: it would close the handlers of everything else in the process.
            log_config=None, log_level="warning", timeout_keep_alive=15, timeout_graceful_shutdown=int(seconds) + 5,
            limit_concurrency=CONNECTIONS, server_header=False, **settings,
        )  # fmt: skip
        super().__init__(config)
        self._worker, self._seconds = worker, seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal, which uvicorn would raise again after the end; the second one ends what is being written."""
        if self.should_exit:
            threading.Thread(target=self._worker.drain, args=(0.0,), daemon=True).start()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new requests, wait for the open ones, then close."""
        drained = asyncio.ensure_future(asyncio.to_thread(self._worker.drain, self._seconds))
        await super().shutdown(sockets)
        await drained
