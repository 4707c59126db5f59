"""A server under load: streaming clients, of which some leave in the middle, and some send garbage.

Starts a server of a tiny random model in a process of its own (or uses the one at ``--url``) and lets 64 clients stream
for 10 minutes: 10 % of the requests are left mid-stream, 5 % are garbage. What is expected: only 200, 400, 404, 413 and
429; afterwards every page of the cache is free; memory of the second half as in the first, to 5 % and 20 MB.
``python benchmarks/load.py`` prints a summary and writes ``benchmarks/results/load.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import mean, median
from typing import Any

import httpx2
from record import write_result

RESULT = Path(__file__).parent / "results" / "load.json"
EXPECTED = {200, 400, 404, 413, 429}
GARBAGE: tuple[bytes, ...] = (
    b"", b"{", b"null", b"[" * 50_000, b'{"messages":[{"role":"user","content":"\\ud800"}]}', b'{"prompt":[-1]}',
    b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}', b'{"messages":[{"role":"robot","content":"x"}]}',
    b'{"prompt":[' + b"{}," * 20_000 + b"{}]}", b'{"prompt":"' + b"x" * (3 << 20) + b'"}', b"x" * (5 << 20),
    b'{"model":"other","messages":[{"role":"user","content":"x"}]}',
    b'{"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":{"schema":{"type":1}}}}',
)  # fmt: skip
SERVER = """
import signal, socket
from clearseek.serve.service import Limits
from tests.serve.served import *
model = tiny_model()
worker = Worker(model.engine(PAGES, rows=64), 56); worker.start()
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
Server(application(Service(model, worker, Limits(waiting=56), True)), worker).run(sockets=[listener])
"""
"""A server with fewer places than clients, so that some are told to try again."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--url", help="a server that runs already; its memory is then not looked at")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    process = None if options.url else _start()
    url = options.url or f"http://127.0.0.1:{int(process.stdout.readline())}"  # type: ignore[union-attr]
    try:
        result = asyncio.run(_load(url, options.clients, 60 * options.minutes, process.pid if process else None))
    finally:
        if process is not None:
            process.send_signal(signal.SIGTERM)
            result_code = process.wait(60)
    result |= {"ended_by_sigterm": process is None or result_code in (0, -signal.SIGTERM)}
    result["fits"] = all(
        result[name] for name in ("only_expected", "no_page_leaked", "flat_memory", "ended_by_sigterm")
    )
    result = {"what": "64 streaming clients", "minutes": options.minutes, "clients": options.clients} | result
    print(json.dumps(result, indent=1))
    write_result(options.out, result)
    sys.exit(0 if result["fits"] else 1)


def _start() -> subprocess.Popen[str]:
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, env=environment, cwd=root
    )


async def _load(url: str, clients: int, seconds: float, pid: int | None) -> dict[str, Any]:
    statuses: Counter[str] = Counter()
    firsts: list[float] = []
    until = time.monotonic() + seconds
    limits = httpx2.Limits(max_connections=clients + 4, max_keepalive_connections=clients)
    async with httpx2.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        memory = asyncio.ensure_future(_memory(pid, until))
        await asyncio.gather(*(_client(client, number, until, statuses, firsts) for number in range(clients)))
        await asyncio.sleep(2)
        metrics = (await client.get("/metrics")).text
        health = (await client.get("/health")).status_code
    told = {line.split()[0]: float(line.split()[1]) for line in metrics.splitlines() if line.startswith("clearseek_")}
    megabytes = await memory
    half = len(megabytes) // 2
    before, after = (mean(part) if part else 0.0 for part in (megabytes[half // 2 : half], megabytes[half:]))
    odd = {status: n for status, n in statuses.items() if not status.isdecimal() or int(status) not in EXPECTED}
    return {
        "statuses": dict(sorted(statuses.items())), "unexpected": odd, "only_expected": not odd and health == 200,
        "pages": told["clearseek_pages"], "free_pages": told["clearseek_free_pages"],
        "open_answers": told["clearseek_open_answers"],
        "no_page_leaked": told["clearseek_free_pages"] + told["clearseek_open_answers"] == told["clearseek_pages"],
        "tokens": told["clearseek_tokens_written_total"], "first_event_seconds_median": median(firsts or [0]),
        "megabytes_second_quarter": before, "megabytes_second_half": after,
        "megabytes": megabytes[:: max(1, half // 8)],
        "flat_memory": after - before < max(20.0, 0.05 * before),
    }  # fmt: skip


async def _memory(pid: int | None, until: float) -> list[float]:
    """Resident megabytes of a process, once a second."""
    found: list[float] = []
    while pid is not None and time.monotonic() < until:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        found.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
        await asyncio.sleep(1)
    return found


async def _client(
    client: httpx2.AsyncClient, number: int, until: float, statuses: Counter[str], firsts: list[float]
) -> None:
    """Ask, read, leave or send garbage, until the time is over."""
    draw = random.Random(number)
    while time.monotonic() < until:
        kind = draw.choices(("read", "leave", "garbage"), (0.85, 0.10, 0.05))[0]
        try:
            if kind == "garbage":
                path = draw.choice(("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"))
                json_ = {"Content-Type": "application/json"}
                statuses[str((await client.post(path, content=draw.choice(GARBAGE), headers=json_)).status_code)] += 1
                continue
            status = await _stream(client, draw, kind == "leave", firsts)
            statuses[status] += 1
            if status == "429":
                await asyncio.sleep(0.2 + draw.random())
        except httpx2.HTTPError as error:
            statuses[type(error).__name__] += 1


async def _stream(client: httpx2.AsyncClient, draw: random.Random, leaves: bool, firsts: list[float]) -> str:
    """Stream one answer of a random form; its status, or what went wrong in it."""
    text = " ".join(draw.choices(("hello", "world", "quick", "brown", "fox"), k=draw.randrange(1, 120)))
    body: dict[str, Any] = {"stream": True, "max_tokens": draw.randrange(1, 120), "seed": draw.randrange(1000)}
    path = draw.choice(("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"))
    if path == "/v1/completions":
        body |= {"prompt": text, "logprobs": 1}
    elif path == "/v1/responses":
        body |= {"input": text, "max_output_tokens": body.pop("max_tokens")}
    else:
        body["messages"] = [{"role": "user", "content": text}]
    begun, count = time.monotonic(), 0
    async with client.stream("POST", path, json=body) as response:
        async for line in response.aiter_lines():
            if not line:
                continue
            if not count:
                firsts.append(time.monotonic() - begun)
            count += 1
            if '"error":{' in line and response.status_code == 200:
                return "Error in a stream"
            if leaves and count > draw.randrange(1, 20):
                return "200"
        return str(response.status_code)


if __name__ == "__main__":
    main()
