"""Queries, keys and values laid out per head, in one pass each.

The projections return the channels of all heads side by side, [B, S, H, ...]. The attention core takes each head's
positions side by side, [B, H, S, ...], queries scaled and turned, and keys made of a head's own channels and the one
rotary key that all heads share. As single functions with hand-written backwards, each tensor is read once and written
once. Where numba's loops are in use, :func:`clearseek.kernels.operations.latent_attention` does layouts and core in one
loop, without laying anything out in memory.

Shapes: B sequences, S positions, H heads, N channels without position, P rotary channels, C = N + P, V value channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from clearseek.ops.apply import apply
from clearseek.ops.rope import rotate


class _Queries(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BSHC: Tensor, turn: Tensor, nope: int, scale: float) -> Tensor:
        batch, length, heads, channels = q_BSHC.shape
        turn_S1P2 = (turn * scale).unsqueeze(-2)
        out_BHSC = q_BSHC.new_empty(batch, heads, length, channels)
        view_BSHC = out_BHSC.transpose(1, 2)
        torch.mul(q_BSHC[..., :nope], scale, out=view_BSHC[..., :nope])
        view_BSHC[..., nope:] = rotate(q_BSHC[..., nope:], turn_S1P2)
        ctx.save_for_backward(turn_S1P2)
        ctx.nope, ctx.scale = nope, scale
        return out_BHSC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BHSC: Tensor) -> tuple[Tensor, None, None, None]:
        (turn_S1P2,) = ctx.saved_tensors
        nope: int = ctx.nope
        g_BSHC = g_BHSC.transpose(1, 2)
        dq_BSHC = torch.empty(g_BSHC.shape, dtype=g_BSHC.dtype, device=g_BSHC.device)
        torch.mul(g_BSHC[..., :nope], ctx.scale, out=dq_BSHC[..., :nope])
        dq_BSHC[..., nope:] = rotate(g_BSHC[..., nope:], turn_S1P2.conj())
        return dq_BSHC, None, None, None


class _KeysAndValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kv_BSHX: Tensor, rope_BSP: Tensor, nope: int) -> tuple[Tensor, Tensor]:
        batch, length, heads, _ = kv_BSHX.shape
        rotary = rope_BSP.shape[-1]
        k_BHSC = kv_BSHX.new_empty(batch, heads, length, nope + rotary)
        k_BSHC = k_BHSC.transpose(1, 2)
        k_BSHC[..., :nope] = kv_BSHX[..., :nope]
        k_BSHC[..., nope:] = rope_BSP.unsqueeze(2)
        ctx.nope = nope
        return k_BHSC, kv_BSHX[..., nope:].transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dk_BHSC: Tensor, dv_BHSV: Tensor) -> tuple[Tensor, Tensor, None]:
        nope: int = ctx.nope
        batch, heads, length, _ = dk_BHSC.shape
        dkv_BSHX = dk_BHSC.new_empty(batch, length, heads, nope + dv_BHSV.shape[-1])
        dkv_BSHX[..., :nope] = dk_BHSC[..., :nope].transpose(1, 2)
        dkv_BSHX[..., nope:] = dv_BHSV.transpose(1, 2)
        return dkv_BSHX, dk_BHSC[..., nope:].sum(1), None


def heads_of_queries(q_BSHC: Tensor, turn: Tensor, nope: int, scale: float) -> Tensor:
    """Turn the rotary channels of projected queries, scale, and put heads first: [B, H, S, C].

    `turn` holds rotations, complex64 [S, P / 2] or [B, S, P / 2]; the first `nope` channels have no position.
    """
    q: Tensor = apply(_Queries, q_BSHC, turn, nope, scale)
    return q


def heads_of_keys_and_values(kv_BSHX: Tensor, rope_BSP: Tensor, nope: int) -> tuple[Tensor, Tensor]:
    """Keys [B, H, S, C], each ending in the shared rotary key (already turned), and values [B, H, S, V].

    Expanded latents `kv_BSHX` [B, S, H, N + V] hold the key's `nope` channels, then the value's.
    """
    k, v = apply(_KeysAndValues, kv_BSHX, rope_BSP, nope)
    return k, v
