"""What the numbers of two models say: which one comes from which."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from clearseek.audit.audit import audit_release
from clearseek.audit.evidence import Grade, Row
from clearseek.reading.source import Folder
from tests.releases import audited, write_weights


def lineage(release: Path, base: Path) -> Row:
    return audit_release(Folder(release), "Tiny", base=Folder(base))["lineage.weights"]


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
    copy = Path(shutil.copytree(release, tmp_path / "x"))
    card = copy / "README.md"
    card.write_text(card.read_text().replace("# Tiny", "# Base"))
    return copy


def name_base(release: Path, base: str) -> None:
    card = release / "README.md"
    card.write_text(card.read_text().replace("license: mit", f"license: mit\nbase_model: somebody/{base}", 1))


def test_without_a_base_there_is_nothing_to_compare(release: Path) -> None:
    name_base(release, "Base")
    assert audited(release).get("lineage.weights") is None


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
