"""One dial: a number of layers, from which width, depth, experts, rates, batch and steps follow.

The dimensions are chosen (:func:`dimensions`). Rates, batch and bits per byte were measured on a ladder of sizes that
were trained (``benchmarks/size_ladder.py``, docs/size.md), as straight lines through logarithms:
``value = scale * active ** exponent``, where active parameters are those that one token visits, the embedding left out.
"""

from __future__ import annotations

SMALLEST, LARGEST = 2, 64
"""Fewest and most layers of the dial."""

NARROW = 512
"""Widest model with heads of 32 channels, which has more of them; wider ones have heads of 64."""
WIDEST_LATENT = 512
"""Largest rank of the keys' and values' latent: DeepSeek-V3's."""


def dimensions(layers: int) -> dict[str, int]:
    """The settings of ``[model]`` that follow from a number of layers."""
    width = 32 * (layers + 1)
    channels = 32 if width <= NARROW else 64
    return {
        "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": max(2, width // channels),
        "q_lora_rank": width // 2, "kv_lora_rank": min(WIDEST_LATENT, width // 2),
        "qk_nope_head_dim": channels, "qk_rope_head_dim": channels, "v_head_dim": channels,
        "intermediate_size": 3 * width, "moe_intermediate_size": width // 2, "n_routed_experts": 8,
        "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
        "num_nextn_predict_layers": 0,
    }  # fmt: skip
