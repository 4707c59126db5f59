"""Routed experts: every token visits its K experts, none is dropped.

Token-expert pairs are sorted by expert with a *stable* sort, so that each expert sees one contiguous block of rows
and one grouped matrix product serves them all. The way back is a gather (every pair has its own place) and a sum over
K in a fixed order: no atomics, the same bits every time. The router's weight is applied inside SwiGLU, before the
down-projection, as DeepSeek's training kernels do; the mathematics is the same, and the backward gets the weight's
gradient without keeping the experts' outputs. SwiGLU is recomputed in the backward (DeepSeek-V3 report, section
3.2.3).

Shapes: T tokens, K experts per token, R = T * K pairs, E experts, D hidden, I expert width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clearseek.config import ModelConfig
from clearseek.model.grouped import grouped_mm, grouped_mm_weight
from clearseek.model.router import Routing


def swiglu(gate_up_RI2: Tensor, weight_R1: Tensor) -> Tensor:
    """silu(gate) * up * weight, rowwise: [R, I]. The first half of the columns is the gate."""
    gate_RI, up_RI = gate_up_RI2.chunk(2, dim=-1)
    return F.silu(gate_RI).mul_(up_RI).mul_(weight_R1)


def swiglu_backward(d_act_RI: Tensor, gate_up_RI2: Tensor, weight_R1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Backward of :func:`swiglu`, which it also recomputes: (d gate|up, act, d weight [R] FP32)."""
    gate_RI, up_RI = gate_up_RI2.chunk(2, dim=-1)
    d_gate_up_RI2 = torch.empty_like(gate_up_RI2)
    d_gate_RI, d_up_RI = d_gate_up_RI2.chunk(2, dim=-1)
    sigmoid_RI = gate_RI.sigmoid()
    silu_RI = gate_RI * sigmoid_RI
    act_RI = silu_RI * up_RI
    d_weight_R = (d_act_RI * act_RI).sum(-1, dtype=torch.float32)
    scaled_RI = d_act_RI * weight_R1
    torch.mul(scaled_RI, silu_RI, out=d_up_RI)
    slope_RI = torch.addcmul(silu_RI, silu_RI, sigmoid_RI, value=-1).add_(sigmoid_RI)  # silu' = s + silu * (1 - s)
    torch.mul(scaled_RI.mul_(up_RI), slope_RI, out=d_gate_RI)
    return d_gate_up_RI2, act_RI.mul_(weight_R1), d_weight_R


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_TK: Tensor,
        gate_up_EID: Tensor,
        down_EDI: Tensor,
        index_TK: Tensor,
        load_E: Tensor,
    ) -> Tensor:
        k = index_TK.shape[1]
        order_R = index_TK.flatten().sort(dim=0, stable=True).indices
        place_R = torch.empty_like(order_R)
        place_R[order_R] = torch.arange(order_R.numel(), device=order_R.device)
        ends_E = load_E.cumsum(0).to(torch.int32)
        token_R = order_R // k
        x_RD = x_TD.index_select(0, token_R)
        weight_R1 = weight_TK.flatten().index_select(0, order_R).unsqueeze(1).to(x_TD.dtype)
        gate_up_RI2 = grouped_mm(x_RD, gate_up_EID.transpose(1, 2), ends_E)
        y_RD = grouped_mm(swiglu(gate_up_RI2, weight_R1), down_EDI.transpose(1, 2), ends_E)
        ctx.save_for_backward(x_RD, weight_R1, gate_up_RI2, gate_up_EID, down_EDI, token_R, place_R, ends_E)
        ctx.k = k
        return combine(y_RD, place_R, k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_RD, weight_R1, gate_up_RI2, gate_up_EID, down_EDI, token_R, place_R, ends_E = ctx.saved_tensors
        g_RD = g_TD.index_select(0, token_R)
        d_act_RI = grouped_mm(g_RD, down_EDI, ends_E)
        d_gate_up_RI2, act_RI, d_weight_R = swiglu_backward(d_act_RI, gate_up_RI2, weight_R1)
        d_down_EDI = grouped_mm_weight(g_RD, act_RI, ends_E)
        d_gate_up_EID = grouped_mm_weight(d_gate_up_RI2, x_RD, ends_E)
        d_x_RD = grouped_mm(d_gate_up_RI2, gate_up_EID, ends_E)
        d_weight_TK = d_weight_R.index_select(0, place_R).view(-1, ctx.k)
        return combine(d_x_RD, place_R, ctx.k), d_weight_TK, d_gate_up_EID, d_down_EDI, None, None


def combine(y_RD: Tensor, place_R: Tensor, k: int) -> Tensor:
    """Sum each token's K rows: [T, D]. `place_R` says where the row of pair t * K + j stands in y."""
    return F.embedding_bag(place_R.view(-1, k), y_RD, mode="sum")


class Experts(nn.Module):
    """The routed experts of one layer, stacked: gate and up projections [E, 2I, D], down projections [E, D, I]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, hidden, width = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, width))

    def forward(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """Weighted sum of each token's experts: [T, D]."""
        y: Tensor = _Experts.apply(  # type: ignore[no-untyped-call]
            x_TD, routing.weight_TK, self.gate_up_proj, self.down_proj, routing.index_TK, routing.load_E
        )
        return y
