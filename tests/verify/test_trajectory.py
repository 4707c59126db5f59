"""What the numbers of several checkpoints say: steps that are one, and steps out of order."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from clearseek.audit.evidence import Grade, Row
from clearseek.reading.source import Folder
from clearseek.reading.subject import Subject
from clearseek.verify import trajectory


def rows(release: Path) -> dict[str, Row]:
    return {row.id: row for row in trajectory.rows(Subject(Folder(release)))}


def walk(release: Path, steps: list[int], order: list[int] | None = None) -> None:
    """Checkpoints of a random walk that slows down, saved under the names of `order`."""
    rng = np.random.default_rng(0)
    weights = {f"layer{number}.weight": rng.standard_normal((20, 30)).astype(np.float32) for number in range(3)}
    for number, name in enumerate(order or steps):
        for value in weights.values():
            value += rng.standard_normal(value.shape).astype(np.float32) / (number + 2)
        folder = release / f"checkpoints/step-{name}"
        folder.mkdir(parents=True)
        save_file(weights, folder / "model.safetensors")


def test_checkpoints_in_order_pass(release: Path) -> None:
    walk(release, [1, 10, 100, 200, 300])
    row = rows(release)["weights.order"]
    assert (row.answer, row.grade) == ("yes", Grade.CHECKED)
    assert "5 checkpoints by 3 matrices" in row.reason


def test_a_swapped_pair_is_named(release: Path) -> None:
    walk(release, [1, 2, 3, 4, 5], order=[1, 4, 3, 2, 5])
    row = rows(release)["weights.order"]
    assert row.answer == "no"
    assert "step 1 lies nearest to step 4" in row.reason


def test_two_checkpoints_or_other_types_are_not_judged(release: Path) -> None:
    walk(release, [1, 2])
    assert rows(release)["weights.order"].answer == "not applicable"
    folder = release / "checkpoints/step-3"
    folder.mkdir()
    save_file({"layer0.weight": np.ones((20, 30), np.int32)}, folder / "model.safetensors")
    assert rows(release)["weights.order"].answer == "unknown"


def test_a_cut_off_checkpoint_is_not_judged(release: Path) -> None:
    walk(release, [1, 2, 3])
    file = release / "checkpoints/step-2/model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert rows(release)["weights.order"].answer == "unknown"


def label(file: Path, text: str) -> None:
    """The same tensors under another hash: a word in the file's metadata."""
    save_file(load_file(file), file, {"step": text})


def test_steps_that_differ_in_metadata_alone_are_one(release: Path) -> None:
    walk(release, [1, 2, 3])
    for step in (1, 2, 3):
        file = release / f"checkpoints/step-{step}/model.safetensors"
        file.write_bytes((release / "checkpoints/step-3/model.safetensors").read_bytes())
        label(file, str(step))
    found = rows(release)
    assert found["weights.trajectory"].answer == "no"
    assert "hold the same numbers" in found["weights.trajectory"].reason
    assert found["weights.order"].answer == "no"
    assert "nothing lies between step 1 and step 2" in found["weights.order"].reason


def test_only_the_last_step_may_be_the_final_weights(release: Path) -> None:
    walk(release, [1, 2, 3])
    last, first = (release / f"checkpoints/step-{step}/model.safetensors" for step in (3, 1))
    shutil.copy(last, release / "model.safetensors")
    label(release / "model.safetensors", "final")
    row = rows(release)["weights.trajectory"]
    assert (row.answer, row.grade) == ("yes", Grade.CHECKED)
    shutil.copy(first, release / "model.safetensors")
    label(release / "model.safetensors", "final")
    row = rows(release)["weights.trajectory"]
    assert row.answer == "no"
    assert "step 1 and the final weights" in row.reason
