"""Tables of the dial ``size``: what follows from it, and the ladder that it was fitted on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clearseek import size
from clearseek.cli.report import si
from clearseek.counts import count_parameters
from clearseek.recipe import load_recipe

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "size_ladder.json"
SHOWN = (2, 3, 4, 5, 6, 7, 8, 12, 15, 16, 24, 32, 48, 64)
"""Sizes in the table."""
NAMES = {
    "factor": "factor on the peak rates",
    "batch_tokens": "tokens of a step",
    "bpb": "held-out bits per byte",
}


def sizes() -> str:
    """What follows from some sizes with the quickstart-small's vocabulary, sequences and text."""
    lines = [
        "| size | measured | width | heads | an expert | parameters | active | batch | steps | tokens | Muon's rate |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for layers in SHOWN:
        recipe = load_recipe("quickstart-small", [f"size={layers}"])
        count, model = count_parameters(recipe.model), recipe.model
        measured = "yes" if layers in size.RUNGS else ""
        heads = f"{model.num_attention_heads} of {model.v_head_dim}"
        counts = " | ".join(map(si, (count.total, count.activated_without_embedding)))
        lines.append(
            f"| {layers} | {measured} | {model.hidden_size} | {heads} | {model.moe_intermediate_size} | {counts} | "
            f"{recipe.train.batch_size} | {recipe.train.steps:,} | {si(recipe.tokens)} | "
            f"{recipe.optimizer.muon_learning_rate:g} |"
        )
    return "\n".join(lines) + "\n"


def ladder() -> str:
    """The best of each rung, and how far it lies from the lines that the dial has."""
    found = _result()
    lines = ["| size | active | " + " | ".join(f"{name} | off the line" for name in NAMES.values()) + " |"]
    lines.append("|---" * (2 + 2 * len(NAMES)) + "|")
    for number, best in enumerate(found["best"]):
        cells = [str(best["layers"]), si(best["active"])]
        for name in NAMES:
            value = f"{best[name]:,}" if name == "batch_tokens" else f"{best[name]:.3f}"
            one_side = name == "factor" and not best["both_sides_tried"]
            over = found["lines"][name]["value_over_line"][number]
            cells += [value + (" (at an end)" if one_side else ""), f"{100 * (over - 1):+.1f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def laws() -> str:
    """The lines through the logarithms."""
    lines = ["| what | law | off the line, at most |", "|---|---|---|"]
    for name, line in _result()["lines"].items():
        worst = max(abs(over - 1) for over in line["value_over_line"])
        law = f"{line['scale']:.4g} x active^{line['exponent']:.4f}"
        lines.append(f"| {NAMES[name]} | {law} | {100 * worst:.1f} % |")
    return "\n".join(lines) + "\n"


def _result() -> dict[str, Any]:
    if not RESULT.is_file():
        pytest.skip(f"{RESULT.name} is not here")
    return dict(json.loads(RESULT.read_text(encoding="utf-8")))


PARTS = {"sizes": sizes, "size_ladder": ladder, "size_laws": laws}
