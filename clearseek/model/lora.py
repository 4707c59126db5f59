"""Low-rank adapters (LoRA): a frozen matrix W acts as W + s B A, with A and B of a rank far below W's sizes.

Only A and B learn (Hu et al., 2021, section 4.1). A product is W x + s B (A x): the sum W + s B A is never formed, and
the frozen matrix costs no product for its gradient. A starts random and B at zero, so that an adapter changes nothing
at first. W may be FP32, BF16, or block FP8; the adapter's products have the model's own type.

Every routed expert has an A and a B of its own, which only the rows of its own tokens pass through. Gate and up
projections, which share one tensor, share one adapter.

Shapes: T tokens, K experts per token, R rows of token-expert pairs, E experts, D hidden, I expert width, L rank, X
inputs and Y outputs of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clearseek.fp8.backend import Weight
from clearseek.fp8.linear import Fp8, Kind
from clearseek.ops.dispatch import Layout, combine
from clearseek.ops.grouped import Part, gradient_space, grouped_mm, grouped_mm_weight, parts, space_for
from clearseek.ops.swiglu import weighted_swiglu, weighted_swiglu_backward

M = TypeVar("M", bound=nn.Module)


class LowRank(nn.Module):
    """The adapter of one matrix [Y, X], or of a stack of them [E, Y, X].

    Args:
        weight: The frozen matrix, whose shape, type and device the adapter follows.
        rank: L.
        alpha: Numerator of the update's factor alpha / L.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        *stack, outputs, inputs = weight.shape
        self.lora_A = nn.Parameter(torch.zeros(*stack, rank, inputs, dtype=weight.dtype, device=weight.device))
        self.lora_B = nn.Parameter(torch.zeros(*stack, outputs, rank, dtype=weight.dtype, device=weight.device))
        self.alpha = alpha

    @property
    def rank(self) -> int:
        """L."""
        return self.lora_A.shape[-2]

    @property
    def scale(self) -> float:
        """The update's factor."""
        return self.alpha / self.rank

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """Add the update of inputs [..., X] to the outputs [..., Y] of the frozen matrix, in place."""
        out: Tensor = _Update.apply(y, x, self.lora_A, self.lora_B, self.scale)  # type: ignore[no-untyped-call]
        return out

    @torch.no_grad()
    def folded(self, weight: Tensor) -> Tensor:
        """``W + s B A``: summed in FP32, one matrix at a time, and rounded once to the type of `weight`."""
        out = torch.empty_like(weight)
        matrices = zip(*(_stack(each) for each in (out, weight, self.lora_B, self.lora_A)), strict=True)
        for out_YX, weight_YX, b_YL, a_LX in matrices:
            out_YX.copy_(torch.addmm(weight_YX.float(), b_YL.float(), a_LX.float(), alpha=self.scale))
        return out


def _stack(matrices: Tensor) -> Tensor:
    return matrices if matrices.ndim == 3 else matrices.unsqueeze(0)


class _Update(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a_LX: Tensor, b_YL: Tensor, scale: float) -> Tensor:
        low = F.linear(x, a_LX).mul_(scale)
        y.view(-1, y.shape[-1]).addmm_(low.view(-1, low.shape[-1]), b_YL.t())
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, low, a_LX, b_YL)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a_LX, b_YL = ctx.saved_tensors
        g_TY, x_TX, low_TL = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1]), low.view(-1, low.shape[-1])
        d_low_TL = torch.mm(g_TY, b_YL).mul_(ctx.scale)
        d_x = torch.mm(d_low_TL, a_LX).view(x.shape) if ctx.needs_input_grad[1] else None
        return g, d_x, d_low_TL.t() @ x_TX, g_TY.t() @ low_TL, None


def attach(model: nn.Module, name: str, rank: int, alpha: float) -> LowRank:
    """Give the matrix of parameter `name` an adapter that changes nothing yet, and return it.

    The adapter of ``….o_proj.weight`` is the module ``….o_proj.adapter``, and that of ``….experts.down_proj`` is
    ``….experts.down_adapter``.
    """
    owner, attribute = _place(model, name)
    adapter = LowRank(model.get_parameter(name), rank, alpha)
    setattr(owner, attribute, adapter)
    return adapter


def detach(model: nn.Module, name: str) -> None:
    """Take the adapter of parameter `name` away."""
    owner, attribute = _place(model, name)
    setattr(owner, attribute, None)


def adapters_of(model: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """The model's adapters, each with the name of the parameter that it adapts, in the model's order."""
    for path, module in model.named_modules():
        if isinstance(module, LowRank):
            owner, _, attribute = path.rpartition(".")
            kind = attribute.removesuffix("adapter").removesuffix("_")
            yield f"{owner}.{kind}_proj" if kind else f"{owner}.weight", module


@torch.no_grad()
def merge(model: M) -> M:
    """Fold the adapters into the frozen matrices, in FP32, round each sum to its matrix's type, and remove them.

    Matrices of which nothing was adapted keep their bits. Returns the model.
    """
    for name, adapter in list(adapters_of(model)):
        weight = model.get_parameter(name)
        weight.copy_(adapter.folded(weight))
        detach(model, name)
    return model


def attach_as(model: nn.Module, tensors: Mapping[str, Tensor], alpha: float) -> None:
    """Give a model the adapters whose matrices are among a checkpoint's tensors, with `alpha`, so that they load."""
    for name in tensors:
        path, _, last = name.rpartition(".")
        if last == "lora_A":
            owner, _, attribute = path.rpartition(".")
            kind = attribute.removesuffix("adapter").removesuffix("_")
            attach(model, f"{owner}.{kind}_proj" if kind else f"{owner}.weight", tensors[name].shape[-2], alpha)


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that an adapter belongs to, and the attribute that holds it."""
    path, _, parameter = name.rpartition(".")
    attribute = "adapter" if parameter == "weight" else parameter.removesuffix("_proj") + "_adapter"
    return model.get_submodule(path), attribute


class Frozen(Protocol):
    """A stack of frozen matrices [E, Y, X] as an operand."""

    def times(self, x_RX: Tensor, part: Part, space_RY: Tensor | None, rows: slice) -> Tensor:
        """The rows of a part times their experts' matrices, [R, Y], in `rows` of the space, if given."""

    def back(self, g_RY: Tensor, part: Part, space_RX: Tensor | None, rows: slice) -> Tensor:
        """Gradients of the outputs to gradients of the inputs, [R, X], in `rows` of the space, if given."""


class FrozenWeight(NamedTuple):
    """Matrices in the model's type."""

    weight_EYX: Tensor

    def times(self, x_RX: Tensor, part: Part, space_RY: Tensor | None, rows: slice) -> Tensor:
        return grouped_mm(x_RX, self.weight_EYX[part.experts].mT, part.ends_E, space_RY, rows)

    def back(self, g_RY: Tensor, part: Part, space_RX: Tensor | None, rows: slice) -> Tensor:
        return grouped_mm(g_RY, self.weight_EYX[part.experts], part.ends_E, space_RX, rows)


class FrozenFp8(NamedTuple):
    """Matrices in block FP8, whose rows are quantised as those of :mod:`clearseek.fp8.feed_forward`."""

    weight: Weight
    fp8: Fp8
    kinds: tuple[Kind, Kind]
    """Kinds of inputs and of outputs' gradients."""

    def times(self, x_RX: Tensor, part: Part, space_RY: Tensor | None, rows: slice) -> Tensor:
        return self._product(x_RX, self.kinds[0], self.weight.forward, part, space_RY, rows)

    def back(self, g_RY: Tensor, part: Part, space_RX: Tensor | None, rows: slice) -> Tensor:
        return self._product(g_RY, self.kinds[1], self.weight.backward, part, space_RX, rows)

    def _product(self, x: Tensor, kind: Kind, side: Any, part: Part, space: Tensor | None, rows: slice) -> Tensor:
        quantiser, products = self.fp8.backend.quantiser, self.fp8.backend.products
        tiles = quantiser.tiles(x, self.fp8.power_of_two(kind))
        y = products.grouped_mm(tiles, products.pick(side, part.experts), part.ends_E)
        return y if space is None else space[rows].copy_(y)


def adapted_experts(
    x_TD: Tensor, weight_TK: Tensor, layout: Layout, frozen: tuple[Frozen, Frozen], width: int,
    adapters: tuple[LowRank | None, LowRank | None],
) -> Tensor:  # fmt: skip
    """Weighted sum of each token's experts, [T, D], with adapters beside frozen gate|up and down projections.

    Args:
        x_TD: Tokens.
        weight_TK: Router weights.
        layout: Rows of the token-expert pairs.
        frozen: Operands of the gate|up projections [E, 2I, D] and of the down projections [E, D, I].
        width: I.
        adapters: Their adapters; None for a projection without.
    """
    matrices = [m for each in adapters for m in ((None, None) if each is None else (each.lora_A, each.lora_B))]
    scales = [1.0 if each is None else each.scale for each in adapters]
    y: Tensor = _AdaptedExperts.apply(x_TD, weight_TK, layout, frozen, width, scales, *matrices)  # type: ignore[no-untyped-call]
    return y


class _Low(NamedTuple):
    """An adapter's matrices for grouped products: A times the scale, and B."""

    a_ELX: Tensor
    b_EYL: Tensor

    @staticmethod
    def of(scale: float, a_ELX: Tensor | None, b_EYL: Tensor | None) -> _Low | None:
        """None without an adapter; a rank that grouped products do not take is padded with zeros."""
        if a_ELX is None or b_EYL is None:
            return None
        missing = -a_ELX.shape[1] % _rank_step(a_ELX.device)
        return _Low(F.pad(a_ELX * scale, (0, 0, 0, missing)), F.pad(b_EYL, (0, missing)) if missing else b_EYL)

    def space(self, rows: int) -> Tensor | None:
        """Memory for what passes through the low rank."""
        return space_for(self.a_ELX, rows, self.a_ELX.shape[1])

    def update(self, y_RY: Tensor, x_RX: Tensor, part: Part, space_RL: Tensor | None) -> Tensor:
        """Add s B (A x) to the part's rows of y; returns s A x."""
        e = part.experts
        low_RL = grouped_mm(x_RX, self.a_ELX[e].mT, part.ends_E, space_RL, part.rows)
        _add_product(y_RY, low_RL, self.b_EYL[e].mT, part)
        return low_RL

    def back(self, g_RY: Tensor, part: Part, d_x_RX: Tensor | None) -> Tensor:
        """Add the gradient of the inputs to d_x; returns B^T g: the gradient of what A puts out, over s."""
        e = part.experts
        space_RL = space_for(g_RY, len(g_RY), self.b_EYL.shape[2])
        d_low_RL = grouped_mm(g_RY, self.b_EYL[e], part.ends_E, space_RL, slice(None))
        if d_x_RX is not None:
            _add_product(d_x_RX, d_low_RL, self.a_ELX[e], part)
        return d_low_RL


def _rank_step(device: torch.device) -> int:
    """What ranks must be a multiple of: a GPU's grouped products need rows of 16 bytes."""
    return 1 if device.type == "cpu" else 8


def _add_product(y_RY: Tensor, x_RX: Tensor, w_EXY: Tensor, part: Part) -> None:
    """Add the part's rows of x, times their experts' matrices, to y."""
    if part.experts == slice(None):
        y_RY.add_(F.grouped_mm(x_RX, w_EXY, offs=part.ends_E))
    else:
        y_RY.addmm_(x_RX, w_EXY[0])


class _Gradients:
    """Gradients of one adapter's A and B, summed over the parts; None without an adapter."""

    def __init__(self, low: _Low | None) -> None:
        self._spaces = (None, None) if low is None else (gradient_space(low.a_ELX), gradient_space(low.b_EYL))
        self._found: tuple[Tensor, Tensor] | None = None

    def add(self, g_RY: Tensor, low_RL: Tensor, d_low_RL: Tensor, x_RX: Tensor, part: Part) -> None:
        """Take the gradients of a part's experts."""
        pairs = ((d_low_RL, x_RX), (g_RY, low_RL))
        d_a, d_b = (
            grouped_mm_weight(left, right, part, space)
            for (left, right), space in zip(pairs, self._spaces, strict=True)
        )
        self._found = d_a, d_b

    def result(self, scale: float, rank: int) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of A [E, L, X] and B [E, Y, L]."""
        if self._found is None:
            return None, None
        d_a_ELX, d_b_EYL = self._found
        return d_a_ELX[:, :rank].mul_(scale), d_b_EYL[..., :rank]


class _AdaptedExperts(torch.autograd.Function):
    """As :class:`clearseek.model.experts._Experts`, without gradients of the frozen matrices."""

    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, weight_TK: Tensor, layout: Layout, frozen: tuple[Frozen, Frozen], width: int,
        scales: list[float], *matrices: Tensor | None,
    ) -> Tensor:  # fmt: skip
        rows, (gate_up, down) = layout.token_R.numel(), frozen
        weight_R1 = layout.weights(weight_TK, x_TD.dtype)
        inner, outer = _Low.of(scales[0], *matrices[:2]), _Low.of(scales[1], *matrices[2:])
        gate_up_space, y_space = space_for(x_TD, rows, 2 * width), space_for(x_TD, rows, x_TD.shape[1])
        low_spaces = [None if low is None else low.space(rows) for low in (inner, outer)]
        lows: list[Tensor | None] = [None, None]
        for part in parts(layout.ends_G, rows, layout.expert_G):
            r = part.rows
            x_RD = x_TD.index_select(0, layout.token_R[r])
            gate_up_RI2 = gate_up.times(x_RD, part, gate_up_space, r)
            if inner is not None:
                lows[0] = inner.update(gate_up_RI2, x_RD, part, low_spaces[0])
            act_RI = weighted_swiglu(gate_up_RI2, weight_R1[r])
            y_RD = down.times(act_RI, part, y_space, r)
            if outer is not None:
                lows[1] = outer.update(y_RD, act_RI, part, low_spaces[1])
        kept = [low if space is None else space for low, space in zip(lows, low_spaces, strict=True)]
        kept_RI2 = gate_up_RI2 if gate_up_space is None else gate_up_space
        pairs = [(None, None) if low is None else low for low in (inner, outer)]
        ctx.save_for_backward(x_TD, weight_R1, kept_RI2, *kept, *(m for pair in pairs for m in pair), *layout)
        ctx.frozen, ctx.scales, ctx.width, ctx.k = frozen, scales, width, weight_TK.shape[1]
        ctx.ranks = [0 if a is None else a.shape[1] for a in matrices[::2]]
        return combine(y_RD if y_space is None else y_space, layout.place_P, ctx.k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_R1, gate_up_RI2, low_in, low_out, a_in, b_in, a_out, b_out, *tensors = ctx.saved_tensors
        layout, (gate_up, down) = Layout(*tensors), ctx.frozen
        inner, outer = (None if a is None else _Low(a, b) for a, b in ((a_in, b_in), (a_out, b_out)))
        d_inner, d_outer = _Gradients(inner), _Gradients(outer)
        rows, back_to_x = layout.token_R.numel(), ctx.needs_input_grad[0]
        d_x_space, d_x_RD = space_for(x_TD, rows, x_TD.shape[1]) if back_to_x else None, None
        d_weight_R = x_TD.new_zeros(rows, dtype=torch.float32)
        for part in parts(layout.ends_G, rows, layout.expert_G):
            r = part.rows
            g_RD, x_RD = g_TD.index_select(0, layout.token_R[r]), x_TD.index_select(0, layout.token_R[r])
            d_act_RI = down.back(g_RD, part, space_for(x_TD, len(g_RD), ctx.width), slice(None))
            d_low_out = None if outer is None else outer.back(g_RD, part, d_act_RI)
            act_RI, d_gate_up_RI2, d_weight_R[r] = weighted_swiglu_backward(d_act_RI, gate_up_RI2[r], weight_R1[r])
            if d_low_out is not None:
                d_outer.add(g_RD, low_out[r], d_low_out, act_RI, part)
            if back_to_x:
                d_x_RD = gate_up.back(d_gate_up_RI2, part, d_x_space, r)
            if inner is not None:
                d_low_in = inner.back(d_gate_up_RI2, part, d_x_RD)
                d_inner.add(d_gate_up_RI2, low_in[r], d_low_in, x_RD, part)
        d_weight_TK = d_weight_R.index_select(0, layout.place_P).view(-1, ctx.k)
        d_x = d_x_RD if d_x_space is None else d_x_space
        d_x_TD = None if d_x is None else combine(d_x, layout.place_P, ctx.k)
        found = [g.result(*how) for g, *how in zip((d_inner, d_outer), ctx.scales, ctx.ranks, strict=True)]
        return d_x_TD, d_weight_TK, None, None, None, None, *found[0], *found[1]
