"""What stands before every route: whose request it is, where it comes from, how large and how slow it may be."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Callable, Collection
from typing import Any

from clearseek.serve.service import Limits

LOCAL = ("localhost", "127.0.0.1", "[::1]")
PORTS = {"http": "80", "https": "443"}
"""Ports that an address need not name, by its scheme."""
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


def in_address(host: str) -> str:
    """A host as an address has it: IPv6 in brackets, in its one form, without a zone."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host.lower()
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or f"[{address}]")


def place(text: str) -> tuple[str, str]:
    """Host and port of ``host:port``, of a host alone, or of a bare IPv6 address; without a port, it is empty."""
    host, colon, port = text.rpartition(":")
    whole = not colon or not port.isdecimal() or (":" in host and not host.endswith("]"))
    return (in_address(text), "") if whole else (in_address(host), port)


class _LeftError(Exception):
    """The client left before its request was whole."""


class Guard:
    """An ASGI application around another.

    Args:
        app: The application to guard.
        limits: What one request may take.
        keys: API keys, one of which a request must show; where there are none, anybody may ask.
        hosts: Names by which clients call the server beside this machine's own, each with a port or without.
        answered: Is told each response's route and status.
    """

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
        self.named = {place(host) for host in hosts}
        self.hosts = self.named | {place(host) for host in LOCAL}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        wrong = self._wrong(scope, headers)
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
        """`send`, which counts the response."""

        async def watched(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.answered(getattr(scope.get("route"), "path", "other"), message["status"])
            await send(message)

        return watched

    def _wrong(self, scope: Any, headers: dict[str, bytes]) -> tuple[int, str, str] | None:
        host = place(headers.get("host", b"").decode("latin-1"))
        if not self._known(host, scope["server"]):
            return 403, "this server does not answer for that Host: start it with --allow-host and the name", "host"
        origin = headers.get("origin", b"").decode("latin-1")
        if origin and not self._own(origin, host):
            return 403, "pages of other origins may not use this server", "origin"
        if self.keys and scope["path"] not in OPEN:
            given = headers.get("authorization", b"").removeprefix(b"Bearer ") or headers.get("x-api-key", b"")
            if not any([hmac.compare_digest(given, key) for key in self.keys]):  # noqa: C419 - all are compared
                return 401, "wrong or missing API key", "invalid_api_key"
        kind = headers.get("content-type", b"").partition(b";")[0].strip().lower()
        if scope["method"] == "POST" and kind != b"application/json":  # a page can send other types unasked
            return 415, "send JSON, with the header Content-Type: application/json", "content_type"
        return None

    def _known(self, host: tuple[str, str], server: tuple[str, int | None] | None) -> bool:
        """Whether a Host names this server: the address that the client reached, or a name that was allowed.

        A page whose own name leads to this machine (DNS rebinding) sends that name, which is neither.
        """
        reached = server is not None and host[0] == in_address(server[0])
        return reached or host in self.hosts or (host[0], "") in self.hosts

    def _own(self, origin: str, host: tuple[str, str]) -> bool:
        """Whether a page is this server's own, or of a name that was allowed: another port is another's page."""
        scheme, _, rest = origin.partition("://")
        found, port = place(rest), PORTS.get(scheme, "")
        same = (found[0], found[1] or port) == (host[0], host[1] or port)
        return bool(port) and (same or found in self.named)

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
