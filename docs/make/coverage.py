"""Tables of the measured coverage of intervals, from ``benchmarks/results/interval_coverage.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "interval_coverage.json"


def one_sample() -> str:
    """Coverage with one sample of each question."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    lines = [
        "| questions | interval | true share 0.02 | 0.5 | 0.95 | mean of all shares | least |",
        "|---|---|---|---|---|---|---|",
    ]
    for questions, shares in found["one_sample"].items():
        summed = found["one_sample_added_up"][questions]
        for way, name in (("exact", "exact"), ("wilson", "Wilson's")):
            cells = [*(share[way] for share in shares.values()), summed[f"{way}, mean"], summed[f"{way}, least"]]
            lines.append(f"| {questions} | {name} | {_cells(cells)} |")
    return "\n".join(lines) + "\n"


def several_samples() -> str:
    """Coverage with several samples of each question, by how difficulties differ."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    sets = ("64 questions, 4 samples", "30 questions, 16 samples")
    lines = [
        "| difficulties | questions and samples | as a sample: 0.02 | 0.5 | 0.95 | fixed: 0.02 | 0.5 | 0.95 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in found[sets[0]]:
        for name in sets:
            shares: dict[str, Any] = found[name][kind]
            cells = [share[way] for way in ("sampled", "fixed") for share in shares.values()]
            lines.append(f"| {kind} | {name.replace(' samples', ' of each')} | {_cells(cells)} |")
    return "\n".join(lines) + "\n"


def tests() -> str:
    """How often tests see a difference that is not there."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    lines = ["| questions | test | both right in 0.02 | 0.5 | 0.95 |", "|---|---|---|---|---|"]
    for questions, shares in found["false_alarms"].items():
        for way, name in (("mcnemar", "McNemar's, one sample"), ("permutation", "permutation, four samples")):
            lines.append(f"| {questions} | {name} | {_cells([share[way] for share in shares.values()])} |")
    return "\n".join(lines) + "\n"


def _cells(values: list[float]) -> str:
    return " | ".join(f"{100 * value:.1f} %" for value in values)
