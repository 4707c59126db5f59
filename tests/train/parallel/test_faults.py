"""Four machines as network namespaces: whatever happens to one of them, the run goes on, and ends in the same bits."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import hosts as machines


@pytest.mark.slow
def test_a_run_survives_what_happens_to_machines(tmp_path: Path) -> None:
    if reason := machines.why_not():
        pytest.skip(reason)
    recipe, run, dice = machines.prepare(tmp_path, steps=48), tmp_path / "run", random.Random(2)
    expected = machines.undisturbed(recipe, tmp_path / "one")
    with machines.hosts(recipe, run) as four:
        faults = machines.Faults(four, run)
        some = ("worker killed", "agent told to stop", "link down")  # benchmarks/faults.py has all, twenty times
        for number, what in enumerate(some):
            assert faults.happen(what, number, dice)["noticed"] <= 30
        assert faults.finish() == expected
