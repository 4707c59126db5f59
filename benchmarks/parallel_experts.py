"""Experts on four processes: what one process's order of sums costs, and how far merged sums lead away from it.

*Step*: the same training in exact and in merged mode, a step of each in turn in the same processes, after a warm-up;
micro-batches of 2,048 tokens. *Band*: losses of a smaller model after some hundred steps, merged against exact, beside
what another number of lanes does, which is another order of sums too.

    PYTHONPATH=. python benchmarks/parallel_experts.py --out benchmarks/results/parallel_experts.json
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from record import write_result

SIZE = 4
MODEL = {
    "vocab_size": 1024, "num_attention_heads": 4, "q_lora_rank": 64, "kv_lora_rank": 64, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "first_k_dense_replace": 1, "max_position_embeddings": 512, "num_nextn_predict_layers": 1,
}  # fmt: skip
STEP = {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 512, "moe_intermediate_size": 256}
BAND = {"hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256, "moe_intermediate_size": 128}


def recipe_of(precision: str, model: dict[str, int], **train: Any) -> Any:
    """A recipe for four processes."""
    from clearseek.recipe import parse_recipe

    return parse_recipe(
        {
            "name": "parallel-experts",
            "model": MODEL | model,
            "data": {"source": "python-stdlib", "sequence_length": 256 if model is STEP else 64},
            "optimizer": {"learning_rate": 1e-3},
            "train": {"precision": precision, "threads": 1, "hash_every": 10**6, "checkpoint_every": 10**6, **train},
        },
        "parallel-experts",
    )


def training_of(recipe: Any, folder: Path, group: Any, layout: str) -> Any:
    """A training of this process."""
    from clearseek.plan.layout import parse_layout
    from clearseek.train.preflight import preflight
    from clearseek.train.pretrain import PreTraining
    from clearseek.train.step import Training

    task = PreTraining(recipe, folder / "data")
    return Training(recipe, task, preflight(recipe), group=group, layout=parse_layout(layout, group.size))


def step_times(folder: Path, group: Any, precision: str, layout: str, steps: int) -> dict[str, list[list[float]]]:
    """Seconds of steps in both modes, taken in turn, and CPU seconds of all processes; a step ends when all end it."""
    modes = ("exact", "merged")
    common = {"batch_size": 32, "micro_batch_size": 8, "lanes": 4, "steps": 1000}
    both = {
        mode: training_of(recipe_of(precision, STEP, expert_gradients=mode, **common), folder, group, layout)
        for mode in modes
    }
    seconds: dict[str, list[list[float]]] = {mode: [] for mode in modes}
    for number in range(steps + 2):
        for mode in modes if number % 2 else reversed(modes):
            group.largest(0)
            began, cpu = time.perf_counter(), time.process_time()
            both[mode].advance()
            cpus = group.gather(time.process_time() - cpu)
            if number > 1:
                seconds[mode].append([time.perf_counter() - began, sum(cpus)])
    return seconds


def losses(folder: Path, group: Any, precision: str, mode: str, lanes: int, steps: int) -> list[float]:
    """Loss of each step."""
    train = {"batch_size": 32, "micro_batch_size": 2, "lanes": lanes, "steps": steps, "expert_gradients": mode}
    training = training_of(recipe_of(precision, BAND, **train), folder, group, "dp=4,ep=4")
    return [training.advance()[0].scalars["loss"] for _ in range(steps)]


def work(folder: Path, precisions: list[str], steps: int, band: int) -> dict[str, Any]:
    """All measurements of one process."""
    from clearseek.train.parallel.world import join_world

    group, found = join_world(f"dp={SIZE}"), dict[str, Any]()
    for precision in precisions:
        row: dict[str, Any] = {}
        for layout in ("dp=4,ep=2", "dp=4,ep=4") if steps else ():
            times = step_times(folder, group, precision, layout, steps)
            row[layout] = {"all": times}
            for place, name in enumerate(("seconds", "cpu_seconds")):
                exact, merged = (statistics.median(each[place] for each in times[m]) for m in ("exact", "merged"))
                row[layout][name] = {"exact": exact, "merged": merged, "exact_of_merged": exact / merged}
        if band:
            one = losses(folder, group, precision, "exact", 16, band)
            others = {"merged": losses(folder, group, precision, "merged", 16, band)}
            others["four lanes"] = losses(folder, group, precision, "exact", 4, band)
            row["band"] = {
                name: {
                    "first_step": abs(other[1] - one[1]),
                    "last_tenth_mean": abs(_end(other) - _end(one)),
                    "largest": max(abs(a - b) for a, b in zip(one, other, strict=True)),
                }
                for name, other in others.items()
            } | {"steps": band, "loss": _end(one)}
        found[precision] = row
        if group.main:
            print(precision, json.dumps({name: {**each, "all": 0} for name, each in row.items()}), file=sys.stderr)
    group.close()
    return found


def _end(values: list[float]) -> float:
    return statistics.mean(values[-max(1, len(values) // 10) :])


def start(folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Measure on four processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(SIZE), "OMP_NUM_THREADS": "1"}
    common["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, __file__, *arguments, "--work", str(folder)]
    workers = [
        subprocess.Popen(
            command, env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE
        )
        for rank in range(SIZE)
    ]
    try:
        said = [worker.communicate()[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert not any(worker.returncode for worker in workers), [worker.returncode for worker in workers]
    measured: dict[str, Any] = json.loads(said[0])
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16", "fp8"])
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each mode; 0 for none")
    parser.add_argument("--band", type=int, default=300, help="steps of the comparison of losses; 0 for none")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.work:
        found = work(arguments.work, arguments.precisions, arguments.steps, arguments.band)
        if os.environ["RANK"] == "0":
            print(json.dumps(found))
        return
    import torch

    from clearseek.data.shards import prepare_data

    with TemporaryDirectory() as place:
        recipe = recipe_of("fp32", STEP, batch_size=32, micro_batch_size=8, lanes=4, steps=1000)
        prepare_data(recipe.data, recipe.model.vocab_size, Path(place) / "data")
        found = start(Path(place), sys.argv[1:])
    result = {"torch": torch.__version__, "processes": SIZE, "measured": found}
    if arguments.out:
        write_result(arguments.out, result)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
