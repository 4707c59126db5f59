"""The engine's thread: places, leaving clients, deadlines, a drain, a breakdown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from clearseek.inference.model import Model
from clearseek.serve.service import Limits
from tests.serve.served import Served, serving

LONG: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hello"}], "max_tokens": 900, "logit_bias": {"1": -100}, "stream": True
}  # fmt: skip
SHORT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


def lines(response: httpx2.Response) -> list[Any]:
    """Values of the events of a stream."""
    return [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]


def test_no_place_is_429_before_any_work(model: Model) -> None:
    with serving(model, Limits(waiting=2)) as narrow:
        with httpx2.stream("POST", narrow.url + "/v1/chat/completions", json=LONG | {"n": 2}, timeout=60) as first:
            pieces = first.iter_lines()
            next(pieces)
            for path in ("/v1/chat/completions", "/tokenize"):
                refused = narrow.post(path, SHORT)
                assert (refused.status_code, refused.headers.get("Retry-After")) == (429, "1"), refused.text
        narrow.wait_until_idle()  # though the stream was not read to its end
        assert narrow.post("/v1/chat/completions", SHORT).status_code == 200
        more = narrow.post("/v1/chat/completions", SHORT | {"n": 3})
        assert (more.status_code, more.json()["error"]["param"]) == (400, "n")


def test_a_client_that_leaves_a_stream_frees_its_pages(served: Served) -> None:
    drawn = served.worker.engine.counts.drawn
    with httpx2.stream("POST", served.url + "/v1/chat/completions", json=LONG, timeout=60) as response:
        pieces = response.iter_lines()
        for _ in range(5):
            next(pieces)
    served.wait_until_idle()
    assert served.worker.engine.counts.drawn < drawn + 800


def test_a_client_of_a_whole_answer_that_leaves_frees_its_pages(served: Served) -> None:
    drawn = served.worker.engine.counts.drawn
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(served.url + "/v1/chat/completions", json=LONG | {"stream": False}, timeout=0.15)
    served.wait_until_idle()
    assert served.worker.engine.counts.drawn < drawn + 800


def test_a_deadline_ends_an_answer(model: Model) -> None:
    with serving(model, Limits(seconds=0.3)) as hasty:
        choice = hasty.post("/v1/chat/completions", LONG | {"stream": False}).json()["choices"][0]
        assert choice["finish_reason"] == "length"
        hasty.wait_until_idle()


def test_a_prompt_that_the_cache_cannot_hold_is_refused_alone(model: Model) -> None:
    with serving(model, pages=4) as small:
        assert (
            small.post("/v1/completions", {"prompt": "hello " * 200}).json()["error"]["code"]
            == "context_length_exceeded"
        )
        full = small.post("/v1/completions", {"prompt": "hello", "max_tokens": 500, "logit_bias": {"1": -100}, "n": 4})
        assert [choice["finish_reason"] for choice in full.json()["choices"]] == ["length"] * 4
        small.wait_until_idle()


def test_a_drain_lets_answers_end_and_takes_no_more(model: Model) -> None:
    with serving(model, drain=20.0) as running, ThreadPoolExecutor(1) as clients:
        ended = clients.submit(running.post, "/v1/chat/completions", LONG | {"stream": False, "max_tokens": 300})
        while not running.worker.engine.counts.drawn:
            time.sleep(0.005)
        draining = threading.Thread(target=running.worker.drain, args=(20.0,))
        draining.start()
        time.sleep(0.05)
        refused = running.post("/v1/chat/completions", SHORT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
        assert httpx2.get(running.url + "/health").status_code == 503
        assert ended.result().json()["choices"][0]["finish_reason"] == "length"
        draining.join()


def test_a_drain_that_lasts_too_long_ends_streams_by_an_error(model: Model) -> None:
    with serving(model) as running:
        with httpx2.stream("POST", running.url + "/v1/chat/completions", json=LONG, timeout=60) as response:
            pieces = response.iter_lines()
            next(pieces)
            running.worker.drain(0.0)
            last = [line for line in pieces if line][-1]
        assert json.loads(last[6:])["error"]["message"] == "the server ends"
        assert running.worker.engine.pages.free == running.worker.engine.pages.count


def test_a_breakdown_is_told_to_all(model: Model) -> None:
    with serving(model) as running:

        def broken(*_: Any) -> None:
            raise MemoryError("no room")

        asked = {"max_tokens": 900, "stream": True, "messages": SHORT["messages"], "seed": 6}
        with httpx2.stream("POST", running.url + "/v1/messages", json=asked, timeout=60) as response:
            pieces = response.iter_lines()
            next(pieces)
            running.worker.engine.forward.step = broken  # type: ignore[method-assign,assignment]
            told = [line for line in pieces if line]
        assert told[-2] == "event: error"
        assert "MemoryError: no room" in told[-1]
        assert httpx2.get(running.url + "/health").status_code == 503
        refused = running.post("/v1/chat/completions", SHORT)
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "server_error")


SCRIPT = """
import signal, socket, sys
from tests.serve.served import *
model = tiny_model()
worker = Worker(model.engine(PAGES, rows=64)); worker.start()
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
Server(application(Service(model, worker, Limits(), True)), worker).run(sockets=[listener])
print("free", worker.engine.pages.free == worker.engine.pages.count, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_a_second_one_ends_at_once(signals: int, sent: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    url = f"http://127.0.0.1:{int(process.stdout.readline())}"
    while True:
        try:
            httpx2.get(url + "/health")
            break
        except httpx2.ConnectError:
            time.sleep(0.1)
    with httpx2.stream("POST", url + "/v1/chat/completions", json=LONG, timeout=60) as response:
        pieces = response.iter_lines()
        next(pieces)
        for _ in range(signals):
            process.send_signal(sent)
            time.sleep(0.2)
        told = [line for line in pieces if line]
    assert told[-1] == "data: [DONE]" if signals == 1 else "the server ends" in told[-1]
    rest = process.stdout.read()
    assert (rest, process.wait(timeout=30)) == ("free True\n", 0)
