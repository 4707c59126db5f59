"""Whose request it is, where it comes from, how large and how slow it may be."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from clearseek.inference.model import Model
from clearseek.serve.service import Limits
from tests.serve.served import Served, serving

ASK = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def locked(model: Model) -> Iterator[Served]:
    """A server with keys and narrow limits."""
    with serving(model, Limits(body=1 << 16, upload_seconds=1.0, waiting=8), keys=["one", "two"]) as running:
        yield running


def raw(served: Served, data: bytes, seconds: float = 5.0) -> bytes:
    """Bytes that a server answers bytes with, until it closes."""
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as line:
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
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost@evil.example"]
)
def test_other_hosts_are_refused(served: Served, host: str) -> None:
    assert b" 403 " in raw(served, f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost.evil.example", "file://"])
def test_pages_of_other_origins_are_refused(served: Served, origin: str) -> None:
    assert served.post("/v1/chat/completions", ASK, headers={"Origin": origin}).status_code == 403


def test_its_own_origin_is_not(served: Served) -> None:
    assert served.post("/v1/chat/completions", ASK, headers={"Origin": served.url}).status_code == 200


def test_large_bodies_are_refused_and_not_kept(served: Served) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * (1 << 20)

    known = served.client.post(served.url + "/v1/chat/completions", content=b"x" * (100 << 20), timeout=60)
    unknown = served.client.post(served.url + "/v1/chat/completions", content=body(), timeout=60)
    for refused in (known, unknown):
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")
    head = "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n"
    assert b" 413 " in raw(served, head.format(10**18).encode())


def test_slow_uploads_are_given_up(locked: Served) -> None:
    begun = time.monotonic()
    head = b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nx-api-key: one\r\nContent-Length: 99\r\n\r\n{"
    found = raw(locked, head)
    assert b" 408 " in found
    assert b'"type": "error"' in found
    assert time.monotonic() - begun < 4


def test_a_client_that_leaves_while_it_sends_asks_nothing(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    before = served.worker.engine.counts.read
    with socket.create_connection((host, int(port))) as line:
        line.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"prompt": "x"}')
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
