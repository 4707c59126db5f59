"""Nobody sees any more what one of four processes shows: all end alike, and what was done is saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from clearseek.train.checkpoints import checkpoint
from tests.tiny import tiny
from tests.train.parallel.runs import run_together


@pytest.mark.parametrize(
    ("fault", "said"), [("reader 0 4", "its output is no longer read"), ("disk 1 2", "No space left on device")]
)
def test_all_end_alike_and_save(fault: str, said: str, data: Path, tmp_path: Path) -> None:
    recipe = tiny(train={"steps": 4, "batch_size": 8, "micro_batch_size": 1, "lanes": 4, "checkpoint_every": 100})
    _, gone, step = fault.split()
    ended = run_together(recipe, tmp_path / "run", data, "dp=4", fault=fault)
    assert [code for code, _ in ended] == [1] * 4
    others = [errors for rank, (_, errors) in enumerate(ended) if rank != int(gone)]
    assert all(f"UserError: process {gone} (" in errors and said in errors for errors in others)
    assert checkpoint.steps(tmp_path / "run/checkpoints") == [int(step)]
