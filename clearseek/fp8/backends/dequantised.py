"""FP8 on a processor without FP8: decode to a wider type and multiply at full speed.

With power-of-two scales an eight-bit number times its scale is exactly a BF16 number, and an FP32 one. So decoding
loses nothing, and the library's matrix product, which sums in FP32, computes the sum that FP8 products define, in the
library's order instead of slice by slice. Free scales do not fit BF16 and are refused.

The wider type is the model's: BF16 where the processor has instructions for it, FP32 where emulating BF16 would be
thirty times slower. FP32 products are not rounded. In BF16 a weight gradient is less exact than the definition: the
library has no product of BF16 operands with an FP32 result, so the gradient is rounded to BF16, as in BF16 training,
before it is summed in FP32.

A second pass over memory costs as much as the arithmetic, so quantising stays in the operand's type throughout:
dividing by a power of two is multiplying by its exact inverse.

Shapes: M rows, K columns, E experts, R rows sorted by expert; G stands for any size over 128, rounded up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from clearseek.fp8.backend import Backend, Weight
from clearseek.fp8.backends.probe import mismatch
from clearseek.fp8.backends.reference import TorchQuantiser
from clearseek.fp8.formats import E4M3, TILE, Quantised, scale_of
from clearseek.fp8.quantise import dequantise, quantise_blocks, quantise_tiles

_INTEGERS = {torch.bfloat16: (torch.int16, 4, 2**15 - 1), torch.float32: (torch.int32, 20, 2**31 - 1)}
"""By float type: integers of its size, the shift that makes E4M3's seven lower bits its own, all bits but the sign."""


class DequantisedProducts:
    """The library's products of decoded operands; weights are decoded once a step."""

    def __init__(self, decode: Callable[[Quantised], Tensor], dtype: torch.dtype) -> None:
        self.decode, self.dtype = decode, dtype

    def weight(self, w_ENK: Tensor, power_of_two: bool) -> Weight:
        decoded = dequantise(quantise_blocks(w_ENK, power_of_two), self.dtype)
        return Weight(decoded, decoded.mT)

    def pick(self, b: Tensor, experts: slice) -> Tensor:
        return b[experts]

    def mm(self, a: Quantised, b: Tensor) -> Tensor:
        return self.decode(a) @ b.t()

    def mm_weight(self, a: Tensor, b: Tensor) -> Tensor:
        return (a.t() @ b).float()

    def grouped_mm(self, a: Quantised, b: Tensor, ends_E: Tensor) -> Tensor:
        x_RK = self.decode(a)
        y_RN: Tensor = x_RK @ b[0].t() if len(b) == 1 else F.grouped_mm(x_RK, b.mT, offs=ends_E)
        return y_RN

    def grouped_mm_weight(self, a: Tensor, b: Tensor, ends_E: Tensor) -> Tensor:
        if len(ends_E) == 1:
            return self.mm_weight(a, b).unsqueeze(0)
        empty_E = ends_E.diff(prepend=ends_E.new_zeros(1)) == 0  # no rows: no gradient, but the kernel leaves anything
        y_ENK: Tensor = F.grouped_mm(a.t(), b, offs=ends_E).float()
        y_ENK[empty_E] = 0.0
        return y_ENK


def dequantised(dtype: torch.dtype = torch.bfloat16) -> Backend:
    """Operands kept as FP8 and decoded for each product."""
    columns, decode = (functools.partial(operation, dtype=dtype) for operation in (_columns, _decode))
    quantiser, products = TorchQuantiser(_tiles, columns, decode), DequantisedProducts(decode, dtype)
    return Backend("dequantised", dtype, quantiser, products, _why_not, free_scales=False)


def _why_not(device: torch.device) -> str | None:
    return (
        None if device.type == "cpu" else mismatch(dequantised, device)
    )  # a CPU runs everything; other devices are probed


def _tiles(x_MK: Tensor, power_of_two: bool) -> Quantised:
    """1 x 128 tiles."""
    rows, columns = x_MK.shape
    if x_MK.dtype not in _INTEGERS or columns % TILE or not power_of_two:
        return quantise_tiles(x_MK, power_of_two)
    x_MGT = x_MK.view(rows, columns // TILE, TILE)
    scale_MG = scale_of(_largest(x_MGT, -1), True)
    data_MGT = (x_MGT * _inverse(scale_MG, x_MK.dtype).unsqueeze(-1)).to(E4M3)
    return Quantised(data_MGT.view(rows, columns), scale_MG)


def _columns(x_MK: Tensor, power_of_two: bool, dtype: torch.dtype) -> Tensor:
    """128 x 1 tiles with power-of-two scales, already decoded: [M, K], not transposed."""
    rows, columns = x_MK.shape
    if rows % TILE:
        padded = F.pad(x_MK, (0, 0, 0, -rows % TILE))
        return _columns(padded, power_of_two, dtype)[:rows]
    x_GTK = x_MK.view(-1, TILE, columns)
    scale_G1K = scale_of(_largest(x_GTK, 1), True).unsqueeze(1)
    data_GTK = _from_e4m3((x_GTK * _inverse(scale_G1K, x_MK.dtype)).to(E4M3), dtype)
    return data_GTK.mul_(scale_G1K.to(dtype)).view(rows, columns)


def _decode(q: Quantised, dtype: torch.dtype) -> Tensor:
    """Values of stored tiles."""
    rows, columns = q.data.shape
    if columns % TILE:
        return dequantise(q, dtype)
    x_MGT = _from_e4m3(q.data, dtype).view(rows, -1, TILE)
    return x_MGT.mul_(q.scale.to(dtype).unsqueeze(-1)).view(rows, columns)


def _largest(x: Tensor, dim: int) -> Tensor:
    """FP32 amax along a dimension, by integers: floats without a sign have the same order, and integers are faster."""
    integers, _, magnitude = _INTEGERS[x.dtype]
    return (x.view(integers) & magnitude).amax(dim).view(x.dtype).float()


def _from_e4m3(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Exact conversion, many times as fast as PyTorch's on a CPU: shift the bits, then correct the exponents' bias.

    E4M3's exponent and fraction, shifted to the lower end of the wider exponent's field and the upper end of the wider
    fraction's, are the number times 2^-120, subnormal numbers included.
    """
    integers, shift, _ = _INTEGERS[dtype]
    bits = x.view(torch.int8).to(integers).bitwise_left_shift_(shift)
    return bits.bitwise_and_(-(0x781 << shift)).view(dtype).mul_(2.0**120)  # sign, 4 zeros, 7 bits


def _inverse(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """1 / scale, exactly, for powers of two."""
    return scale.reciprocal().to(dtype)
