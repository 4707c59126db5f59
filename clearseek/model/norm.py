"""Root-mean-square normalisation with a hand-written backward.

``y = w * x / sqrt(mean(x^2) + eps)``. DeepSeek normalises block inputs and both attention latents this way and keeps
the statistics in FP32 (DeepSeek-V3 report, sections 2.1 and 3.3.1). PyTorch composes the operation on a CPU from a
dozen passes over memory; here the statistics are one fused reduction and the backward recomputes ``x / rms`` instead
of storing it, as the report does (section 3.2.3).

Shapes: T tokens, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, w_D: Tensor, eps: float) -> Tensor:
        norm_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True, dtype=torch.float32)
        rstd_T1 = torch.rsqrt(norm_T1.square_().div_(x_TD.shape[-1]).add_(eps))
        ctx.save_for_backward(x_TD, w_D, rstd_T1)
        y_TD = torch.empty_like(x_TD)
        torch.mul(x_TD, rstd_T1, out=y_TD)  # computed in FP32, rounded once on the way out
        return y_TD.mul_(w_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TD: Tensor) -> tuple[Tensor, Tensor, None]:
        x_TD, w_D, rstd_T1 = ctx.saved_tensors
        # y = x * rstd * w;  dx = rstd * g * w - x * rstd^3 * mean(g * w * x);  dw = sum over tokens of g * x * rstd.
        # Factors per token are rounded to the type of x: one type throughout spares a CPU converted copies of it all.
        gx_TD = g_TD * x_TD
        dw_D = torch.mv(gx_TD.t(), rstd_T1.squeeze(-1).to(x_TD.dtype))
        mean_T1 = torch.mv(gx_TD, w_D).float().unsqueeze(-1).div_(x_TD.shape[-1])
        dx_TD = x_TD * (mean_T1 * rstd_T1.pow(3)).neg_().to(x_TD.dtype)
        return dx_TD.addcmul_(g_TD * w_D, rstd_T1.to(x_TD.dtype)), dw_D, None


class RMSNorm(nn.Module):
    """RMS normalisation over the last dimension.

    Args:
        size: Channels D.
        eps: Added to the mean square.
    """

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` [..., D]; same shape and dtype out, statistics in FP32."""
        y: Tensor = _RMSNorm.apply(x.reshape(-1, x.shape[-1]), self.weight, self.eps)  # type: ignore[no-untyped-call]
        return y.view(x.shape)
