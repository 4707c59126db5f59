"""What stands before every route: whose request it is, where it comes from, how large and how slow it may be."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable, Collection
from typing import Any

from clearseek.serve.service import Limits

LOCAL = ("localhost", "127.0.0.1", "[::1]")
OPEN = ("/health", "/")
"""Paths that need no key: they tell nothing of anybody's text."""
ANTHROPIC = "/v1/messages"
KINDS = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip
"""Anthropic's words for statuses; others are ``invalid_request_error`` below 500, and ``api_error`` above."""


def error_body(path: str, status: int, message: str, code: str, parameter: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form, or in Anthropic's on its paths."""
    if path.startswith(ANTHROPIC):
        kind = KINDS.get(status, "invalid_request_error" if status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}


class _LeftError(Exception):
    """The client left before its request was whole."""


class Guard:
    """An ASGI application around another; `answered` is told each response's route and status."""

    def __init__(
        self,
        app: Any,
        limits: Limits,
        keys: Collection[str],
        hosts: Collection[str],
        answered: Callable[[str, int], None],
    ) -> None:
        self.app, self.limits, self.answered = app, limits, answered
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
            await self._refuse(scope, send, *wrong)
            return
        try:
            body = await asyncio.wait_for(self._body(receive, headers), self.limits.upload_seconds)
        except _LeftError:
            return
        except TimeoutError:
            await self._refuse(scope, send, 408, "the request did not arrive in time", "timeout")
            return
        if body is None:
            await self._refuse(scope, send, 413, f"the request is larger than {self.limits.body} bytes", "too_large")
            return
        await self.app(scope, _again(body, receive), self._watched(scope, send))

    def _watched(self, scope: Any, send: Any) -> Any:
        """`send`, which counts the response, and gives up a client that takes nothing of it."""

        async def watched(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.answered(getattr(scope.get("route"), "path", "other"), message["status"])
            await asyncio.wait_for(send(message), self.limits.send_seconds)

        return watched

    def _wrong(self, path: str, headers: dict[str, bytes]) -> tuple[int, str, str] | None:
        if not self._known(headers.get("host", b"").decode("latin-1")):
            return 403, "this server does not answer for that Host: start it with --host or --allow-host", "host"
        origin = headers.get("origin", b"").decode("latin-1")
        if origin and not self._known(origin.partition("://")[2]):
            return 403, "pages of other origins may not use this server", "origin"
        if self.keys and path not in OPEN:
            given = headers.get("authorization", b"").removeprefix(b"Bearer ") or headers.get("x-api-key", b"")
            if not any([hmac.compare_digest(given, key) for key in self.keys]):  # noqa: C419 - all are compared
                return 401, "wrong or missing API key", "invalid_api_key"
        return None

    def _known(self, place: str) -> bool:
        host = place.lower()
        if not host.endswith("]"):
            name, colon, port = host.rpartition(":")
            host = name if colon and port.isdecimal() else host
        return host in self.hosts

    async def _body(self, receive: Any, headers: dict[str, bytes]) -> bytes | None:
        """The request's body, or None for one that is too large.

        A client that waits for leave to send is refused at once. Another's body is read and forgotten, because many
        clients do not look for an answer while they send.
        """
        length, most = headers.get("content-length", b"0"), self.limits.body
        large = length.isdigit() and (len(length) > 18 or int(length) > most)
        if large and headers.get("expect", b"").lower() == b"100-continue":
            return None
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise _LeftError
            large = large or len(body) + len(message.get("body", b"")) > most
            if large:
                body.clear()
            else:
                body += message.get("body", b"")
            if not message.get("more_body", False):
                return None if large else bytes(body)

    async def _refuse(self, scope: Any, send: Any, status: int, message: str, code: str) -> None:
        self.answered("refused", status)
        body = json.dumps(error_body(scope["path"], status, message, code)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _again(body: bytes, receive: Any) -> Any:
    """`receive`, which gives the body first."""
    given = False

    async def again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
