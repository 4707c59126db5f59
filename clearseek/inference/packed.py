"""A model's weights as generation reads them.

Each matrix is stored once, in FP32, BF16, or int8 with one scale per row. Rows are padded with zeros to a multiple of
16 numbers, and heads to a multiple of four, so that kernels have no remainders. Key and value parts of `kv_b_proj` are
apart: the key part, transposed, takes queries into the latents' space ("absorbed", DeepSeek-V2 report, section 2.1.2).

Shapes: V vocabulary, D hidden, H heads, N channels without position, P rotary channels, R latent rank, E experts,
I width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clearseek.config import ModelConfig

Kind = Literal["F32", "BF16", "I8"]
DTYPES: dict[Kind, torch.dtype] = {"F32": torch.float32, "BF16": torch.bfloat16, "I8": torch.int8}


def wide(n: int, to: int = 16) -> int:
    """`n` rounded up to a multiple of `to`."""
    return n + -n % to


def padded(x: Tensor, *sizes: int) -> Tensor:
    """`x` with zeros behind each of its last dimensions up to `sizes`."""
    missing = [pair for size, own in zip(sizes[::-1], list(x.shape)[::-1], strict=False) for pair in (0, size - own)]
    return F.pad(x, missing)


@dataclass(frozen=True)
class Matrix:
    """Rows of weights: [rows, inner] in a stored type; the inner dimension is a multiple of 16."""

    values: Tensor
    scales: Tensor | None
    """FP32 [rows] for int8: what a row's whole numbers are multiplied by."""

    @staticmethod
    def of(weight: Tensor, kind: Kind) -> Matrix:
        """Store [..., rows, inner], padded."""
        weight = weight.flatten(0, -2)
        weight = padded(weight, wide(weight.shape[-1]))
        if kind != "I8":
            return Matrix(weight.to(DTYPES[kind]).contiguous(), None)
        weight = weight.float()
        scales = weight.abs().amax(-1) / 127
        values = (weight / scales.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)).round().to(torch.int8)
        return Matrix(values.contiguous(), scales.contiguous())

    @property
    def kind(self) -> Kind:
        """The stored type."""
        return next(kind for kind, dtype in DTYPES.items() if dtype == self.values.dtype)

    def floats(self) -> Tensor:
        """The numbers, FP32 [rows, inner]."""
        values = self.values.float()
        return values if self.scales is None else values * self.scales.unsqueeze(-1)


@dataclass(frozen=True)
class FeedForward:
    """SwiGLUs side by side: one dense or shared MLP, or the routed experts."""

    gate_up: Matrix
    """[E * 2I, D]: of each, the gate's rows, then the up projection's."""
    down: Matrix
    """[E * D, I]."""
    experts: int
    width: int


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
    layers = [_layer(config, take, f"model.layers.{i}.", i, kind) for i in range(config.num_hidden_layers)]
    table = take("model.embed_tokens.weight")
    embedding = table.to(torch.float32 if kind == "F32" else torch.bfloat16).contiguous()
    head = Matrix.of(table if config.tie_word_embeddings else take("lm_head.weight"), kind)
    draft = (
        _draft(config, take, f"model.layers.{config.num_hidden_layers}.", kind)
        if config.num_nextn_predict_layers
        else None
    )
    return Packed(config, kind, embedding, layers, take("model.norm.weight").float(), head, draft)


def _draft(c: ModelConfig, take: Callable[[str], Tensor], prefix: str, kind: Kind) -> Draft:
    halves = take(prefix + "eh_proj.weight").unflatten(1, (2, -1))
    return Draft(
        token_norm=take(prefix + "enorm.weight").float(),
        hidden_norm=take(prefix + "hnorm.weight").float(),
        join=Matrix.of(padded(halves, wide(c.hidden_size)).flatten(1), kind),
        layer=_layer(c, take, prefix, c.num_hidden_layers, kind),
        norm=take(prefix + "shared_head.norm.weight").float(),
    )


def _layer(c: ModelConfig, take: Callable[[str], Tensor], prefix: str, index: int, kind: Kind) -> Layer:
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
        first=Matrix.of(torch.cat(first), kind),
        q_norm=q_norm,
        kv_norm=take(attention + "kv_a_layernorm.weight").float(),
        queries=Matrix.of(queries, kind),
        keys=Matrix.of(padded(k.mT, heads, rank, nope), kind),
        values=Matrix.of(padded(v, heads, value, rank), kind),
        out=Matrix.of(padded(out, heads, value).flatten(1), kind),
        mlp_norm=take(prefix + "post_attention_layernorm.weight").float(),
        router=Matrix.of(take(mlp + "gate.weight"), "F32") if moe else None,
        bias=take(mlp + "gate.e_score_correction_bias").float() if moe and c.topk_method == "noaux_tc" else None,
        dense=_mlp(take, mlp + ("shared_experts." if moe else ""), kind),
        routed=_experts(take, mlp + "experts.", kind) if moe else None,
    )


def _mlp(take: Callable[[str], Tensor], prefix: str, kind: Kind) -> FeedForward:
    gate, up, down = (take(f"{prefix}{name}_proj.weight") for name in ("gate", "up", "down"))
    return FeedForward(Matrix.of(torch.cat([gate, up]), kind), Matrix.of(down, kind), 1, len(gate))


def _experts(take: Callable[[str], Tensor], prefix: str, kind: Kind) -> FeedForward:
    gate_up, down = take(prefix + "gate_up_proj"), take(prefix + "down_proj")
    return FeedForward(Matrix.of(gate_up, kind), Matrix.of(down, kind), len(down), down.shape[2])
