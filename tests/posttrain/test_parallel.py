"""Fine-tuning on several processes ends in the bits of one, as pre-training does; its parent is read in parts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = (
    "train.steps=3", "train.batch_size=8", "train.micro_batch_size=1", "train.lanes=4", "train.hash_every=1",
    "train.eval_every=2", "train.mtp_loss_weight=0.1", "train.precision=bf16", "train.threads=1",
)  # fmt: skip


def train(recipe: Path, run: Path, *words: str) -> bytes:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, "-m", "clearseek", "train", str(recipe), "--run", str(run), *settings, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert not done.returncode, done.stderr
    return (run / "transcript.jsonl").read_bytes()


@pytest.mark.slow
def test_fine_tuning_has_one_transcript(recipe_file: Path, tmp_path: Path) -> None:
    alone = train(recipe_file, tmp_path / "alone")
    for layout in ("dp=4", "fsdp=4"):
        assert train(recipe_file, tmp_path / layout, "--processes", "4", "--layout", layout) == alone, layout


def test_the_parent_is_read_in_parts_and_another_is_refused(recipe_file: Path, tmp_path: Path) -> None:
    alone, run = train(recipe_file, tmp_path / "alone"), tmp_path / "two"
    assert train(recipe_file, run, "--processes", "2") == alone
    weights = next((run / "parent/step-00000000").glob("weights*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    refused = subprocess.run(
        [sys.executable, "-m", "clearseek", "train", "--resume", str(run), "--processes", "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "not the weights that the run began with" in refused.stderr.splitlines()[-1]
