"""Common decoders by arithmetic: what a config.json of one of these kinds of model comes to, without building it.

Most released models are one architecture with small differences: grouped attention with or without biases and norms of
queries and keys, a gated MLP or experts behind a router. So a table of differences counts them exactly, in no time and
without PyTorch; tests compare it with transformers' classes. A setting that the table does not know, or a size that is
left out, means that it does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from clearseek.counts import Counted


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind of model differs from Llama."""

    qkv_bias: bool | str = "attention_bias"
    """Whether queries, keys and values have biases, or the setting that says so."""
    out_bias: bool | str = "attention_bias"
    qk_norm: str = ""
    """Norms of queries and keys: none, ``head`` (a head wide), ``full`` (all heads), or the setting that says so."""
    norms: int = 2
    """Norms of a layer, each of the hidden size."""
    last_norm: bool = True
    tied: bool = False
    """Whether the head is the embedding where config.json does not say."""
    head_dim: int = 0
    """Width of a head where config.json does not say; 0 for the hidden size over the heads."""
    experts: str = ""
    """Setting with the number of experts; empty for a dense model."""
    width: str = "moe_intermediate_size"
    """Setting with an expert's width."""
    shared: str = ""
    """Setting with the width of the shared expert, or with the number of shared experts of an expert's width."""
    shared_gate: bool = False
    router_bias: bool = False
    expert_bias: bool = False
    sinks: bool = False
    """Whether each head of attention has a number that it may attend to."""


KINDS: Final = {
    "llama": Kind(),
    "mistral": Kind(False, False),
    "ministral3": Kind(False, False, head_dim=128),
    "qwen2": Kind(True, False),
    "qwen3": Kind(qk_norm="head", head_dim=128),
    "phi3": Kind(False, False),
    "olmo": Kind(norms=0, last_norm=False),
    "olmo2": Kind(qk_norm="full"),
    "olmo3": Kind(qk_norm="full"),
    "smollm3": Kind(tied=True),
    "granite": Kind(),
    "gemma": Kind(tied=True, head_dim=256),
    "gemma2": Kind(norms=4, tied=True, head_dim=256),
    "gemma3_text": Kind(qk_norm="head", norms=4, tied=True, head_dim=256),
    "mixtral": Kind(False, False, experts="num_local_experts", width="intermediate_size"),
    "qwen2_moe": Kind(True, False, experts="num_experts", shared="shared_expert_intermediate_size", shared_gate=True),
    "qwen3_moe": Kind(qk_norm="head", experts="num_experts"),
    "olmoe": Kind(qk_norm="full", experts="num_experts", width="intermediate_size"),
    "glm4_moe": Kind(
        out_bias=False, qk_norm="use_qk_norm", experts="n_routed_experts", shared="n_shared_experts", router_bias=True,
    ),
    "gpt_oss": Kind(
        True, True, head_dim=64, experts="num_local_experts", width="intermediate_size", router_bias=True,
        expert_bias=True, sinks=True,
    ),
}  # fmt: skip
_UNUSUAL: Final = (
    "mlp_bias", "decoder_sparse_step", "mlp_only_layers", "use_bias", "qkv_bias", "o_bias",
    "clip_qkv_bias", "mlp_layer_types", "layer_norm_bias", "num_mtp_layers", "quant_aware",
)  # fmt: skip
"""Settings that change shapes, left to transformers unless they are empty, false or the number one."""
_SIZES: Final = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def decoder(raw: dict[str, Any]) -> Counted | None:
    """Parameters of a config.json of a common kind; None where the table cannot say."""
    kind = KINDS.get(str(raw.get("model_type")))
    named = raw.get("architectures") or ["ForCausalLM"]
    sizes = [raw.get(name) for name in _SIZES]
    if kind is None or any(not _usual(raw.get(name)) for name in _UNUSUAL) or "auto_map" in raw:
        return None
    if not all(map(_whole, sizes)) or not all(isinstance(each, str) and each.endswith("ForCausalLM") for each in named):
        return None
    V, H, L, heads, I = (int(each) for each in sizes if isinstance(each, int))  # noqa: E741
    keys, D = raw.get("num_key_value_heads") or heads, raw.get("head_dim") or kind.head_dim or H // heads
    if not _whole(keys) or not _whole(D) or (kind.qk_norm == "full" and D * heads != H):
        return None
    wide, narrow = heads * D, keys * D
    attention = 2 * H * (wide + narrow) + (heads if kind.sinks else 0)
    attention += (wide + 2 * narrow) * _flag(raw, kind.qkv_bias) + H * _flag(raw, kind.out_bias)
    by_head = kind.qk_norm == "head" or _flag(raw, kind.qk_norm)
    attention += wide + narrow if kind.qk_norm == "full" else 2 * D * by_head
    dense = attention + kind.norms * H + 3 * H * I
    tied = raw.get("tie_word_embeddings", kind.tied)
    ends = V * H * (1 if tied else 2) + (H if kind.last_norm else 0)
    head, by = 0 if tied else V * H, f"ClearSeek's table of decoders ({raw['model_type']})"
    if not kind.experts:
        return Counted(L * dense + ends, V * H, head, L * dense + ends, by=by)
    E, k, wide_expert = (raw.get(name, 0) for name in (kind.experts, "num_experts_per_tok", kind.width))
    shared = raw.get(kind.shared) if kind.shared else 0
    first = raw.get("first_k_dense_replace") if kind.shared == "n_shared_experts" else 0
    if not (_whole(E) and _whole(k) and _whole(wide_expert) and k <= E) or type(shared) is not int:
        return None
    if type(first) is not int or not 0 <= first <= L:
        return None
    expert = 3 * H * wide_expert + (2 * wide_expert + H if kind.expert_bias else 0)
    always = shared * (3 * H if kind.shared.endswith("_size") else 3 * H * wide_expert) + (H if kind.shared_gate else 0)
    sparse = attention + kind.norms * H + E * H + (E if kind.router_bias else 0) + always
    nextn = raw.get("num_nextn_predict_layers", 0)
    total = first * dense + (L - first) * (sparse + E * expert) + ends
    mtp = (nextn if type(nextn) is int and 0 < nextn < 10 else 0) * (sparse + E * expert + 2 * H * H + 3 * H)
    return Counted(total, V * H, head, total - (L - first) * (E - k) * expert, mtp, by=by)


def _whole(value: Any) -> bool:
    return type(value) is int and 0 < value < 10**10


def _usual(value: Any) -> bool:
    return value in (None, []) or (value is False) or (type(value) is int and value == 1)


def _flag(raw: dict[str, Any], setting: bool | str) -> bool:
    return bool(raw.get(setting)) if isinstance(setting, str) else setting
