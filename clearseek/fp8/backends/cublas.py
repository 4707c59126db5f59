"""FP8 products by NVIDIA's cuBLAS, through PyTorch's `scaled_mm`: Hopper, CUDA 12.9 or newer.

cuBLAS supports DeepSeek's scales: 1 x 128 for a left operand with 128 x 128 or 1 x 128 for the right one. It has no
grouped product with such scales, so experts are multiplied one by one, and the host waits for their bounds. ClearSeek's
Triton kernels quantise and compute SwiGLU where they run, and PyTorch operations elsewhere.

cuBLAS requires scales of tiles with neighbouring rows adjacent, scales of blocks with neighbouring slices of the inner
dimension adjacent and padded to a multiple of four, and sizes that are multiples of 16, here 128 for the inner one.
Other sizes are padded with zeros.

Shapes: M rows, K inner, N output features, E experts, R rows sorted by expert, I width, G slices of 128.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clearseek.fp8.backend import Backend, Weight
from clearseek.fp8.backends.probe import mismatch
from clearseek.fp8.backends.reference import reference
from clearseek.fp8.formats import TILE, Quantised
from clearseek.fp8.matmul import along, blocks

ALIGNMENT = 16


class Side(NamedTuple):
    """One side of a weight, padded."""

    data: Tensor
    scale: Tensor
    """Scales [.., ceil(N / 128), G rounded up to a multiple of four]."""
    outputs: int
    """N before padding."""


class CublasProducts:
    """Products by cuBLAS of another backend's operands: BF16, weight gradients FP32, experts one after the other."""

    def __init__(self, blocks: Callable[[Tensor, bool], Weight]) -> None:
        self.blocks = blocks

    def weight(self, w_ENK: Tensor, power_of_two: bool) -> Weight:
        weight = self.blocks(w_ENK, power_of_two)
        return Weight(_side(weight.forward), _side(weight.backward))

    def pick(self, b: Side, experts: slice) -> Side:
        return Side(b.data[experts], b.scale[experts], b.outputs)

    def mm(self, a: Quantised, b: Side) -> Tensor:
        rows, a = len(a.data), _tiles(a)
        recipe = F.ScalingType.BlockWise1x128, F.ScalingType.BlockWise128x128
        y_MN = F.scaled_mm(a.data, b.data.t(), a.scale, recipe[0], b.scale.t(), recipe[1], output_dtype=torch.bfloat16)
        return y_MN[:rows, : b.outputs].contiguous()

    def mm_weight(self, a: Quantised, b: Quantised) -> Tensor:
        outputs, inputs, a, b = len(a.data), len(b.data), _tiles(a), _tiles(b)
        tile = F.ScalingType.BlockWise1x128
        y_NK = F.scaled_mm(a.data, b.data.t(), a.scale, tile, b.scale, tile, output_dtype=torch.float32)
        return y_NK[:outputs, :inputs].contiguous()

    def grouped_mm(self, a: Quantised, b: Side, ends_E: Tensor) -> Tensor:
        y_RN = torch.zeros(len(a.data), b.outputs, dtype=torch.bfloat16, device=a.data.device)
        for e, rows in blocks(ends_E):
            y_RN[rows] = self.mm(a.at(rows), Side(b.data[e], b.scale[e], b.outputs))
        return y_RN

    def grouped_mm_weight(self, a: Quantised, b: Quantised, ends_E: Tensor) -> Tensor:
        y_ENK = torch.zeros(len(ends_E), len(a.data), len(b.data), dtype=torch.float32, device=a.data.device)
        for e, rows in blocks(ends_E):
            y_ENK[e] = self.mm_weight(along(a, rows), along(b, rows))
        return y_ENK


def cublas(dtype: torch.dtype = torch.bfloat16) -> Backend:
    """cuBLAS (part of PyTorch's build) with the operands of another backend, which the name states."""
    rest = _rest()
    products = CublasProducts(rest.products.weight)
    return Backend(f"cublas, the rest by {rest.name}", dtype, rest.quantiser, products, _why_not, rest.versions)


def _why_not(device: torch.device) -> str | None:
    if device.type != "cuda" or torch.version.cuda is None:
        return "it needs an NVIDIA GPU"
    if torch.cuda.get_device_capability(device)[0] != 9:
        return f"PyTorch offers these scales on Hopper only (H100, H200), not on {torch.cuda.get_device_name(device)}"
    return mismatch(cublas, device)


def _rest() -> Backend:
    """The backend that quantises: Triton's kernels where they run, else PyTorch's operations."""
    try:
        from clearseek.fp8.backends.triton.backend import triton
    except ImportError:
        return reference()
    usable = torch.cuda.is_available() and triton().why_not(torch.device("cuda")) is None
    return triton() if usable else reference()


def _padded(x: Tensor, rows: int, columns: int) -> Tensor:
    """`x`, contiguous, padded with zeros to multiples of `rows` and `columns`."""
    missing = -x.shape[-2] % rows, -x.shape[-1] % columns
    if any(missing):
        raw = x.view(torch.uint8) if x.element_size() == 1 else x
        x = F.pad(raw, (0, missing[1], 0, missing[0])).view(x.dtype)
    return x.contiguous()


def _tiles(q: Quantised) -> Quantised:
    """Tiles or columns in cuBLAS's layout."""
    return Quantised(_padded(q.data, ALIGNMENT, TILE), _padded(q.scale, ALIGNMENT, 1).t().contiguous().t())


def _side(b: Quantised) -> Side:
    return Side(_padded(b.data, ALIGNMENT, TILE), _padded(b.scale, 1, 4), b.data.shape[-2])
