"""What a backend does, and the plainest one.

A backend turns tensors into operands and multiplies operands. Everything around it (which tensors are quantised how,
what is kept for the backward, the order of the three products) is the same on every device and lives in
:mod:`clearseek.fp8.linear` and :mod:`clearseek.fp8.feed_forward`. Operands that are stored between forward and
backward are :class:`Quantised`; *columns* and *weights* are a backend's own affair, because only it reads them.

:class:`Reference` does everything with :mod:`clearseek.fp8.quantise` and :mod:`clearseek.fp8.matmul`, on any device.
It is what the others are tested against, and too slow for more than that and small experiments.

Shapes: M rows, K inner, N output features, E experts, R rows sorted by expert, I expert width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from clearseek.fp8.formats import E4M3, Quantised
from clearseek.fp8.matmul import grouped_scaled_mm, grouped_scaled_mm_inner, scaled_mm
from clearseek.fp8.quantise import dequantise, quantise_blocks, quantise_columns, quantise_tiles, transposed
from clearseek.ops.swiglu import weighted_swiglu, weighted_swiglu_backward


class Weight(NamedTuple):
    """A weight as operand of the forward product and, transposed, of the input gradient."""

    forward: Any
    backward: Any


class Reference:
    """Torch operations only, per-128 slices in FP32: the meaning of every other backend."""

    name = "reference"
    free_scales = True
    """Whether scales that are no powers of two are served."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        self.dtype = dtype
        """Type of decoded values and of products, weight gradients aside: that of what is not FP8 in the model."""

    def versions(self) -> dict[str, str]:
        """Versions of the libraries whose kernels decide bits, for the record."""
        return {}

    def why_not(self, device: torch.device) -> str | None:
        """Why this backend cannot run on `device`; None if it can."""
        return None

    def tiles(self, x_MK: Tensor, power_of_two: bool, dtype: torch.dtype = E4M3) -> Quantised:
        """1 x 128 tiles: data [M, K], scales [M, ceil(K / 128)]."""
        return quantise_tiles(x_MK, power_of_two, dtype)

    def columns(self, x_MK: Tensor, power_of_two: bool, dtype: torch.dtype = E4M3) -> Any:
        """128 x 1 tiles, transposed, as operand of :meth:`mm_weight`."""
        return quantise_columns(x_MK, power_of_two, dtype)

    def gradient_tiles(self, g_MK: Tensor, power_of_two: bool, dtype: torch.dtype = E4M3) -> Quantised:
        """Tiles of an activation gradient."""
        return self.tiles(g_MK, power_of_two, dtype)

    def gradient(self, g_MK: Tensor, power_of_two: bool, dtype: torch.dtype = E4M3) -> tuple[Quantised, Any]:
        """Tiles and columns of an activation gradient, which a fused kernel reads once."""
        return self.gradient_tiles(g_MK, power_of_two, dtype), self.columns(g_MK, power_of_two, dtype)

    def decode(self, q: Quantised) -> Tensor:
        """Values of stored tiles, in the type of products."""
        return dequantise(q, self.dtype)

    def retile(self, q: Quantised, power_of_two: bool) -> Any:
        """Columns of stored tiles, in their own eight-bit type, as operand of :meth:`mm_weight`."""
        return self.columns(self.decode(q), power_of_two, q.data.dtype)

    def weight(self, w_ENK: Tensor, power_of_two: bool) -> Weight:
        """128 x 128 blocks of a matrix or a stack of them, for both directions."""
        blocks = quantise_blocks(w_ENK, power_of_two)
        return Weight(blocks, transposed(blocks))

    def pick(self, b: Any, experts: slice) -> Any:
        """Some experts of one side of a :class:`Weight`."""
        return Quantised(b.data[experts], b.scale[experts])

    def mm(self, a: Quantised, b: Any) -> Tensor:
        """``a @ b.T``, rounded once to the type of products; `b` is one side of a :class:`Weight`."""
        return scaled_mm(a, b, self.dtype)

    def mm_weight(self, a: Any, b: Any) -> Tensor:
        """``a @ b.T`` in FP32 of two operands from :meth:`columns`."""
        return scaled_mm(a, b, torch.float32)

    def grouped_mm(self, a: Quantised, b: Any, ends_E: Tensor) -> Tensor:
        """Rows of expert e times matrix e, [R, N] in the type of products."""
        return grouped_scaled_mm(a, b, ends_E, self.dtype)

    def grouped_mm_weight(self, a: Any, b: Any, ends_E: Tensor) -> Tensor:
        """For every expert the product over its own rows, FP32 [E, N, K]; blocks end at multiples of 128."""
        return grouped_scaled_mm_inner(a, b, ends_E)

    def swiglu(self, gate_up_RI2: Tensor, weight_R1: Tensor, power_of_two: bool) -> tuple[Quantised, Quantised]:
        """(gate|up as tiles, to be kept; silu(gate) * up * weight as tiles)."""
        return self.tiles(gate_up_RI2, power_of_two), self.tiles(weighted_swiglu(gate_up_RI2, weight_R1), power_of_two)

    def swiglu_backward(
        self, d_act_RI: Tensor, gate_up: Quantised, weight_R1: Tensor, power_of_two: bool, dtype: torch.dtype = E4M3
    ) -> tuple[Quantised, Any, Any, Tensor]:
        """(d gate|up as tiles, as columns, recomputed activation as columns, d weight [R] FP32)."""
        act_RI, d_gate_up_RI2, d_weight_R = weighted_swiglu_backward(d_act_RI, self.decode(gate_up), weight_R1)
        tiles, columns = self.gradient(d_gate_up_RI2, power_of_two, dtype)
        return tiles, columns, self.columns(act_RI, power_of_two), d_weight_R
