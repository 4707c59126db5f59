"""A tiny child: a random parent with a vocabulary of bytes, and problems whose reward any model earns now and then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clearseek.config import Recipe
from clearseek.config.posttraining import with_defaults
from clearseek.data.tokenizer import train
from clearseek.model.transformer import DeepSeekModel
from clearseek.problems.problems import Problem
from clearseek.problems.questions import Questions
from clearseek.problems.rewards import Scored, scored
from clearseek.recipe import parse_recipe
from clearseek.train.checkpoints import checkpoint
from clearseek.train.run import Run
from tests.tiny import TINY

VOCABULARY = 275


def parent(folder: Path, **changes: Any) -> Run:
    """A run folder with the weights of a model that was not trained."""
    model = TINY["model"] | {"vocab_size": VOCABULARY, "initializer_range": 0.3} | changes
    recipe = parse_recipe(TINY | {"model": model}, "parent.toml")
    made = DeepSeekModel(recipe.model).requires_grad_(False)
    made.initialise(1)
    run = Run(folder)
    folder.mkdir(parents=True)
    run.write_recipe(recipe)
    train([], VOCABULARY).save(run.tokenizer)
    tensors = {"weights": dict(made.named_parameters()), "buffers": dict(made.named_buffers())}
    checkpoint.save(run.checkpoints, 0, tensors, {"imported": True}, keep=1)
    return run


def child(base: Run, **tables: Any) -> Recipe:
    """A recipe that begins from it."""
    raw = {
        "name": "child", "parent": {"path": str(base.root)},
        "model": base.read_recipe(record=True).model.model_dump(mode="json"), "data": {"sequence_length": 40},
        "train": {"steps": 6, "batch_size": 8, "precision": "fp32", "threads": 1, "checkpoint_every": 2,
                  "hash_every": 1, "keep_checkpoints": 10},
    }  # fmt: skip
    return parse_recipe(with_defaults(raw | {k: raw.get(k, {}) | v for k, v in tables.items()}), "child.toml")


def easy(self: Questions, problem: Problem, tokens: Sequence[int], ended: bool) -> Scored:
    """A reward that half of all completions earn."""
    return scored("right" if sum(map(int, tokens)) % 2 else "wrong")
