"""SwiGLU, ``silu(gate) * up``, with a backward that recomputes instead of storing.

DeepSeek keeps SwiGLU's inputs and recomputes its output in the backward (DeepSeek-V3 report, section 3.2.3). The
backward is written in a few plain products: PyTorch's own backward of silu alone takes longer on a CPU than all of it.

Shapes: any; R rows, I width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def swiglu_forward(gate_RI: Tensor, up_RI: Tensor) -> Tensor:
    """silu(gate) * up, without a graph."""
    return F.silu(gate_RI).mul_(up_RI)


def swiglu_backward(d_RI: Tensor, gate_RI: Tensor, up_RI: Tensor, d_gate_RI: Tensor, d_up_RI: Tensor) -> Tensor:
    """Write the gradients into `d_gate_RI` and `d_up_RI`, and return the recomputed silu(gate) * up."""
    sigmoid_RI = gate_RI.sigmoid()
    silu_RI = gate_RI * sigmoid_RI
    torch.mul(d_RI, silu_RI, out=d_up_RI)
    slope_RI = torch.addcmul(silu_RI, silu_RI, sigmoid_RI, value=-1).add_(sigmoid_RI)  # silu' = s + silu * (1 - s)
    torch.mul(slope_RI.mul_(up_RI), d_RI, out=d_gate_RI)
    return silu_RI.mul_(up_RI)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_RI: Tensor, up_RI: Tensor) -> Tensor:
        ctx.save_for_backward(gate_RI, up_RI)
        return swiglu_forward(gate_RI, up_RI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_RI: Tensor) -> tuple[Tensor, Tensor]:
        gate_RI, up_RI = ctx.saved_tensors
        d_gate_RI, d_up_RI = torch.empty_like(gate_RI), torch.empty_like(up_RI)
        swiglu_backward(g_RI, gate_RI, up_RI, d_gate_RI, d_up_RI)
        return d_gate_RI, d_up_RI


def swiglu(gate_RI: Tensor, up_RI: Tensor) -> Tensor:
    """silu(gate) * up, with gradients."""
    y: Tensor = _SwiGLU.apply(gate_RI, up_RI)  # type: ignore[no-untyped-call]
    return y
