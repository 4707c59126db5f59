"""Planted faults: the tables of `benchmarks/mutations/` fit the code, so that a run of them begins."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_the_tables_fit_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that has moved is followed in its table: see ``python benchmarks/mutate.py --check``."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import mutate

    assert not mutate.stale()
    assert len(set(mutate.faults())) == len(mutate.faults())
