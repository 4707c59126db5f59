"""Stated operations against computed ones, the AI Act's thresholds, and devices times duration."""

from __future__ import annotations

from pathlib import Path

import pytest

from clearseek.audit.checks.operations import product, stated_operations
from clearseek.audit.evidence import Grade
from clearseek.reading.card import Document
from clearseek.reading.claims import find_claims
from clearseek.reading.source import Folder
from clearseek.reading.subject import Subject
from tests.releases import audited, card

LARGE = "Large has 405B total parameters and was trained on 15.6 trillion tokens. It took 30.84M H100 GPU hours.\n"


def with_text(folder: Path, text: str, name: str = "Large") -> Path:
    (folder / "README.md").write_text(f"# {name}\n\n{text}")
    return folder


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It took 3.8 x 10^25 FLOPs.", 3.8e25),
        ("It took 3.8 \u00d7 10²⁵ FLOPs.", 3.8e25),
        ("It took 3.8e25 FLOPs.", 3.8e25),
        ("It took $3.8 \\times 10^{25}$ FLOPs.", 3.8e25),
        ("It took 1.5e+15 operations.", 1.5e15),
        ("A rate of 3.8e14 FLOPs per second.", None),
        ("A rate of 3.8e14 FLOP/s.", None),
        ("2.6e11 FLOPs for a token", None),
        ("See page 10 for FLOPs.", None),
    ],
)
def test_operations_are_found_in_the_ways_people_write_them(tmp_path: Path, text: str, value: float | None) -> None:
    found = [each.value for each in stated_operations(Subject(Folder(with_text(tmp_path, text))))]
    assert found == ([] if value is None else [value])


@pytest.mark.parametrize(
    ("stated", "answer"), [("3.8e25 FLOPs", "yes"), ("3.8e24 FLOPs", "no"), ("3.8 x 10^26 FLOPs", "no")]
)
def test_stated_operations_are_six_for_each_parameter_and_token(tmp_path: Path, stated: str, answer: str) -> None:
    found = audited(with_text(tmp_path, f"{LARGE}\nWe used {stated}.\n"), "Large")
    assert found["cost.operations"].answer == answer
    assert found["cost.threshold"].answer == "no"
    assert "systemic risk" in found["cost.threshold"].reason
    assert found["cost.compute"].answer == "yes"
    assert "34.5 %" in found["cost.compute"].reason


def test_figures_of_several_models_are_not_mixed(tmp_path: Path) -> None:
    found = audited(with_text(tmp_path, f"{LARGE}\nThe other has 8B total parameters.\n"), "Large")
    assert found["cost.compute"].answer == "unknown"


def test_a_small_run_is_below_both_thresholds(release: Path) -> None:
    (release / "README.md").write_text(card(extra="It was trained on 3 billion tokens."))
    row = audited(release)["cost.threshold"]
    assert (row.answer, row.grade) == ("yes", Grade.CHECKED)
    assert "under 10^23" in row.reason


@pytest.mark.parametrize(
    ("sentence", "agrees"),
    [
        ("on 512 H800 GPUs for 198 hours, 101K GPU hours in all", True),
        ("on 64*8 H800 GPUs for 198 hours, which is 101K GPU hours", True),
        ("on 64 \u00d7 8 H800 GPUs for 198 hours, which is 101K GPU hours", True),
        ("on 648 H800 GPUs for 198 hours, which is 101K GPU hours", False),
        ("180K H800 GPU hours, i.e., 3.7 days on our cluster with 2048 H800 GPUs", True),
        ("180K H800 GPU hours, i.e., 37 days on our cluster with 2048 H800 GPUs", False),
        ("101K GPU hours on 384 H100 GPUs", None),
        ("512 GPUs for 80 hours and then 16 GPUs for 10 hours, 41,120 GPU hours", None),
        ("It took 2.788M H800 GPU hours.", None),
    ],
)
def test_device_hours_are_devices_times_time(sentence: str, agrees: bool | None) -> None:
    (hours,) = (each for each in find_claims(Document("README.md", sentence), "Tiny") if each.kind == "gpu_hours")
    found = product(hours)
    assert (None if found is None else found[0]) == agrees


def test_a_wrong_product_is_a_row(release: Path) -> None:
    (release / "README.md").write_text(card(extra="Trained on 648 H800 GPUs for 198 hours, 101K GPU hours in all."))
    row = audited(release)["cost.devices"]
    assert row.answer == "no"
    assert "128,304" in row.reason
