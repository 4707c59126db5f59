"""SwiGLU, ``silu(gate) * up``, with a backward that recomputes instead of storing.

DeepSeek keeps SwiGLU's inputs and recomputes its output in the backward (DeepSeek-V3 report, section 3.2.3). The
backward is a few plain products, which take less time on a CPU than PyTorch's backward of silu alone. Experts also
multiply by the router's weight here (see :mod:`clearseek.model.experts`).

Shapes: any; R rows, I width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from clearseek.kernels import operations
from clearseek.ops.apply import apply
from clearseek.ops.compiled import compiled_from


def _formula(gate_RI: Tensor, up_RI: Tensor) -> Tensor:
    gate32_RI = gate_RI.float()
    return (gate32_RI * gate32_RI.sigmoid() * up_RI.float()).to(gate_RI.dtype)


@compiled_from(_formula, operations.swiglu)
def _swiglu(gate_RI: Tensor, up_RI: Tensor) -> Tensor:
    return F.silu(gate_RI).mul_(up_RI)


def _weighted_formula(gate_up_RI2: Tensor, weight_R1: Tensor) -> Tensor:
    gate_RI, up_RI = gate_up_RI2.float().chunk(2, dim=-1)
    return (gate_RI * gate_RI.sigmoid() * up_RI * weight_R1.float()).to(gate_up_RI2.dtype)


@compiled_from(_weighted_formula, operations.weighted_swiglu)
def weighted_swiglu(gate_up_RI2: Tensor, weight_R1: Tensor) -> Tensor:
    """silu(gate) * up * weight, without gradients; gate and up are side by side, [R, 2I]."""
    return _swiglu(*gate_up_RI2.chunk(2, dim=-1)).mul_(weight_R1)


def _backward_formula(d_RI: Tensor, gate_RI: Tensor, up_RI: Tensor) -> tuple[Tensor, Tensor]:
    d32_RI, gate32_RI = d_RI.float(), gate_RI.float()
    sigmoid_RI = gate32_RI.sigmoid()
    slope_RI = sigmoid_RI * (1 + gate32_RI * (1 - sigmoid_RI))
    d_gate_RI, d_up_RI = d32_RI * up_RI.float() * slope_RI, d32_RI * gate32_RI * sigmoid_RI
    return d_gate_RI.to(gate_RI.dtype), d_up_RI.to(gate_RI.dtype)


@compiled_from(_backward_formula, operations.swiglu_backward)
def _swiglu_backward(d_RI: Tensor, gate_RI: Tensor, up_RI: Tensor) -> tuple[Tensor, Tensor]:
    d_gate_RI, d_up_RI = torch.empty_like(gate_RI), torch.empty_like(up_RI)
    _backward_passes(d_RI, gate_RI, up_RI, d_gate_RI, d_up_RI)
    return d_gate_RI, d_up_RI


def _backward_passes(d_RI: Tensor, gate_RI: Tensor, up_RI: Tensor, d_gate_RI: Tensor, d_up_RI: Tensor) -> Tensor:
    """Write the gradients into `d_gate_RI` and `d_up_RI`, and return the recomputed silu(gate) * up."""
    sigmoid_RI = gate_RI.sigmoid()
    silu_RI = gate_RI * sigmoid_RI
    torch.mul(d_RI, silu_RI, out=d_up_RI)
    slope_RI = torch.addcmul(silu_RI, silu_RI, sigmoid_RI, value=-1).add_(sigmoid_RI)  # silu' = s + silu * (1 - s)
    torch.mul(slope_RI.mul_(up_RI), d_RI, out=d_gate_RI)
    return silu_RI.mul_(up_RI)


def _weighted_backward_formula(d_RI: Tensor, gate_up_RI2: Tensor, weight_R1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dtype, d32_RI, weight32_R1 = gate_up_RI2.dtype, d_RI.float(), weight_R1.float()
    gate_RI, up_RI = gate_up_RI2.float().chunk(2, dim=-1)
    sigmoid_RI = gate_RI.sigmoid()
    slope_RI, silu_RI = sigmoid_RI * (1 + gate_RI * (1 - sigmoid_RI)), gate_RI * sigmoid_RI
    act_RI, weighted_RI = silu_RI * up_RI, d32_RI * weight32_R1
    d_gate_up_RI2 = torch.cat([weighted_RI * up_RI * slope_RI, weighted_RI * silu_RI], dim=-1)
    return (act_RI * weight32_R1).to(dtype), d_gate_up_RI2.to(dtype), (d32_RI * act_RI).sum(-1)


@compiled_from(_weighted_backward_formula, operations.weighted_swiglu_backward)
def weighted_swiglu_backward(d_RI: Tensor, gate_up_RI2: Tensor, weight_R1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Backward of act = silu(gate) * up * weight: (act recomputed, d gate|up, d weight [R] FP32)."""
    gate_RI, up_RI = gate_up_RI2.chunk(2, dim=-1)
    d_gate_up_RI2 = torch.empty_like(gate_up_RI2)
    act_RI = _backward_passes(d_RI * weight_R1, gate_RI, up_RI, *d_gate_up_RI2.chunk(2, dim=-1))
    d_weight_R = (d_RI * act_RI).sum(-1, dtype=torch.float32)
    return act_RI.mul_(weight_R1), d_gate_up_RI2, d_weight_R


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_RI: Tensor, up_RI: Tensor) -> Tensor:
        ctx.save_for_backward(gate_RI, up_RI)
        return _swiglu(gate_RI, up_RI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_RI: Tensor) -> tuple[Tensor, Tensor]:
        return _swiglu_backward(g_RI, *ctx.saved_tensors)


def swiglu(gate_RI: Tensor, up_RI: Tensor) -> Tensor:
    """silu(gate) * up, with gradients."""
    y: Tensor = apply(_SwiGLU, gate_RI, up_RI)
    return y
