"""What DeepSeek-V3 decided against, to measure why: backends for experiments only.

Gradients with one scale for 128 x 128 elements (the report saw a model diverge with them, appendix B.2), and sums that
stay in a tensor core's 14-bit accumulator instead of being promoted to FP32 (section 3.3.2). E5M2 gradients need no
backend of their own: the format is an argument.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from clearseek.fp8.backends.dequantised import Dequantised
from clearseek.fp8.backends.reference import Reference
from clearseek.fp8.formats import E4M3, TILE, Quantised
from clearseek.fp8.matmul import truncated_mm
from clearseek.fp8.quantise import quantise_blocks


class BlockGradients(Dequantised):
    """Activation gradients in 128 x 128 blocks.

    Linear layers make the weight gradient's columns from the unquantised gradient as ever; feed-forwards, which keep
    the gradient in eight bits only, from these blocks.
    """

    name = "dequantised, gradients 128 x 128"

    def gradient_tiles(self, g_MK: Tensor, power_of_two: bool, dtype: torch.dtype = E4M3) -> Quantised:
        """Blocks, each scale repeated for the rows it covers."""
        blocks = quantise_blocks(g_MK, power_of_two, dtype)
        return Quantised(blocks.data, blocks.scale.repeat_interleave(TILE, 0)[: len(g_MK)])


class TensorCoreSums(Dequantised):
    """Sums truncated to 13 fraction bits after every 32 products, as if never promoted."""

    name = "dequantised, sums of 14 bits"

    def mm(self, a: Quantised, b: Any) -> Tensor:
        """``a @ b.T``."""
        return truncated_mm(self.decode(a), b).to(self.dtype)

    def mm_weight(self, a: Any, b: Any) -> Tensor:
        """``a.T @ b``."""
        return truncated_mm(a.t(), b.t())

    def grouped_mm(self, a: Quantised, b: Any, ends_E: Tensor) -> Tensor:
        """Rows of expert e times matrix e."""
        x_RK = self.decode(a)
        bounds = pairwise([0, *ends_E.tolist()])
        blocks = [truncated_mm(x_RK[start:end], b[e]) for e, (start, end) in enumerate(bounds)]
        spare = torch.zeros(len(x_RK) - int(ends_E[-1]), b.shape[1], device=x_RK.device)
        return torch.cat([*blocks, spare]).to(self.dtype)

    def grouped_mm_weight(self, a: Any, b: Any, ends_E: Tensor) -> Tensor:
        """For every expert the product over its own rows."""
        bounds = pairwise([0, *ends_E.tolist()])
        return torch.stack([truncated_mm(a[start:end].t(), b[start:end].t()) for start, end in bounds])


COMPARISONS: dict[tuple[str, str], type[Reference]] = {
    ("128x128", "fp32"): BlockGradients,
    ("1x128", "tensor-core"): TensorCoreSums,
}
"""By `fp8.gradient_tile` and `fp8.accumulate`."""
