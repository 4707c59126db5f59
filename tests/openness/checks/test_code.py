"""Code and settings: recognised by what they are, and named by what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from clearseek.openness.evidence import Grade

from ..releases import audited

YAML = """\
optimizer: adamw
learning_rate: 3.0e-4
weight_decay: 0.1
warmup_steps: 2000
seq_length: 4096
global_batch_size: 1024
max_steps: 100000
seed: 42
"""
TOML = """\
[optimizer]
lr = 3e-4
wd = 0.1
[train]
batch_size = 8
schedule = "cosine"
max_tokens = 1_000_000
seed = 1
block_size = 128
"""


@pytest.mark.parametrize(("file", "text"), [("train.yaml", YAML), ("configs/run.toml", TOML)])
def test_complete_settings(release: Path, file: str, text: str) -> None:
    (release / file).parent.mkdir(exist_ok=True)
    (release / file).write_text(text)
    row = audited(release)["code.configuration"]
    assert (row.answer, row.grade) == ("yes", Grade.PRESENT), row.reason


@pytest.mark.parametrize(
    ("line", "setting"),
    [("seed: 42", "seed"), ("weight_decay: 0.1", "weight decay"), ("seq_length: 4096", "sequence length"),
     ("optimizer: adamw", "optimiser"), ("warmup_steps: 2000", "schedule")],
)  # fmt: skip
def test_a_setting_that_is_missing_is_named(release: Path, line: str, setting: str) -> None:
    (release / "train.yaml").write_text(YAML.replace(line + "\n", ""))
    row = audited(release)["code.configuration"]
    assert row.answer == "partly"
    assert row.reason.endswith(f"not {setting}")


def test_without_learning_rate_or_batch_size_there_are_no_settings(release: Path) -> None:
    (release / "train.yaml").write_text(YAML.replace("learning_rate", "rate"))
    assert audited(release)["code.configuration"].answer == "no"
    (release / "train.yaml").write_text("")
    assert audited(release)["code.configuration"].answer == "no"
