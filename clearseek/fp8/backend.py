"""What a backend is: a quantiser, which turns tensors into operands, and products, which multiply operands.

:mod:`clearseek.fp8.linear` and :mod:`clearseek.fp8.feed_forward` decide everything else alike on every device: which
tensors are quantised how, what is kept for the backward, the order of the three products. Operands that are stored
between forward and backward are :class:`~clearseek.fp8.formats.Quantised`; *columns* and the sides of a :class:`Weight`
have a backend's own type, because only its products read them.

A backend has every operation. A backend that uses another's operations says so in its name or its page, and none is
replaced silently by a slower one.

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
    """A weight as operand of the forward product, and transposed for the input gradient."""

    forward: Any
    backward: Any


class Quantiser(Protocol):
    """Tensors to operands. Scales are FP32; `power_of_two` rounds them up to powers of two."""

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
    """Products of operands, with FP32 sums."""

    def weight(self, w_ENK: Tensor, power_of_two: bool, /) -> Weight:
        """128 x 128 blocks of a matrix [N, K] or a stack of them, for both directions."""

    def pick(self, b: Any, experts: slice, /) -> Any:
        """One side of a :class:`Weight` for a slice of the experts."""

    def mm(self, a: Quantised, b: Any, /) -> Tensor:
        """``a @ b.T`` [M, N], rounded once to the type of products; `b` is one side of a :class:`Weight`."""

    def mm_weight(self, a: Any, b: Any, /) -> Tensor:
        """The weight gradient [N, K], FP32, from the columns of g [M, N] and of x [M, K]."""

    def grouped_mm(self, a: Quantised, b: Any, ends_E: Tensor, /) -> Tensor:
        """Rows of expert e times matrix e, [R, N]; rows after the last end are zero."""

    def grouped_mm_weight(self, a: Any, b: Any, ends_E: Tensor, /) -> Tensor:
        """:meth:`mm_weight` of every expert's own rows, [E, N, K]; experts' rows end at multiples of 128."""


@dataclass(frozen=True)
class Backend:
    """A quantiser and products that fit each other, and the devices that run them."""

    name: str
    """Name for people and for the record, including the backends whose operations this one uses."""
    dtype: torch.dtype
    """Type of decoded values and of products except weight gradients: the type of the model outside FP8."""
    quantiser: Quantiser
    products: Products
    why_not: Callable[[torch.device], str | None] = lambda device: None
    """Why this backend cannot run on a device; None if it can."""
    versions: Callable[[], dict[str, str]] = dict
    """Versions of the libraries, besides PyTorch, whose kernels decide bits."""
    free_scales: bool = True
    """Whether scales other than powers of two are supported."""
