"""Multi-head latent attention (MLA).

Keys and values of all heads are expanded from one small latent per token, and only the latent and one shared rotary key
are cached: ``kv_lora_rank + qk_rope_head_dim`` numbers per token and layer instead of ``2 * heads * head_dim``
(DeepSeek-V2 report, section 2.1; DeepSeek-V3 report, equations 1-11). Separate rotary channels carry the position,
because a rotation between latent and heads would prevent folding the expansion into the query.

Shapes: B sequences, S positions, D hidden, H heads, N channels without position, P rotary channels, V value channels,
R latent rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from clearseek.config import ModelConfig
from clearseek.fp8.linear import Linear, linears
from clearseek.kernels.operations import latent_attention
from clearseek.ops.attention import causal_attention
from clearseek.ops.compiled import loops_take
from clearseek.ops.heads import heads_of_keys_and_values, heads_of_queries
from clearseek.ops.norm import RMSNorm
from clearseek.ops.recompute import through
from clearseek.ops.rope import Places, rotate, softmax_scale


@dataclass
class LatentCache:
    """One layer's past: normalised latents [B, S, R] and rotated shared keys [B, S, P]."""

    latent_BSR: Tensor | None = None
    rope_BSP: Tensor | None = None

    @property
    def length(self) -> int:
        """Positions held."""
        return 0 if self.latent_BSR is None else self.latent_BSR.shape[1]

    def extend(self, latent_BSR: Tensor, rope_BSP: Tensor) -> tuple[Tensor, Tensor]:
        """Append new positions and return all of them."""
        if self.latent_BSR is not None and self.rope_BSP is not None:
            latent_BSR = torch.cat([self.latent_BSR, latent_BSR], dim=1)
            rope_BSP = torch.cat([self.rope_BSP, rope_BSP], dim=1)
        self.latent_BSR, self.rope_BSP = latent_BSR, rope_BSP
        return latent_BSR, rope_BSP


class MultiHeadLatentAttention(nn.Module):
    """One attention layer, with compressed queries where the config has `q_lora_rank`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = self.config = config
        queries = c.num_attention_heads * c.qk_head_dim
        if c.q_lora_rank is None:
            self.q_proj = Linear(c.hidden_size, queries)
        else:
            self.q_a_proj = Linear(c.hidden_size, c.q_lora_rank)
            self.q_a_layernorm = RMSNorm(c.q_lora_rank)
            self.q_b_proj = Linear(c.q_lora_rank, queries)
        self.kv_a_proj_with_mqa = Linear(c.hidden_size, c.kv_lora_rank + c.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank)
        expanded = c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim)
        self.kv_b_proj = Linear(c.kv_lora_rank, expanded)
        self.o_proj = Linear(c.num_attention_heads * c.v_head_dim, c.hidden_size)
        self.softmax_scale = softmax_scale(config)
        self.recompute = False
        """Whether the backward expands queries, keys and values again instead of keeping them."""

    def forward(self, x_BSD: Tensor, places: Places, cache: LatentCache | None = None) -> Tensor:
        """Attend causally from normalised hidden states of S new positions: [B, S, D].

        `cache` is the layer's past, which is extended; None in training.
        """
        first = self.q_proj if self.config.q_lora_rank is None else self.q_a_proj
        inputs = linears(x_BSD, (first, self.kv_a_proj_with_mqa))
        fused = cache is None and loops_take(inputs[0])
        expand, attend = partial(self._expand, places, cache, fused), partial(self._attend, places, fused)
        out_BSHV = through(expand, attend, inputs, self.recompute)
        y: Tensor = self.o_proj(out_BSHV.flatten(-2), "attention_output")
        return y

    def _expand(
        self, places: Places, cache: LatentCache | None, fused: bool, q_BSX: Tensor, latent_rope_BSX: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values per head; where they are laid out later, queries, keys with values, rotary keys."""
        c = self.config
        heads, nope = c.num_attention_heads, c.qk_nope_head_dim
        if c.q_lora_rank is not None:
            q_BSX = self.q_b_proj(self.q_a_layernorm(q_BSX))
        q_BSHC = q_BSX.unflatten(-1, (heads, -1))
        latent_BSR, rope_BSP = latent_rope_BSX.split([c.kv_lora_rank, c.qk_rope_head_dim], dim=-1)
        latent_BSR = self.kv_a_layernorm(latent_BSR)
        rope_BSP = rotate(rope_BSP, places.turn).to(q_BSX.dtype)
        if cache is not None:
            latent_BSR, rope_BSP = cache.extend(latent_BSR, rope_BSP)
        kv_BSHX = self.kv_b_proj(latent_BSR).unflatten(-1, (heads, nope + c.v_head_dim))
        if fused:
            return q_BSHC, kv_BSHX, rope_BSP
        q_BHSC = heads_of_queries(q_BSHC, places.turn, nope, self.softmax_scale)
        return q_BHSC, *heads_of_keys_and_values(kv_BSHX, rope_BSP, nope)

    def _attend(self, places: Places, fused: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention core on what :meth:`_expand` gives."""
        if not fused:
            return causal_attention(q, k, v, places.start_BS)
        nope = self.config.qk_nope_head_dim
        return latent_attention(q, k, v, places.turn, places.start_BS, nope, self.softmax_scale)
