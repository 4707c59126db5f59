"""Causal attention over expanded heads: the core that multi-head latent attention calls.

On a GPU this is PyTorch's flash attention. On a CPU PyTorch's flash kernel is several times slower than the matrix
products it is made of, for heads as small as ours (measured in docs/notebook.md), so there the core is written out:
queries are taken in blocks, block i sees only the keys up to its end (the upper triangle is never computed), and the
probabilities are kept for the backward. Score accumulation, softmax and its backward are FP32 inside; what is stored
is in the type of the inputs (DeepSeek-V3 report, section 3.3.1: the attention core stays in high precision).

Shapes: N = batch * heads, Q queries, S keys (Q <= S; the last query sees the last key), C channels, V value channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128
"""Smallest query block: below it the products are too small to be fast."""
MAX_BLOCKS = 4
"""More blocks save little and add roundings to the sums over blocks."""


def _query_blocks(queries: int) -> list[tuple[int, int]]:
    size = max(BLOCK, -(-queries // MAX_BLOCKS))
    return [(start, min(start + size, queries)) for start in range(0, queries, size)]


def _probabilities(q_NQC: Tensor, k_NSC: Tensor) -> Tensor:
    """Softmax of q k^T where the last query sees the last key and each one before it sees one key fewer."""
    scores_NQS = torch.bmm(q_NQC, k_NSC.transpose(1, 2))
    queries = q_NQC.shape[1]
    hidden_QQ = torch.full((queries, queries), float("-inf"), dtype=q_NQC.dtype, device=q_NQC.device).triu_(1)
    scores_NQS[:, :, -queries:] += hidden_QQ
    return scores_NQS.softmax(-1)


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_NQC: Tensor, k_NSC: Tensor, v_NSV: Tensor) -> Tensor:
        before = k_NSC.shape[1] - q_NQC.shape[1]
        out_NQV = torch.empty(*q_NQC.shape[:2], v_NSV.shape[2], dtype=q_NQC.dtype)
        kept = []
        for start, end in _query_blocks(q_NQC.shape[1]):
            seen = before + end
            p_NQS = _probabilities(q_NQC[:, start:end], k_NSC[:, :seen])
            out_NQV[:, start:end] = torch.bmm(p_NQS, v_NSV[:, :seen])
            kept.append(p_NQS)
        ctx.save_for_backward(q_NQC, k_NSC, v_NSV, *kept)
        return out_NQV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_NQV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_NQC, k_NSC, v_NSV, *kept = ctx.saved_tensors
        dq_NQC, dk_NSC, dv_NSV = torch.empty_like(q_NQC), torch.empty_like(k_NSC), torch.empty_like(v_NSV)
        blocks = list(zip(_query_blocks(q_NQC.shape[1]), kept, strict=True))
        for (start, end), p_NQS in reversed(blocks):  # the last block sees every key, so it writes and the others add
            seen = p_NQS.shape[2]
            g_NBV, q_NBC = g_NQV[:, start:end], q_NQC[:, start:end]
            dp_NQS = torch.bmm(g_NBV, v_NSV[:, :seen].transpose(1, 2))
            ds_NQS = torch._softmax_backward_data(dp_NQS, p_NQS, -1, p_NQS.dtype)
            dq_NQC[:, start:end] = torch.bmm(ds_NQS, k_NSC[:, :seen])
            dv, dk = torch.bmm(p_NQS.transpose(1, 2), g_NBV), torch.bmm(ds_NQS.transpose(1, 2), q_NBC)
            if seen == k_NSC.shape[1]:
                dv_NSV, dk_NSC = dv, dk
            else:
                dv_NSV[:, :seen] += dv
                dk_NSC[:, :seen] += dk
        return dq_NQC, dk_NSC, dv_NSV


def causal_attention(q_NQC: Tensor, k_NSC: Tensor, v_NSV: Tensor, heads: int) -> Tensor:
    """Attend causally.

    Args:
        q_NQC: Queries [N, Q, C], already multiplied by the softmax scale.
        k_NSC: Keys [N, S, C], S >= Q: the last query is at the position of the last key.
        v_NSV: Values [N, S, V].
        heads: Heads per sequence; N is a multiple of it.

    Returns:
        [N, Q, V].
    """
    if q_NQC.device.type == "cpu":
        out: Tensor = _BlockedAttention.apply(q_NQC, k_NSC, v_NSV)  # type: ignore[no-untyped-call]
        return out
    q, k, v = (x.unflatten(0, (-1, heads)) for x in (q_NQC, k_NSC, v_NSV))
    queries, keys = q_NQC.shape[1], k_NSC.shape[1]
    if queries == keys:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0).flatten(0, 1)
    visible_QS = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril_(keys - queries)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible_QS, scale=1.0).flatten(0, 1)
