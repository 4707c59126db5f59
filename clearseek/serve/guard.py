"""What stands before every route: whose request it is, where it comes from, how large and how slow it may be."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable, Collection
from typing import Any

from clearseek.serve.service import Limits

LOCAL = ("localhost", "127.0.0.1", "[::1]")
OPEN = ("/health", "/", "/page.json")
"""Paths that need no key: they tell nothing of anybody's text."""


def error_body(status: int, message: str, code: str, parameter: str | None = None) -> dict[str, Any]:
    """OpenAI's form of an error."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: Any, limits: Limits, keys: Collection[str], hosts: Collection[str], refused: Callable[[int], None]) -> None:
        self.app, self.limits, self.refused = app, limits, refused
        self.keys = [key.encode() for key in keys]
        self.hosts = {host.lower() for host in (*LOCAL, *hosts)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        wrong = self._wrong(scope["path"], headers)
        if wrong is not None:
            await self._refuse(send, *wrong)
            return
        try:
            body = await asyncio.wait_for(self._body(receive, headers), self.limits.upload_seconds)
        except TimeoutError:
            await self._refuse(send, 408, "the request did not arrive in time", "timeout")
            return
        if body is None:
            await self._refuse(send, 413, f"the request is larger than {self.limits.body} bytes", "too_large")
            return
        given = False

        async def once() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, once, send)

    def _wrong(self, path: str, headers: dict[str, bytes]) -> tuple[int, str, str] | None:
        if not self._known(headers.get("host", b"").decode("latin-1")):
            return 403, "this server does not answer for that Host: start it with --host or --allow-host", "host"
        origin = headers.get("origin", b"").decode("latin-1")
        if origin and not self._known(origin.partition("://")[2]):
            return 403, "pages of other origins may not use this server", "origin"
        if self.keys and path not in OPEN:
            given = headers.get("authorization", b"").removeprefix(b"Bearer ") or headers.get("x-api-key", b"")
            if not any([hmac.compare_digest(given, key) for key in self.keys]):
                return 401, "wrong or missing API key", "invalid_api_key"
        return None

    def _known(self, place: str) -> bool:
        host = place.lower()
        if not host.endswith("]"):
            name, colon, port = host.rpartition(":")
            host = name if colon and port.isdecimal() else host
        return host in self.hosts

    async def _body(self, receive: Any, headers: dict[str, bytes]) -> bytes | None:
        length = headers.get("content-length", b"0")
        if length.isdigit() and int(length) > self.limits.body:
            return None
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return bytes(body)
            body += message.get("body", b"")
            if len(body) > self.limits.body:
                return None
            if not message.get("more_body", False):
                return bytes(body)

    async def _refuse(self, send: Any, status: int, message: str, code: str) -> None:
        self.refused(status)
        body = json.dumps(error_body(status, message, code)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
