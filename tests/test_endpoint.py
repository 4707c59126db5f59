"""The client of endpoints, against a server that misbehaves and against our own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from clearseek import endpoint
from clearseek.endpoint import Endpoint, Named, Written
from clearseek.errors import UserError

KEY = "A_KEY_OF_THE_TESTS"
NAMED = Named("the endpoint", "its model", KEY)

TEXT = {"choices": [{"text": "a text", "finish_reason": "stop"}]}


@dataclass
class Fake:
    """A server on this machine that gives prepared answers in turn, and the last one for ever."""

    answers: list[tuple[int, bytes, dict[str, str]]]
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    url: str = ""


def answer(body: Any = TEXT, status: int = 200, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    return status, body if isinstance(body, bytes) else json.dumps(body).encode(), headers


@contextlib.contextmanager
def fake(*answers: tuple[int, bytes, dict[str, str]]) -> Iterator[Fake]:
    held = Fake(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            held.asked.append((self.path, dict(self.headers), json.loads(raw) if raw else None))
            status, body, headers = held.answers[min(len(held.asked), len(held.answers)) - 1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            length = int(headers.get("Content_Length", len(body)))
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            with contextlib.suppress(OSError):
                for start in range(0, len(body), 1 if "Slow" in headers else 1 << 20):
                    time.sleep(float(headers.get("Slow", 0)))
                    self.wfile.write(body[start : start + (1 if "Slow" in headers else 1 << 20)])

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    held.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()


def written(url: str, **settings: Any) -> Written:
    settings = {"model": "m", "named": NAMED, "sleep": lambda seconds: None, "seconds": 5.0} | settings
    return Endpoint(url, **settings).write("once", 5, 0.5, 7)


def test_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    with fake(answer()) as server:
        found = written(server.url + "/")
        assert (found.text, found.ended) == ("a text", True)
        path, headers, body = server.asked[0]
        assert path == "/v1/completions" and headers["Authorization"] == "Bearer secret"
        assert body == {"model": "m", "prompt": "once", "max_tokens": 5, "temperature": 0.5, "seed": 7, "n": 1}
    with fake(answer({"choices": [{"message": {"content": "hi"}, "finish_reason": "length"}]})) as server:
        found = Endpoint(server.url, "m", NAMED).write([{"role": "user", "content": "x"}], 5, 1.0, 7)
        assert (found.text, found.ended) == ("hi", False)
        assert server.asked[0][0] == "/v1/chat/completions" and server.asked[0][2]["messages"][0]["content"] == "x"


def test_the_only_model_is_taken() -> None:
    with fake(answer({"data": [{"id": "only"}]}), answer()) as server:
        assert written(server.url, model="").text == "a text" and server.asked[1][2]["model"] == "only"
    for data in ([{"id": "a"}, {"id": "b"}], [], "x", [{"id": 3}], [7]):
        with fake(answer({"data": data})) as server, pytest.raises(UserError, match="say which by its model"):
            written(server.url, model="")


def test_what_may_pass_is_tried_again() -> None:
    waits: list[float] = []
    errors = [answer({"error": {"message": "busy"}}, status, Retry_After="7") for status in (429, 503, 500)]
    with fake(*errors, answer()) as server:
        assert written(server.url, sleep=waits.append).text == "a text"
    assert waits == [7.0, 7.0, 7.0]
    with fake(answer(b"{", Content_Length="100"), answer()) as server:  # breaks off
        assert written(server.url).text == "a text"


def test_what_does_not_pass_is_an_error_that_says_what() -> None:
    with fake(answer({"error": {"message": "busy"}}, 503)) as server:
        with pytest.raises(UserError, match=r"status 503 \(busy\), 3 times in a row"):
            written(server.url, tries=3)
        assert len(server.asked) == 3
    with pytest.raises(UserError, match="no connection"):
        written("http://127.0.0.1:9/v1", tries=2)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (answer({"error": {"message": "no such model"}}, 404), r"refused with status 404 \(no such model\)"),
        (answer({"error": "wrong key"}, 401), rf"status 401 \(wrong key\): set {KEY}"),
        (answer(b"<html>", 400), "refused with status 400"),
        (answer(b"", 302, Location="http://127.0.0.1:1/v1"), "refused with status 302"),
        (answer(b"not JSON"), "not valid JSON"),
        (answer(b"[1]"), "must be a JSON object"),
        (answer(b'{"choices": NaN}'), "not valid JSON"),
        (answer(b"[" * 100_000), "nested too deeply|not valid JSON"),
        (answer({}), "has no text"),
        (answer({"choices": []}), "has no text"),
        (answer({"choices": "abc"}), "has no text"),
        (answer({"choices": [{"text": None}]}), "text that is none"),
        (answer({"choices": [{"text": ["a"], "finish_reason": "stop"}]}), "text that is none"),
        (answer({"choices": [{"text": "a", "finish_reason": 3}]}), "text that is none"),
    ],
)
def test_answers_that_are_refused(
    given: tuple[int, bytes, dict[str, str]], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "secret")
    with fake(given) as server:
        with pytest.raises(UserError, match=told) as error:
            written(server.url)
        assert len(server.asked) == 1 and "secret" not in str(error.value)


def test_a_long_and_a_slow_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "LONGEST", 1000)
    with fake(answer({"choices": [{"text": "a" * 2000}]})) as server, pytest.raises(UserError, match="is longer than"):
        written(server.url)
    with fake(answer(b" " * 30, Slow="0.02")) as server, pytest.raises(UserError, match=r"no answer within 0.1 s, 2"):
        written(server.url, seconds=0.1, tries=2)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ftp://host/v1", "not an address"),
        ("http://", "not an address"),
        ("http://host:port/v1", "not an address"),
        ("http://[::1/v1", "not an address"),
        ("http://host/v1?key=3", "not an address"),
        ("http://me:secret@host/v1", f"give a key by {KEY}"),
        ("http://example.org/v1", "in clear text: use https"),
    ],
)
def test_addresses_that_are_refused(address: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secretkey")
    with pytest.raises(UserError, match=told) as error:
        Endpoint(address, "m", NAMED)
    assert "secretkey" not in str(error.value)


def test_a_key_with_line_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "a\r\nHost: b")
    with pytest.raises(UserError, match="characters that no key has"):
        Endpoint("https://example.org/v1", "m", NAMED)


def test_our_own_server_teaches(tmp_path: Path, corpus: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student learns from `clearseek serve`, whose texts do not change when they are asked for again."""
    from clearseek.cli import main
    from clearseek.posttrain.texts import TEACHER
    from clearseek.train.session import train_recipe
    from clearseek.train.transcript import read_header
    from tests.posttrain.test_distil import lines_of, recipe
    from tests.serve.served import serving, tiny_model
    from tests.tiny import tiny

    monkeypatch.setenv(TEACHER.key, "a-key")
    train_recipe(tiny(train={"steps": 1}), tmp_path / "small", data)
    with serving(tiny_model(), keys=["a-key"]) as served:
        settings = {"form": "text", "teacher": served.url + "/v1", "texts": 9, "max_tokens": 8, "prompt_tokens": 4}
        file = recipe(tmp_path, tmp_path, corpus, settings)
        for name in ("one", "two"):
            assert main(["train", str(file), "--run", str(tmp_path / name)]) == 0
        monkeypatch.setenv(TEACHER.key, "another")
        assert main(["train", str(file), "--run", str(tmp_path / "three")]) != 0
    assert lines_of(tmp_path / "one") == lines_of(tmp_path / "two")
    teacher = read_header(tmp_path / "one" / "transcript.jsonl")["teacher"]
    assert teacher["name"] == "tiny" and teacher["address"] == served.url + "/v1" and "a-key" not in json.dumps(teacher)
    texts = [json.loads(line) for line in (tmp_path / "one" / "teacher" / "texts.jsonl").read_text().splitlines()]
    assert [text["number"] for text in texts] == list(range(9)) and len({text["text"] for text in texts}) > 5


@contextlib.contextmanager
def dripping(head: bytes, drip: bytes) -> Iterator[str]:
    """A server that sends a beginning, and then a byte now and then, without end."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=drop, args=(connection,), daemon=True).start()

        def drop(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(head)
                while not ended.wait(0.05):
                    connection.sendall(drip)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        finally:
            ended.set()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
        b"HTTP/1.1 400 No\r\nContent-Length: 99999\r\n\r\n",
        b"",
    ],
)
def test_an_answer_that_drips_ends(head: bytes) -> None:
    """Each byte comes within the limit of a socket; together they would take hours."""
    began = time.monotonic()
    with dripping(head, b"x") as url, pytest.raises(UserError):
        written(url, seconds=0.4, tries=1)
    assert time.monotonic() - began < 10


def test_the_key_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an endpoint says is shown and kept, and it may say the key."""
    monkeypatch.setenv(KEY, "sk-secret-0123456789")
    said = "x" * 190 + os.environ[KEY]
    for status in (400, 401, 503):
        with fake(answer({"error": {"message": said}}, status)) as server, pytest.raises(UserError) as found:
            written(server.url, tries=1)
        assert "sk-secret" not in str(found.value) and "(the key)" in str(found.value)
    for body in (
        {"choices": [{"text": [said]}]},
        {"x": said},
        b'{"%b": 1, "%b": 2}' % (2 * (os.environ[KEY].encode(),)),
    ):
        with fake(answer(body)) as server, pytest.raises(UserError) as found:
            written(server.url, tries=1)
        assert "sk-secret" not in str(found.value)
