"""A client of OpenAI-compatible endpoints, which trusts nothing that comes back.

A request has a time limit, an answer a largest size and one form. What may pass (no connection, a time-out, status 408,
409, 429 or 5xx) is tried again, later each time; everything else is one error that says what the endpoint said. The key
comes from the environment and goes over TLS, or to this machine, and nowhere else: redirects are not followed.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlsplit

from clearseek.errors import UserError
from clearseek.jsontext import strict_json

SECONDS: Final = 300.0
"""Most seconds of a request."""
TRIES: Final = 6
LONGEST: Final = 16 << 20
"""Most bytes of an answer."""
_LATER: Final = (408, 409, 429)
_OF_ONE: Final = (400, 413, 422)
"""What is refused is this request; another one may be answered."""
_LONGEST_WAIT: Final = 60.0


class NoAnswerError(UserError):
    """A request that brought no answer; another request may."""


@dataclass(frozen=True)
class Named:
    """What errors call the settings of an endpoint."""

    address: str
    model: str
    key: str
    """Environment variable of the API key."""


class Endpoint:
    """An OpenAI-compatible endpoint.

    Args:
        address: Its base, such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model there, or an empty string for the only one.
        named: Names of these settings; the API key is in the environment under one of them.
        seconds: Most seconds of a request.
        tries: How often a request is sent at most.
        sleep: Waits for some seconds; replaced in tests.

    Raises:
        UserError: the address is none of an endpoint, or the key would go over the network in clear text.
    """

    def __init__(
        self, address: str, model: str, named: Named, *, seconds: float = SECONDS, tries: int = TRIES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        try:
            parts = urlsplit(address)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise UserError(f"{named.address} = {address!r:.200}: not an address: {error}") from None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise UserError(f"{named.address} = {address!r:.200}: not an address such as http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.password is not None:
            raise UserError(f"{named.address}: the address holds a name or password: give a key by {named.key} instead")
        self.address, self._named = address.rstrip("/"), named
        self._seconds, self._tries, self._sleep = seconds, tries, sleep
        here = _is_here(host)
        self._key = os.environ.get(named.key, "")
        if self._key and parts.scheme == "http" and not here:
            raise UserError(f"{self.address}: {named.key} would go over the network in clear text: use https")
        if any(not 32 < ord(each) < 127 for each in self._key):
            raise UserError(f"{named.key}: the key has characters that no key has, such as spaces or line ends")
        handlers = [_NoRedirect(), _Http(), _Https(), *([urllib.request.ProxyHandler({})] if here else [])]
        self._opener = urllib.request.build_opener(*handlers)
        self.model = model or self._only_model()

    def write(self, prompt: str | list[dict[str, str]], max_tokens: int, temperature: float, seed: int) -> Written:
        """The text that the model goes on with: of a text, or of a conversation.

        Raises UserError: the endpoint refuses, fails for longer than all tries, or answers in another form.
        """
        asked: dict[str, Any] = {
            "model": self.model, "max_tokens": max_tokens, "temperature": temperature, "seed": seed, "n": 1,
        }  # fmt: skip
        chat = not isinstance(prompt, str)
        path = "/chat/completions" if chat else "/completions"
        answer = self.send(path, asked | {"messages" if chat else "prompt": prompt})
        where = f"{self.address}{path}"
        try:
            choice = answer["choices"][0]
            text, reason = choice["message"]["content"] if chat else choice["text"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise NoAnswerError(
                f"{where}: its answer has no text: {self._told(answer)}: is it OpenAI's form?"
            ) from None
        if not isinstance(text, str) or not (reason is None or isinstance(reason, str)):
            raise NoAnswerError(f"{where}: its answer has a text that is none: {self._told(choice)}")
        return Written(text, reason == "stop")

    def _only_model(self) -> str:
        answer = self.send("/models", None)
        listed = answer.get("data")
        names = [each.get("id") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        if len(names) != 1 or not isinstance(names[0], str):
            shown = ", ".join(str(name) for name in names[:8]) or "none"
            raise UserError(
                f"{self.address}: it has several models or none ({shown}): say which by {self._named.model}"
            )
        return names[0]

    def send(
        self, path: str, body: dict[str, Any] | None, *, seconds: float | None = None, tries: int | None = None
    ) -> dict[str, Any]:
        """The answer to a request, a JSON object; `seconds` and `tries` are of this request, where given.

        Raises UserError: the endpoint refuses; its kind :class:`NoAnswerError` where no try brought an answer.
        """
        wait, tries = 1.0, self._tries if tries is None else tries
        seconds = self._seconds if seconds is None else seconds
        for left in reversed(range(tries)):
            try:
                return self._once(path, body, seconds)
            except _LaterError as error:
                if not left:
                    raise NoAnswerError(
                        f"{self.address}{path}: {error}, {tries} times in a row: see whether the endpoint runs"
                    ) from None
                self._sleep(min(_LONGEST_WAIT, max(wait, error.seconds)))
                wait *= 2
        raise AssertionError("at least one try")

    def _once(self, path: str, body: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        data = None if body is None else json.dumps(body).encode()
        where = f"{self.address}{path}"
        try:
            request = urllib.request.Request(where, data, headers)
            with self._opener.open(request, timeout=seconds) as response:
                raw = bytearray()
                while len(raw) <= LONGEST and (piece := response.read1(1 << 20)):
                    raw += piece
                size = response.headers.get("Content-Length", "")
        except urllib.error.HTTPError as error:
            with error:
                said = self._said(error)
            if error.code in _LATER or error.code >= 500:
                raise _LaterError(f"status {error.code}{said}", _seconds(error.headers.get("Retry-After"))) from None
            cure = f": set {self._named.key}" if error.code in (401, 403) else ""
            if error.code == 404 and path == "/models":
                cure = f": is it {self.address}/v1? If it lists no models, say which by {self._named.model}"
            kind = NoAnswerError if error.code in _OF_ONE else UserError
            raise kind(f"{where}: refused with status {error.code}{said}{cure}") from None
        except TimeoutError:
            raise _LaterError(f"no answer within {seconds:g} s") from None
        except urllib.error.URLError as error:
            raise _LaterError(f"no connection ({error.reason})") from None
        except (http.client.HTTPException, OSError) as error:
            raise _LaterError(f"the answer broke off ({error!r:.100})") from None
        if len(raw) > LONGEST:
            raise NoAnswerError(f"{where}: its answer is longer than {LONGEST >> 20} MiB")
        if size.isdigit() and size.isascii() and len(size) < 19 and len(raw) < int(size):
            raise _LaterError("the answer broke off")
        try:
            return strict_json(bytes(raw), where)
        except UserError as error:
            raise NoAnswerError(self.hidden(str(error))) from None

    def _said(self, error: urllib.error.HTTPError) -> str:
        """What the endpoint said of its refusal, as one short line."""
        try:
            raw = error.read(1 << 16)
            message = json.loads(raw)["error"]
            message = message["message"] if isinstance(message, dict) else message
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, RecursionError):
            return ""
        return f" ({self._told(message)})"

    def _told(self, value: Any) -> str:
        """What came from the endpoint, as one short line."""
        text = " ".join(self.hidden(str(value)).split())
        return "".join(each if each.isprintable() else "?" for each in text[:200])

    def hidden(self, text: str) -> str:
        """A text without the key: what an endpoint says is kept in records and shown, and it may say the key."""
        return text.replace(self._key, "(the key)") if self._key else text


class Written:
    """A text, and whether its writer ended it."""

    __slots__ = ("ended", "text")

    def __init__(self, text: str, ended: bool) -> None:
        self.text, self.ended = text, ended


class _LaterError(Exception):
    """A request that may succeed later."""

    def __init__(self, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class _Timely(io.RawIOBase):
    """What a socket receives until a moment, however slowly it comes: a socket's own limit is for each part alone."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw, self._sock = raw, sock
        self._until = time.monotonic() + (sock.gettimeout() or SECONDS)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return cast("int | None", self._raw.readinto(buffer))

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer, its headers and its body within one limit of time."""

    def __init__(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self.fp = io.BufferedReader(_Timely(self.fp.detach(), sock))


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _Response


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, request)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An answer that names another place is an error: the key is not for that place."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _is_here(host: str) -> bool:
    """Whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _seconds(text: str | None) -> float:
    """Seconds of a ``Retry-After``; 0 for none, or a date."""
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 6 else 0.0
