"""What the numbers of several checkpoints say: the order of steps, and which model comes from which."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clearseek.audit.audit import audit_release
from clearseek.audit.evidence import Grade, Row
from clearseek.audit.read.source import Folder
from tests.releases import audited, write_weights


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
    row = audited(release)["weights.order"]
    assert (row.answer, row.grade) == ("yes", Grade.CHECKED)
    assert "5 checkpoints by 3 matrices" in row.reason


def test_a_swapped_pair_is_named(release: Path) -> None:
    walk(release, [1, 2, 3, 4, 5], order=[1, 4, 3, 2, 5])
    row = audited(release)["weights.order"]
    assert row.answer == "no"
    assert "step 1 lies nearest to step 4" in row.reason


def test_two_checkpoints_or_other_types_are_not_judged(release: Path) -> None:
    walk(release, [1, 2])
    assert audited(release)["weights.order"].answer == "not applicable"
    folder = release / "checkpoints/step-3"
    folder.mkdir()
    save_file({"layer0.weight": np.ones((20, 30), np.int32)}, folder / "model.safetensors")
    assert audited(release)["weights.order"].answer == "unknown"


def test_a_cut_off_checkpoint_is_not_judged(release: Path) -> None:
    walk(release, [1, 2, 3])
    file = release / "checkpoints/step-2/model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert audited(release)["weights.order"].answer == "unknown"


def lineage(release: Path, base: Path | None) -> Row:
    return audit_release(Folder(release), "Tiny", base=None if base is None else Folder(base))["lineage.weights"]


def tuned(release: Path, base: Path, size: float) -> None:
    """The base's weights, moved by `size` of their own."""
    raw = bytearray((base / "model.safetensors").read_bytes())
    begin = 8 + int.from_bytes(raw[:8], "little")
    numbers = np.frombuffer(bytes(raw[begin : begin + (len(raw) - begin) // 2 * 2]), "<u2").astype(np.uint32)
    values = (numbers << 16).view(np.float32)
    moved = values * (1 + size * np.random.default_rng(1).standard_normal(len(values)).astype(np.float32))
    moved = np.where(np.isfinite(values), moved, values)
    raw[begin : begin + 2 * len(moved)] = (moved.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    (release / "model.safetensors").write_bytes(raw)


@pytest.fixture
def base(release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release, tmp_path / "Base"))


def name_base(release: Path, base: str) -> None:
    card = release / "README.md"
    card.write_text(card.read_text().replace("license: mit", f"license: mit\nbase_model: somebody/{base}", 1))


def test_without_a_base_there_is_nothing_to_compare(release: Path) -> None:
    assert lineage(release, None).answer == "not applicable"
    name_base(release, "Base")
    assert lineage(release, None).answer == "unknown"


def test_a_model_that_comes_from_the_base_it_names(release: Path, base: Path) -> None:
    tuned(release, base, 0.05)
    name_base(release, "Base")
    row = lineage(release, base)
    assert (row.answer, row.grade) == ("yes", Grade.CHECKED)
    assert "cosine 0.99" in row.reason


def test_a_base_that_is_kept_quiet(release: Path, base: Path) -> None:
    tuned(release, base, 0.05)
    row = lineage(release, base)
    assert row.answer == "no"
    assert "comes from there, or both from one other, and it does not say so" in row.reason


def test_a_base_that_is_none(release: Path, base: Path) -> None:
    write_weights(release / "model.safetensors", seed=9)
    assert lineage(release, base).answer == "not applicable"
    name_base(release, "Base")
    row = lineage(release, base)
    assert row.answer == "no"
    assert "does not come from there" in row.reason


def test_another_model_altogether_cannot_be_compared(release: Path, base: Path) -> None:
    save_file({"other": np.ones((3, 4), np.float32)}, base / "model.safetensors")
    assert lineage(release, base).answer == "unknown"


def label(file: Path, text: str) -> None:
    """The same tensors under another hash: a word in the file's metadata."""
    save_file(load_file(file), file, {"step": text})


def test_steps_that_differ_in_metadata_alone_are_one(release: Path) -> None:
    walk(release, [1, 2, 3])
    for step in (1, 2, 3):
        file = release / f"checkpoints/step-{step}/model.safetensors"
        file.write_bytes((release / "checkpoints/step-3/model.safetensors").read_bytes())
        label(file, str(step))
    found = audited(release)
    assert found["weights.trajectory"].answer == "no"
    assert "hold the same numbers" in found["weights.trajectory"].reason
    assert found["weights.order"].answer == "no"
    assert "nothing lies between step 1 and step 2" in found["weights.order"].reason


def test_only_the_last_step_may_be_the_final_weights(release: Path) -> None:
    walk(release, [1, 2, 3])
    last, first = (release / f"checkpoints/step-{step}/model.safetensors" for step in (3, 1))
    shutil.copy(last, release / "model.safetensors")
    label(release / "model.safetensors", "final")
    row = audited(release)["weights.trajectory"]
    assert (row.answer, row.grade) == ("yes", Grade.CHECKED)
    shutil.copy(first, release / "model.safetensors")
    label(release / "model.safetensors", "final")
    row = audited(release)["weights.trajectory"]
    assert row.answer == "no"
    assert "step 1 and the final weights" in row.reason
