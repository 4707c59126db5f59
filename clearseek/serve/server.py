"""uvicorn, which ends with the answers that it has begun."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from types import FrameType
from typing import Any

import uvicorn

from clearseek.serve.app import DRAIN_SECONDS
from clearseek.serve.worker import Worker

CONNECTIONS = 1024
"""Most connections at once; others get 503."""


class Server(uvicorn.Server):
    """A server whose first signal lets open answers end, and whose second one ends them at once."""

    def __init__(self, app: Any, worker: Worker, seconds: float = DRAIN_SECONDS, **settings: Any) -> None:
        config = uvicorn.Config(
            app, log_level="warning", timeout_keep_alive=15, timeout_graceful_shutdown=int(seconds) + 5,
            limit_concurrency=CONNECTIONS, server_header=False, **settings,
        )  # fmt: skip
        super().__init__(config)
        self._worker, self._seconds = worker, seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal; the second one ends what is being written."""
        if self.should_exit:
            threading.Thread(target=self._worker.drain, args=(0.0,), daemon=True).start()
        super().handle_exit(signal.SIGTERM, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new requests, wait for the open ones, then close."""
        drained = asyncio.ensure_future(asyncio.to_thread(self._worker.drain, self._seconds))
        await super().shutdown(sockets)
        await drained
