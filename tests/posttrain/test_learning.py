"""Reinforcement learning visibly learns: the ladder's rungs, from a base that knows nothing of numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clearseek.cli import main
from clearseek.posttrain.solved import PASS
from clearseek.train.run import Run
from clearseek.train.transcript import check_transcript

RECIPES = Path(__file__).parents[2] / "recipes"


def train(recipe: str, run: Path, **settings: object) -> list[dict[str, float]]:
    """Train a shipped recipe with changes; what each step says."""
    pairs = {key.replace("__", "."): value for key, value in settings.items()}
    options = [part for key, value in pairs.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    assert main(["train", str(RECIPES / f"{recipe}.toml"), "--run", str(run), *options]) == 0
    return [dict(record.scalars) for record in check_transcript(Run(run).transcript).steps]


@pytest.mark.slow
def test_a_policy_gains_fifteen_points_on_two_digit_addition(corpus: Path, tmp_path: Path) -> None:
    base, start = tmp_path / "base", tmp_path / "start"
    train("ladder-base", base, data__source="files", data__paths=[str(corpus / "*.txt")], train__steps=1,
          data__held_out_fraction=0.2)  # fmt: skip
    train("ladder-start", start, parent__path=str(base), train__steps=200)
    steps = train("ladder-grpo", tmp_path / "grpo", parent__path=str(start), train__steps=80, train__eval_every=80,
                  grpo__keep_rollouts=False)  # fmt: skip
    before, after = steps[0][f"{PASS}_before"], steps[-1][PASS]
    assert 0.1 < before < 0.75, "a cold start solves some problems and not most"
    assert after > before + 0.15
