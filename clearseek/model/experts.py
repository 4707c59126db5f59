"""Routed experts: every token visits its K experts, none is dropped.

Pairs stand sorted by expert (:mod:`clearseek.model.dispatch`), so that one grouped matrix product serves them all. The
router's weight is applied inside SwiGLU, before the down-projection, as DeepSeek's training kernels do; the mathematics
is the same, and the backward gets the weight's gradient without keeping the experts' outputs. SwiGLU is recomputed in
the backward (DeepSeek-V3 report, section 3.2.3).

Shapes: T tokens, K experts per token, R rows (pairs and padding), E experts, D hidden, I expert width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clearseek.config import ModelConfig
from clearseek.fp8.linear import Fp8, QuantisedWeight
from clearseek.fp8.swiglu import weighted_swiglu, weighted_swiglu_backward
from clearseek.model.dispatch import ALIGNMENT, combine, lay_out
from clearseek.model.feed_forward_fp8 import feed_forward_fp8
from clearseek.model.grouped import grouped_mm, grouped_mm_weight, parts
from clearseek.model.router import Routing


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
        place_P, token_R, ends_E = lay_out(index_TK, load_E)
        rows, width = token_R.numel(), down_EDI.shape[2]
        weight_R1 = x_TD.new_zeros(rows, 1)
        weight_R1[place_P, 0] = weight_TK.flatten().to(x_TD.dtype)
        gate_up_RI2, y_RD = x_TD.new_empty(rows, 2 * width), x_TD.new_empty(rows, x_TD.shape[1])
        for part in parts(ends_E, rows):
            e, r = part.experts, part.rows
            x_RD = x_TD.index_select(0, token_R[r])
            grouped_mm(x_RD, gate_up_EID[e].mT, part.ends_E, out_RM=gate_up_RI2[r])
            act_RI = weighted_swiglu(gate_up_RI2[r], weight_R1[r])
            grouped_mm(act_RI, down_EDI[e].mT, part.ends_E, out_RM=y_RD[r])
        ctx.save_for_backward(x_TD, weight_R1, gate_up_RI2, gate_up_EID, down_EDI, token_R, place_P, ends_E)
        ctx.k = index_TK.shape[1]
        return combine(y_RD, place_P, ctx.k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_R1, gate_up_RI2, gate_up_EID, down_EDI, token_R, place_P, ends_E = ctx.saved_tensors
        rows = token_R.numel()
        d_x_RD = x_TD.new_empty(rows, x_TD.shape[1])
        d_weight_R = x_TD.new_zeros(rows, dtype=torch.float32)
        d_gate_up_EID, d_down_EDI = torch.zeros_like(gate_up_EID), torch.zeros_like(down_EDI)
        for part in parts(ends_E, rows):
            e, r = part.experts, part.rows
            g_RD, x_RD = g_TD.index_select(0, token_R[r]), x_TD.index_select(0, token_R[r])
            d_act_RI = grouped_mm(g_RD, down_EDI[e], part.ends_E, out_RM=g_RD.new_empty(len(g_RD), down_EDI.shape[2]))
            act_RI, d_gate_up_RI2, d_weight_R[r] = weighted_swiglu_backward(d_act_RI, gate_up_RI2[r], weight_R1[r])
            grouped_mm_weight(g_RD, act_RI, part.ends_E, out_EMK=d_down_EDI[e])
            grouped_mm_weight(d_gate_up_RI2, x_RD, part.ends_E, out_EMK=d_gate_up_EID[e])
            grouped_mm(d_gate_up_RI2, gate_up_EID[e], part.ends_E, out_RM=d_x_RD[r])
        d_weight_TK = d_weight_R.index_select(0, place_P).view(-1, ctx.k)
        return combine(d_x_RD, place_P, ctx.k), d_weight_TK, d_gate_up_EID, d_down_EDI, None, None


class Experts(nn.Module):
    """The routed experts of one layer, stacked: gate and up projections [E, 2I, D], down projections [E, D, I]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, hidden, width = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, width))
        self.fp8: Fp8 | None = None
        self.quantised = QuantisedWeight(), QuantisedWeight()

    def forward(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """Weighted sum of each token's experts: [T, D]."""
        if self.fp8 is not None:
            gate_up, down = (self.gate_up_proj,), (self.down_proj,)
            operands = [q.get(self.fp8, *p) for q, p in zip(self.quantised, (gate_up, down), strict=True)]
            layout = lay_out(routing.index_TK, routing.load_E, ALIGNMENT, padding=len(x_TD))
            return feed_forward_fp8(x_TD, routing.weight_TK, layout, self.fp8, operands, gate_up, down)
        y: Tensor = _Experts.apply(  # type: ignore[no-untyped-call]
            x_TD, routing.weight_TK, self.gate_up_proj, self.down_proj, routing.index_TK, routing.load_E
        )
        return y
