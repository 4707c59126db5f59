"""Code and settings: recognised by what they are, and named by what is missing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from clearseek.audit.checks.code import rows
from clearseek.audit.evidence import Grade
from clearseek.audit.facts import PackagesFact
from clearseek.reading.source import Folder
from clearseek.reading.subject import Subject
from tests.releases import audited

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
    (release / "train.py").write_text(EVERYTHING)
    row = audited(release)["code.configuration"]
    assert row.answer == "yes"  # it may be a default of the program
    assert setting in row.reason.partition("; not ")[2] or setting == "optimiser"  # which the program chooses
    kept = [each for each in YAML.splitlines(True) if each.startswith(("learning", "global", "max", "seq", "seed"))]
    (release / "train.yaml").write_text("".join(each for each in kept if each.strip() != line))
    assert audited(release)["code.configuration"].answer == "partly"


def test_without_learning_rate_or_batch_size_there_are_no_settings(release: Path) -> None:
    (release / "train.yaml").write_text(YAML.replace("learning_rate", "rate"))
    assert audited(release)["code.configuration"].answer == "no"
    (release / "train.yaml").write_text("")
    assert audited(release)["code.configuration"].answer == "no"


def test_files_of_pins_that_train_nothing_are_no_environment(release: Path) -> None:
    (release / "docs").mkdir()
    (release / "docs/requirements.txt").write_text("sphinx==1.0\n")
    row = audited(release)["code.environment"]
    assert (row.answer, row.grade) == ("no", Grade.CLAIMED)
    (release / "docs/requirements.txt").write_text("torch==2.7.0\n")
    assert audited(release)["code.environment"].answer == "no"
    (release / "requirements.txt").write_text("numpy==1.26.1\n")
    row = audited(release)["code.environment"]
    assert (row.answer, row.grade) == ("partly", Grade.CLAIMED)
    (release / "requirements.txt").write_text("numpy==1.26.1\ntorch==2.7.0\n")
    row = audited(release)["code.environment"]
    assert (row.answer, row.grade) == ("partly", Grade.PRESENT)  # of what is not here
    (release / "train.py").write_text(EVERYTHING)
    assert audited(release)["code.environment"].answer == "yes"


def test_lock_files_pin_too(release: Path) -> None:
    (release / "train.py").write_text(EVERYTHING)
    (release / "uv.lock").write_text('[[package]]\nname = "torch"\nversion = "2.7.0"\n')
    found = audited(release)
    assert found["code.environment"].answer == "yes"
    assert found["code.environment"].facts == (PackagesFact({"torch": "2.7.0"}),)


EVERYTHING = """\
import torch
class Block(torch.nn.Module):
    def __init__(self):
        self.up, self.down = torch.nn.Linear(8, 32), torch.nn.Linear(32, 8)
        self.norm = torch.nn.Parameter(torch.ones(8))
    def forward(self, x):
        return self.down(self.up(x * self.norm))
def generate(x):
    return model(x).argmax()
def score_mmlu(x):
    return model(x) == x
def clean(texts):
    write(tokenize(texts, shard=1))
main()
loss = model(x)
loss.backward()
optimizer.step()
"""


def test_all_is_in_part_where_a_part_is(release: Path) -> None:
    (release / "train_eval_data.py").write_text(EVERYTHING)
    (release / "requirements.txt").write_text("torch==2.7.0\n")
    (release / "train.yaml").write_text(YAML)
    found = audited(release)
    assert (found["code.complete"].answer, found["code.complete"].grade) == ("yes", Grade.PRESENT)
    (release / "train.yaml").write_text(
        "".join(
            line
            for line in YAML.splitlines(True)
            if not line.strip().startswith(("seed", "lr_sch", "warmup", "weight_decay"))
        )
    )
    row = audited(release)["code.complete"]
    assert row.answer == "partly"
    assert row.reason.endswith("in part only: configuration")


@pytest.mark.parametrize(
    "line",
    ["- Core repo (training, inference, fine-tuning etc.): https://github.com/allenai/OLMo",
     "- Learn more: [Pythia's GitHub repository](https://github.com/EleutherAI/pythia) for training procedure, config "
     "files, and details on how to use."],
)  # fmt: skip
def test_a_repository_that_is_said_to_train_is_linked(release: Path, line: str) -> None:
    (release / "README.md").write_text(f"# x\n{line}\n")
    row = audited(release)["code.training"]
    assert (row.answer, row.grade) == ("yes", Grade.LINKED)


@pytest.mark.parametrize(
    "line", ["See our [repository](https://github.com/a/b) for training data.", "Code: https://github.com/a/b"]
)
def test_a_repository_of_something_else_is_not(release: Path, line: str) -> None:
    (release / "README.md").write_text(f"# x\n{line}\n")
    assert audited(release)["code.training"].answer == "no"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("eval/x.py", "def " + "eval" * 200_000),
        ("eval/x.py", "def eval" * 120_000),
        ("eval/x.py", "class a(" + "a." * 400_000),
        ("eval/x.py", "class a(nn." * 80_000),
        ("eval/x.sh", "def generate" * 80_000),
        ("configs/train.yaml", "lr: 1\n" + "batch_size" * 80_000),
        ("configs/train.yaml", "lr: 1\n" + "seed " * 150_000),
        ("configs/train.yaml", "lr: 1\n" + "warmup\n" * 130_000),
        ("configs/train.yaml", "lr: 1\n" + "lr" + " " * 900_000),
        ("configs/train.yaml", "".join(f"k{number}: 1\n" for number in range(100_000))),
        ("requirements.txt", "a[" * 400_000),
        ("requirements.txt", 'name = "' * 110_000),
    ],
)
def test_no_source_takes_long(release: Path, file: str, text: str) -> None:
    (release / file).parent.mkdir(exist_ok=True)
    (release / file).write_text(text[:900_000])
    start = time.process_time()
    list(rows(Subject(Folder(release), "Tiny")))
    assert time.process_time() - start < 20
