"""Programs that work by turns: each a process of its own, perhaps with another Python, and one at a time works.

A side is a script that announces itself, waits for requests, and answers each with the CPU and wall seconds that it
took and with what it counted. Requests and answers are lines of JSON. Only the standard library is used, since a
peer's Python may have nothing of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KEPT_HEAP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""Environment under which glibc keeps freed memory, as ClearSeek has it keep it."""


def add_options(parser: argparse.ArgumentParser, peer: str, needs: str, result: Path) -> None:
    """Add what every comparison by turns is asked: the peer's Python, threads, turns, and where the result goes."""
    parser.add_argument("--peer-python", required=True, help=f"a Python that has {needs}")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each side")
    parser.add_argument("--repeat", type=int, default=7, help="turns that count")
    parser.add_argument(
        "--kept-heap", action="store_true", help=f"{peer} once more, with memory kept as ClearSeek has it"
    )
    parser.add_argument("--out", type=Path, default=result)


class Turns:
    """A side's end. Make it before anything prints: what a library prints goes to the error stream from then on."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._begun = (0.0, 0.0)

    def hello(self, **facts: Any) -> None:
        """Say that the side is ready, and what is worth recording of it."""
        self._say(facts)

    def wait(self) -> dict[str, Any] | None:
        """The next request, from which on the clock runs; None when there are no more."""
        line = sys.stdin.readline()
        request: dict[str, Any] | None = json.loads(line) if line else None
        self.restart()
        return request

    def restart(self) -> None:
        """Let the clock begin now: what a request only sets is not counted."""
        self._begun = time.process_time(), time.perf_counter()

    def done(self, **counts: Any) -> None:
        """Answer the request."""
        cpu, wall = time.process_time() - self._begun[0], time.perf_counter() - self._begun[1]
        self._say({"cpu": cpu, "wall": wall, **counts})

    def _say(self, answer: Mapping[str, Any]) -> None:
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()


class Side:
    """The caller's end.

    Args:
        name: Name in tables.
        command: Program and arguments.
        threads: CPU threads.
        log: File that gets what the program prints.
        kept_heap: Whether its C library keeps freed memory.
    """

    def __init__(self, name: str, command: Sequence[str], threads: int, log: Path, kept_heap: bool = False) -> None:
        self.name, self._log = name, log
        settings = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        environment = os.environ | settings | (KEPT_HEAP if kept_heap else {})
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        self.facts: dict[str, Any] = {}

    def ready(self) -> None:
        """Wait until it has announced itself."""
        self.facts = self._answer()
        print(f"  {self.name} is ready", flush=True)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Have it work, and return what it says of that."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            end = self._log.read_text(encoding="utf-8", errors="replace")[-3000:]
            raise SystemExit(f"{self.name} ended with {self._process.returncode}:\n{end}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def best(side: Side, requests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The request that a side does in the least CPU time (the better of two, after a first)."""
    seconds = []
    for request in requests:
        side.ask(**request)
        seconds.append(min(side.ask(**request)["cpu"] for _ in range(2)))
        print(f"    {side.name} {', '.join(map(str, request.values()))}: {seconds[-1]:.3f} CPU-s", flush=True)
    return requests[seconds.index(min(seconds))]


def by_turns(
    sides: Mapping[str, tuple[Side, dict[str, Any]]], settle: int, repeat: int
) -> dict[str, list[dict[str, Any]]]:
    """Answers of each side to its request: all take a turn, `settle` + `repeat` times; the first `settle` count not."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(settle + repeat):
        for name, (side, request) in sides.items():
            answer = side.ask(**request)
            if number >= settle:
                found[name].append(answer)
    return found


def rates(turns: Mapping[str, list[dict[str, Any]]], unit: str) -> dict[str, dict[str, float]]:
    """Medians of units per CPU second and per wall second, by side."""
    return {
        name: {f"{unit} per {clock} second": statistics.median(each[unit] / each[clock] for each in answers)
               for clock in ("cpu", "wall")}
        for name, answers in turns.items()
    }  # fmt: skip


def table(found: Mapping[str, Mapping[str, float]], own: str) -> dict[str, float]:
    """Print rates, and return the own side's over each other's, per CPU second and per wall second."""
    ratios: dict[str, float] = {}
    for name, each in found.items():
        print(f"  {name:28}" + "  ".join(f"{value:12,.2f} {what}" for what, value in each.items()))
        if name != own:
            for what, value in each.items():
                ratios[f"over {name}, {what.split(' per ')[1]}"] = found[own][what] / value
    for what, ratio in ratios.items():
        print(f"  {what:52} {ratio:.2f}x", flush=True)
    return ratios


def check_equal(what: str, answers: Mapping[str, Any]) -> None:
    """End the measurement where sides did not do the same work."""
    if len({json.dumps(each) for each in answers.values()}) > 1:
        shown = "; ".join(f"{name}: {str(each)[:300]}" for name, each in answers.items())
        raise SystemExit(f"not the same work: {what}: {shown}")
