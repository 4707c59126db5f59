"""A matrix product with a weight, whose gradient may be computed later.

Where products of weights are put aside (:mod:`clearseek.ops.deferred`), the function is our own; else it is PyTorch's.
Both compute the same products.

Shapes: T tokens, K inputs, N outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from clearseek.ops.apply import apply
from clearseek.ops.deferred import WeightGradients, collector, weight_gradient


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_NK: Tensor, dtype: torch.dtype, later: WeightGradients) -> Tensor:
        x = x.to(dtype)
        ctx.save_for_backward(x, weight_NK)
        ctx.weight, ctx.dtype, ctx.later = weight_NK, dtype, later
        return F.linear(x, weight_NK.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_NK = ctx.saved_tensors
        g_TN, x_TK = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1])
        for_x, for_weight, *_ = ctx.needs_input_grad
        dx = (g_TN @ weight_NK.to(ctx.dtype)).view(x.shape) if for_x else None
        product = (lambda: g_TN.t() @ x_TK) if for_weight else None
        return dx, weight_gradient(ctx.later, ctx.weight, product), None, None


def linear(x: Tensor, weight_NK: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``x @ weight.T`` for [..., K], in `dtype`; by default both have one type."""
    later = collector()
    dtype = weight_NK.dtype if dtype is None else dtype
    if later is None:
        return F.linear(x.to(dtype), weight_NK.to(dtype))
    y: Tensor = apply(_Linear, x, weight_NK, dtype, later)
    return y
