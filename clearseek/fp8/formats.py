"""Eight-bit floats and their scales.

E4M3 has 3 fraction bits and reaches from 2^-9 to 448; a tensor fits only if each small piece of it has its own scale.
DeepSeek-V3 takes pieces of 1 x 128 elements (*tiles*) of activations and gradients and of 128 x 128 (*blocks*) of
weights, and computes each scale from the piece itself at the moment of quantising: ``scale = amax / 448``, and ``value
= data * scale`` (report, section 3.3.2). The amax counts as at least :data:`AMAX_FLOOR`, so that a piece of zeros has a
nonzero scale. A *power-of-two* scale is the next power of two up: then dividing and multiplying are exact and only the
8-bit rounding is lost (V3 for three kinds of tensor, all of them from V3.1 on, as ``ue8m0``).

A scale cannot be rounded up afterwards: data divided by the old scale would decode to other values with the new one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

TILE = 128
"""Elements that share a scale along each tiled dimension."""
AMAX_FLOOR = 1e-4
"""Smallest amax that a scale is computed from."""
E4M3 = torch.float8_e4m3fn
E4M3_MAX, E5M6_MAX = 448.0, 65024.0


class Quantised(NamedTuple):
    """Eight-bit data and their FP32 scales: ``value = data * scale``, with each piece's scale."""

    data: Tensor
    scale: Tensor

    def at(self, index: int | slice) -> Quantised:
        """The same rows, or the same matrices of a stack, of data and of scales."""
        return Quantised(self.data[index], self.scale[index])


def scale_of(amax: Tensor, power_of_two: bool, largest: float = E4M3_MAX) -> Tensor:
    """FP32 scale for pieces whose largest magnitude is `amax` (FP32), element by element.

    The scale is ``max(amax, AMAX_FLOOR) / largest`` in FP32 arithmetic; `power_of_two` takes the next power of two up.
    """
    # Divide by a tensor: for a Python number CUDA would multiply by its rounded inverse.
    scale = amax.clamp(min=AMAX_FLOOR) / amax.new_full((), largest)
    return next_power_of_two(scale) if power_of_two else scale


def next_power_of_two(x: Tensor) -> Tensor:
    """Smallest power of two >= x, for positive normal FP32: round the exponent up where any fraction bit is set.

    NaN and infinity become NaN, so that a finite scale never hides them.
    """
    bits = x.view(torch.int32)
    return ((bits + 0x007FFFFF) & 0x7F800000).view(torch.float32) + 0 * x


def to_e4m3(x: Tensor) -> Tensor:
    """FP32 to E4M3, to nearest, ties to even; magnitudes above 448 become 448."""
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)


def to_e5m6(x: Tensor) -> Tensor:
    """Pack FP32 numbers to 12 bits (sign, 5 exponent, 6 fraction bits), to nearest, ties to even.

    DeepSeek keeps the input of the projection after attention in this form for the backward (report, section 3.3.3).
    E5M6 is FP16 with four fraction bits fewer, so the largest finite value is 65024.

    Args:
        x: FP32, the last dimension even, no magnitude above 65024.

    Returns:
        uint8 [..., last / 2 * 3]: two numbers in three bytes, low bits first.
    """
    # Adding 1.5 * 2^17 times a number's power of two leaves FP32 six fraction bits of it, and subtracting restores it.
    binade = (x.view(torch.int32) & 0x7F800000).clamp(min=(127 - 14) << 23).view(torch.float32)
    shift = binade * (1.5 * 2.0**17)
    rounded = torch.copysign((x + shift) - shift, x).half()  # exact; the sign of a zero is its number's
    bits = rounded.view(torch.int16).to(torch.int32) >> 4 & 0xFFF
    low, high = bits[..., 0::2], bits[..., 1::2]
    packed = torch.stack([low, low >> 8 | high << 4, high >> 4], dim=-1) & 0xFF
    return packed.to(torch.uint8).flatten(-2)


def from_e5m6(packed: Tensor) -> Tensor:
    """Undo :func:`to_e5m6`: FP16, exactly."""
    one, two, three = packed.unflatten(-1, (-1, 3)).to(torch.int32).unbind(-1)
    numbers = torch.stack([one | (two & 0xF) << 8, two >> 4 | three << 4], dim=-1).flatten(-2)
    return (numbers << 4).to(torch.int16).view(torch.float16)
