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
from clearseek.kernels import operations
from clearseek.ops.apply import apply
from clearseek.ops.compiled import loops_take
from clearseek.ops.dispatch import Layout, combine
from clearseek.ops.grouped import Blocks, blocks, parts, products, weight_products
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
        out: Tensor = apply(_Update, y, None, x, self.lora_A, self.lora_B, self.scale)
        return out

    def beside(self, weight_YX: Tensor, x: Tensor) -> Tensor:
        """Outputs [..., Y] of the frozen matrix and its update for inputs [..., X]."""
        assert not weight_YX.requires_grad, "what has an adapter is frozen"
        out: Tensor = apply(_Update, None, weight_YX, x, self.lora_A, self.lora_B, self.scale)
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
    """Adds to given outputs in place, or to those of a frozen matrix, whose products are then part of this function."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor | None, weight_YX: Tensor | None, x: Tensor, a_LX: Tensor, b_YL: Tensor, scale: float
    ) -> Tensor:
        low = F.linear(x, a_LX).mul_(scale)
        if weight_YX is not None:
            out = F.linear(x, weight_YX)
        else:
            assert y is not None
            ctx.mark_dirty(y)
            out = y
        out.view(-1, out.shape[-1]).addmm_(low.view(-1, low.shape[-1]), b_YL.t())
        ctx.save_for_backward(x, low, weight_YX, a_LX, b_YL)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, low, weight_YX, a_LX, b_YL = ctx.saved_tensors
        g_TY, x_TX, low_TL = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1]), low.view(-1, low.shape[-1])
        d_low_TL = torch.mm(g_TY, b_YL.t().contiguous().t()).mul_(ctx.scale)  # half the time of b_YL as it lies
        d_x = None
        if ctx.needs_input_grad[2]:
            whole_TX = None if weight_YX is None else torch.mm(g_TY, weight_YX)
            d_x_TX = torch.mm(d_low_TL, a_LX) if whole_TX is None else whole_TX.addmm_(d_low_TL, a_LX)
            d_x = d_x_TX.view(x.shape)
        d_y = g if ctx.needs_input_grad[0] else None
        return d_y, None, d_x, d_low_TL.t() @ x_TX, (low_TL.t() @ g_TY).t(), None


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
            yield _adapted(path), module


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
            attach(model, _adapted(path), tensors[name].shape[-2], alpha)


def _adapted(path: str) -> str:
    """Name of the parameter that the adapter at a path belongs to; :func:`_place` goes the other way."""
    owner, _, attribute = path.rpartition(".")
    kind = attribute.removesuffix("adapter").removesuffix("_")
    return f"{owner}.{kind}_proj" if kind else f"{owner}.weight"


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that an adapter belongs to, and the attribute that holds it."""
    path, _, parameter = name.rpartition(".")
    attribute = "adapter" if parameter == "weight" else parameter.removesuffix("_proj") + "_adapter"
    return model.get_submodule(path), attribute


class Frozen(Protocol):
    """A stack of frozen matrices [E, Y, X] as an operand."""

    def times(self, x_RX: Tensor, these: Blocks) -> Tensor:
        """Rows times their experts' matrices, [R, Y]."""

    def back(self, g_RY: Tensor, these: Blocks) -> Tensor:
        """Gradients of the outputs to gradients of the inputs, [R, X]."""


class FrozenWeight(NamedTuple):
    """Matrices in the model's type."""

    weight_EYX: Tensor

    def times(self, x_RX: Tensor, these: Blocks) -> Tensor:
        return products(x_RX, self.weight_EYX.mT, these)

    def back(self, g_RY: Tensor, these: Blocks) -> Tensor:
        return products(g_RY, self.weight_EYX, these)


class FrozenFp8(NamedTuple):
    """Matrices in block FP8, whose rows are quantised as those of :mod:`clearseek.fp8.feed_forward`."""

    weight: Weight
    fp8: Fp8
    kinds: tuple[Kind, Kind]
    """Kinds of inputs and of outputs' gradients."""

    def times(self, x_RX: Tensor, these: Blocks) -> Tensor:
        return self._product(x_RX, self.kinds[0], self.weight.forward, these)

    def back(self, g_RY: Tensor, these: Blocks) -> Tensor:
        return self._product(g_RY, self.kinds[1], self.weight.backward, these)

    def _product(self, x: Tensor, kind: Kind, side: Any, these: Blocks) -> Tensor:
        quantiser, products = self.fp8.backend.quantiser, self.fp8.backend.products
        found = [
            products.grouped_mm(
                quantiser.tiles(x[part.rows], self.fp8.power_of_two(kind)), products.pick(side, part.experts),
                part.ends_E,
            )
            for part in parts(these.ends_E, these.rows)
        ]  # fmt: skip
        return found[0] if len(found) == 1 else torch.cat(found)


def adapted_experts(
    x_TD: Tensor, weight_TK: Tensor, layout: Layout, frozen: tuple[Frozen, Frozen],
    adapters: tuple[LowRank | None, LowRank | None],
) -> Tensor:  # fmt: skip
    """Weighted sum of each token's experts, [T, D], with adapters beside frozen gate|up and down projections.

    Args:
        x_TD: Tokens.
        weight_TK: Router weights.
        layout: Rows of the token-expert pairs.
        frozen: Operands of the gate|up projections [E, 2I, D] and of the down projections [E, D, I].
        adapters: Their adapters; None for a projection without.
    """
    matrices = [m for each in adapters for m in ((None, None) if each is None else (each.lora_A, each.lora_B))]
    scales = [1.0 if each is None else each.scale for each in adapters]
    y: Tensor = apply(_AdaptedExperts, x_TD, weight_TK, layout, frozen, scales, *matrices)
    return y


class _Low(NamedTuple):
    """An adapter's matrices for grouped products, and its scale."""

    a_ELX: Tensor
    b_EYL: Tensor
    scale: float

    @staticmethod
    def of(scale: float, a_ELX: Tensor | None, b_EYL: Tensor | None) -> _Low | None:
        """None without an adapter; a rank that grouped products do not take is padded with zeros."""
        if a_ELX is None or b_EYL is None:
            return None
        if missing := -a_ELX.shape[1] % _rank_step(a_ELX.device):
            return _Low(F.pad(a_ELX, (0, 0, 0, missing)), F.pad(b_EYL, (0, missing)), scale)
        return _Low(a_ELX, b_EYL, scale)

    def update(self, y_RY: Tensor, x_RX: Tensor, these: Blocks) -> Tensor:
        """Add s B (A x) to y; returns s A x."""
        if self._in_loops(x_RX):
            return operations.low_rank(y_RY, x_RX, *self, these.rows_of_experts())
        low_RL = products(x_RX, self.a_ELX.mT, these).mul_(self.scale)
        products(low_RL, self.b_EYL.mT, these, y_RY)
        return low_RL

    def back(self, g_RY: Tensor, these: Blocks, frozen: Frozen, for_x: bool) -> tuple[Tensor | None, Tensor]:
        """Gradients of the inputs, if wanted, with the frozen matrices' part; and s B^T g, that of A's outputs."""
        loops, weight_EYX, d_x_RX = self._in_loops(g_RY), None, None
        if loops and for_x and isinstance(frozen, FrozenWeight) and operations.takes_products(frozen.weight_EYX):
            weight_EYX, d_x_RX = frozen.weight_EYX, g_RY.new_empty(len(g_RY), self.a_ELX.shape[2])
        elif for_x:
            d_x_RX = frozen.back(g_RY, these)
        if loops:
            return d_x_RX, operations.low_rank_backward(g_RY, d_x_RX, weight_EYX, *self, these.rows_of_experts())
        # A product with matrices whose inner dimension is adjacent takes a CPU half the time.
        d_low_RL = products(g_RY, self.b_EYL.mT.contiguous().mT, these).mul_(self.scale)
        if d_x_RX is not None:
            products(d_low_RL, self.a_ELX, these, d_x_RX)
        return d_x_RX, d_low_RL

    def gradients(
        self, g_RY: Tensor, low_RL: Tensor, d_low_RL: Tensor, x: Tensor, place_R: Tensor | None, these: Blocks,
        rank: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Gradients of A [E, L, X] and B [E, Y, L]; row r of the inputs is row `place_R[r]` of x, by default row r."""
        if self._in_loops(g_RY):
            return operations.low_rank_gradients(
                g_RY, low_RL, d_low_RL, x, place_R, self.a_ELX, self.b_EYL, these.rows_of_experts()
            )
        x_RX, experts = x if place_R is None else x.index_select(0, place_R), len(self.a_ELX)
        d_a_ELX, d_b_ELY = (weight_products(*pair, these, experts) for pair in ((d_low_RL, x_RX), (low_RL, g_RY)))
        return d_a_ELX[:, :rank], d_b_ELY[:, :rank].mT

    def _in_loops(self, rows: Tensor) -> bool:
        """Whether numba's loops take these rows."""
        return loops_take(rows) and operations.takes_low_rank(self.a_ELX, self.b_EYL)


def _rank_step(device: torch.device) -> int:
    """What ranks must be a multiple of: a GPU's grouped products need rows of 16 bytes."""
    return 1 if device.type == "cpu" else 8


class _AdaptedExperts(torch.autograd.Function):
    """As :class:`clearseek.model.experts._Experts`, without gradients of the frozen matrices.

    Products go block by block, and all else over all rows at once: with few rows a block, each call costs more than
    what it computes.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, weight_TK: Tensor, layout: Layout, frozen: tuple[Frozen, Frozen],
        scales: list[float], *matrices: Tensor | None,
    ) -> Tensor:  # fmt: skip
        these, (gate_up, down) = blocks(layout.ends_G, layout.token_R.numel(), layout.expert_G), frozen
        weight_R1 = layout.weights(weight_TK, x_TD.dtype)[: these.rows]
        inner, outer = _Low.of(scales[0], *matrices[:2]), _Low.of(scales[1], *matrices[2:])
        x_RD = x_TD.index_select(0, layout.token_R[: these.rows])
        gate_up_RI2 = gate_up.times(x_RD, these)
        low_in = None if inner is None else inner.update(gate_up_RI2, x_RD, these)
        act_RI = weighted_swiglu(gate_up_RI2, weight_R1)
        y_RD = down.times(act_RI, these)
        low_out = None if outer is None else outer.update(y_RD, act_RI, these)
        pairs = [(None, None) if low is None else low[:2] for low in (inner, outer)]
        ctx.save_for_backward(x_TD, weight_R1, gate_up_RI2, low_in, low_out, *pairs[0], *pairs[1], *layout)
        ctx.frozen, ctx.scales, ctx.these, ctx.k = frozen, scales, these, weight_TK.shape[1]
        ctx.ranks = [0 if a is None else a.shape[1] for a in matrices[::2]]
        return combine(y_RD, layout.place_P, ctx.k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_R1, gate_up_RI2, low_in, low_out, a_in, b_in, a_out, b_out, *tensors = ctx.saved_tensors
        layout, these, (gate_up, down) = Layout(*tensors), ctx.these, ctx.frozen
        inner, outer = (
            None if a is None else _Low(a, b, scale)
            for a, b, scale in ((a_in, b_in, ctx.scales[0]), (a_out, b_out, ctx.scales[1]))
        )
        d_inner: tuple[Tensor | None, Tensor | None] = (None, None)
        d_outer: tuple[Tensor | None, Tensor | None] = (None, None)
        token_R = layout.token_R[: these.rows]
        g_RD = g_TD.index_select(0, token_R)
        if outer is None:
            d_act_RI = down.back(g_RD, these)
        else:
            d_act_RI, d_low_out = outer.back(g_RD, these, down, True)
        act_RI, d_gate_up_RI2, d_weight_R = weighted_swiglu_backward(d_act_RI, gate_up_RI2, weight_R1)
        if outer is not None:
            d_outer = outer.gradients(g_RD, low_out, d_low_out, act_RI, None, these, ctx.ranks[1])
        if inner is None:
            d_x_RD = gate_up.back(d_gate_up_RI2, these) if ctx.needs_input_grad[0] else None
        else:
            d_x_RD, d_low_in = inner.back(d_gate_up_RI2, these, gate_up, ctx.needs_input_grad[0])
            d_inner = inner.gradients(d_gate_up_RI2, low_in, d_low_in, x_TD, token_R, these, ctx.ranks[0])
        d_weight_TK = d_weight_R.index_select(0, layout.place_P).view(-1, ctx.k)
        d_x_TD = None if d_x_RD is None else combine(d_x_RD, layout.place_P, ctx.k)
        return d_x_TD, d_weight_TK, None, None, None, *d_inner, *d_outer
