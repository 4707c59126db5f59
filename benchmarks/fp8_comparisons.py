"""What DeepSeek-V3 decided against, to measure why: FP8 backends for experiments only.

Gradients with one scale for 128 x 128 elements (the report saw a model diverge with them, appendix B.2), gradients in
E5M2, and sums that stay in a tensor core's 14-bit accumulator instead of being promoted to FP32 (section 3.3.2). Each
is the backend `dequantised` with another quantiser or other products, and like it needs power-of-two scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from clearseek.fp8.backend import Backend
from clearseek.fp8.backends import choose
from clearseek.fp8.backends.dequantised import DequantisedProducts, dequantised
from clearseek.fp8.backends.reference import TorchQuantiser
from clearseek.fp8.formats import TILE, Quantised, scale_of
from clearseek.fp8.quantise import dequantise, quantise_blocks

E5M2, E5M2_MAX = torch.float8_e5m2, 57344.0


@contextmanager
def in_place_of_dequantised(make: Callable[[torch.dtype], Backend]) -> Iterator[None]:
    """Have ``fp8.backend = "dequantised"`` mean another backend."""
    with mock.patch.dict(choose.BACKENDS, dequantised=make):
        yield


def block_gradients(dtype: torch.dtype) -> Backend:
    """Activation gradients in 128 x 128 blocks.

    Linear layers make the weight gradient's columns from the unquantised gradient as ever; feed-forwards, which keep
    the gradient in eight bits only, from these blocks.
    """
    made = dequantised(dtype)
    plain = made.quantiser

    def tiles(x_MK: Tensor, power_of_two: bool) -> Quantised:
        if not _in_backward():
            return plain.tiles(x_MK, power_of_two)
        blocks = quantise_blocks(x_MK, power_of_two)
        return Quantised(blocks.data, blocks.scale.repeat_interleave(TILE, 0)[: len(x_MK)])

    quantiser = TorchQuantiser(tiles, plain.columns, plain.decode)
    return replace(made, name="dequantised, gradients 128 x 128", quantiser=quantiser)


def e5m2_gradients(dtype: torch.dtype) -> Backend:
    """Activation gradients with five exponent bits and two fraction bits."""
    made = dequantised(dtype)
    plain = made.quantiser

    def decode(q: Quantised) -> Tensor:
        return dequantise(q, dtype) if q.data.dtype == E5M2 else plain.decode(q)

    quantiser, products = _E5M2Gradients(plain.tiles, plain.columns, decode), DequantisedProducts(decode, dtype)
    return replace(made, name="dequantised, gradients E5M2", quantiser=quantiser, products=products)


def tensor_core_sums(dtype: torch.dtype) -> Backend:
    """Sums truncated to 13 fraction bits after every 32 products, as if never promoted."""
    made = dequantised(dtype)
    products = _TensorCoreProducts(made.quantiser.decode, dtype)
    return replace(made, name="dequantised, sums of 14 bits", products=products)


def truncated_mm(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """``a @ b.T`` in FP32 as if a Hopper tensor core's accumulator kept the whole sum.

    After each 32 elements of the inner dimension the running sum is truncated to 13 fraction bits ("Insights into
    DeepSeek-V3", section 3.1.1), which is what promotion to FP32 every 128 elements avoids.
    """
    y_MN = torch.zeros(len(a_MK), len(b_NK), dtype=torch.float32, device=a_MK.device)
    for a_MI, b_NI in zip(a_MK.float().split(32, dim=1), b_NK.float().split(32, dim=1), strict=True):
        y_MN += a_MI @ b_NI.t()
        y_MN.view(torch.int32).bitwise_and_(-(1 << 10))
    return y_MN


def e5m2_tiles(x_MK: Tensor, power_of_two: bool) -> Quantised:
    """1 x 128 tiles, to nearest even; magnitudes above 57344 times the scale become it."""
    columns = x_MK.shape[1]
    x_MGT = F.pad(x_MK.float(), (0, -columns % TILE)).unflatten(1, (-1, TILE))
    scale_MG = scale_of(x_MGT.abs().amax(-1), power_of_two, E5M2_MAX)
    data_MGT = (x_MGT / scale_MG.unsqueeze(-1)).clamp(-E5M2_MAX, E5M2_MAX).to(E5M2)
    return Quantised(data_MGT.flatten(1)[:, :columns].contiguous(), scale_MG)


def _in_backward() -> bool:
    """Whether autograd is at work: what is quantised in tiles meanwhile is a gradient."""
    return torch._C._current_graph_task_id() != -1


class _E5M2Gradients(TorchQuantiser):
    """The last two operations keep a gradient's columns in its own type; all others are as ever."""

    def __init__(self, tiles: Any, columns: Any, decode: Any) -> None:
        super().__init__(lambda x, power: e5m2_tiles(x, power) if _in_backward() else tiles(x, power), columns, decode)

    def gradient(self, g_MK: Tensor, power_of_two: bool) -> tuple[Quantised, Any]:
        tiles = e5m2_tiles(g_MK.t(), power_of_two)
        return e5m2_tiles(g_MK, power_of_two), dequantise(tiles, g_MK.dtype).t().contiguous()

    def retile(self, q: Quantised, power_of_two: bool) -> Any:
        return (
            self.gradient(self.decode(q), power_of_two)[1] if q.data.dtype == E5M2 else super().retile(q, power_of_two)
        )


class _TensorCoreProducts(DequantisedProducts):
    def mm(self, a: Quantised, b: Tensor) -> Tensor:
        return truncated_mm(self.decode(a), b).to(self.dtype)

    def mm_weight(self, a: Tensor, b: Tensor) -> Tensor:
        return truncated_mm(a.t(), b.t())

    def grouped_mm(self, a: Quantised, b: Tensor, ends_E: Tensor) -> Tensor:
        x_RK = self.decode(a)
        bounds = pairwise([0, *ends_E.tolist()])
        blocks = [truncated_mm(x_RK[start:end], b[e]) for e, (start, end) in enumerate(bounds)]
        spare = torch.zeros(len(x_RK) - int(ends_E[-1]), b.shape[1], device=x_RK.device)
        return torch.cat([*blocks, spare]).to(self.dtype)

    def grouped_mm_weight(self, a: Tensor, b: Tensor, ends_E: Tensor) -> Tensor:
        bounds = pairwise([0, *ends_E.tolist()])
        return torch.stack([truncated_mm(a[start:end].t(), b[start:end].t()) for start, end in bounds])
