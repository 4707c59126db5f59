"""Causal attention over expanded heads: the core that multi-head latent attention calls.

On a GPU the core is PyTorch's flash attention. On a CPU PyTorch's flash kernel is several times slower than its matrix
products alone, for heads of our size (docs/notebook.md), so the core is written out: queries are taken in blocks, block
i sees only the keys up to its end (the upper triangle is never computed), and the probabilities are kept for the
backward. Score accumulation, softmax and its backward are FP32 inside; stored tensors have the type of the inputs
(DeepSeek-V3 report, section 3.3.1: the attention core stays in high precision).

Shapes: B sequences, H heads, N = B * H, Q queries, S keys (Q <= S; the last query sees the last key),
C channels, V value channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from clearseek.ops.apply import apply

BLOCK = 128
"""Smallest number of queries in a block; smaller products are slow."""
MAX_BLOCKS = 4
"""Largest number of blocks; more save little and add roundings to the sums over blocks."""


def _query_blocks(queries: int) -> list[tuple[int, int]]:
    size = max(BLOCK, -(-queries // MAX_BLOCKS))
    return [(start, min(start + size, queries)) for start in range(0, queries, size)]


def _probabilities(q_NQC: Tensor, k_NSC: Tensor, start_BQ: Tensor | None) -> Tensor:
    """Softmax of q k^T; the last query sees the last key, and each query before it one key fewer."""
    scores_NQS = torch.bmm(q_NQC, k_NSC.transpose(1, 2))
    if start_BQ is not None:
        others_BQS = torch.arange(k_NSC.shape[1], device=k_NSC.device) < start_BQ.unsqueeze(-1)
        scores_NQS.unflatten(0, (len(start_BQ), -1)).masked_fill_(others_BQS.unsqueeze(1), float("-inf"))
    queries = q_NQC.shape[1]
    if queries > 1:
        hidden_QQ = torch.full((queries, queries), float("-inf"), dtype=q_NQC.dtype, device=q_NQC.device).triu_(1)
        scores_NQS[:, :, -queries:] += hidden_QQ
    return scores_NQS.softmax(-1)


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHQC: Tensor, k_BHSC: Tensor, v_BHSV: Tensor, start_BQ: Tensor | None) -> Tensor:
        batch, heads, queries, _ = q_BHQC.shape
        q_NQC, k_NSC, v_NSV = (x.flatten(0, 1) for x in (q_BHQC, k_BHSC, v_BHSV))
        before = k_NSC.shape[1] - queries
        out_BQHV = q_BHQC.new_empty(batch, queries, heads, v_NSV.shape[2])
        kept = []
        for start, end in _query_blocks(queries):
            seen = before + end
            starts = None if start_BQ is None else start_BQ[:, start:end]
            p_NQS = _probabilities(q_NQC[:, start:end], k_NSC[:, :seen], starts)
            out_NQV = torch.bmm(p_NQS, v_NSV[:, :seen])
            out_BQHV[:, start:end] = out_NQV.unflatten(0, (batch, heads)).transpose(1, 2)
            kept.append(p_NQS)
        ctx.save_for_backward(q_NQC, k_NSC, v_NSV, *kept)
        ctx.shapes = q_BHQC.shape, k_BHSC.shape, v_BHSV.shape
        return out_BQHV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BQHV: Tensor) -> tuple[Tensor | None, ...]:
        q_NQC, k_NSC, v_NSV, *kept = ctx.saved_tensors
        g_NQV = g_BQHV.transpose(1, 2).reshape(*q_NQC.shape[:2], -1)
        for_q, for_k, for_v, _ = ctx.needs_input_grad
        dq_NQC = torch.empty_like(q_NQC) if for_q else None
        dk_NSC: Tensor | None = None
        dv_NSV: Tensor | None = None
        blocks = list(zip(_query_blocks(q_NQC.shape[1]), kept, strict=True))
        for (start, end), p_NQS in reversed(blocks):  # the last block sees every key: it writes, the others add
            seen = p_NQS.shape[2]
            g_NBV, q_NBC = g_NQV[:, start:end], q_NQC[:, start:end]
            if for_q or for_k:
                dp_NQS = torch.bmm(g_NBV, v_NSV[:, :seen].transpose(1, 2))
                ds_NQS = torch._softmax_backward_data(dp_NQS, p_NQS, -1, p_NQS.dtype)
            if dq_NQC is not None:
                dq_NQC[:, start:end] = torch.bmm(ds_NQS, k_NSC[:, :seen])
            if for_v:
                dv_NSV = _add(dv_NSV, torch.bmm(p_NQS.transpose(1, 2), g_NBV))
            if for_k:
                dk_NSC = _add(dk_NSC, torch.bmm(ds_NQS.transpose(1, 2), q_NBC))
        gradients = zip((dq_NQC, dk_NSC, dv_NSV), ctx.shapes, strict=True)
        return *(None if d is None else d.view(shape) for d, shape in gradients), None


def _add(total_NSX: Tensor | None, part_NSX: Tensor) -> Tensor:
    """The sum, where the part is of the first keys; the first part is of all."""
    if total_NSX is None:
        return part_NSX
    total_NSX[:, : part_NSX.shape[1]] += part_NSX
    return total_NSX


def causal_attention(q_BHQC: Tensor, k_BHSC: Tensor, v_BHSV: Tensor, start_BQ: Tensor | None = None) -> Tensor:
    """Attend causally: [B, Q, H, V], for queries already multiplied by the softmax scale.

    The last query is at the position of the last key (S >= Q). Each query sees keys from `start_BQ` on
    (:class:`clearseek.ops.rope.Places`), by default from key 0.
    """
    if q_BHQC.device.type == "cpu":
        out: Tensor = apply(_BlockedAttention, q_BHQC, k_BHSC, v_BHSV, start_BQ)
        return out
    queries, keys, values = q_BHQC.shape[2], k_BHSC.shape[2], v_BHSV.shape[3]
    v_BHSC = F.pad(v_BHSV, (0, q_BHQC.shape[3] - values))  # the flash kernel takes one width for all three
    visible = None
    if queries != keys or start_BQ is not None:
        visible = torch.ones(queries, keys, dtype=torch.bool, device=q_BHQC.device).tril_(keys - queries)
        if start_BQ is not None:
            visible = visible & (torch.arange(keys, device=q_BHQC.device) >= start_BQ[:, None, :, None])
    out_BHQC = F.scaled_dot_product_attention(
        q_BHQC, k_BHSC, v_BHSC, attn_mask=visible, is_causal=visible is None, scale=1.0
    )
    return out_BHQC[..., :values].transpose(1, 2)
