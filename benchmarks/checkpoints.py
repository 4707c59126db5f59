"""What checkpoints cost: how long training waits for one, and how much memory the export of a large one takes.

``stall`` trains a model of three million parameters on one process and on four, with a checkpoint every 50 steps, and
times the calls in which training waits: the copy of the state, and what the processes tell each other. ``export``
writes a checkpoint of eight processes of any size with random weights, and exports it to a Hugging Face folder.

    PYTHONPATH=. python benchmarks/checkpoints.py [stall|export]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from record import write_result

RESULT = Path(__file__).parent / "results" / "checkpoints.json"
EVERY, STEPS, PROCESSES = 50, 65, 8
MODEL: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 128, "num_hidden_layers": 8, "num_attention_heads": 4, "q_lora_rank": 32,
    "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 32, "intermediate_size": 256,
    "moe_intermediate_size": 128, "n_routed_experts": 8, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
    "max_position_embeddings": 128, "num_nextn_predict_layers": 1,
}  # fmt: skip


def recipe_of(steps: int = EVERY, **model: int) -> Any:
    """A recipe of four lanes."""
    from clearseek.recipe import parse_recipe

    return parse_recipe(
        {
            "name": "checkpoints",
            "model": MODEL | model,
            "data": {"source": "files", "paths": ["*.txt"], "sequence_length": 64, "licence": "CC0-1.0",
                     "held_out_fraction": 0.02},
            "optimizer": {"name": "adamw", "learning_rate": 1e-3},
            "train": {"steps": steps, "batch_size": 16, "micro_batch_size": 4, "lanes": 4, "precision": "fp32",
                      "threads": 1, "checkpoint_every": EVERY, "hash_every": 1000, "kernels": "torch"},
        },
        "checkpoints",
    )  # fmt: skip


def data_of(folder: Path) -> None:
    """Token shards of made-up text, and their tokenizer."""
    from clearseek.data.shards import prepare_data

    corpus = folder / "corpus"
    corpus.mkdir()
    for number in range(60):
        lines = [f"line {i} of file {number}: {'the quick brown fox ' * (i % 5)}{i * number}" for i in range(60)]
        (corpus / f"{number:02}.txt").write_text("\n".join(lines), encoding="utf-8")
    prepare_data(recipe_of().data, MODEL["vocab_size"], folder / "data", base=corpus)


def train(folder: Path) -> None:
    """One process of a run: time its waits for the checkpoint of step 50; it is written during the steps after it."""
    from clearseek.plan.layout import SINGLE, parse_layout
    from clearseek.train.checkpoints.saver import Saver
    from clearseek.train.parallel.world import World, join_world
    from clearseek.train.preflight import preflight
    from clearseek.train.pretrain import PreTraining
    from clearseek.train.run import Run
    from clearseek.train.trainer import Trainer

    waited: dict[str, float] = {"begin": 0.0, "poll": 0.0}
    for name in waited:
        setattr(Saver, name, partial_of(getattr(Saver, name), waited, name))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    text = f"dp={size}"
    group, recipe = join_world(text), recipe_of(STEPS)
    layout = SINGLE if size == 1 else parse_layout(text)
    seconds = list[float]()
    task = PreTraining(recipe, folder / "data")
    trainer = Trainer(recipe, Run(folder / f"run {size}"), task, preflight(recipe, "cpu"), group=group, layout=layout)
    trainer.train(lambda record: seconds.append(time.perf_counter()) if record.step < STEPS else None)
    if group.main:
        steps = seconds[-1] - seconds[0]
        print(json.dumps({"steps": len(seconds) - 1, "seconds": steps, "waited": waited}))
    if isinstance(group, World):
        group.close()


def partial_of(function: Any, waited: dict[str, float], name: str) -> Any:
    """A method that adds the time it takes, as long as the last step is not reached."""

    def timed(self: Any, *arguments: Any) -> None:
        began = time.perf_counter()
        function(self, *arguments)
        if not arguments or arguments[0] < STEPS:
            waited[name] += time.perf_counter() - began

    return timed


def stall(folder: Path) -> dict[str, Any]:
    """Share of 50 steps that training waits for their checkpoint."""
    data_of(folder)
    found: dict[str, Any] = {}
    for size in (1, 4):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if size > 1:
            environment |= {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29541"}
        command = [sys.executable, __file__, "train", "--folder", str(folder)]
        workers = [
            subprocess.Popen(
                command, env=environment | ({"RANK": str(rank)} if size > 1 else {}), stdout=subprocess.PIPE, text=True
            )
            for rank in range(size)
        ]
        out = [worker.communicate()[0] for worker in workers]
        result = json.loads(out[0].splitlines()[-1])
        result["share of 50 steps"] = sum(result["waited"].values()) / (result["seconds"] / result["steps"] * EVERY)
        found[f"{size} processes"] = result
    return found


def write(folder: Path, experts: int) -> None:
    """A checkpoint of eight processes, with random weights."""
    import torch

    from clearseek.parts import Part
    from clearseek.tensors import memory_tensors
    from clearseek.train.checkpoints.files import write_pieces
    from clearseek.train.checkpoints.record import File, Record, folder_name
    from clearseek.train.run import Run

    data_of(folder)
    run = Run(folder / "run")
    recipe = recipe_of(
        hidden_size=2048, num_hidden_layers=5, moe_intermediate_size=1024, n_routed_experts=experts, vocab_size=32_000
    )
    run.write_recipe(recipe)
    run.tokenizer.write_bytes((folder / "data" / "tokenizer.json").read_bytes())
    path = run.checkpoints / folder_name(1)
    path.mkdir(parents=True)
    files: dict[str, File] = {}
    size = 0
    for rank in range(PROCESSES):
        held: dict[str, list[Any]] = {"weights": [], "buffers": []}
        for spec in memory_tensors(recipe.model):
            start, stop = (spec.size * edge // PROCESSES for edge in (rank, rank + 1))
            part = Part.of(spec.name, spec.shape)._replace(start=start, stop=stop)
            group = "buffers" if spec.kind == "router_bias" else "weights"
            held[group].append((part, torch.randn(part.size) if part.size else torch.empty(0)))
            size += 4 * part.size
        for group, some in held.items():
            files |= write_pieces(path, group, rank, PROCESSES, some)
    Record(1, files, {}).write(path)
    (folder / "size").write_text(str(size))


def export(folder: Path, experts: int) -> dict[str, Any]:
    """Peak memory of the export of a checkpoint that eight processes wrote."""
    writer = multiprocessing.get_context("spawn").Process(target=write, args=(folder, experts))  # its memory is its own
    writer.start()
    writer.join()
    found: dict[str, Any] = {"bytes of weights": int((folder / "size").read_text())}
    for dtype in ("bf16", "fp8"):
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "clearseek", "export", str(folder / "run"), str(folder / dtype), "--dtype", dtype]
        )
        _, status, usage = os.wait4(child.pid, 0)
        assert not status
        found[dtype] = {"seconds": time.perf_counter() - began, "peak RSS": usage.ru_maxrss * 1024}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("stall", "export", "train"))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--experts", type=int, default=48, help="of each of five layers; 48 give 6.5 GB")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.what == "train":
        train(arguments.folder)
        return
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name, measure in (("stall", stall), ("export", partial(export, experts=arguments.experts))):
        if arguments.what in (name, None):
            with tempfile.TemporaryDirectory() as folder:
                found[name] = measure(Path(folder))
            print(json.dumps({name: found[name]}, indent=1), flush=True)
    write_result(arguments.out, found)


if __name__ == "__main__":
    main()
