"""What the fixed order costs on one machine: bytes sent, a step's time, memory of gradient sets, processes for threads.

* ``order``: 4 processes, 2,048 tokens a micro-batch, a step with the tree beside the same step with
  ``dist.all_reduce`` over the same gradients (and ZeRO-1's all-gather), by turns in the same processes; bytes that a
  process sends.
* ``sets``: memory that a step takes beside what is held between steps, in FP32 sets of gradients: one process with
  1, 2, 4 and 8 lanes, four processes with 1 and 2 each. It is the most of a process's memory, with few tokens.
* ``threads``: 2 processes of one thread beside one process of two threads, by turns.

    PYTHONPATH=. python benchmarks/parallel.py --out benchmarks/results/parallel.json
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from record import write_result

from benchmarks.layouts import prepare, recipe_of

TOKENS = 2048
"""Of a micro-batch."""


def recipe(lanes: int, threads: int, micro_batches: int | None = None, layers: int = 4) -> Any:
    """A model of 3 to 6 million parameters with experts, MTP and balance updates."""
    from clearseek.recipe import parse_recipe

    raw = recipe_of("adamw/fp32", "lanes").model_dump(mode="json")
    raw["model"] |= {"hidden_size": 256, "num_hidden_layers": layers, "intermediate_size": 512, "vocab_size": 2048,
                     "max_position_embeddings": 512}  # fmt: skip
    raw["data"] |= {"sequence_length": 256}
    micro = TOKENS // 256
    raw["train"] |= {"steps": 1000, "batch_size": micro * (micro_batches or lanes), "micro_batch_size": micro,
                     "lanes": lanes, "threads": threads, "hash_every": 1000, "kernels": "auto"}  # fmt: skip
    return parse_recipe(raw, "parallel")


def training(folder: Path, asked: Any, group: Any) -> Any:
    """The run of a recipe on the group's processes, data parallel."""
    from clearseek.plan.layout import ParallelLayout
    from clearseek.train.preflight import preflight
    from clearseek.train.pretrain import PreTraining
    from clearseek.train.step import Training

    task = PreTraining(asked, folder / "data")
    return Training(asked, task, preflight(asked), group=group, layout=ParallelLayout(dp=group.size))


def order(folder: Path, steps: int) -> dict[str, Any]:
    """One of four processes: steps with the tree and with all_reduce, by turns."""
    import torch
    import torch.distributed as dist

    from clearseek.train.parallel.exchange import Exchange, own
    from clearseek.train.parallel.world import join_world

    group = join_world()
    run = training(folder, recipe(4, 1), group)
    tree = Exchange.reduce

    def all_reduce(exchange: Exchange, held: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        flat = torch.cat([each.reshape(-1) for each in held])
        dist.all_reduce(flat)
        sums = [part.view(each.shape) for part, each in zip(flat.split([e.numel() for e in held]), held, strict=True)]
        return own(exchange.held, exchange.owned, sums)

    ways = {"tree": tree, "all_reduce": all_reduce}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    exchanging: dict[str, list[float]] = {name: [] for name in ways}
    sent = 0
    for step in range(2 * steps + 2):
        name = list(ways)[step % 2]
        spent = [0.0]

        def timed(*arguments: Any, way: Any = ways[name], spent: list[float] = spent) -> Any:
            began = time.perf_counter()
            found = way(*arguments)
            spent[0] += time.perf_counter() - began
            return found

        Exchange.reduce = timed  # type: ignore[method-assign]
        group.largest(0)
        before, began = run.work.exchange.sent, time.perf_counter()
        run.advance()
        if step >= 2:  # the first of each warms up
            seconds[name].append(time.perf_counter() - began)
            exchanging[name].append(spent[0])
        if name == "tree":
            sent = run.work.exchange.sent - before
    parameters = sum(each.numel() for each in run.model.parameters())
    ring = 2 * 4 * parameters * (group.size - 1) / group.size
    everyone = group.gather(sent)
    group.close()
    medians = {name: statistics.median(every) for name, every in seconds.items()}
    return {
        "parameters": parameters, "processes": 4, "tokens_a_micro_batch": TOKENS, "steps": steps,
        "seconds": seconds, "median_seconds": medians, "ratio": medians["tree"] / medians["all_reduce"],
        "median_of_ratios": statistics.median(a / b for a, b in zip(*seconds.values(), strict=True)),
        "exchange_median_seconds": {name: statistics.median(every) for name, every in exchanging.items()},
        "bytes_sent": everyone, "ring_bytes": ring, "mean_over_ring": sum(everyone) / len(everyone) / ring,
        "most_over_ring": max(everyone) / ring,
    }  # fmt: skip


def resident(field: str) -> int:
    """Bytes of this process's memory: now (VmRSS), or at most since the mark was taken back (VmHWM)."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def sets(folder: Path, lanes: int) -> dict[str, Any]:
    """This process, or those that it is one of: memory of a step with so many lanes on each."""
    from clearseek.plan.layout import ParallelLayout
    from clearseek.plan.states import Stage
    from clearseek.recipe import parse_recipe
    from clearseek.train.parallel.world import join_world

    group = join_world()
    raw = recipe(lanes * group.size, 1).model_dump(mode="json")
    raw["model"] |= {"hidden_size": 512, "intermediate_size": 1024, "moe_intermediate_size": 512}
    raw["data"] |= {"sequence_length": 16}
    raw["train"] |= {"micro_batch_size": 1, "batch_size": lanes * group.size}
    asked, layout = parse_recipe(raw, "parallel"), ParallelLayout(dp=group.size)
    run = training(folder, asked, group)
    for _ in range(2):
        run.advance()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run.advance()
    taken = group.gather(resident("VmHWM") - before)
    one = 4 * sum(each.numel() for each in run.model.parameters())
    planned = Stage(asked, layout, 0).states(layout)[group.rank].gradients
    counted = group.gather(planned)
    group.close()
    return {
        "processes": group.size, "lanes_each": lanes, "log2_plus_1": lanes.bit_length(), "set_bytes": one,
        "sets": [each / one for each in taken], "planned_sets": [each / one for each in counted],
    }  # fmt: skip


def timed_steps(folder: Path, threads: int, steps: int) -> dict[str, Any]:
    """Steps of this process, or of the processes that it is one of; waits for a line on its input before each."""
    from clearseek.train.parallel.world import join_world

    group = join_world()
    run = training(folder, recipe(2, threads), group)
    run.advance()
    seconds = []
    for _ in range(steps):
        if group.main:
            print("ready", flush=True)
            sys.stdin.readline()
        group.largest(0)
        began = time.perf_counter()
        run.advance()
        group.largest(0)
        seconds.append(time.perf_counter() - began)
    found = {"threads": threads, "processes": group.size, "seconds": seconds, "hash": run.weights_hash()}
    group.close()
    return found


def start(size: int, *words: str, interactive: bool = False) -> list[subprocess.Popen[str]]:
    """This script in `size` processes of a job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    job = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, __file__, "--work", *words], text=True, stdout=subprocess.PIPE,
            stdin=subprocess.PIPE if interactive else None,
            env=environment | (job | {"RANK": str(rank)} if size > 1 else {}),
        )
        for rank in range(size)
    ]  # fmt: skip


def result(workers: list[subprocess.Popen[str]]) -> Any:
    """The last line of the main process."""
    said = [worker.communicate(timeout=1200)[0] for worker in workers]
    return json.loads(said[0].splitlines()[-1])


def by_turns(folder: Path, steps: int) -> dict[str, Any]:
    """Two processes of one thread, and one of two, a step each by turns."""
    teams = [start(2, str(folder), "threads", "1", str(steps), interactive=True),
             start(1, str(folder), "threads", "2", str(steps), interactive=True)]  # fmt: skip
    for team in teams:
        assert team[0].stdout is not None and team[0].stdout.readline() == "ready\n"
    for step in range(steps):
        for team in teams:
            assert team[0].stdin is not None and team[0].stdout is not None
            team[0].stdin.write("go\n")
            team[0].stdin.flush()
            if step < steps - 1:
                assert team[0].stdout.readline() == "ready\n"
            else:
                team.append(result(team))  # type: ignore[arg-type]
    pair, one = (team[-1] for team in teams)
    medians = [statistics.median(each["seconds"]) for each in (pair, one)]  # type: ignore[index]
    return {"two_processes": pair, "two_threads": one, "median_seconds": medians, "ratio": medians[0] / medians[1]}


def _share(lanes: int, seconds: float, peak: float) -> float:
    """What of the machine's measured rate of FP32 products a step of so many micro-batches gets."""
    from clearseek.counts import flops_per_token

    asked = recipe(lanes, 1)
    return flops_per_token(asked.model, asked.data.sequence_length) * lanes * TOKENS / seconds / peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=["order", "sets", "threads"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.work:
        folder, what, *rest = arguments.work
        work = {"order": order, "sets": sets, "threads": timed_steps}[what]
        print(json.dumps(work(Path(folder), *map(int, rest))))  # type: ignore[operator]
        return
    import torch

    from clearseek.machine import measure_matmul_rates

    found: dict[str, Any] = {"torch": torch.__version__, "load": os.getloadavg()}
    [peak] = measure_matmul_rates([torch.float32], seconds=1.0)
    found["peak_flops"] = peak
    with TemporaryDirectory() as place:
        prepare(Path(place))
        if "order" in arguments.only:
            found["order"] = result(start(4, place, "order", str(arguments.steps)))
            found["order"]["share_of_peak"] = _share(4, found["order"]["median_seconds"]["tree"], peak)
        if "sets" in arguments.only:
            jobs = [(1, lanes) for lanes in (1, 2, 4, 8)] + [(4, 1), (4, 2)]
            found["sets"] = [result(start(size, place, "sets", str(lanes))) for size, lanes in jobs]
        if "threads" in arguments.only:
            found["threads"] = by_turns(Path(place), arguments.steps)
            found["threads"]["share_of_peak"] = [_share(2, each, peak) for each in found["threads"]["median_seconds"]]
    print(json.dumps(found, indent=1))
    if arguments.out:
        write_result(arguments.out, found)


if __name__ == "__main__":
    main()
