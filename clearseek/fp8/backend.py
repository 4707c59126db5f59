"""What a backend is: a quantiser, which turns tensors into operands, and products, which multiply operands.

Everything around them (which tensors are quantised how, what is kept for the backward, the order of the three products)
is the same on every device and lives in :mod:`clearseek.fp8.linear` and :mod:`clearseek.fp8.feed_forward`. Operands
that are stored between forward and backward are :class:`~clearseek.fp8.formats.Quantised`; *columns* and the sides of a
:class:`Weight` are a backend's own affair, because only its products read them.

A backend has every operation. One that is made of another's parts holds these parts and says so in its name or its
page; none is completed by a slower one in silence.

Shapes: M rows, K inner, N output features, E experts, R rows sorted by expert, I expert width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from clearseek.fp8.formats import Quantised


class Weight(NamedTuple):
    """A weight as operand of the forward product and, transposed, of the input gradient."""

    forward: Any
    backward: Any


class Quantiser(Protocol):
    """Tensors to operands. Scales are FP32, with `power_of_two` rounded up to powers of two."""

    def tiles(self, x_MK: Tensor, power_of_two: bool, /) -> Quantised:
        """1 x 128 tiles: data [M, K], scales [M, ceil(K / 128)]."""

    def columns(self, x_MK: Tensor, power_of_two: bool, /) -> Any:
        """128 x 1 tiles, as operand of :meth:`Products.mm_weight`."""

    def gradient(self, g_MK: Tensor, power_of_two: bool, /) -> tuple[Quantised, Any]:
        """Tiles and columns of an activation gradient, which a fused kernel reads once."""

    def decode(self, q: Quantised, /) -> Tensor:
        """Values of stored tiles [M, K], in the type of products."""

    def retile(self, q: Quantised, power_of_two: bool, /) -> Any:
        """Columns of stored tiles."""

    def swiglu(self, gate_up_RI2: Tensor, weight_R1: Tensor, power_of_two: bool, /) -> tuple[Quantised, Quantised]:
        """(gate|up as tiles, to be kept; silu(gate) * up * weight as tiles)."""

    def swiglu_backward(
        self, d_act_RI: Tensor, gate_up: Quantised, weight_R1: Tensor, power_of_two: bool, /
    ) -> tuple[Quantised, Any, Any, Tensor]:
        """(d gate|up as tiles, as columns, recomputed activation as columns, d weight [R] FP32)."""


class Products(Protocol):
    """Operands to products; sums are FP32."""

    def weight(self, w_ENK: Tensor, power_of_two: bool, /) -> Weight:
        """128 x 128 blocks of a matrix [N, K] or a stack of them, for both directions."""

    def pick(self, b: Any, experts: slice, /) -> Any:
        """Some experts of one side of a :class:`Weight`."""

    def mm(self, a: Quantised, b: Any, /) -> Tensor:
        """``a @ b.T`` [M, N], rounded once to the type of products; `b` is one side of a :class:`Weight`."""

    def mm_weight(self, a: Any, b: Any, /) -> Tensor:
        """The weight gradient [N, K], FP32, of the columns of g [M, N] and of x [M, K]."""

    def grouped_mm(self, a: Quantised, b: Any, ends_E: Tensor, /) -> Tensor:
        """Rows of expert e times matrix e, [R, N]; rows after the last end are zero."""

    def grouped_mm_weight(self, a: Any, b: Any, ends_E: Tensor, /) -> Tensor:
        """For every expert :meth:`mm_weight` of its own rows, [E, N, K]; blocks end at multiples of 128."""


@dataclass(frozen=True)
class Backend:
    """A quantiser and products that fit each other, and where they run."""

    name: str
    """For people and for the record; what another backend does for this one is named too."""
    dtype: torch.dtype
    """Type of decoded values and of products, weight gradients aside: that of what is not FP8 in the model."""
    quantiser: Quantiser
    products: Products
    why_not: Callable[[torch.device], str | None] = lambda device: None
    """Why this backend cannot run on a device; None if it can."""
    versions: Callable[[], dict[str, str]] = dict
    """Versions of the libraries whose kernels decide bits, PyTorch aside, for the record."""
    free_scales: bool = True
    """Whether scales that are no powers of two are served."""
