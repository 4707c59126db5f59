"""The token embedding, with a gradient summed in FP32 and in a fixed order.

A frequent token occurs hundreds of times in a batch. Sums in BF16 would lose the later terms of its gradient, and sums
with atomics would change bits every time; here each row is one FP32 sum over its occurrences, in order.

Shapes: V vocabulary, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clearseek.ops.apply import apply


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight_VD: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.rows, ctx.dtype = weight_VD.shape[0], weight_VD.dtype
        return F.embedding(tokens, weight_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
        (tokens,) = ctx.saved_tensors
        total_VD = torch.zeros(ctx.rows, g.shape[-1], dtype=torch.float32, device=g.device)
        total_VD.index_add_(0, tokens.flatten(), g.flatten(0, -2).float())
        return None, total_VD.to(ctx.dtype)


class Embedding(nn.Module):
    """Rows of a [V, D] matrix by token id."""

    def __init__(self, vocabulary: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, hidden))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids [...] to [..., D]."""
        x: Tensor = apply(_Embedding, tokens, self.weight)
        return x
