"""Held-out windows shared out among copies of the model, compared with one process to the bit."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.layouts import prepare
from tests.train.parallel.test_work import start

WORKER = "tests.train.parallel.evaluation_worker"
LAYOUTS = {"dp=4": 4, "dp=4,ep=2": 4, "dp=4,ep=4": 4, "fsdp=4": 4, "dp=2,pp=2": 2, "dp=2,pp=2,schedule=zbv": 2}
"""Layout -> batches that are computed side by side."""
MERGED = {"merged dp=4,ep=2": 2, "merged dp=4,ep=4": 1}
Found = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Found]:
    """What one process measures, and four in every layout."""
    folder = tmp_path_factory.mktemp("evaluation")
    prepare(folder)
    return start(folder, 1, "dp=1", module=WORKER)["dp=1"][0], start(folder, 4, *LAYOUTS, *MERGED, module=WORKER)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_sum_has_the_bits_of_one_process(layout: str, found: tuple[dict[str, Any], Found]) -> None:
    alone, four = found
    assert len(alone["told"]) > 6 and all(process["found"] == alone["found"] for process in four[layout])


@pytest.mark.parametrize("layout", [*LAYOUTS, *MERGED])
def test_no_copy_computes_more_than_its_share(layout: str, found: tuple[dict[str, Any], Found]) -> None:
    alone, four = found
    batches, at_once = len(alone["told"]) - 1, (LAYOUTS | MERGED)[layout]
    rounds = -(-batches // at_once)
    for process in four[layout]:
        assert len(process["computed"]) == rounds
        assert process["told"] == [0, *alone["told"][at_once:-1:at_once], alone["told"][-1]]
        assert process["found"] == four[layout][0]["found"]
