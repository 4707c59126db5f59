"""A linear layer whose three products are FP8.

Forward, input gradient and weight gradient each take the operands of :mod:`clearseek.fp8.matmul`. Autograd keeps the
input as FP8 tiles, from which the backward makes the columns for the weight gradient (DeepSeek-V3 report, sections
3.3.1 to 3.3.3). Several matrices that read the same input share its quantisation. The input of the projection after
attention is kept in E5M6 instead, because that tensor is sensitive.

Weight gradients are FP32, for parameters whose `grad_dtype` is FP32; a frozen weight costs no product, and where all
are frozen no input is kept.

Shapes: T tokens, K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clearseek.config import Fp8Config
from clearseek.fp8.backend import Backend, Weight
from clearseek.fp8.formats import Quantised
from clearseek.fp8.quantise import dequantise_e5m6, quantise_e5m6
from clearseek.ops.apply import apply
from clearseek.ops.deferred import Product, collector, weight_gradient
from clearseek.ops.linear import linear

Kind = Literal["activation", "gradient", "weight", "attention_output", "dispatch", "combine_gradient"]
POWER_OF_TWO_IN_V3 = frozenset({"attention_output", "dispatch", "combine_gradient"})
"""The tensors with power-of-two scales in DeepSeek-V3 (report, section 3.3.3), which are quantised twice."""


@dataclass(frozen=True)
class Fp8:
    """Settings and backend of a model's FP8 products."""

    config: Fp8Config
    backend: Backend
    rates: dict[str, float] = field(default_factory=dict, compare=False)
    """Measured FLOP/s of the backends from which this one was chosen."""

    def power_of_two(self, kind: Kind) -> bool:
        """Whether scales of this kind of tensor are powers of two."""
        scales = self.config.scales
        return scales == "power-of-two" or (scales == "deepseek-v3" and kind in POWER_OF_TWO_IN_V3)


class QuantisedWeight:
    """Operands of a weight, made again when its parameters have changed: once per optimiser step.

    A change in place raises a parameter's version counter. A replaced storage has another address, because the old
    storage is held here and no new one can take its place.

    Nothing else may hold operands from a forward to its backward, which asks here again: where parameters are gathered
    for a layer's forward and once more for its backward (FSDP2), operands of all layers would be a whole model.
    """

    kept = True
    """Whether operands are kept from call to call; False where a parameter's values change behind its version."""

    def __init__(self) -> None:
        self._weight: Weight | None = None
        self._fp8: Fp8 | None = None
        self._made_of: list[Tensor] = []
        self._versions: list[int] = []

    def get(self, fp8: Fp8, *parameters: Tensor, stacked: bool = False) -> Weight:
        """The operands of the parameters' present values.

        Args:
            fp8: Settings and backend.
            parameters: One of [N, K] or [E, N, K], or several [N, K] to concatenate by rows; 128 divides their N.
            stacked: Whether to make a matrix a stack of one, as operand of grouped products.
        """
        same = len(parameters) == len(self._made_of) and all(map(Tensor.is_set_to, parameters, self._made_of))
        versions = [0 if parameter.is_inference() else parameter._version for parameter in parameters]
        if self._weight is not None and fp8 is self._fp8 and same and versions == self._versions:
            return self._weight
        whole = (parameters[0] if len(parameters) == 1 else torch.cat(parameters)).detach()
        whole = whole.unsqueeze(0) if stacked else whole
        weight = fp8.backend.products.weight(whole, fp8.power_of_two("weight"))
        if self.kept:
            self._weight, self._fp8, self._versions = weight, fp8, versions
            self._made_of = [parameter.detach() for parameter in parameters]
        return weight


class Linear(nn.Linear):
    """A linear layer without bias that computes in FP8 once :attr:`fp8` is set.

    :attr:`adapter` may hold a :class:`clearseek.model.lora.LowRank`, which adds to the output.
    """

    adapter: nn.Module | None

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.fp8: Fp8 | None = None
        self.quantised = QuantisedWeight()
        self.register_module("adapter", None)

    def forward(self, x: Tensor, kind: Kind = "activation") -> Tensor:
        """``x @ weight.T`` for [..., K]; `kind` says which tensor `x` is."""
        if self.fp8 is not None:
            return linears(x, (self,), kind)[0]
        if self.adapter is not None:
            y: Tensor = self.adapter.beside(self.weight, x)  # type: ignore[operator]
            return y
        return linear(x, self.weight)


def linears(x: Tensor, layers: tuple[Linear, ...], kind: Kind = "activation") -> tuple[Tensor, ...]:
    """The outputs of several layers that read the same input [..., K]; in FP8 it is quantised once for all."""
    fp8 = layers[0].fp8
    if fp8 is None:
        return tuple(layer(x) for layer in layers)
    x_TK = x.reshape(-1, x.shape[-1])
    keepers = [layer.quantised for layer in layers]
    outputs = apply(_Linears, x_TK, fp8, kind, keepers, *(layer.weight for layer in layers))
    pairs = zip(outputs, layers, strict=True)
    outputs = [y_TN if layer.adapter is None else layer.adapter(y_TN, x_TK) for y_TN, layer in pairs]
    return tuple(y_TN.view(*x.shape[:-1], -1) for y_TN in outputs)


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TK: Tensor, fp8: Fp8, kind: Kind, keepers: list[QuantisedWeight], *parameters_NK: Tensor
    ) -> tuple[Tensor, ...]:
        x = fp8.backend.quantiser.tiles(x_TK, fp8.power_of_two(kind))
        if any(ctx.needs_input_grad[4:]):
            ctx.save_for_backward(*(quantise_e5m6(x_TK) if kind == "attention_output" else x))
        ctx.fp8, ctx.kind, ctx.inputs = fp8, kind, x_TK.shape[1]
        ctx.keepers, ctx.parameters, ctx.later = keepers, parameters_NK, collector()
        pairs = zip(keepers, parameters_NK, strict=True)
        return tuple(fp8.backend.products.mm(x, keeper.get(fp8, weight_NK).forward) for keeper, weight_NK in pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients_TN: Tensor) -> tuple[Tensor | None, ...]:
        fp8: Fp8 = ctx.fp8
        quantiser, products = fp8.backend.quantiser, fp8.backend.products
        for_x, _, _, _, *for_parameters = ctx.needs_input_grad
        x = cache(partial(_columns, fp8, ctx.kind, ctx.inputs, ctx.saved_tensors))  # made once for all layers
        dx_TK: Tensor | None = None
        d_parameters: list[Tensor | None] = []
        power_of_two = fp8.power_of_two("gradient")
        each = zip(gradients_TN, ctx.keepers, ctx.parameters, for_parameters, strict=True)
        for g_TN, keeper, weight_NK, for_parameter in each:
            g_TN = g_TN.contiguous()
            product: Product | None = None
            if for_x and for_parameter:
                tiles, columns = quantiser.gradient(g_TN, power_of_two)
            elif for_x:
                tiles = quantiser.tiles(g_TN, power_of_two)
            elif for_parameter:
                columns = quantiser.columns(g_TN, power_of_two)
            if for_x:
                part_TK = products.mm(tiles, keeper.get(fp8, weight_NK).backward)
                dx_TK = part_TK if dx_TK is None else dx_TK.add_(part_TK)
            if for_parameter:
                product = partial(_weight_product, fp8, columns, x)
            d_parameters.append(weight_gradient(ctx.later, weight_NK, product))
        return dx_TK, None, None, None, *d_parameters


def _columns(fp8: Fp8, kind: Kind, inputs: int, saved: tuple[Tensor, Tensor]) -> Any:
    """The kept input as operand of the weight gradients."""
    kept, power_of_two = Quantised(*saved), fp8.power_of_two(kind)
    if kind == "attention_output":
        return fp8.backend.quantiser.columns(dequantise_e5m6(kept, inputs, fp8.backend.dtype), power_of_two)
    return fp8.backend.quantiser.retile(kept, power_of_two)


def _weight_product(fp8: Fp8, columns: Any, x: Callable[[], Any]) -> Tensor:
    return fp8.backend.products.mm_weight(columns, x())
