"""SwiGLU feed-forwards whose products are FP8: routed experts, and a dense MLP as one expert for every token.

Tokens and gradients are quantised before they are gathered, so that eight bits with scales would travel to an expert's
device (DeepSeek-V3 report, section 3.3.3). Only SwiGLU's input is kept, as FP8 tiles; the backward recomputes and
quantises its output. The router's weight is applied inside SwiGLU. Weight gradients are FP32; what is frozen costs no
product.

Shapes: T tokens, K experts per token, R rows sorted by expert in blocks of multiples of 128, E experts, D hidden,
I expert width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from clearseek.fp8.backend import Weight
from clearseek.fp8.formats import Quantised
from clearseek.fp8.linear import Fp8, Kind, QuantisedWeight
from clearseek.ops.apply import apply
from clearseek.ops.deferred import Pieces, Product, collector, weight_gradient
from clearseek.ops.dispatch import Layout, combine
from clearseek.ops.grouped import Part, parts
from clearseek.ops.travel import Travel


def feed_forward_fp8(
    x_TD: Tensor, weight_TK: Tensor | None, layout: Layout | None, fp8: Fp8, quantised: Sequence[QuantisedWeight],
    gate_up: Sequence[Tensor], down: Tensor,
) -> Tensor:  # fmt: skip
    """``down(silu(gate(x)) * up(x) * weight)`` summed over each token's experts: [T, D].

    Args:
        x_TD: Tokens.
        weight_TK: Router weights; None for a dense MLP.
        layout: Rows of the token-expert pairs, in blocks of multiples of 128, padded with token number T; None for a
            dense MLP.
        fp8: Settings and backend.
        quantised: Keepers of the operands of gate and up together, and of down.
        gate_up: The parameters of gate and up: one [E, 2I, D], or [I, D] twice.
        down: The parameter of down: [E, D, I] or [D, I].
    """
    y: Tensor = apply(_FeedForward, x_TD, weight_TK, layout, fp8, tuple(quantised), *gate_up, down)
    return y


def feed_forward_fp8_shared(
    x_TD: Tensor, weight_TK: Tensor, travel: Travel, fp8: Fp8, quantised: Sequence[QuantisedWeight],
    own: tuple[Tensor, Tensor], leaves: Sequence[tuple[Tensor, Tensor]],
) -> Tensor:  # fmt: skip
    """:func:`feed_forward_fp8` where the experts lie on several processes; eight bits and scales travel.

    Args:
        x_TD: Tokens of this process.
        weight_TK: Router weights.
        travel: Where the tokens go, in blocks of multiples of 128 with a token of padding.
        fp8: Settings and backend.
        quantised: Keepers of the operands of gate and up together, and of down.
        own: Parameters [E, 2I, D] and [E, D, I] of this process's E experts.
        leaves: What the gradients of each visit of `travel` go to: aliases of the parameters, or the parameters.
    """
    flat = [leaf for pair in leaves for leaf in pair]
    y: Tensor = apply(_FeedForwardShared, x_TD, weight_TK, travel, fp8, tuple(quantised), own, *flat)
    return y


def _operands(
    fp8: Fp8, keepers: tuple[QuantisedWeight, QuantisedWeight], parameters: Sequence[Tensor], layout: Layout | None
) -> tuple[Weight, Weight]:
    """Gate and up together, and down."""
    (gate_up, down), stacked = keepers, layout is None
    return gate_up.get(fp8, *parameters[:-1], stacked=stacked), down.get(fp8, parameters[-1], stacked=stacked)


def _kinds(layout: Layout | None) -> tuple[Kind, Kind]:
    """Kinds of input and output gradient: V3 rounds scales up for what travels to experts, not for a dense MLP."""
    return ("activation", "gradient") if layout is None else ("dispatch", "combine_gradient")


def _padded(q: Quantised, layout: Layout | None) -> Quantised:
    """Tokens, and for experts a row of zeros after them as the token of padding.

    Columns share a scale over 128 rows: a real token as padding would coarsen the gradient of experts that it never
    visited.
    """
    if layout is None:
        return q
    data = F.pad(q.data.view(torch.uint8), (0, 0, 0, 1)).view(q.data.dtype)
    return Quantised(data, F.pad(q.scale, (0, 0, 0, 1), value=1.0))


def _gather(q: Quantised, layout: Layout | None, rows: slice) -> Quantised:
    """The tokens of some rows."""
    if layout is None:
        return q
    token_R = layout.token_R[rows]
    data = q.data.view(torch.uint8).index_select(0, token_R).view(q.data.dtype)
    return Quantised(data, q.scale.index_select(0, token_R))


def _store(out: Tensor | None, shape: tuple[int, ...], place: slice, values: Tensor) -> Tensor:
    """Write `values` to a `place` of `out`, zeros at first; values of the whole shape are returned without a copy."""
    if values.shape == shape:
        return values
    out = values.new_zeros(shape) if out is None else out
    out[place] = values
    return out


class _Rows(NamedTuple):
    """Rows that experts, or a dense MLP, compute together."""

    x: Quantised
    """Tokens, as :func:`_padded` leaves them."""
    layout: Layout | None
    weight_R1: Tensor
    ends_E: Tensor

    @classmethod
    def of(cls, x: Quantised, weight_TK: Tensor | None, layout: Layout | None, dtype: torch.dtype) -> _Rows:
        """The rows of tokens with their router weights."""
        if layout is not None and weight_TK is not None:
            return cls(_padded(x, layout), layout, layout.weights(weight_TK, dtype), layout.ends_G)
        rows, device = len(x.data) if layout is None else layout.token_R.numel(), x.data.device
        ends_E = torch.full((1,), rows, dtype=torch.int32, device=device) if layout is None else layout.ends_G
        return cls(_padded(x, layout), layout, torch.ones(rows, 1, dtype=dtype, device=device), ends_E)


class _Products(NamedTuple):
    """The three products of some rows."""

    fp8: Fp8
    operands: tuple[Weight, Weight]

    def forward(self, rows: _Rows, hidden: int) -> tuple[Tensor, list[Tensor]]:
        """Outputs [R, D], and what the backward needs besides the rows."""
        quantiser, products, (gate_up, down) = self.fp8.backend.quantiser, self.fp8.backend.products, self.operands
        count, y_RD, kept = len(rows.weight_R1), None, list[Tensor]()
        for part in parts(rows.ends_E, count):
            e, r = part.experts, part.rows
            x = _gather(rows.x, rows.layout, r)
            gate_up_RI2 = products.grouped_mm(x, products.pick(gate_up.forward, e), part.ends_E)
            inner, act = quantiser.swiglu(gate_up_RI2, rows.weight_R1[r], self.fp8.power_of_two("activation"))
            y_r = products.grouped_mm(act, products.pick(down.forward, e), part.ends_E)
            y_RD = _store(y_RD, (count, hidden), r, y_r)
            kept += inner
        assert y_RD is not None  # there is a token, so an expert has rows
        return y_RD, kept

    def backward(
        self, g: Quantised, rows: _Rows, kept: Sequence[Tensor], hidden: int, width: int,
        for_x: bool, for_gate_up: bool, for_down: bool, later: bool = False,
    ) -> tuple[Tensor | None, Tensor, Pieces | None, Pieces | None]:  # fmt: skip
        """Gradients of the rows [R, D], of their weights [R], of gate and up [E, 2I, D] and of down [E, D, I].

        With `later`, the last two are computed when they are asked for.
        """
        fp8, quantiser, products = self.fp8, self.fp8.backend.quantiser, self.fp8.backend.products
        gate_up, down = self.operands
        x_scales, g_scales = (fp8.power_of_two(kind) for kind in _kinds(rows.layout))
        count, experts = len(rows.weight_R1), len(rows.ends_E)
        d_weight_R = torch.zeros(count, dtype=torch.float32, device=rows.weight_R1.device)
        d_gate_up, d_down = (Pieces(later) if wanted else None for wanted in (for_gate_up, for_down))
        d_x_RD = None
        for i, part in enumerate(parts(rows.ends_E, count)):
            e, r = part.experts, part.rows
            g_r = _gather(g, rows.layout, r)
            d_act_RI = products.grouped_mm(g_r, products.pick(down.backward, e), part.ends_E)
            inner = Quantised(*kept[2 * i : 2 * i + 2])
            tiles, columns, act, d_weight_R[r] = quantiser.swiglu_backward(
                d_act_RI, inner, rows.weight_R1[r], fp8.power_of_two("gradient")
            )
            if for_x:
                d_x_r = products.grouped_mm(tiles, products.pick(gate_up.backward, e), part.ends_E)
                d_x_RD = _store(d_x_RD, (count, hidden), r, d_x_r)
            if d_down is not None:
                d_down.add(partial(self._d_down, part, (experts, hidden, width), g_r, g_scales, act))
            if d_gate_up is not None:
                d_gate_up.add(partial(self._d_gate_up, part, (experts, 2 * width, hidden), columns, rows, x_scales))
        return d_x_RD, d_weight_R, d_gate_up, d_down

    def _d_down(
        self, part: Part, shape: tuple[int, ...], g_r: Quantised, g_scales: bool, act: Any, made: Tensor | None
    ) -> Tensor:
        backend = self.fp8.backend
        d_down_e = backend.products.grouped_mm_weight(backend.quantiser.retile(g_r, g_scales), act, part.ends_E)
        return _store(made, shape, part.experts, d_down_e)

    def _d_gate_up(
        self, part: Part, shape: tuple[int, ...], columns: Any, rows: _Rows, x_scales: bool, made: Tensor | None
    ) -> Tensor:
        backend = self.fp8.backend
        x_columns = backend.quantiser.retile(_gather(rows.x, rows.layout, part.rows), x_scales)
        return _store(made, shape, part.experts, backend.products.grouped_mm_weight(columns, x_columns, part.ends_E))


def _part_of(whole: Pieces, shapes: Sequence[torch.Size], number: int) -> Tensor:
    """One of the equally large weights whose gradients are one product."""
    return whole().view(len(shapes), *shapes[0])[number]


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, weight_TK: Tensor | None, layout: Layout | None, fp8: Fp8,
        keepers: tuple[QuantisedWeight, QuantisedWeight], *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        x = fp8.backend.quantiser.tiles(x_TD, fp8.power_of_two(_kinds(layout)[0]))
        rows = _Rows.of(x, weight_TK, layout, x_TD.dtype)
        y_RD, kept = _Products(fp8, _operands(fp8, keepers, parameters, layout)).forward(rows, x_TD.shape[1])
        kept_x = rows.x if any(ctx.needs_input_grad[5:-1]) else (None, None)
        ctx.save_for_backward(*kept_x, rows.weight_R1, rows.ends_E, *kept)
        ctx.layout, ctx.fp8, ctx.keepers, ctx.parameters, ctx.later = layout, fp8, keepers, parameters, collector()
        ctx.k = 0 if weight_TK is None else weight_TK.shape[1]
        return y_RD if layout is None else combine(y_RD, layout.place_P, ctx.k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TD: Tensor) -> tuple[Tensor | None, ...]:
        data, scale, weight_R1, ends_E, *kept = ctx.saved_tensors
        fp8, layout = ctx.fp8, ctx.layout
        for_x, for_weight, _, _, _, *for_gate_up, for_down = ctx.needs_input_grad
        *gate_up_shapes, down_shape = (parameter.shape for parameter in ctx.parameters)
        rows = _Rows(Quantised(data, scale), layout, weight_R1, ends_E)
        g = _padded(fp8.backend.quantiser.tiles(g_TD.contiguous(), fp8.power_of_two(_kinds(layout)[1])), layout)
        products = _Products(fp8, _operands(fp8, ctx.keepers, ctx.parameters, layout))
        d_x_RD, d_weight_R, d_gate_up, d_down = products.backward(
            g, rows, kept, g_TD.shape[1], down_shape[-1], for_x, any(for_gate_up), for_down, ctx.later is not None
        )
        of_weights: list[Product | None] = [None] * len(ctx.parameters)
        if d_gate_up is not None:
            of_weights[:-1] = [partial(_part_of, d_gate_up, gate_up_shapes, i) for i in range(len(gate_up_shapes))]
        if d_down is not None:
            of_weights[-1] = partial(_part_of, d_down, [down_shape], 0)
        d_parameters = map(partial(weight_gradient, ctx.later), ctx.parameters, of_weights)
        d_weight_TK = None
        if layout is not None:
            d_x_RD = None if d_x_RD is None else combine(d_x_RD, layout.place_P, ctx.k)
            d_weight_TK = d_weight_R.index_select(0, layout.place_P).view(-1, ctx.k) if for_weight else None
        return d_x_RD, d_weight_TK, None, None, None, *d_parameters


class _FeedForwardShared(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, weight_TK: Tensor, travel: Travel, fp8: Fp8,
        keepers: tuple[QuantisedWeight, QuantisedWeight], own: tuple[Tensor, Tensor], *leaves: Tensor,
    ) -> Tensor:  # fmt: skip
        x = fp8.backend.quantiser.tiles(x_TD, fp8.power_of_two("dispatch"))
        weight_P1 = weight_TK.flatten().index_select(0, travel.order_P).unsqueeze(1)
        *x_N, weight_N1 = travel.out(*_sent(x, travel), weight_P1)
        y_ND, saved, ends = x_TD.new_empty(len(weight_N1), x_TD.shape[1]), list[Tensor](), [0]
        for visit in travel.visits:
            if visit.rows.stop > visit.rows.start:
                arrived = _arrived(x_N, x.data.dtype, visit.rows)
                rows = _Rows.of(arrived, weight_N1[visit.rows], visit.layout, x_TD.dtype)
                operands = _operands(fp8, keepers, own, visit.layout)
                y_RD, kept = _Products(fp8, operands).forward(rows, x_TD.shape[1])
                torch.index_select(y_RD, 0, visit.layout.place_P, out=y_ND[visit.rows])
                saved += [*rows.x, rows.weight_R1, *kept]
            ends.append(len(saved))
        ctx.save_for_backward(*saved)
        ctx.travel, ctx.fp8, ctx.keepers, ctx.own, ctx.later = travel, fp8, keepers, own, collector()
        ctx.leaves, ctx.saved = leaves, list(map(slice, ends, ends[1:]))
        return travel.combine(*travel.home(y_ND))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TD: Tensor) -> tuple[Tensor | None, ...]:
        travel: Travel = ctx.travel
        fp8, hidden, width, saved = ctx.fp8, g_TD.shape[1], ctx.own[1].shape[2], ctx.saved_tensors
        for_x, for_weight, _, _, _, _, *for_leaves = ctx.needs_input_grad
        g = fp8.backend.quantiser.tiles(g_TD.contiguous(), fp8.power_of_two("combine_gradient"))
        g_N = travel.out(*_sent(g, travel))
        d_x_ND = g_TD.new_zeros(len(g_N[0]), hidden)
        d_weight_N1 = torch.zeros(len(d_x_ND), 1, dtype=torch.float32, device=g_TD.device)
        of_leaves: list[Pieces | None] = []
        for i, visit in enumerate(travel.visits):
            d_gate_up = d_down = None
            if visit.rows.stop > visit.rows.start:
                data, scale, weight_R1, *kept = saved[ctx.saved[i]]
                rows = _Rows(Quantised(data, scale), visit.layout, weight_R1, visit.layout.ends_G)
                arrived = _padded(_arrived(g_N, g.data.dtype, visit.rows), visit.layout)
                products = _Products(fp8, _operands(fp8, ctx.keepers, ctx.own, visit.layout))
                for_gate_up, for_down = for_leaves[2 * i : 2 * i + 2]
                d_x_RD, d_weight_R, d_gate_up, d_down = products.backward(
                    arrived, rows, kept, hidden, width, for_x, for_gate_up, for_down, ctx.later is not None
                )
                if d_x_RD is not None:
                    torch.index_select(d_x_RD, 0, visit.layout.place_P, out=d_x_ND[visit.rows])
                d_weight_N1[visit.rows, 0] = d_weight_R.index_select(0, visit.layout.place_P)
            of_leaves += [d_gate_up, d_down]
        d_x_PD, d_weight_P1 = travel.home(d_x_ND, d_weight_N1)
        d_x_TD = travel.combine(d_x_PD) if for_x else None
        d_weight_TK = d_weight_P1.index_select(0, travel.place_P).view(-1, travel.k) if for_weight else None
        d_leaves = map(partial(weight_gradient, ctx.later), ctx.leaves, of_leaves)
        return d_x_TD, d_weight_TK, None, None, None, None, *d_leaves


def _sent(q: Quantised, travel: Travel) -> tuple[Tensor, Tensor]:
    """The pairs' rows, as what can travel."""
    return q.data.view(torch.uint8).index_select(0, travel.token_P), q.scale.index_select(0, travel.token_P)


def _arrived(q_N: Sequence[Tensor], dtype: torch.dtype, rows: slice) -> Quantised:
    """Some of the rows that have arrived."""
    return Quantised(q_N[0][rows].view(dtype), q_N[1][rows])
