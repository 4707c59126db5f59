"""A tiny recipe: seconds per run on any machine. Its data are a fixture in conftest.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clearseek.config import Recipe
from clearseek.recipe import parse_recipe
from clearseek.train.preflight import preflight
from clearseek.train.pretrain import PreTraining
from clearseek.train.run import Run
from clearseek.train.task import Task
from clearseek.train.trainer import Trainer
from clearseek.train.transcript import read_header

TINY: dict[str, Any] = {
    "name": "tiny",
    "model": {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "intermediate_size": 48,
        "moe_intermediate_size": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "max_position_embeddings": 64,
        "initializer_range": 0.05,
        "num_nextn_predict_layers": 1,
    },
    "data": {
        "source": "files",
        "paths": ["*.txt"],
        "sequence_length": 32,
        "licence": "CC0-1.0",
        "held_out_fraction": 0.2,
    },
    "optimizer": {"name": "muon", "learning_rate": 3e-3, "muon_learning_rate": 3e-3},
    "train": {"steps": 8, "batch_size": 8, "precision": "fp32", "checkpoint_every": 3, "hash_every": 2, "threads": 1},
}


def tiny(**tables: dict[str, Any]) -> Recipe:
    """The tiny recipe with some settings changed."""
    changed = {k: (v | tables.get(k, {})) if isinstance(v, dict) else v for k, v in TINY.items()}
    return parse_recipe(changed, "tiny.toml")


def trainer_of(
    recipe: Recipe, folder: Path, data: Path, device: str = "cpu", resume: bool = False, from_step: int | None = None,
    task: Task | None = None,
) -> Trainer:  # fmt: skip
    """A trainer that writes into a folder, on this machine as it is."""
    run = Run(folder)
    recorded = read_header(run.transcript).get("environment", {}) if resume and run.begun else None
    setup = preflight(recipe, device, recorded)
    return Trainer(recipe, run, task or PreTraining(recipe, data), setup, resume, from_step)
