"""The plainest backend: :mod:`clearseek.fp8.quantise` and :mod:`clearseek.fp8.matmul`, on any device.

All other backends are tested against this one, which is too slow for more than small experiments.

Shapes: M rows, K inner, N output features, E experts, R rows sorted by expert, I expert width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clearseek.fp8.backend import Backend, Weight
from clearseek.fp8.formats import Quantised
from clearseek.fp8.matmul import grouped_scaled_mm, grouped_scaled_mm_inner, scaled_mm
from clearseek.fp8.quantise import dequantise, quantise_blocks, quantise_columns, quantise_tiles, transposed
from clearseek.ops.swiglu import weighted_swiglu, weighted_swiglu_backward


class TorchQuantiser:
    """A quantiser without fused kernels: three operations, and SwiGLU by PyTorch between them."""

    def __init__(
        self,
        tiles: Callable[[Tensor, bool], Quantised],
        columns: Callable[[Tensor, bool], Any],
        decode: Callable[[Quantised], Tensor],
    ) -> None:
        self.tiles, self.columns, self.decode = tiles, columns, decode

    def gradient(self, g_MK: Tensor, power_of_two: bool) -> tuple[Quantised, Any]:
        return self.tiles(g_MK, power_of_two), self.columns(g_MK, power_of_two)

    def retile(self, q: Quantised, power_of_two: bool) -> Any:
        return self.columns(self.decode(q), power_of_two)

    def swiglu(self, gate_up_RI2: Tensor, weight_R1: Tensor, power_of_two: bool) -> tuple[Quantised, Quantised]:
        return self.tiles(gate_up_RI2, power_of_two), self.tiles(weighted_swiglu(gate_up_RI2, weight_R1), power_of_two)

    def swiglu_backward(
        self, d_act_RI: Tensor, gate_up: Quantised, weight_R1: Tensor, power_of_two: bool
    ) -> tuple[Quantised, Any, Any, Tensor]:
        act_RI, d_gate_up_RI2, d_weight_R = weighted_swiglu_backward(d_act_RI, self.decode(gate_up), weight_R1)
        tiles, columns = self.gradient(d_gate_up_RI2, power_of_two)
        return tiles, columns, self.columns(act_RI, power_of_two), d_weight_R


class ReferenceProducts:
    """Slices of 128 in FP32, in ascending order."""

    pick = staticmethod(Quantised.at)
    grouped_mm_weight = staticmethod(grouped_scaled_mm_inner)

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        self.dtype = dtype

    def weight(self, w_ENK: Tensor, power_of_two: bool) -> Weight:
        blocks = quantise_blocks(w_ENK, power_of_two)
        return Weight(blocks, transposed(blocks))

    def mm(self, a: Quantised, b: Quantised) -> Tensor:
        return scaled_mm(a, b, self.dtype)

    def mm_weight(self, a: Quantised, b: Quantised) -> Tensor:
        return scaled_mm(a, b, torch.float32)

    def grouped_mm(self, a: Quantised, b: Quantised, ends_E: Tensor) -> Tensor:
        return grouped_scaled_mm(a, b, ends_E, self.dtype)


def reference(dtype: torch.dtype = torch.bfloat16) -> Backend:
    """PyTorch's operations only, which define the results of every other backend."""
    quantiser = TorchQuantiser(quantise_tiles, quantise_columns, functools.partial(dequantise, dtype=dtype))
    return Backend("reference", dtype, quantiser, ReferenceProducts(dtype))
