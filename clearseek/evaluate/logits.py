"""Logits of fixed prompts: the cheapest proof that published weights are the weights that were measured.

A release records the FP32 logits that its final weights give for the token after each of a few prompts, every bit. The
same kind of machine gets the same bits; another kind gets numbers whose largest difference is rounding.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import torch

from clearseek.data.tokenizer import BOS, Tokenizer
from clearseek.hub.read import import_model

PROMPTS: Final = ("", "def ", "class Parser", "import os\n", "The quick brown fox")
CLOSE: Final = 1e-3
"""Largest difference of a logit between two machines' FP32; rounding makes a thousandth of that."""


@torch.no_grad()
def prompt_logits(release: Path) -> list[torch.Tensor]:
    """FP32 logits [V] of the token after each prompt, from the release's final weights.

    Raises UserError when the weights cannot be read.
    """
    model = import_model(release)
    tokenizer = Tokenizer.load(release / "tokenizer.json")
    out = []
    for prompt in PROMPTS:
        tokens = torch.tensor([[tokenizer.id_of(BOS), *tokenizer.encode(prompt)]])
        out.append(model(tokens)[0, -1].float() @ model.head_weight.float().T)
    return out


def as_json(logits: list[torch.Tensor]) -> dict[str, Any]:
    """Prompts with their logits as JSON values: hexadecimal floats, which are exact."""
    rows = zip(PROMPTS, logits, strict=True)
    return {"prompts": [{"prompt": prompt, "logits": [value.hex() for value in row.tolist()]} for prompt, row in rows]}


def largest_difference(stated: dict[str, Any], found: list[torch.Tensor]) -> float:
    """Largest difference of a logit, infinite where prompts or shapes differ.

    Raises KeyError, TypeError or ValueError where `stated` is not of the form of :func:`as_json`.
    """
    rows: list[dict[str, Any]] = stated["prompts"]
    if [row["prompt"] for row in rows] != list(PROMPTS) or any(
        len(row["logits"]) != len(value) for row, value in zip(rows, found, strict=True)
    ):
        return float("inf")
    differences = [
        abs(float.fromhex(str(one)) - other)
        for row, value in zip(rows, found, strict=True)
        for one, other in zip(row["logits"], map(float, value.tolist()), strict=True)
    ]
    return max(differences) if all(map(math.isfinite, differences)) else float("inf")  # max() overlooks NaN
