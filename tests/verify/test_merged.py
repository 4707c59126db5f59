"""Runs whose gradients of experts were merged over processes: a band is measured, and nobody is accused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from clearseek.audit.evidence import Grade
from clearseek.release.make import make_release
from clearseek.train.accumulate import LaneSum, TreeSum
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from clearseek.verify.run import verify_release
from clearseek.verify.statement import result_of
from tests.release.test_make import rewrite_history, rewrite_lines
from tests.tiny import tiny
from tests.verify.test_forgery import scale_all

pytest.importorskip("cryptography", reason="signing needs the extra `release`")


class _Merged(LaneSum):
    """The sums of experts' stacks in another order than one process's, as a product over all sources' rows is."""

    def __init__(self, count: int, lanes: int) -> None:
        super().__init__(count, lanes)
        self._every: list[list[torch.Tensor]] = []

    def push(self, tensors: Any) -> None:
        self._every.append([tensor.float().clone() for tensor in tensors])
        super().push(tensors)

    def result(self) -> list[torch.Tensor]:
        exact = super().result()
        backwards = LaneSum(len(self._every), 1)
        for tensors in reversed(self._every):
            backwards.push(tensors)
        merged = backwards.result()
        return [other if one.ndim == 3 else one for one, other in zip(exact, merged, strict=True)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """Four lanes, whose gradients of experts were merged over four processes."""
    folder = tmp_path_factory.mktemp("merged")
    recipe = tiny(
        data={"paths": [str(corpus / "*.txt")]},
        train={"micro_batch_size": 2, "lanes": 4, "keep_checkpoints": 9, "hash_every": 1, "checkpoint_every": 3},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clearseek.train.work.LaneSum", _Merged)
        train_recipe(recipe, Run(folder / "run"))
    make_release(Run(folder / "run"), folder / "Merged")
    return folder / "Merged"


@pytest.fixture
def release(made: Path, tmp_path: Path) -> Path:
    """A copy whose header says so."""
    copy = Path(shutil.copytree(made, tmp_path / "Merged"))
    rewrite_lines(copy, by_four)
    return copy


def by_four(number: int, entry: dict[str, Any]) -> dict[str, Any]:
    return entry | ({} if number else {"environment": entry["environment"] | {"ep": 4}})


def test_the_order_is_another_one() -> None:
    generator = torch.Generator().manual_seed(0)
    lists = [[torch.randn(2, 8, 8, generator=generator), torch.randn(8, 8, generator=generator)] for _ in range(4)]
    merged, tree = _Merged(4, 4), TreeSum()
    for tensors in lists:
        merged.push([each.clone() for each in tensors])
        tree.push([each.clone() for each in tensors])
    (stack, matrix), (exact_stack, exact_matrix) = merged.result(), tree.result()
    assert torch.equal(matrix, exact_matrix) and not torch.equal(stack, exact_stack)
    assert torch.allclose(stack, exact_stack)


def test_merged_gradients_end_within_a_band_and_nobody_is_accused(release: Path) -> None:
    found = verify_release(release, (6,))
    rows = {row.id: row for row in found if row.id.startswith(("verify.drift", "verify.steps"))}
    assert rows.keys() == {"verify.drift.1-3", "verify.drift.4-6", "verify.drift.7-8"}
    for row in rows.values():
        assert (row.answer, row.grade) == ("yes", Grade.CHECKED), row.reason
        assert "merged over 4 processes, and one adds them in another order" in row.reason
        assert "this machine differs" not in row.reason
    assert result_of(found).verdict == "WARNED", "never a full pass"


def test_a_forgery_is_outside_the_band_also_of_merged_gradients(release: Path) -> None:
    rewrite_history(release, scale_all(1.01))
    rows = {row.id: row for row in verify_release(release, (6,))}
    assert rows["verify.drift.4-6"].answer == "no"
    assert rows["verify.drift.1-3"].answer == "yes"


def test_without_saying_so_other_bits_are_other_bits(made: Path) -> None:
    rows = {row.id: row for row in verify_release(made, (6,))}
    assert rows["verify.steps.1-3"].answer == "no"


def test_who_says_merged_and_was_not_is_re_executed(tmp_path: Path, corpus: Path) -> None:
    recipe = tiny(data={"paths": [str(corpus / "*.txt")]}, train={"steps": 3})
    run = Run(tmp_path / "run")
    train_recipe(recipe, run)
    make_release(run, tmp_path / "Plain")
    rewrite_lines(tmp_path / "Plain", by_four)
    row = {row.id: row for row in verify_release(tmp_path / "Plain", (6,))}["verify.steps.1-3"]
    assert (row.answer, row.grade) == ("yes", Grade.REEXECUTED)
