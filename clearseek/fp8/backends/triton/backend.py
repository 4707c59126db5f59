"""The backend `triton`: every operation of :class:`~clearseek.fp8.backends.reference.Reference` by a kernel of its own.

Quantised data and scales are the reference's to the bit. Products differ from it by rounding: a tensor core sums the
products of a slice in its own order and width, and promotion multiplies and adds in one rounding. SwiGLU is computed in
FP32 throughout, like the compiled formulas of :mod:`clearseek.ops.swiglu`.

Shapes: M rows, K inner, N output features, E experts, R rows sorted by expert, I expert width.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from clearseek.fp8.backends.probe import mismatch
from clearseek.fp8.backends.reference import Reference, Weight
from clearseek.fp8.backends.triton import products, quantise, swiglu, weight_gradient
from clearseek.fp8.backends.triton.casts import INTERPRETED
from clearseek.fp8.formats import E4M3, Quantised


class Triton(Reference):
    """Kernels of ClearSeek's own; on a CPU under Triton's interpreter, to test them."""

    name = "triton"

    def versions(self) -> dict[str, str]:
        """Triton compiles the kernels."""
        return {"triton": triton.__version__}

    def why_not(self, device: torch.device) -> str | None:
        """Why the kernels cannot run on `device`: found by running them once on small operands."""
        if INTERPRETED.value:
            return None if device.type == "cpu" else "TRITON_INTERPRET=1 is set, which is for CPUs"
        if device.type != "cuda" or torch.version.cuda is None:
            return "it needs an NVIDIA GPU"
        if torch.cuda.get_device_capability(device) < (8, 9):
            name = torch.cuda.get_device_name(device)
            return f"it needs a GPU with FP8 (compute capability 8.9 or above), and {name} has none"
        return mismatch(Triton, device)

    def tiles(self, x_MK: Tensor, power_of_two: bool, dtype: torch.dtype = E4M3) -> Quantised:
        """1 x 128 tiles: data [M, K], scales [M, ceil(K / 128)]."""
        return quantise.tiles(x_MK, power_of_two, dtype)

    def columns(self, x_MK: Tensor, power_of_two: bool, dtype: torch.dtype = E4M3) -> Quantised:
        """128 x 1 tiles, transposed: data [K, M], scales [K, ceil(M / 128)]."""
        return quantise.columns(x_MK, power_of_two, dtype)

    def gradient(self, g_MK: Tensor, power_of_two: bool, dtype: torch.dtype = E4M3) -> tuple[Quantised, Quantised]:
        """Tiles and columns from one pass."""
        return quantise.tiles_and_columns(g_MK, power_of_two, dtype)

    def decode(self, q: Quantised) -> Tensor:
        """BF16 values of stored tiles."""
        return quantise.decode(q)

    def retile(self, q: Quantised, power_of_two: bool) -> Quantised:
        """Columns of stored tiles, from one pass."""
        return quantise.retile(q, power_of_two)

    def weight(self, w_ENK: Tensor, power_of_two: bool) -> Weight:
        """128 x 128 blocks of a matrix or a stack of them, as they are and transposed."""
        return quantise.blocks(w_ENK, power_of_two)

    def mm(self, a: Quantised, b: Any) -> Tensor:
        """``a @ b.T`` in BF16."""
        return products.scaled_mm(a, b)

    def mm_weight(self, a: Any, b: Any) -> Tensor:
        """``a @ b.T`` in FP32 of two operands from :meth:`columns`."""
        return weight_gradient.weight_gradient(a, b)

    def grouped_mm(self, a: Quantised, b: Any, ends_E: Tensor) -> Tensor:
        """Rows of expert e times matrix e, BF16 [R, N]; experts begin at multiples of 128 rows."""
        return products.grouped_scaled_mm(a, b, ends_E)

    def grouped_mm_weight(self, a: Any, b: Any, ends_E: Tensor) -> Tensor:
        """For every expert the product over its own rows, FP32 [E, N, K]."""
        return weight_gradient.grouped_weight_gradient(a, b, ends_E)

    def swiglu(self, gate_up_RI2: Tensor, weight_R1: Tensor, power_of_two: bool) -> tuple[Quantised, Quantised]:
        """(gate|up as tiles, silu(gate) * up * weight as tiles)."""
        return swiglu.swiglu(gate_up_RI2, weight_R1, power_of_two)

    def swiglu_backward(
        self, d_act_RI: Tensor, gate_up: Quantised, weight_R1: Tensor, power_of_two: bool, dtype: torch.dtype = E4M3
    ) -> tuple[Quantised, Quantised, Quantised, Tensor]:
        """(d gate|up as tiles, as columns, recomputed activation as columns, d weight [R] FP32)."""
        return swiglu.swiglu_backward(d_act_RI, gate_up, weight_R1, power_of_two, dtype)
