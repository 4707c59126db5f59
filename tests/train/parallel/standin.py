"""A program of several processes in place of training: it counts steps into a file, and does what its argument says."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from clearseek.errors import LostError, OtherVersionError, UserError
from clearseek.interrupts import stop_on_signal
from clearseek.train.parallel import worker
from clearseek.train.parallel.compare import refuse_differences
from clearseek.train.parallel.world import World, join_world


def tour(group: World) -> dict[str, object]:
    """What comes out of every way of telling each other."""
    return {
        "share": group.share({"from": group.rank, "text": "é" * 1000}),
        "gather": group.gather([group.rank, "x" * group.rank]),
        "collect": group.collect("x" * group.rank),
        "largest": group.largest(group.rank * 10),
        "numbers": group.numbers(group.rank / 3, 1.0),
        "after_main": group.after_main(lambda: [group.rank, time.monotonic()]),
        "sums": sums(group),
        "errors": [raised(group, how) for how in ("one", "all", "defect", "own class", "none")],
        "compare": [compared(group, key) for key in ("environment.threads", None)],
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def sums(group: World) -> list[int]:
    """Sums over groups of processes, which are made once."""
    pair = [group.rank // 2 * 2, group.rank // 2 * 2 + 1]
    found = []
    for ranks in (pair, list(range(group.size)), pair, list(range(group.rank % 2, group.size, 2))):
        number = torch.tensor([group.rank])
        dist.all_reduce(number, group=group.process_group(ranks))
        found.append(int(number))
    return found


def raised(group: World, how: str) -> str | None:
    """The error that a block ends with on this process, after an inner block and an outer one."""
    try:
        with group.together(), group.together():
            fail(group, how)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def compared(group: World, key: str | None) -> str | None:
    """What is said where process 2 has another value."""
    header = {"code_sha256": "ab", "environment": {"threads": 2 if group.rank == 2 and key else 1}}
    try:
        refuse_differences(group, header)
    except UserError as error:
        return str(error)
    return None


def fail(group: World, how: str) -> None:
    """An error on some processes."""
    if how == "one" and group.rank == 2:
        raise UserError("a full disk")
    if how == "all":
        raise UserError("wrong everywhere")
    if how == "own class" and group.rank == 0:
        raise OtherVersionError("another version")
    if how == "defect" and group.rank == 3:
        raise KeyError("what")
    if how == "inside":  # the others wait for numbers of the one that failed
        if group.rank == 1:
            raise UserError("no such file")
        group.largest(3)


def count(group: World, folder: Path, action: str) -> int:
    """Steps into a file, gone on with after a loss; `action` happens at step 5 of the first start."""
    record, total = folder / "steps.jsonl", 30 if action == "wait" else 12
    stopped = []
    begun = group.share(len(record.read_text().splitlines()) if group.main and record.exists() else 0)
    with stop_on_signal(lambda: stopped.append(1)):
        for step in range(begun + 1, total + 1):
            if step == 5 and worker.restarts() == 0:
                if action == "kill" and group.rank == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                if action == "stop" and group.rank == 1:
                    os.kill(os.getpid(), signal.SIGSTOP)
                if action == "launcher" and group.rank == 1:
                    os.kill(os.getppid(), signal.SIGKILL)
            if action == "always" and group.rank == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.2 if action == "wait" else 0.01)
            number = torch.tensor([step])
            dist.all_reduce(number)
            stop = group.largest(len(stopped))
            if group.main:
                with record.open("a") as file:
                    file.write(json.dumps([step, int(number), worker.restarts(), os.getpid()]) + "\n")
            if stop:
                return 130
    return 0


def main(what: str, folder: Path, action: str) -> int:
    if (code := worker.begin()) is not None:
        return worker.exit_code(code)
    group = join_world(patience=5.0 if action == "stop" else 60.0)
    assert isinstance(group, World)
    (folder / f"{group.rank}-{worker.restarts()}.pid").write_text(str(os.getpid()))
    print("printed", end=" ")
    worker.keep_log(folder, group.rank)
    print("by", group.rank)
    code = 0
    try:
        with group.together():
            if what == "count":
                code = count(group, folder, action)
            elif what == "fail":
                fail(group, action)
            else:
                (folder / f"{group.rank}.json").write_text(json.dumps(tour(group)))
    except UserError as error:
        print(f"standin: {error}", file=sys.stderr)
        code = worker.USER_ERROR
    except LostError as error:
        print(f"standin: {error}", file=sys.stderr)
        return worker.LOST
    group.close()  # in peace also after an error that all have
    if code:
        worker.record_end(code)
    return worker.exit_code(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
