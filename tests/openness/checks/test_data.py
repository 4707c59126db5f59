"""Training data: files that are here, and whether they can be all of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clearseek.openness.evidence import Grade

from ..releases import audited, card


def test_data_without_a_list_are_part_of_it(release: Path) -> None:
    (release / "data").mkdir()
    (release / "data/train.jsonl").write_text("{}\n" * 100)
    assert audited(release)["data.training"].answer == "partly"
    (release / "clearseek-manifest.json").write_text("{}")
    assert audited(release)["data.training"].answer == "partly"
    (release / "data/dataset_info.json").write_text(json.dumps({}))
    row = audited(release)["data.training"]
    assert (row.answer, row.grade) == ("yes", Grade.PRESENT)


@pytest.mark.parametrize(("tokens", "answer"), [("10K", "yes"), ("14.8T", "partly")])
def test_a_file_that_cannot_hold_what_was_trained_on_is_not_all(release: Path, tokens: str, answer: str) -> None:
    (release / "data").mkdir()
    (release / "data/train.jsonl").write_text("{}\n" * 100)
    (release / "data/manifest.json").write_text("{}")
    (release / "README.md").write_text(card(extra=f"\nIt was pre-trained on {tokens} tokens.\n"), encoding="utf-8")
    row = audited(release)["data.training"]
    assert row.answer == answer
    assert ("cannot hold" in row.reason) == (answer == "partly")
