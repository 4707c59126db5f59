"""A model's weights as generation reads them.

Dimensions are padded with zeros to multiples of 16, and heads to a multiple of four, so that kernels have no
remainders. Key and value parts of `kv_b_proj` are apart: the key part, transposed, takes queries into the latents'
space ("absorbed", DeepSeek-V2 report, section 2.1.2).

Shapes: V vocabulary, D hidden, H heads, N channels without position, P rotary channels, R latent rank, E experts,
I width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clearseek.config import ModelConfig
from clearseek.inference.storage import Kind, Matrix, Store, padded, wide
from clearseek.kernels import BLOCK


@dataclass(frozen=True)
class FeedForward:
    """SwiGLUs side by side: one dense or shared MLP, or the routed experts."""

    gate_up: Matrix
    """[E * 2I, D]: of each, 16 rows of the gate, then 16 of the up projection, by turns; I is a multiple of 16."""
    down: Matrix
    """[E * D, I]; D is a multiple of 16."""
    experts: int
    width: int
    """I."""


@dataclass(frozen=True)
class Layer:
    """One decoder layer."""

    norm: Tensor
    first: Matrix
    """What reads the normalised hidden state: compressed queries (where there are), latent, rotary key."""
    q_norm: Tensor | None
    kv_norm: Tensor
    queries: Matrix
    """[H * N + H * P, ...]: all heads' channels without position, then their rotary ones."""
    keys: Matrix
    """[H * R, N]: the key part of `kv_b_proj`, transposed."""
    values: Matrix
    """[H * V, R]."""
    out: Matrix
    """[D, H * V]."""
    mlp_norm: Tensor
    router: Matrix | None
    bias: Tensor | None
    dense: FeedForward
    """The dense MLP, or the shared experts."""
    routed: FeedForward | None


@dataclass(frozen=True)
class Draft:
    """The multi-token-prediction layer (DeepSeek-V3 report, section 2.2)."""

    token_norm: Tensor
    hidden_norm: Tensor
    join: Matrix
    """[D, 2D]: what joins the next token's embedding and the hidden state."""
    layer: Layer
    norm: Tensor


@dataclass(frozen=True)
class Packed:
    """A whole model."""

    config: ModelConfig
    kind: Kind
    embedding: Tensor
    """[V, D], FP32 or BF16."""
    layers: list[Layer]
    norm: Tensor
    head: Matrix
    draft: Draft | None


def pack(config: ModelConfig, take: Callable[[str], Tensor], kind: Kind) -> Packed:
    """Pack a model's tensors.

    Args:
        config: Dimensions.
        take: The tensor of a name (routed experts stacked), which is not needed again.
        kind: How matrices are stored. The router, norms and biases stay FP32.
    """
    store = Store(kind)
    layers = [_layer(config, take, f"model.layers.{i}.", i, store) for i in range(config.num_hidden_layers)]
    table = take("model.embed_tokens.weight")
    embedding = table.to(torch.float32 if kind == "F32" else torch.bfloat16).contiguous()
    head = store.matrix(table if config.tie_word_embeddings else take("lm_head.weight"))
    draft = (
        _draft(config, take, f"model.layers.{config.num_hidden_layers}.", store)
        if config.num_nextn_predict_layers
        else None
    )
    return Packed(config, kind, embedding, layers, take("model.norm.weight").float(), head, draft)


def _draft(c: ModelConfig, take: Callable[[str], Tensor], prefix: str, store: Store) -> Draft:
    halves = take(prefix + "eh_proj.weight").unflatten(1, (2, -1))
    return Draft(
        token_norm=take(prefix + "enorm.weight").float(),
        hidden_norm=take(prefix + "hnorm.weight").float(),
        join=store.matrix(padded(halves, wide(c.hidden_size)).flatten(1)),
        layer=_layer(c, take, prefix, c.num_hidden_layers, store),
        norm=take(prefix + "shared_head.norm.weight").float(),
    )


def _layer(c: ModelConfig, take: Callable[[str], Tensor], prefix: str, index: int, store: Store) -> Layer:
    attention = prefix + "self_attn."
    nope, rope, rank, value = (wide(n) for n in (c.qk_nope_head_dim, c.qk_rope_head_dim, c.kv_lora_rank, c.v_head_dim))
    count = c.num_attention_heads
    heads, hidden = wide(count, 4), wide(c.hidden_size)

    latent, key = take(attention + "kv_a_proj_with_mqa.weight").split([c.kv_lora_rank, c.qk_rope_head_dim])
    first = [padded(latent, rank, hidden), padded(key, rope, hidden)]
    q_name, q_norm, inner = "q_proj.weight", None, hidden
    if c.q_lora_rank is not None:
        inner = wide(c.q_lora_rank)
        first.insert(0, padded(take(attention + "q_a_proj.weight"), inner, hidden))
        q_name, q_norm = "q_b_proj.weight", take(attention + "q_a_layernorm.weight").float()
    q = take(attention + q_name).unflatten(0, (count, -1))
    parts = q.split([c.qk_nope_head_dim, c.qk_rope_head_dim], dim=1)
    queries = torch.cat(
        [padded(part, heads, width, inner).flatten(0, 1) for part, width in zip(parts, (nope, rope), strict=True)]
    )
    kv = take(attention + "kv_b_proj.weight").unflatten(0, (count, -1))
    k, v = kv.split([c.qk_nope_head_dim, c.v_head_dim], dim=1)
    out = take(attention + "o_proj.weight").unflatten(1, (count, -1))

    moe = c.is_moe_layer(index)
    mlp = prefix + "mlp."
    return Layer(
        norm=take(prefix + "input_layernorm.weight").float(),
        first=store.matrix(torch.cat(first)),
        q_norm=q_norm,
        kv_norm=take(attention + "kv_a_layernorm.weight").float(),
        queries=store.matrix(queries),
        keys=store.matrix(padded(k.mT, heads, rank, nope)),
        values=store.matrix(padded(v, heads, value, rank)),
        out=store.matrix(padded(out, heads, value).flatten(1)),
        mlp_norm=take(prefix + "post_attention_layernorm.weight").float(),
        router=store.matrix(take(mlp + "gate.weight"), "F32") if moe else None,
        bias=take(mlp + "gate.e_score_correction_bias").float() if moe and c.topk_method == "noaux_tc" else None,
        dense=_mlp(take, mlp + ("shared_experts." if moe else ""), store),
        routed=_experts(take, mlp + "experts.", store) if moe else None,
    )


def _mlp(take: Callable[[str], Tensor], prefix: str, store: Store) -> FeedForward:
    gate, up, down = (take(f"{prefix}{name}_proj.weight") for name in ("gate", "up", "down"))
    return _feed_forward(torch.stack([gate, up]).unsqueeze(0), down.unsqueeze(0), store)


def _experts(take: Callable[[str], Tensor], prefix: str, store: Store) -> FeedForward:
    return _feed_forward(take(prefix + "gate_up_proj").unflatten(1, (2, -1)), take(prefix + "down_proj"), store)


def _feed_forward(gate_up_E2ID: Tensor, down_EDI: Tensor, store: Store) -> FeedForward:
    experts, hidden, width = len(down_EDI), wide(down_EDI.shape[1]), wide(down_EDI.shape[2])
    rows = padded(gate_up_E2ID, width, hidden).unflatten(2, (-1, BLOCK)).transpose(1, 2)
    return FeedForward(store.matrix(rows), store.matrix(padded(down_EDI, hidden, width)), experts, width)
