"""Whose request it is, where it comes from, how large and how slow it may be."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from clearseek.inference.model import Model
from clearseek.serve.guard import Guard
from clearseek.serve.server import Connection
from clearseek.serve.service import Limits
from tests.serve.served import Served, serving

ASK = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
HEAD = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{}\r\n\r\n"


@pytest.fixture(scope="module")
def locked(model: Model) -> Iterator[Served]:
    """A server with keys and narrow limits."""
    with serving(model, Limits(body=1 << 16, upload_seconds=1.0, waiting=8), keys=["one", "two"]) as running:
        yield running


def raw(served: Served, data: bytes, seconds: float = 5.0) -> bytes:
    """Bytes that a server answers bytes with, until it closes."""
    with socket.create_connection(served.place, timeout=seconds) as line:
        line.sendall(data)
        found = b""
        while piece := line.recv(1 << 16):
            found += piece
        return found


def test_keys(locked: Served) -> None:
    for headers in ({}, {"Authorization": "Bearer three"}, {"x-api-key": ""}, {"Authorization": "Bearer"}):
        refused = locked.post("/v1/chat/completions", ASK, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    for headers in ({"Authorization": "Bearer one"}, {"x-api-key": "two"}):
        assert locked.post("/v1/chat/completions", ASK, headers=headers).status_code == 200
    assert locked.client.get(locked.url + "/metrics").status_code == 401
    assert locked.client.get(locked.url + "/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost@evil.example", "192.0.2.1", "::1:9"],
)
def test_other_hosts_are_refused(served: Served, host: str) -> None:
    assert b" 403 " in raw(served, f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())


def status(hosts: list[str], server: str | None, method: str = "GET", **headers: str) -> int:
    """Status of a request that a guard, who answers for some hosts, is sent at the address `server`."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/v1/completions", "server": server and (server, 8000)}
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    guard = Guard(app, Limits(), [], hosts, lambda path, status: None)
    asyncio.run(guard(scope | {"headers": named}, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("host", "server"),
    [("192.168.1.5:8000", "192.168.1.5"), ("192.168.1.5", "::ffff:192.168.1.5"), ("[FE80::1]:8000", "fe80::1%eth0"),
     ("[fe80:0::1]", "fe80::1")],
)  # fmt: skip
def test_the_address_that_a_client_reached_is_known(host: str, server: str) -> None:
    assert status([], server, host=host) == 200
    assert status([], "10.0.0.1", host=host) == status([], None, host=host) == 403


def test_names_are_allowed_with_their_port_or_with_any() -> None:
    assert [status(["box", "fe80::2"], None, host=host) for host in ("Box", "box:1", "[fe80::2]:8000")] == [200] * 3
    assert [status(["box:9"], None, host=host) for host in ("box:9", "box", "box:1")] == [200, 403, 403]


FOREIGN = [
    "http://evil.example", "null", "https://localhost.evil.example", "file://", "http://localhost:3000",
    "http://127.0.0.1", "https://127.0.0.1", "127.0.0.1",
]  # fmt: skip
"""Origins of which none is the server's, though some are of this machine."""


@pytest.mark.parametrize("origin", FOREIGN)
def test_pages_of_other_origins_are_refused(served: Served, origin: str) -> None:
    refused = served.post("/v1/chat/completions", ASK, headers={"Origin": origin})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "origin")


def test_its_own_origin_is_not(served: Served) -> None:
    assert served.post("/v1/chat/completions", ASK, headers={"Origin": served.url}).status_code == 200
    assert status(["chat.example"], None, host="chat.example", origin="https://chat.example") == 200
    assert status([], "192.0.2.1", host="192.0.2.1:80", origin="http://192.0.2.1") == 200
    assert status(["chat.example"], None, host="localhost:8000", origin="https://chat.example") == 200  # by a proxy
    assert status(["chat.example"], None, host="localhost:8000", origin="https://chat.example:3000") == 403


@pytest.mark.parametrize("kind", ["text/plain", "text/plain;application/json", "multipart/form-data", ""])
def test_what_pages_can_send_unasked_is_refused(served: Served, kind: str) -> None:
    for path in ("/v1/chat/completions", "/v1/messages", "/tokenize"):
        refused = served.client.post(served.url + path, content=b"{}", headers={"Content-Type": kind})
        assert refused.status_code == 415
        assert "Content-Type: application/json" in refused.json()["error"]["message"]
    assert status([], None, "POST", host="localhost", content_type="Application/JSON; charset=utf-8") == 200


def test_large_bodies_are_refused_and_not_kept(served: Served) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * (1 << 20)

    known = served.client.post(served.url + "/v1/chat/completions", content=b"x" * (100 << 20), timeout=60)
    unknown = served.client.post(served.url + "/v1/chat/completions", content=body(), timeout=60)
    for refused in (known, unknown):
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")
    head = HEAD.format("/v1/messages", f"Expect: 100-continue\r\nContent-Length: {10**18}")
    assert b" 413 " in raw(served, head.encode())


def test_slow_uploads_are_given_up(locked: Served) -> None:
    begun = time.monotonic()
    found = raw(locked, HEAD.format("/v1/messages", "x-api-key: one\r\nContent-Length: 99").encode() + b"{")
    assert b" 408 " in found
    assert b'"type": "error"' in found
    assert time.monotonic() - begun < 4


def test_a_client_that_leaves_while_it_sends_asks_nothing(served: Served) -> None:
    before = served.worker.engine.counts.read
    with socket.create_connection(served.place) as line:
        line.sendall(HEAD.format("/v1/completions", "Content-Length: 99").encode() + b'{"prompt": "x"}')
    time.sleep(0.1)
    assert served.worker.engine.counts.read == before


NOT_HTTP = (
    b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
)  # fmt: skip


@pytest.mark.parametrize("data", NOT_HTTP)
def test_what_is_not_http_is_refused(served: Served, data: bytes) -> None:
    assert raw(served, data + b"\r\n\r\n").startswith(b"HTTP/1.1 4")


def test_paths_and_methods(served: Served) -> None:
    assert served.client.get(served.url + "/none").json()["error"]["code"] == "not_found"
    assert served.client.get(served.url + "/v1/completions").status_code == 405
    assert served.client.options(served.url + "/v1/completions").status_code == 405
    assert 'path="/v1/completions",status="405"' in served.client.get(served.url + "/metrics").text


@pytest.fixture(scope="module")
def hasty(model: Model) -> Iterator[Served]:
    """A server that waits a second for its clients."""
    with serving(model, Limits(head_seconds=1.0, send_seconds=1.0)) as running:
        yield running


def wait_until_closed(served: Served, seconds: float = 6.0) -> None:
    """Wait until the server counts no connection."""
    until = time.monotonic() + seconds
    while served.server.server_state.connections:
        assert time.monotonic() < until, "a connection is still counted"
        time.sleep(0.05)


def line_to(served: Served, kept: int) -> socket.socket:
    """A connection whose client's system keeps some bytes, and no more."""
    line = socket.socket()
    line.settimeout(10)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kept)
    line.connect(served.place)
    return line


STREAM = json.dumps(
    {"max_tokens": 900, "stream": True, "n": 4, "logprobs": True, "top_logprobs": 20, "logit_bias": {"1": -100},
     "messages": ASK["messages"]}
).encode()  # fmt: skip
STALLED = {
    "closing": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "kept": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "stream": HEAD.format("/v1/chat/completions", f"Content-Length: {len(STREAM)}").encode() + STREAM,
}
"""Requests whose answers are larger than what systems keep."""


@pytest.mark.parametrize("asked", STALLED.values(), ids=STALLED)
def test_clients_that_take_nothing_lose_their_places(
    hasty: Served, asked: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [line_to(hasty, 4096) for _ in range(2)]
    for line in lines:
        line.sendall(asked)
    time.sleep(0.2)
    assert len(hasty.server.server_state.connections) == 2
    wait_until_closed(hasty)
    hasty.wait_until_idle()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
    for line in lines:
        line.close()


def test_a_client_that_takes_its_answer_slowly_keeps_its_place(hasty: Served) -> None:
    begun = time.monotonic()
    with line_to(hasty, 1 << 16) as line:
        line.sendall(STALLED["closing"])
        found = bytearray()
        while piece := line.recv(1 << 14):
            found += piece
            time.sleep(0.06)
    head, _, body = found.partition(b"\r\n\r\n")
    assert len(body) == int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
    assert time.monotonic() - begun > 2, "too fast to tell"


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHost: localh"])
def test_a_head_that_does_not_arrive_is_given_up(hasty: Served, data: bytes) -> None:
    begun = time.monotonic()
    assert raw(hasty, data) == b""
    assert time.monotonic() - begun < 4
    with socket.create_connection(hasty.place, timeout=5) as line, pytest.raises(OSError):
        for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 200:  # bytes that come one by one gain no time
            line.sendall(bytes([byte]))
            time.sleep(0.05)
    wait_until_closed(hasty)


def test_a_second_head_has_its_own_time(hasty: Served) -> None:
    ask = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(hasty.place, timeout=5) as line:
        for _ in range(2):
            line.sendall(ask)
            time.sleep(0.2)
            assert b" 200 " in line.recv(4096)
            time.sleep(1.7)  # idle between two requests, for longer than a head may take
        line.sendall(ask[:20])
        begun = time.monotonic()
        assert line.recv(4096) == b""
        assert time.monotonic() - begun < 4


def test_a_head_is_bounded(served: Served) -> None:
    with socket.create_connection(served.place, timeout=5) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"x" * (1 << 17))
        assert line.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
    assert served.server.config.http_protocol_class.func is Connection  # type: ignore[attr-defined]


def test_no_websocket_passes_the_guard(served: Served) -> None:
    ask = b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    ask += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    assert raw(served, ask).startswith(b"HTTP/1.1 403 ") and served.server.config.ws == "none"
