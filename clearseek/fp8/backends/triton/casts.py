"""Rounding inside kernels, to the bit what PyTorch does.

A GPU rounds to nearest even in one instruction. Triton's interpreter (3.6 and 3.7), which runs these kernels where no
GPU is, truncates FP32 to BF16, and rounds FP32 to eight bits half up, losing the carry. So under the interpreter, and
only there, this file rounds in integers. The interpreter's conversions *from* eight bits are exact, except for NaN,
which becomes 480.
"""

from __future__ import annotations

import triton
import triton.language as tl

from clearseek.fp8.formats import AMAX_FLOOR, E4M3_MAX

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""Whether this process's kernels run in the interpreter: TRITON_INTERPRET=1 at import."""
FLOOR, LARGEST = tl.constexpr(AMAX_FLOOR), tl.constexpr(E4M3_MAX)


@triton.jit
def amax_of(values, AXIS: tl.constexpr):
    """Largest magnitude of FP32 values along an axis; NaN if any value is, which a maximum of floats would drop."""
    bits = values.to(tl.int32, bitcast=True) & 0x7FFFFFFF  # ordered as the magnitudes are, NaN above all
    return tl.max(bits, axis=AXIS).to(tl.float32, bitcast=True)


@triton.jit
def scale_of(amax, POWER_OF_TWO: tl.constexpr):
    """As :func:`clearseek.fp8.formats.scale_of`: IEEE division, not the approximate one that ``/`` compiles to."""
    scale = tl.div_rn(tl.maximum(amax, FLOOR, propagate_nan=tl.PropagateNan.ALL), LARGEST)
    if POWER_OF_TWO:
        bits = scale.to(tl.int32, bitcast=True)
        scale = ((bits + 0x007FFFFF) & 0x7F800000).to(tl.float32, bitcast=True) + 0.0 * scale  # NaN where not finite
    return scale


@triton.jit
def quantised(x, scale, POWER_OF_TWO: tl.constexpr):
    """FP32 `x` over its scale, in E4M3.

    The inverse of a power of two is exact, so one division a tile is enough. The conversion saturates like the
    reference's clamp, and keeps NaN.
    """
    if POWER_OF_TWO:
        y = x * tl.div_rn(1.0, scale)
    else:
        y = tl.div_rn(x, tl.broadcast_to(scale, x.shape))
    return to_e4m3(y)


@triton.jit
def to_e4m3(y):
    """FP32 to E4M3, to nearest even, saturating."""
    if INTERPRETED:
        rounded = _to_e4m3_in_integers(y)
    else:
        rounded = y.to(tl.float8e4nv)
    return rounded


@triton.jit
def to_bfloat16(y):
    """FP32 to BF16, to nearest even."""
    if INTERPRETED:
        bits = y.to(tl.int32, bitcast=True)
        is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
        magnitude = tl.minimum(bits & 0x7FFFFFFF, 0x7F800000)
        code = (magnitude + 0x7FFF + ((magnitude >> 16) & 1)) >> 16
        code = tl.where(is_nan, 0x7FC0, code) | ((bits >> 16) & 0x8000)
        rounded = code.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        rounded = y.to(tl.bfloat16)
    return rounded


@triton.jit
def _to_e4m3_in_integers(y):
    bits = y.to(tl.int32, bitcast=True)
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    magnitude = tl.minimum(bits & 0x7FFFFFFF, 0x7F800000)
    # Normal numbers: round the fraction, where a carry moves into the exponent, then change the bias from 127 to 7.
    even = (magnitude >> 20) & 1
    normal = ((magnitude + 0x7FFFF + even) >> 20) - (120 << 3)
    # Below 2^-6: adding 2^14, whose last place is the smallest step, 2^-9, rounds to that step.
    small = (tl.abs(y) + 16384.0).to(tl.int32, bitcast=True) - ((127 + 14) << 23)
    code = tl.where(magnitude < (121 << 23), small, tl.minimum(normal, 0x7E))
    code = tl.where(is_nan, 0x7F, code) | ((bits >> 24) & 0x80)
    return code.to(tl.uint8).to(tl.float8e4nv, bitcast=True)
