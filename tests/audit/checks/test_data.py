"""Training data: files that are here, and whether they can be all of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clearseek.audit.evidence import Grade
from tests.releases import audited, card

RECORDS = json.dumps({"text": "Once upon a time there was a corpus."}) + "\n"
MANIFEST = {"files": [{"name": "train.jsonl", "bytes": len(RECORDS) * 3000}]}


def write(release: Path, lines: int = 3000, manifest: object = None) -> None:
    (release / "data").mkdir(exist_ok=True)
    (release / "data/train.jsonl").write_text(RECORDS * lines)
    if manifest is not None:
        (release / "data/manifest.json").write_text(json.dumps(manifest))


def test_data_without_a_list_are_part_of_it(release: Path) -> None:
    write(release)
    assert audited(release)["data.training"].answer == "partly"
    (release / "clearseek-manifest.json").write_text("{}")
    assert audited(release)["data.training"].answer == "partly"
    (release / "data/dataset_info.json").write_text(json.dumps({"splits": {"train": {"num_examples": 3000}}}))
    row = audited(release)["data.training"]
    assert (row.answer, row.grade) == ("yes", Grade.PRESENT)


@pytest.mark.parametrize(
    "content",
    [{}, {"files": []}, {"version": 1}, {"files": [{"name": "train.jsonl", "bytes": 5}]}, {"files": ["other.jsonl"]}],
)
def test_a_manifest_that_lists_nothing_or_something_else_is_no_list(release: Path, content: object) -> None:
    write(release, manifest=content)
    assert audited(release)["data.training"].answer == "partly"
    write(release, manifest=MANIFEST)
    assert audited(release)["data.training"].answer == "yes"


@pytest.mark.parametrize(("tokens", "answer"), [("10K", "yes"), ("14.8T", "partly")])
def test_a_file_that_cannot_hold_what_was_trained_on_is_not_all(release: Path, tokens: str, answer: str) -> None:
    write(release, manifest=MANIFEST)
    (release / "README.md").write_text(card(extra=f"\nIt was pre-trained on {tokens} tokens.\n"), encoding="utf-8")
    row = audited(release)["data.training"]
    assert row.answer == answer
    assert ("cannot hold" in row.reason) == (answer == "partly")


@pytest.mark.parametrize("content", [b"", b"\0", b"PAR1", b"\0" * 5000])
def test_a_few_bytes_are_no_training_set(release: Path, content: bytes) -> None:
    (release / "data").mkdir()
    (release / "data/x.bin").write_bytes(content)
    (release / "data/manifest.json").write_text(json.dumps({"files": [{"name": "x.bin", "bytes": len(content)}]}))
    row = audited(release)["data.training"]
    assert (row.answer, row.grade) == ("no", Grade.CLAIMED)
    assert "holds nothing: data/x.bin" in row.reason


def test_a_small_file_is_a_sample_unless_its_tokens_are_counted(release: Path) -> None:
    (release / "data").mkdir()
    tokens = np.arange(3000, dtype="<u2")
    (release / "data/train.bin").write_bytes(tokens.tobytes())
    manifest = {"files": [{"name": "train.bin", "bytes": 6000}]}
    (release / "data/manifest.json").write_text(json.dumps(manifest))
    row = audited(release)["data.training"]
    assert (row.answer, row.grade) == ("partly", Grade.CLAIMED)
    counted = {"fingerprint": "f", "token_bytes": 2, "train": {"shards": ["train.bin"], "tokens": 3000}}
    (release / "data/manifest.json").write_text(json.dumps(manifest | counted))
    assert audited(release)["data.training"].answer == "yes"


def test_a_pointer_to_bytes_elsewhere_is_neither_there_nor_missing(release: Path) -> None:
    (release / "data").mkdir()
    (release / "data/x.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert audited(release)["data.training"].answer == "unknown"


TUNED = """\
---
base_model: mistralai/Mistral-7B-v0.1
datasets:
- HuggingFaceH4/ultrachat_200k
---
# Zephyr
## Model description
A tuned model.
"""


def test_data_of_a_tuning_are_its_own_and_the_bases_another_question(release: Path) -> None:
    (release / "README.md").write_text(TUNED)
    row = audited(release)["data.training"]
    assert (row.answer, row.grade) == ("yes", Grade.LINKED)
    assert "made from mistralai/Mistral-7B-v0.1, whose own training data are a question about that model" in row.reason
    (release / "README.md").write_text(TUNED.replace("base_model: mistralai/Mistral-7B-v0.1\n", ""))
    assert "made from" not in audited(release)["data.training"].reason


@pytest.mark.parametrize(
    ("line", "answer"),
    [("It was also trained on proprietary data.", "partly"), ("It was trained without any proprietary data.", "yes")],
)
def test_data_that_are_kept_back_are_missing(release: Path, line: str, answer: str) -> None:
    text = "# x\nTrained on [C4](https://huggingface.co/datasets/allenai/c4).\n"
    (release / "README.md").write_text(text + line + "\n")
    assert audited(release)["data.training"].answer == answer


@pytest.mark.parametrize("content", ["", "{}", "[" * 100_000, '{"model": {"vocab": {}}}', "x"])
def test_a_tokenizer_without_a_vocabulary_is_none(release: Path, content: str) -> None:
    (release / "tokenizer.json").write_text(content)
    row = audited(release)["data.tokenizer"]
    assert (row.answer, row.grade) == ("no", Grade.CLAIMED)
    (release / "tokenizer.model").write_bytes(bytes(range(256)) * 8)
    assert audited(release)["data.tokenizer"].answer == "yes"


def test_names_that_hold_nothing_are_no_evaluation_data(release: Path) -> None:
    (release / "README.md").write_text("# x\n")
    for name in ("held-out.jsonl", "validation.txt", "held-out.png"):
        (release / name).write_bytes(b"")
    row = audited(release)["data.evaluation"]
    assert row.answer == "no" and "held-out.jsonl is empty" in row.reason
    (release / "held-out.jsonl").write_text(RECORDS * 9)
    assert audited(release)["data.evaluation"].answer == "yes"
