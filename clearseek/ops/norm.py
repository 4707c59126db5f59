"""Root-mean-square normalisation with a hand-written backward.

``y = w * x / sqrt(mean(x^2) + eps)``. DeepSeek normalises block inputs and both attention latents so, with statistics
in FP32 (DeepSeek-V3 report, sections 2.1 and 3.3.1). PyTorch composes the operation on a CPU from a dozen passes over
memory; here the statistics are one fused reduction, and the backward recomputes ``x / rms`` instead of storing it, as
the report does (section 3.2.3). Compiled (`train.kernels`), each direction is one loop.

Shapes: T tokens, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clearseek.kernels import operations
from clearseek.ops.apply import apply
from clearseek.ops.compiled import compiled_from

BLOCK_ELEMENTS = 1 << 19
"""Elements of a block on a CPU, whose FP32 copy (2 MiB) stays in cache."""


def _row_blocks(x_TD: Tensor) -> list[slice]:
    """Blocks of rows that fit the cache; a single block on a GPU."""
    tokens, channels = x_TD.shape
    size = tokens if x_TD.device.type != "cpu" else max(1, BLOCK_ELEMENTS // channels)
    return [slice(start, start + size) for start in range(0, tokens, max(1, size))]


def _formula(x_TD: Tensor, w_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x32_TD = x_TD.float()
    rstd_T1 = torch.rsqrt(x32_TD.square().mean(-1, keepdim=True) + eps)
    return (x32_TD * rstd_T1).to(x_TD.dtype) * w_D, rstd_T1


@compiled_from(_formula, operations.normalise)
def _normalise(x_TD: Tensor, w_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(y, 1 / rms [T, 1] in FP32)."""
    y_TD = torch.empty_like(x_TD)
    rstd_T1 = torch.empty(len(x_TD), 1, dtype=torch.float32, device=x_TD.device)
    for rows in _row_blocks(x_TD):
        x32_TD = x_TD[rows].to(torch.float32, copy=True)
        norm_T1 = torch.linalg.vector_norm(x32_TD, dim=-1, keepdim=True)
        torch.rsqrt(norm_T1.square_().div_(x_TD.shape[-1]).add_(eps), out=rstd_T1[rows])
        y_TD[rows] = x32_TD.mul_(rstd_T1[rows])
        y_TD[rows] *= w_D
    return y_TD, rstd_T1


def _backward_formula(
    g_TD: Tensor, x_TD: Tensor, w_D: Tensor, rstd_T1: Tensor, for_weight: bool
) -> tuple[Tensor, Tensor | None]:
    g32_TD, unit_TD = g_TD.float(), x_TD.float() * rstd_T1
    gw_TD = g32_TD * w_D.float()
    dx_TD = (gw_TD - unit_TD * (gw_TD * unit_TD).mean(-1, keepdim=True)) * rstd_T1
    return dx_TD.to(x_TD.dtype), (g32_TD * unit_TD).sum(0).to(w_D.dtype) if for_weight else None


@compiled_from(_backward_formula, operations.normalise_backward)
def _normalise_backward(
    g_TD: Tensor, x_TD: Tensor, w_D: Tensor, rstd_T1: Tensor, for_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """(dx, dw): dx = rstd * g * w - x * rstd^3 * mean(g * w * x), dw = sum over tokens of g * x * rstd, if wanted."""
    # Factors per token are rounded to the type of x, because mixed types would make a CPU copy whole tensors.
    rounded_T1 = rstd_T1.to(x_TD.dtype)
    dx_TD, dw_D = torch.empty_like(x_TD), torch.zeros_like(w_D, dtype=torch.float32) if for_weight else None
    for rows in _row_blocks(x_TD):
        x, g, rstd = x_TD[rows], g_TD[rows], rounded_T1[rows]
        gx_TD = g * x
        if dw_D is not None:
            dw_D += torch.mm(rstd.t(), gx_TD).squeeze(0)
        mean_T1 = torch.mv(gx_TD, w_D).float().unsqueeze(-1).div_(x_TD.shape[-1])
        torch.mul(x, (mean_T1 * rstd_T1[rows].pow(3)).neg_().to(x.dtype), out=dx_TD[rows])
        dx_TD[rows].addcmul_(g * w_D, rstd)
    return dx_TD, None if dw_D is None else dw_D.to(w_D.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, w_D: Tensor, eps: float) -> Tensor:
        y_TD, rstd_T1 = _normalise(x_TD, w_D, eps)
        ctx.save_for_backward(x_TD, w_D, rstd_T1)
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TD: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x_TD, w_D, rstd_T1 = ctx.saved_tensors
        return *_normalise_backward(g_TD, x_TD, w_D, rstd_T1, ctx.needs_input_grad[1]), None


class RMSNorm(nn.Module):
    """RMS normalisation over the last dimension, of `size` channels; `eps` is added to the mean square."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` [..., D]; same shape and dtype out, statistics in FP32."""
        y: Tensor = apply(_RMSNorm, x.reshape(-1, x.shape[-1]), self.weight, self.eps)
        return y.view(x.shape)
