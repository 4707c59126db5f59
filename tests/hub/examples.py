"""Small models of every kind, and what goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from clearseek.config import ModelConfig, RopeScaling
from clearseek.data import tokenizer
from clearseek.tensors import memory_tensors

VOCAB = 320
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
    "intermediate_size": 40,
    "moe_intermediate_size": 20,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 64,
}
V2: dict[str, Any] = {
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "n_shared_experts": 2,
}
YARN = RopeScaling(factor=4.0, original_max_position_embeddings=16, mscale=0.707, mscale_all_dim=0.707)


def small(**changes: Any) -> ModelConfig:
    return ModelConfig(**(SMALL | changes))


CONFIGS: dict[str, ModelConfig] = {
    "v3": small(),
    "v3-mtp": small(num_nextn_predict_layers=1),
    "v3-groups-yarn-mtp": small(n_group=4, topk_group=2, rope_scaling=YARN, num_nextn_predict_layers=1),
    "v3-plain-queries": small(q_lora_rank=None, first_k_dense_replace=0),
    "v3-tied-mtp": small(tie_word_embeddings=True, num_nextn_predict_layers=1),
    "v3-all-dense": small(first_k_dense_replace=3, n_shared_experts=3),
    "v2-lite": small(**V2, q_lora_rank=None, rope_scaling=YARN),
    "v2-groups": small(**V2 | {"topk_method": "group_limited_greedy"}, n_group=4, topk_group=2, rope_theta=5000.0),
}


def random_state(config: ModelConfig, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        spec.name: torch.randn(spec.shape, generator=generator).to(torch.float32 if spec.dtype == "F32" else dtype)
        for spec in memory_tensors(config)
    }


@cache
def _tokenizer() -> tokenizer.Tokenizer:
    ends = ("weed", "shore", "mark", "line", "ward", "breeze")
    words = [f"{start}{end} " for start in ("sea", "sand", "salt", "tide", "wind", "moon") for end in ends]
    return tokenizer.train(["".join(words) * 20], VOCAB)


def tokenizer_file(folder: Path) -> Path:
    file = folder / "trained-tokenizer.json"
    _tokenizer().save(file)
    return file


def routers_as(state: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state with the routers' weights in the type of `like`, if that changes no number.

    transformers widens them to FP32 from 5.24 on, in which they are computed; the published ones are BF16.
    """
    out = dict(state)
    for name, tensor in state.items():
        if name.endswith("mlp.gate.weight") and torch.equal(tensor.to(like[name].dtype).to(tensor.dtype), tensor):
            out[name] = tensor.to(like[name].dtype)
    return out
