"""Faults of a run on several processes: does it notice, go on by itself, and end in the bits of an undisturbed run?

Two series, each beside a run on one process that nothing happens to. *hosts*: 20 random faults of a run on four
machines, which are network namespaces (root; :mod:`hosts`): a worker or an agent killed, an agent told to stop (as in a
machine that is drained), a worker stopped for a minute, a link down for a minute. *counts*: a run that goes on 4, 2, 1
and 8 processes in turn, killed 20 times at random moments, be it a process or the launcher, in a step or in a save.
``python benchmarks/faults.py`` prints what it sees and writes ``benchmarks/results/faults.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hosts import (
    FAULTS,
    HOSTS,
    Faults,
    environment,
    hosts,
    lives,
    prepare,
    show,
    step,
    transcript,
    undisturbed,
    wait,
    why_not,
)
from record import write_result

RESULT = Path(__file__).parent / "results" / "faults.json"
COUNTS = (4, 2, 1, 8)


def main() -> None:
    """Do both series, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--series", choices=["hosts", "counts"], help="only this one (default: both)")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    result: dict[str, Any] = {"what": "a run of 186,672 parameters; seconds"}
    if options.out.exists():
        result = json.loads(options.out.read_text()) | result
    for name, series in (("hosts", four_hosts), ("counts", many_counts)):
        if options.series not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            recipe = prepare(Path(folder), steps=8 * options.faults + 20)
            expected = undisturbed(recipe, Path(folder) / "one")
            seen = series(recipe, Path(folder) / "run", options.faults, random.Random(options.seed))
            same = transcript(Path(folder) / "run") == expected
        result[name] = {"faults": seen, "same_transcript": same}
        if name == "hosts":
            result[name]["noticed_at_most"] = max(each["noticed"] for each in seen)
        print(f"{name}: {len(seen)} faults; transcript as of one undisturbed process: {same}", flush=True)
        write_result(options.out, result)


def four_hosts(recipe: Path, run: Path, count: int, dice: random.Random) -> list[dict[str, Any]]:
    """Faults of single machines."""
    if reason := why_not():
        sys.exit(reason)
    kinds = [FAULTS[number % len(FAULTS)] for number in range(count)]
    dice.shuffle(kinds)
    with hosts(recipe, run) as machines:
        faults = Faults(machines, run)
        for kind in kinds:
            show(faults.happen(kind, dice.randrange(HOSTS), dice))
        faults.finish()
    return faults.found


def many_counts(recipe: Path, run: Path, count: int, dice: random.Random) -> list[dict[str, Any]]:
    """Kills of a run that goes on with other numbers of processes."""
    seen: list[dict[str, Any]] = []
    job: subprocess.Popen[bytes] | None = None
    for processes in COUNTS:
        job = _start(recipe, run, processes)
        for _ in range(count // len(COUNTS)):
            if job.poll() is not None:  # the launcher gave up after three losses
                job = _start(recipe, run, processes)
            seen.append(_kill(job, run, processes, dice))
            show(seen[-1])
            if seen[-1]["killed"] == "launcher":
                job.wait(900)
                job = _start(recipe, run, processes)
        if processes != COUNTS[-1]:
            job.terminate()  # saves, and leaves the rest to another number of processes
            job.wait(900)
    while job is not None and job.wait(1800) != 0:
        job = _start(recipe, run, COUNTS[-1])
    return seen


def _kill(job: subprocess.Popen[bytes], run: Path, processes: int, dice: random.Random) -> dict[str, Any]:
    """Kill a process of a job, or its launcher, after some steps or in a save."""
    begun, saving = step(run), dice.random() < 0.4
    wait(lambda: step(run) > begun + 1, 900)
    if saving:
        wait(lambda: any(run.glob("checkpoints/.*")) or job.poll() is not None, 900)
    time.sleep(dice.uniform(0, 0.05 if saving else 1.0))
    workers = _children(job.pid)
    whole = processes == 1 or not workers or dice.random() < 0.25
    rank = 0 if whole else dice.randrange(len(workers))
    at = step(run)
    os.kill(job.pid if whole else workers[rank], signal.SIGKILL)
    if whole:
        wait(lambda: not any(map(lives, workers)), 60)
    return {
        "processes": processes, "killed": "launcher" if whole else f"process {rank}", "after_step": at,
        "saving": saving,
    }  # fmt: skip


def _start(recipe: Path, run: Path, processes: int) -> subprocess.Popen[bytes]:
    many = ["--processes", str(processes)] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, "-m", "clearseek", "train", str(recipe), "--run", str(run), "--continue", *many],
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _children(process: int) -> list[int]:
    """Processes that train, in the order of their ranks."""
    found = {}
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {int(each[5:]): int(child) for each in variables if each.startswith(b"RANK=")}
    return [found[rank] for rank in sorted(found)]


if __name__ == "__main__":
    main()
