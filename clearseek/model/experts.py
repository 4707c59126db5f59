"""Routed experts: every token visits its K experts, and no token is dropped.

Pairs are sorted by expert (:mod:`clearseek.ops.dispatch`), so that one grouped matrix product computes all experts. The
router's weight is applied inside SwiGLU, before the down-projection, as in DeepSeek's training kernels: the result is
the same, and the backward computes the weight's gradient without keeping the experts' outputs. The backward recomputes
SwiGLU (DeepSeek-V3 report, section 3.2.3), and computes no gradient that nobody asks for: frozen experts have none.

Shapes: T tokens, K experts per token, R rows (pairs and padding), E experts, D hidden, I expert width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clearseek.config import ModelConfig
from clearseek.fp8.feed_forward import feed_forward_fp8, feed_forward_fp8_shared
from clearseek.fp8.linear import Fp8, Kind, QuantisedWeight
from clearseek.model.lora import Frozen, FrozenFp8, FrozenWeight, LowRank, adapted_experts
from clearseek.ops.apply import apply
from clearseek.ops.deferred import Pieces, collector, weight_gradient
from clearseek.ops.dispatch import ALIGNMENT, DOCUMENT_ALIGNMENT, Layout, Routing, alignment_of, combine, lay_out
from clearseek.ops.grouped import (
    Part,
    blocks,
    gradient_space,
    grouped_mm,
    grouped_mm_weight,
    parts,
    products,
    space_for,
    weight_products,
)
from clearseek.ops.swiglu import weighted_swiglu, weighted_swiglu_backward
from clearseek.ops.travel import ExpertGroup, Travel, to_owners, to_sources


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, weight_TK: Tensor, gate_up_EID: Tensor, down_EDI: Tensor, layout: Layout
    ) -> Tensor:
        rows, width, hidden = layout.token_R.numel(), down_EDI.shape[2], x_TD.shape[1]
        weight_R1 = layout.weights(weight_TK, x_TD.dtype)
        inner_space, out_space = space_for(x_TD, rows, 2 * width), space_for(x_TD, rows, hidden)
        for part in parts(layout.ends_G, rows):
            e, r = part.experts, part.rows
            x_RD = x_TD.index_select(0, layout.token_R[r])
            gate_up_RI2 = grouped_mm(x_RD, gate_up_EID[e].mT, part.ends_E, inner_space, r)
            act_RI = weighted_swiglu(gate_up_RI2, weight_R1[r])
            y_RD = grouped_mm(act_RI, down_EDI[e].mT, part.ends_E, out_space, r)
        kept_RI2 = gate_up_RI2 if inner_space is None else inner_space
        ctx.save_for_backward(x_TD, weight_R1, kept_RI2, gate_up_EID, down_EDI, *layout)
        ctx.k, ctx.weights, ctx.later = weight_TK.shape[1], (gate_up_EID, down_EDI), collector()
        return combine(y_RD if out_space is None else out_space, layout.place_P, ctx.k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_R1, gate_up_RI2, gate_up_EID, down_EDI, *tensors = ctx.saved_tensors
        for_x, for_weight, for_gate_up, for_down, _ = ctx.needs_input_grad
        layout = Layout(*tensors)
        rows, width = layout.token_R.numel(), down_EDI.shape[2]
        d_x_space = space_for(x_TD, rows, x_TD.shape[1]) if for_x else None
        d_gate_up, d_down = (Pieces(ctx.later is not None) if wanted else None for wanted in (for_gate_up, for_down))
        d_x_RD = None
        d_weight_R = x_TD.new_zeros(rows, dtype=torch.float32)
        for part in parts(layout.ends_G, rows):
            e, r, ends = part.experts, part.rows, part.ends_E
            g_RD = g_TD.index_select(0, layout.token_R[r])
            if not (for_x or for_weight or for_gate_up):
                act_RI = weighted_swiglu(gate_up_RI2[r], weight_R1[r])
            else:
                d_act_RI = grouped_mm(g_RD, down_EDI[e], ends, space_for(x_TD, len(g_RD), width), slice(None))
                act_RI, d_gate_up_RI2, d_weight_R[r] = weighted_swiglu_backward(d_act_RI, gate_up_RI2[r], weight_R1[r])
            if d_down is not None:
                d_down.add(partial(_add_product, down_EDI, g_RD, act_RI, part))
            if d_gate_up is not None:
                x_RD = x_TD.index_select(0, layout.token_R[r])
                d_gate_up.add(partial(_add_product, gate_up_EID, d_gate_up_RI2, x_RD, part))
            if for_x:
                d_x_RD = grouped_mm(d_gate_up_RI2, gate_up_EID[e], ends, d_x_space, r)
        d_weight_TK = d_weight_R.index_select(0, layout.place_P).view(-1, ctx.k) if for_weight else None
        d_rows = d_x_RD if d_x_space is None else d_x_space
        d_x_TD = None if d_rows is None else combine(d_rows, layout.place_P, ctx.k)
        d_weights = map(partial(weight_gradient, ctx.later), ctx.weights, (d_gate_up, d_down))
        return d_x_TD, d_weight_TK, *d_weights, None


def _add_product(like_EMK: Tensor, g_RM: Tensor, x_RK: Tensor, part: Part, made_EMK: Tensor | None) -> Tensor:
    """The gradient of experts' weights with the product of one part."""
    return grouped_mm_weight(g_RM, x_RK, part, gradient_space(like_EMK) if made_EMK is None else made_EMK)


class _ExpertsByDocument(torch.autograd.Function):
    """As :class:`_Experts`, for the many small blocks of packed documents.

    Products go block by block, and all else over all rows at once; an expert's weights have one product for their
    gradient, which is a sum over documents in any case.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, weight_TK: Tensor, gate_up_EID: Tensor, down_EDI: Tensor, layout: Layout
    ) -> Tensor:
        these = blocks(layout.ends_G, layout.token_R.numel(), layout.expert_G)
        weight_R1 = layout.weights(weight_TK, x_TD.dtype)[: these.rows]
        x_RD = x_TD.index_select(0, layout.token_R[: these.rows])
        gate_up_RI2 = products(x_RD, gate_up_EID.mT, these)
        y_RD = products(weighted_swiglu(gate_up_RI2, weight_R1), down_EDI.mT, these)
        ctx.save_for_backward(x_TD, weight_R1, gate_up_RI2, gate_up_EID, down_EDI, *layout)
        ctx.k, ctx.these, ctx.weights, ctx.later = weight_TK.shape[1], these, (gate_up_EID, down_EDI), collector()
        return combine(y_RD, layout.place_P, ctx.k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_R1, gate_up_RI2, gate_up_EID, down_EDI, *tensors = ctx.saved_tensors
        for_x, for_weight, for_gate_up, for_down, _ = ctx.needs_input_grad
        layout, these, experts = Layout(*tensors), ctx.these, len(down_EDI)
        d_x_TD = d_weight_TK = d_gate_up = d_down = None
        token_R = layout.token_R[: these.rows]
        g_RD = g_TD.index_select(0, token_R)
        d_act_RI = products(g_RD, down_EDI, these)
        act_RI, d_gate_up_RI2, d_weight_R = weighted_swiglu_backward(d_act_RI, gate_up_RI2, weight_R1)
        if for_down:
            d_down = partial(weight_products, g_RD, act_RI, these, experts)
        if for_gate_up:
            d_gate_up = partial(weight_products, d_gate_up_RI2, x_TD.index_select(0, token_R), these, experts)
        if for_weight:
            d_weight_TK = d_weight_R.index_select(0, layout.place_P).view(-1, ctx.k)
        if for_x:
            d_x_TD = combine(products(d_gate_up_RI2, gate_up_EID, these), layout.place_P, ctx.k)
        d_weights = map(partial(weight_gradient, ctx.later), ctx.weights, (d_gate_up, d_down))
        return d_x_TD, d_weight_TK, *d_weights, None


class Experts(nn.Module):
    """The routed experts of one layer, stacked: gate and up projections [E, 2I, D], down projections [E, D, I].

    With an adapter, both projections are frozen.
    """

    gate_up_adapter: LowRank | None
    down_adapter: LowRank | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, hidden, width = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, width))
        self.fp8: Fp8 | None = None
        self.quantised = QuantisedWeight(), QuantisedWeight()
        self.group: ExpertGroup | None = None
        """Processes among which the experts are shared out."""
        self.first = 0
        """Number of the first expert here."""
        self.leaves: list[tuple[Tensor, Tensor]] = []
        """Of each source, what takes its gradients (see :meth:`share_out`)."""
        self.arrived = 0, 0
        """Rows that the last tokens of all processes brought here, and those that they would bring if evenly routed."""
        self.register_module("gate_up_adapter", None)
        self.register_module("down_adapter", None)

    def share_out(self, group: ExpertGroup) -> None:
        """Keep this process's experts alone: those from :attr:`first` on, which is their number in the whole layer.

        In exact mode :attr:`leaves` then holds, for every source, an alias of each parameter that takes the gradient of
        that source's tokens; the parameters themselves get none.
        """
        assert self.group is None and len(self.down_proj) % group.parts == 0, (len(self.down_proj), group.parts)
        count = len(self.down_proj) // group.parts
        self.group, self.first = group, group.part * count
        own = slice(self.first, self.first + count)
        self.gate_up_proj = nn.Parameter(self.gate_up_proj.detach()[own].clone())
        self.down_proj = nn.Parameter(self.down_proj.detach()[own].clone())
        sources = group.parts if group.exact else 0
        self.leaves = [(self.gate_up_proj.detach(), self.down_proj.detach()) for _ in range(sources)]

    def forward(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """Weighted sum of each token's experts: [T, D]."""
        gate_up, down = self.gate_up_proj, self.down_proj
        if self.group is not None:
            return self._shared(x_TD, routing, self.group)
        if self.gate_up_adapter is not None or self.down_adapter is not None:
            return self._adapted(x_TD, routing)
        if self.fp8 is not None:
            layout = lay_out(routing, ALIGNMENT, padding=len(x_TD))
            return feed_forward_fp8(x_TD, routing.weight_TK, layout, self.fp8, self.quantised, (gate_up,), down)
        layout = self._layout(x_TD, routing)
        which = _Experts if layout.expert_G is None else _ExpertsByDocument
        y: Tensor = apply(which, x_TD, routing.weight_TK, gate_up, down, layout)
        return y

    def _shared(self, x_TD: Tensor, routing: Routing, group: ExpertGroup) -> Tensor:
        """As on one process, with the rows of other processes' tokens among those that are computed here."""
        assert self.gate_up_adapter is None and self.down_adapter is None, "adapters are of one process"
        assert routing.document_T is None or x_TD.device.type != "cpu", "packed documents are of one process"
        own = self.gate_up_proj, self.down_proj
        leaves = self._leaves() or [own] * (group.parts if group.exact else 1)
        pairs, experts = routing.order_P.numel(), routing.load_E.numel()
        alignment = ALIGNMENT if self.fp8 is not None else alignment_of(pairs, experts, x_TD.device)
        travel = Travel(routing, group, alignment, zero_padding=self.fp8 is not None)
        self.arrived = travel.arrived, pairs
        if self.fp8 is not None:
            return feed_forward_fp8_shared(x_TD, routing.weight_TK, travel, self.fp8, self.quantised, own, leaves)
        x_ND, weight_N1 = to_owners(x_TD, routing.weight_TK, travel)
        y_ND = [x_ND[:0]]  # also a process that nothing arrives at takes part in the backward
        for visit, leaf in zip(travel.visits, leaves, strict=True):
            if visit.rows.stop > visit.rows.start:
                y_ND.append(apply(_Experts, x_ND[visit.rows], weight_N1[visit.rows], *leaf, visit.layout))
        return to_sources(torch.cat(y_ND), travel)

    def _leaves(self) -> list[tuple[Tensor, Tensor]]:
        """The leaves, as aliases of what the parameters are now."""
        for pair in self.leaves if torch.is_grad_enabled() else ():
            for leaf, parameter in zip(pair, (self.gate_up_proj, self.down_proj), strict=True):
                if not leaf.is_set_to(parameter):
                    leaf.data = parameter.data
                leaf.requires_grad_(parameter.requires_grad).grad_dtype = parameter.grad_dtype
        return self.leaves

    def _layout(self, x_TD: Tensor, routing: Routing) -> Layout:
        """Rows of the pairs; on a CPU no document shares a block with another."""
        if routing.document_T is not None and x_TD.device.type == "cpu":
            return lay_out(routing, DOCUMENT_ALIGNMENT, by_document=True)
        return lay_out(routing, alignment_of(routing.order_P.numel(), len(self.down_proj), x_TD.device))

    def _adapted(self, x_TD: Tensor, routing: Routing) -> Tensor:
        fp8, projections = self.fp8, (self.gate_up_proj, self.down_proj)
        assert not any(each.requires_grad for each in projections), "what has an adapter is frozen"
        layout = self._layout(x_TD, routing) if fp8 is None else lay_out(routing, ALIGNMENT)
        frozen: list[Frozen]
        if fp8 is None:
            frozen = [FrozenWeight(each) for each in projections]
        else:
            weights = [keeper.get(fp8, each) for keeper, each in zip(self.quantised, projections, strict=True)]
            kinds: list[tuple[Kind, Kind]] = [("dispatch", "gradient"), ("activation", "combine_gradient")]
            frozen = [FrozenFp8(weight, fp8, kind) for weight, kind in zip(weights, kinds, strict=True)]
        adapters = self.gate_up_adapter, self.down_adapter
        return adapted_experts(x_TD, routing.weight_TK, layout, (frozen[0], frozen[1]), adapters)
