"""One dial: a number of layers, from which width, experts, rates, batch and steps follow (docs/size.md).

The dimensions are chosen (:func:`dimensions`). Peak rates, batch and bits per byte are laws, straight lines through the
logarithms of what a ladder of sizes measured (``benchmarks/size_ladder.py``), against the active parameters: those that
one token visits, the embedding left out. Tokens are as many for each active parameter as the ladder was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Law(NamedTuple):
    """value = scale * active ** exponent."""

    scale: float
    exponent: float

    def at(self, active: int) -> float:
        """The value at a number of active parameters."""
        return float(self.scale * active**self.exponent)


SMALLEST, LARGEST = 2, 64
"""Fewest and most layers of the dial."""

NARROW = 512
"""Widest model with heads of 32 channels; wider ones have heads of 64."""
LARGEST_LATENT = 512
"""Largest rank of the latent of keys and values: DeepSeek-V3's."""
MICRO_BATCH_TOKENS = 4096
"""Most tokens of a forward pass, where a sequence is not longer by itself."""

RUNGS = (2, 3, 4, 5)
TOKENS_PER_PARAMETER = 0.75
BASE: Mapping[str, Mapping[str, Any]] = {
    "optimizer": {
        "learning_rate": 0.0035,
        "muon_learning_rate": 0.014,
        "embedding_learning_rate": 0.3,
        "momentum": 0.9,
        "schedule": [
            {"shape": "linear", "until": 0.05, "to": 1.0},
            {"shape": "constant", "until": 0.4, "to": 1.0},
            {"shape": "linear", "until": 1.0, "to": 0.02},
        ],
    },
    "train": {"initial_weights": "scaled"},
}
LAWS = {
    "factor": Law(993.491, -0.5012),
    "batch_tokens": Law(1.64656, 0.4917),
    "bpb": Law(14.497, -0.1506),
}


def dimensions(layers: int) -> dict[str, int]:
    """The settings of ``[model]`` that follow from a number of layers."""
    width = 32 * (layers + 1)
    channels = 32 if width <= NARROW else 64
    return {
        "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": max(2, width // channels),
        "q_lora_rank": width // 2, "kv_lora_rank": min(LARGEST_LATENT, width // 2),
        "qk_nope_head_dim": channels, "qk_rope_head_dim": channels, "v_head_dim": channels,
        "intermediate_size": 3 * width, "moe_intermediate_size": width // 2, "n_routed_experts": 8,
        "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
        "num_nextn_predict_layers": 0,
    }  # fmt: skip


def learning(active: int, sequence_length: int) -> dict[str, dict[str, Any]]:
    """The settings of ``[optimizer]`` and ``[train]`` that follow from a number of active parameters."""
    factor, tokens = LAWS["factor"].at(active), LAWS["batch_tokens"].at(active)
    batch = 2 ** max(0, round(math.log2(tokens / sequence_length)))
    return {
        "optimizer": {
            name: float(f"{factor * value:.4g}") if name.endswith("learning_rate") else value
            for name, value in BASE["optimizer"].items()
        },
        "train": {
            **BASE["train"], "batch_size": batch, "micro_batch_size": micro_batch(batch, sequence_length),
            "lanes": None, "steps": max(1, round(TOKENS_PER_PARAMETER * active / (batch * sequence_length))),
        },
    }  # fmt: skip


def micro_batch(batch: int, sequence_length: int) -> int:
    """Sequences of a forward pass: half of a batch, which two processes can share, or fewer where those are long."""
    most = max(1, min(batch // 2, MICRO_BATCH_TOKENS // sequence_length))
    return next(several for several in range(most, 0, -1) if batch % several == 0)
