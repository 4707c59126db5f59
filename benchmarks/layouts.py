"""One run, many layouts: do all of them end in the bits of one process?

Trains a model of some three million parameters (experts, MTP, balance updates) for a few steps on one process, and then
on 2, 4 and 8 with every kind of layout; compares SHA-256 of weights and optimiser and the transcript's last hash.

    PYTHONPATH=. python benchmarks/layouts.py --out benchmarks/results/layouts.json
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

KINDS = [
    f"{optimizer}/{precision}" for optimizer in ("adamw", "muon") for precision in ("fp32", "bf16", "fp8", "numba")
]
"""Optimiser and precision; `numba` is FP32 with the compiled loops."""
LAYOUTS: dict[str, list[str]] = {
    "lanes": ["dp=2", "dp=4", "dp=8", "dp=2,ep=2", "dp=4,ep=2", "dp=4,ep=4", "dp=8,ep=4", "fsdp=2", "fsdp=4", "fsdp=8"],
    "stages": [
        *(f"pp={pp},schedule={schedule}" for pp in (2, 4) for schedule in ("1f1b", "zbv", "dualpipev")),
        "dp=2,pp=2",
        *(f"dp=2,ep=2,pp=2,schedule={schedule}" for schedule in ("1f1b", "zbv", "dualpipev")),
    ],
}
"""Family -> layouts; a family has one recipe, and one process's run to compare with."""
_BATCH = {"lanes": {"batch_size": 16, "lanes": 8}, "stages": {"batch_size": 16, "lanes": 2}}


def recipe_of(kind: str, family: str) -> Any:
    """The recipe of a run."""
    from clearseek.recipe import parse_recipe

    optimizer, precision = kind.split("/")
    kernels, precision = ("numba", "fp32") if precision == "numba" else ("torch", precision)
    return parse_recipe(
        {
            "name": "layouts",
            "model": {
                "vocab_size": 512, "hidden_size": 128, "num_hidden_layers": 8, "num_attention_heads": 4,
                "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16,
                "v_head_dim": 32, "intermediate_size": 256, "moe_intermediate_size": 128, "n_routed_experts": 8,
                "num_experts_per_tok": 2, "first_k_dense_replace": 1, "max_position_embeddings": 128,
                "initializer_range": 0.05, "num_nextn_predict_layers": 1,
            },
            "data": {"source": "files", "paths": ["*.txt"], "sequence_length": 64, "licence": "CC0-1.0",
                     "held_out_fraction": 0.02},
            "optimizer": {"name": optimizer, "learning_rate": 3e-3, "muon_learning_rate": 3e-3},
            "train": {"steps": 3, "micro_batch_size": 1, "precision": precision, "hash_every": 1, "threads": 1,
                      "checkpoint_every": 100, "kernels": kernels, **_BATCH[family]},
        },
        "layouts",
    )  # fmt: skip


def prepare(folder: Path) -> None:
    """Data for all runs: a text made of numbers, the same everywhere."""
    from clearseek.data.shards import prepare_data

    text = folder / "text"
    text.mkdir()
    for part in range(4):
        lines = (
            f"{number} squared is {number * number}; {number} + {part} = {number + part}." for number in range(600)
        )
        (text / f"{part}.txt").write_text("\n".join(lines))
    data = recipe_of("adamw/fp32", "lanes").data.model_copy(update={"paths": (str(text / "*.txt"),)})
    prepare_data(data, 512, folder / "data")


def train(folder: Path, family: str, kind: str, layout: str) -> dict[str, str]:
    """Train as this process's environment says; the hashes that the run ends in."""
    from clearseek.plan.layout import parse_layout
    from clearseek.train.parallel.world import join_world
    from clearseek.train.preflight import preflight
    from clearseek.train.pretrain import PreTraining
    from clearseek.train.run import Run
    from clearseek.train.trainer import Trainer
    from clearseek.train.transcript import last_line

    if "world" not in WORLDS:
        WORLDS["world"] = join_world()
    group = WORLDS["world"]
    recipe = recipe_of(kind, family)
    run = Run(folder / "runs" / f"{family} {kind} {layout}".replace("/", "-"))
    task = PreTraining(recipe, folder / "data")
    trainer = Trainer(recipe, run, task, preflight(recipe), group=group, layout=parse_layout(layout or "dp=1", None))
    trainer.train()
    group.largest(0)  # the main process has written
    end = last_line(run.transcript)
    assert end.record is not None
    return {
        "weights_sha256": str(end.record.weights_sha256),
        "optimizer_sha256": str(end.record.optimizer_sha256),
        "head": end.head,
    }


WORLDS: dict[str, Any] = {}


def work(folder: Path, jobs: list[list[str]]) -> None:
    """One process of some jobs; the main one prints what they end in."""
    for family, kind, layout in jobs:
        began = time.perf_counter()
        found = train(folder, family, kind, layout)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps([family, kind, layout, found, time.perf_counter() - began]), flush=True)
    if WORLDS["world"].size > 1:
        WORLDS["world"].close()


def start(folder: Path, size: int, jobs: list[list[str]], timeout: float) -> list[list[Any]]:
    """Run jobs one after the other on `size` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, __file__, "--work", str(folder), json.dumps(jobs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    workers = []
    for rank in range(size):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port}  # fmt: skip
        workers.append(
            subprocess.Popen(command, env=environment | (ranks if size > 1 else {}), stdout=subprocess.PIPE, text=True)
        )
    try:
        said = [worker.communicate(timeout=timeout)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return [json.loads(line) for line in said[0].splitlines() if line.startswith("[")]


def compare(folder: Path, kinds: list[str], families: list[str], layouts: list[str] | None, timeout: float) -> Any:
    """Rows of what every layout ends in, and whether that is what one process ends in."""
    from clearseek.plan.layout import parse_layout

    by_size: dict[int, list[list[str]]] = {}
    for family in families:
        for layout in LAYOUTS[family]:
            if layouts is None or layout in layouts:
                by_size.setdefault(parse_layout(layout, None).devices, []).extend([family, k, layout] for k in kinds)
    used = {job[0] for jobs in by_size.values() for job in jobs}
    jobs = {1: [[family, kind, ""] for family in sorted(used) for kind in kinds]} | dict(sorted(by_size.items()))
    rows: list[dict[str, Any]] = []
    alone: dict[tuple[str, str], Any] = {}
    for size, some in jobs.items():
        found = start(folder, size, some, timeout)
        done = [row[:3] for row in found]
        for family, kind, layout, hashes, seconds in found:
            if size == 1:
                alone[family, kind] = hashes
            same = hashes == alone[family, kind]
            rows.append({"family": family, "kind": kind, "layout": layout or "one process", "processes": size,
                         "same": same, **hashes, "seconds": round(seconds, 1)})  # fmt: skip
            print(
                f"{kind:10} {layout or 'one process':32} {hashes['head'][:16]} {'same' if same else 'OTHER'}",
                flush=True,
            )
        for job in some:
            if job not in done:
                rows.append({"family": job[0], "kind": job[1], "layout": job[2], "processes": size, "same": None})
                print(f"{job[1]:10} {job[2]:32} did not finish", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--families", nargs="*", default=list(LAYOUTS))
    parser.add_argument("--layouts", nargs="*")
    parser.add_argument("--timeout", type=float, default=3600)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.work:
        work(Path(arguments.work[0]), json.loads(arguments.work[1]))
        return
    import torch
    from record import write_result  # tests import this file from another folder

    with TemporaryDirectory() as place:
        prepare(Path(place))
        rows = compare(Path(place), arguments.kinds, arguments.families, arguments.layouts, arguments.timeout)
    if arguments.out:
        found = {"torch": torch.__version__, "runs": rows}
        write_result(arguments.out, found)


if __name__ == "__main__":
    main()
