"""What a teacher is worth: one student learns a small text from hard labels, its twin from a teacher's distributions.

A text becomes documents of a few paragraphs, some of which nobody trains on. The teacher is larger and reads all the
others; the students read a part of them, several times over. Twins begin with the same weights and see the same tokens
in the same order for as many steps: they differ in the share of the plain loss alone (``distil.hard`` 1 or 0). The
measure is bits per byte of the held-out documents, after the last step.

``python benchmarks/distil.py TEXT`` prints a table and writes ``benchmarks/results/distil.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from record import write_result

from clearseek.data.shards import prepare_data
from clearseek.posttrain.methods import method_of
from clearseek.posttrain.parent import dimensions
from clearseek.recipe import parse_recipe
from clearseek.train.session import train_recipe

RESULT = Path(__file__).parent / "results" / "distil.json"
HELD_OUT, DOCUMENT_BYTES, LENGTH, BATCH = 0.1, 2000, 64, 32
MODEL = {
    "vocab_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "q_lora_rank": None, "kv_lora_rank": 32,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "first_k_dense_replace": 1, "max_position_embeddings": 128, "num_nextn_predict_layers": 0,
}  # fmt: skip
SIZES = {
    "teacher": {"hidden_size": 128, "intermediate_size": 384, "moe_intermediate_size": 192},
    "student": {"hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 64},
}
OPTIMIZER = {
    "name": "muon", "learning_rate": 3e-3, "muon_learning_rate": 0.02, "weight_decay": 0.0,
    "schedule": [{"shape": "linear", "until": 0.05, "to": 1.0}, {"shape": "linear", "until": 1.0, "to": 0.05}],
}  # fmt: skip
TRAIN = {"batch_size": BATCH, "precision": "fp32", "checkpoint_every": 100_000, "hash_every": 100_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--share", type=float, default=0.2, help="part of the training documents that students read")
    parser.add_argument("--epochs", type=int, default=4, help="times that students read their part")
    parser.add_argument("--teacher-epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--top-k", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), arguments)
    report |= {
        "settings": {k: v for k, v in vars(arguments).items() if k not in ("text", "out")},
    }
    write_result(arguments.out, report)
    for name, runs in report["held_out_bpb"].items():
        spread = f" ± {statistics.stdev(runs):.4f}" if len(runs) > 1 else ""
        print(f"{name:>12}: {statistics.mean(runs):.4f}{spread} bits per byte  ({', '.join(f'{x:.4f}' for x in runs)})")


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train all models; held-out bits per byte of each."""
    every, part = documents(arguments.text.read_text(encoding="utf-8"), arguments.share)
    data = {"source": "jsonl", "licence": "unknown", "held_out_fraction": HELD_OUT, "sequence_length": LENGTH}
    for name, texts in (("every", every), ("part", part)):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    of_all = data | {"paths": [str(folder / "every.jsonl")]}
    steps = {name: tokens // (BATCH * LENGTH) for name, tokens in (("teacher", 1), ("student", 1))}
    teacher = recipe("teacher", of_all, SIZES["teacher"], 1, 0)
    tokens = prepare_data(teacher.data, 512, folder / "data-of-all").train.tokens
    steps["teacher"] = arguments.teacher_epochs * tokens // (BATCH * LENGTH)
    of_part = data | {"paths": [str(folder / "part.jsonl")]}
    with_tokenizer = of_part | {"tokenizer": str(folder / "data-of-all" / "tokenizer.json")}
    small = recipe("student", with_tokenizer, SIZES["student"], 1, 0)
    tokens = prepare_data(small.data, 512, folder / "data-of-part").train.tokens
    steps["student"] = arguments.epochs * tokens // (BATCH * LENGTH)
    found: dict[str, list[float]] = {"teacher": [], "hard labels": [], "distilled": []}
    teacher = recipe("teacher", of_all, SIZES["teacher"], steps["teacher"], 0)
    outcome = train_recipe(teacher, folder / "teacher", folder / "data-of-all", say=print)
    found["teacher"].append(outcome.scalars["held_out_bpb"])
    for seed in range(arguments.seeds):
        start = folder / f"start-{seed}"
        first = recipe("student", with_tokenizer, SIZES["student"], 1, seed)
        train_recipe(first, start, folder / "data-of-part")
        for name, hard in (("hard labels", 1.0), ("distilled", 0.0)):
            distil = {
                "teacher": str(folder / "teacher"), "hard": hard, "top_k": arguments.top_k,
                "temperature": arguments.temperature,
            }  # fmt: skip
            student = child(start, of_part | {"seed": seed}, distil, steps["student"], seed)
            run = folder / f"{name.split()[0]}-{seed}"
            outcome = train_recipe(student, run, folder / "data-of-part", method=method_of(student))
            found[name].append(outcome.scalars["held_out_bpb"])
            print(f"seed {seed}, {name}: {found[name][-1]:.4f} bits per byte", flush=True)
    return {"held_out_bpb": found, "steps": steps, "tokens_of_the_part": tokens, "models": SIZES | {"both": MODEL}}


def documents(text: str, share: float) -> tuple[list[str], list[str]]:
    """All documents; the held-out ones with a share of the others."""
    found, size = [""], 0
    for paragraph in text.split("\n\n"):
        if size > DOCUMENT_BYTES:
            found, size = [*found, ""], 0
        found[-1] += paragraph + "\n\n"
        size += len(paragraph)
    unique = list(dict.fromkeys(found))
    kept = int(share * len(unique))
    held_out = [each for each in unique if _number(each) < HELD_OUT]
    others = [each for each in unique if _number(each) >= HELD_OUT]
    return unique, held_out + others[:kept]


def _number(text: str) -> float:
    """Where a document's hash lies from 0 to 1, as the data's preparation holds out by it."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64


def recipe(name: str, data: dict[str, Any], size: dict[str, Any], steps: int, seed: int) -> Any:
    """A recipe of pre-training."""
    tables = {
        "model": MODEL | size,
        "data": data,
        "optimizer": OPTIMIZER,
        "train": TRAIN | {"steps": steps, "seed": seed},
    }
    return parse_recipe({"name": name, **tables}, name)


def child(start: Path, data: dict[str, Any], distil: dict[str, Any], steps: int, seed: int) -> Any:
    """A recipe of distillation."""
    tables = {
        "parent": {"path": str(start)}, "data": data, "distil": distil, "optimizer": OPTIMIZER,
        "train": TRAIN | {"steps": steps, "seed": seed, "balance_loss_weight": 0.0, "bias_update_speed": 0.001},
    }  # fmt: skip
    return parse_recipe({"name": "student", "model": dimensions({"path": str(start)}), **tables}, "student")


if __name__ == "__main__":
    main()
