"""Runs of many processes, released and verified by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import clearseek
from clearseek.release.make import make_release
from clearseek.train.run import Run
from clearseek.verify.run import verify_release
from clearseek.verify.statement import result_of

pytest.importorskip("cryptography", reason="signing needs the extra `release`")
RECIPE = """
name = "many"
[model]
vocab_size = 300
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
q_lora_rank = 16
kv_lora_rank = 16
qk_nope_head_dim = 8
qk_rope_head_dim = 8
v_head_dim = 16
intermediate_size = 48
moe_intermediate_size = 16
n_routed_experts = 8
num_experts_per_tok = 2
first_k_dense_replace = 1
max_position_embeddings = 64
initializer_range = 0.05
num_nextn_predict_layers = 1
[data]
source = "files"
paths = ["{paths}"]
sequence_length = 32
licence = "CC0-1.0"
held_out_fraction = 0.2
[optimizer]
name = "adamw"
learning_rate = 3e-3
[train]
steps = 4
batch_size = 16
micro_batch_size = 2
lanes = 4
precision = "fp32"
expert_gradients = "{gradients}"
checkpoint_every = 2
keep_checkpoints = 9
hash_every = 1
threads = 1
"""


def trained(folder: Path, recipe: Path, *options: str) -> Run:
    """A run of this recipe, made by a command."""
    command = [sys.executable, "-m", "clearseek", "train", str(recipe), "--run", str(folder), *options]
    package = str(Path(clearseek.__file__).parents[1])
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "PYTHONPATH": package}
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return Run(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("gradients", "layout"), [("exact", "dp=4,ep=2,pp=2"), ("merged", "dp=4,ep=4")])
def test_a_run_of_many_is_verified_on_one(tmp_path: Path, corpus: Path, gradients: str, layout: str) -> None:
    recipe = tmp_path / "many.toml"
    recipe.write_text(RECIPE.replace("{paths}", str(corpus / "*.txt")).replace("{gradients}", gradients))
    processes = "8" if gradients == "exact" else "4"
    many = trained(tmp_path / "many", recipe, "--processes", processes, "--layout", layout)
    make_release(many, tmp_path / "Many")
    found = verify_release(tmp_path / "Many", (0, 1, 6))
    result = result_of(found)
    assert not result.failed, [row.reason for row in found if row.id in result.failed]
    environment = json.loads(many.transcript.read_text().splitlines()[0])["environment"]
    if gradients == "merged":
        assert environment["ep"] == 4
        assert {"verify.drift.1-2", "verify.drift.3-4"} <= set(result.passed)
        return
    assert "ep" not in environment
    assert {"verify.steps.1-2", "verify.steps.3-4"} <= set(result.passed)
    alone = trained(tmp_path / "alone", recipe)
    assert alone.transcript.read_bytes() == many.transcript.read_bytes()
    for path in sorted(alone.checkpoints.rglob("*.*")):
        released = tmp_path / "Many/checkpoints" / path.relative_to(alone.checkpoints)
        assert released.read_bytes() == path.read_bytes(), path.name
