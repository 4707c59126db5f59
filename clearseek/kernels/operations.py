"""The loops as functions of tensors: FP32, on a CPU.

Each stands for one set of hand-ordered passes elsewhere and takes and returns what these do.

Shapes: T tokens, D channels, R rows, I width, B sequences, S positions, H heads, N = heads of several sequences,
Q queries, C channels of a head, P rotary channels, X = key channels without position and V value channels,
C tokens of a chunk of logits, V vocabulary.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from clearseek.kernels.launch import launch

ROWS_PER_SUM = 64
"""Rows whose gradients of a norm's weight are added up together, whatever the number of threads."""


def _rows(x: Tensor) -> Tensor:
    """Rows of adjacent numbers; the rows may be apart."""
    return x if x.stride(-1) == 1 else x.contiguous()


@functools.lru_cache(maxsize=8)
def _ones(size: int) -> Tensor:
    return torch.ones(-(-size // 16) * 16)


def normalise(x_TD: Tensor, w_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(w * x / rms, 1 / rms [T, 1])."""
    x_TD = _rows(x_TD)
    y_TD, rstd_T1 = x_TD.new_empty(x_TD.shape), x_TD.new_empty(len(x_TD), 1)
    launch("norm", *x_TD.shape, x_TD, x_TD.stride(0), w_D, eps, y_TD, rstd_T1)
    return y_TD, rstd_T1


def normalise_backward(g_TD: Tensor, x_TD: Tensor, w_D: Tensor, rstd_T1: Tensor) -> tuple[Tensor, Tensor]:
    """(dx, dw)."""
    g_TD, x_TD = _rows(g_TD), _rows(x_TD)
    dx_TD = x_TD.new_empty(x_TD.shape)
    dw_SD = x_TD.new_empty(-(-len(x_TD) // ROWS_PER_SUM), x_TD.shape[1])
    strides = g_TD.stride(0), x_TD.stride(0)
    launch("norm_backward", *x_TD.shape, g_TD, strides[0], x_TD, strides[1], w_D, rstd_T1, dx_TD, dw_SD)
    return dx_TD, dw_SD.sum(0)


def swiglu(gate_RI: Tensor, up_RI: Tensor) -> Tensor:
    """silu(gate) * up."""
    gate_RI, up_RI = gate_RI.contiguous(), up_RI.contiguous()
    width, out_RI = gate_RI.shape[-1], torch.empty_like(gate_RI)
    launch("swiglu", gate_RI.numel() // width, width, gate_RI, up_RI, width, None, out_RI)
    return out_RI


def swiglu_backward(d_RI: Tensor, gate_RI: Tensor, up_RI: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up."""
    d_RI, gate_RI, up_RI = d_RI.contiguous(), gate_RI.contiguous(), up_RI.contiguous()
    width, d_gate_RI, d_up_RI = gate_RI.shape[-1], torch.empty_like(gate_RI), torch.empty_like(up_RI)
    rows = gate_RI.numel() // width
    launch("swiglu_backward", rows, width, d_RI, gate_RI, up_RI, width, d_gate_RI, d_up_RI, None, None, None)
    return d_gate_RI, d_up_RI


def weighted_swiglu(gate_up_RI2: Tensor, weight_R1: Tensor) -> Tensor:
    """silu(gate) * up * weight; gate and up stand side by side."""
    rows, both = gate_up_RI2.shape
    gate_RI, up_RI = gate_up_RI2.contiguous().chunk(2, dim=-1)
    out_RI = gate_up_RI2.new_empty(rows, both // 2)
    launch("swiglu", rows, both // 2, gate_RI, up_RI, both, weight_R1.contiguous(), out_RI)
    return out_RI


def weighted_swiglu_backward(d_RI: Tensor, gate_up_RI2: Tensor, weight_R1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(act recomputed, d gate|up, d weight [R])."""
    rows, both = gate_up_RI2.shape
    gate_up_RI2, d_RI = gate_up_RI2.contiguous(), d_RI.contiguous()
    d_gate_up_RI2, act_RI, d_weight_R = torch.empty_like(gate_up_RI2), torch.empty_like(d_RI), d_RI.new_empty(rows)
    launch(
        "swiglu_backward",
        rows,
        both // 2,
        d_RI,
        *gate_up_RI2.chunk(2, dim=-1),
        both,
        *d_gate_up_RI2.chunk(2, dim=-1),
        weight_R1.contiguous(),
        act_RI,
        d_weight_R,
    )
    return act_RI, d_gate_up_RI2, d_weight_R


def causal_softmax(scores_NQS: Tensor) -> Tensor:
    """Softmax in place: the last query sees every key, each one before it one key fewer; what is not seen is 0."""
    blocks, queries, keys = scores_NQS.shape
    launch("causal_softmax", blocks, queries, keys, keys - queries, scores_NQS, _ones(keys))
    return scores_NQS


def causal_softmax_backward(dp_NQS: Tensor, p_NQS: Tensor) -> Tensor:
    """Gradient of the scores, in place of the probabilities' gradient."""
    blocks, queries, keys = p_NQS.shape
    launch("causal_softmax_backward", blocks, queries, keys, keys - queries, p_NQS, dp_NQS)
    return dp_NQS


def queries(q_BSHC: Tensor, turn_SP2: Tensor, nope: int, scale: float) -> Tensor:
    """Turned, scaled, heads first."""
    batch, length, heads, channels = q_BSHC.shape
    laid_BHSC = q_BSHC.new_empty(batch, heads, length, channels)
    turn = turn_SP2.contiguous()
    launch("queries", batch, length, heads, nope, channels - nope, scale, 1, q_BSHC.contiguous(), turn, laid_BHSC)
    return laid_BHSC


def queries_backward(g_BHSC: Tensor, turn_SP2: Tensor, nope: int, scale: float) -> Tensor:
    """The way back of :func:`queries`."""
    batch, heads, length, channels = g_BHSC.shape
    flat_BSHC = g_BHSC.new_empty(batch, length, heads, channels)
    turn, laid = turn_SP2.contiguous(), g_BHSC.contiguous()
    launch("queries", batch, length, heads, nope, channels - nope, scale, -1, flat_BSHC, turn, laid)
    return flat_BSHC


def keys_and_values(kv_BSHX: Tensor, rope_BSP: Tensor, nope: int) -> tuple[Tensor, Tensor]:
    """Keys [B, H, S, C] and values [B, H, S, V]."""
    (batch, length, heads, both), rotary = kv_BSHX.shape, rope_BSP.shape[-1]
    k_BHSC = kv_BSHX.new_empty(batch, heads, length, nope + rotary)
    v_BHSV = kv_BSHX.new_empty(batch, heads, length, both - nope)
    kv, rope = kv_BSHX.contiguous(), rope_BSP.contiguous()
    launch("keys_and_values", batch, length, heads, nope, rotary, both - nope, kv, rope, k_BHSC, v_BHSV)
    return k_BHSC, v_BHSV


def keys_and_values_backward(dk_BHSC: Tensor, dv_BHSV: Tensor, nope: int) -> tuple[Tensor, Tensor]:
    """The way back of :func:`keys_and_values`."""
    (batch, heads, length, channels), values = dk_BHSC.shape, dv_BHSV.shape[-1]
    d_kv_BSHX = dk_BHSC.new_empty(batch, length, heads, nope + values)
    d_rope_BSP = dk_BHSC.new_empty(batch, length, channels - nope)
    dk, dv = dk_BHSC.contiguous(), dv_BHSV.contiguous()
    launch(
        "keys_and_values_backward", batch, length, heads, nope, channels - nope, values, d_kv_BSHX, d_rope_BSP, dk, dv
    )
    return d_kv_BSHX, d_rope_BSP


def softmax_loss(logits_CV: Tensor, target_C1: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient of the logits, in their place; probability of each target [C, 1])."""
    hit_C1 = logits_CV.new_empty(len(logits_CV), 1)
    launch("softmax_loss", *logits_CV.shape, logits_CV, target_C1.contiguous(), _ones(logits_CV.shape[1]), hit_C1)
    return logits_CV, hit_C1
