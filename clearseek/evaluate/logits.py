"""Logits of fixed prompts: the cheapest proof that published weights are the ones that were measured.

A release records what its final weights answer to a few prompts: FP32 logits of the next token, every bit. Whoever
computes them again on the same kind of machine gets the same bits; on another, numbers so close that the largest
difference says as much.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import torch

from clearseek.data.tokenizer import BOS, Tokenizer
from clearseek.hub.read import import_hf
from clearseek.model.transformer import DeepSeekModel

PROMPTS: Final = ("", "def ", "class Parser", "import os\n", "The quick brown fox")
CLOSE: Final = 1e-3
"""Largest difference of a logit that two machines' FP32 may make: rounding is a thousandth of that."""


@torch.no_grad()
def prompt_logits(release: Path) -> list[torch.Tensor]:
    """For each prompt the FP32 logits [V] of the token after it, from the release's final weights.

    Raises UserError when the weights cannot be read.
    """
    config, tensors = import_hf(release, allow_missing_mtp=True)
    with torch.device("meta"):
        model = DeepSeekModel(config)
    model.load_state_dict(tensors, assign=True)
    model.set_dtype(torch.float32).requires_grad_(False)
    tokenizer = Tokenizer.load(release / "tokenizer.json")
    out = []
    for prompt in PROMPTS:
        tokens = torch.tensor([[tokenizer.id_of(BOS), *tokenizer.encode(prompt)]])
        out.append(model(tokens)[0, -1].float() @ model.head_weight.float().T)
    return out


def as_json(logits: list[torch.Tensor]) -> dict[str, Any]:
    """Prompts with their logits as hexadecimal floats, which are exact."""
    rows = zip(PROMPTS, logits, strict=True)
    return {"prompts": [{"prompt": prompt, "logits": [value.hex() for value in row.tolist()]} for prompt, row in rows]}


def largest_difference(stated: dict[str, Any], found: list[torch.Tensor]) -> float:
    """Over all prompts; infinite where the shapes differ. Raises KeyError, TypeError or ValueError on another form."""
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
