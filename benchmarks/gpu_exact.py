"""How far a result may be from the truth: bits for quantising, bounds from the number formats for sums.

Quantised data and scales are compared byte by byte with the reference computed on the *CPU*, which is what the formats'
definition gives in IEEE arithmetic. Products are compared with float64 products of the same eight-bit numbers.

Shapes: M rows, N outputs, K inner, R rows, I width, G slices of 128.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clearseek.fp8.formats import TILE, Quantised

UNIT = 2.0**-24
"""Half a unit in the last place of FP32, relative."""
TENSOR_CORE = 4 * 33 * 2.0**-13
"""A Hopper tensor core keeps 13 fraction bits of a sum of 32 products, aligned to the largest: at most 33 * 2^-13 of
the sum of magnitudes, four times in a slice of 128."""
NORM = 0.004
"""Allowed norm of the error over the result's: rounding to BF16 is 0.002 of it; tensor cores lose less than that."""
BOUNDS = {
    "products": "every element within 4 * 33 * 2^-13 of the sum of magnitudes (on a CPU (129 + G) * 2^-24 of it), and "
    "2^-8 of itself where the result is BF16; norm of the error within 0.004 of the result's",
    "quantising": "data and scales equal to the reference on the CPU, byte by byte",
    "SwiGLU": "fewer than 1 % of scales differ from the formula in float64; under equal scales no number is more than "
    "one step away and fewer than 0.1 % are one; the router weight's gradient within (I + 10) * 2^-24 of its terms",
    "repeat": "the same call gives the same bits",
}


def decoded(q: Quantised) -> Tensor:
    """What tiles, blocks or stacks of blocks stand for, exactly: float64."""
    rows, columns = q.data.shape[-2:]
    scale = q.scale.double()
    if scale.shape[-2] != rows:
        scale = scale.repeat_interleave(TILE, -2)[..., :rows, :]
    return q.data.float().double() * scale.repeat_interleave(TILE, -1)[..., :columns]


def trimmed(side: Any, rows: int, columns: int) -> Quantised:
    """One side of a backend's weight without what a library's layout adds to it."""
    groups = -(-rows // TILE), -(-columns // TILE)
    return Quantised(side.data[..., :rows, :columns], side.scale[..., : groups[0], : groups[1]])


def product_error(found: Tensor, a: Tensor, b: Tensor) -> dict[str, Any]:
    """Of ``found`` against ``a @ b.T`` (float64 [M, K] and [N, K]): shares of what is allowed, and whether it is."""
    exact, size = a @ b.t(), a.abs() @ b.abs().t()
    allowed = size * (TENSOR_CORE if found.is_cuda else (129 - (-a.shape[1] // TILE)) * UNIT)
    if found.dtype == torch.bfloat16:
        allowed += 2.0**-8 * exact.abs()  # a whole unit: the exact one may stand beyond a power of two
    error = (found.double() - exact).abs()
    norm = float(error.norm() / exact.norm().clamp(min=1e-300))
    share = float((error / allowed.clamp(min=1e-300)).max()) if error.numel() else 0.0
    fine = bool((error <= allowed).all()) and norm <= NORM
    return {"passed": fine, "norm_of_error": norm, "worst_share_of_bound": share}


def same_bytes(found: Tensor, expected: Tensor) -> bool:
    """Equal shape, type and bytes, whatever the device and the strides."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[found.element_size()]
    return torch.equal(found.contiguous().view(kind), expected.to(found.device).contiguous().view(kind))


def quantised_error(found: Quantised, expected: Quantised) -> dict[str, Any]:
    """Whether data and scales are the same bytes; how many are not."""
    data, scale = found.data.cpu().contiguous(), found.scale.cpu()
    wrong = data.view(torch.uint8) != expected.data.cpu().contiguous().view(torch.uint8)
    return {
        "passed": same_bytes(data, expected.data) and same_bytes(scale, expected.scale),
        "wrong_data": int(wrong.sum()),
        "wrong_scales": int((scale != expected.scale.cpu()).sum()),
    }


def nearly_quantised_error(found: Quantised, expected: Quantised) -> dict[str, Any]:
    """For what was rounded from FP32 formulas: a last bit may decide a rounding to BF16, and that one to eight bits."""
    expected = Quantised(expected.data.to(found.data.device), expected.scale.to(found.data.device))
    differ = found.scale != expected.scale
    same = (~differ).repeat_interleave(TILE, 1)[:, : found.data.shape[1]]
    steps = (_position(found.data) - _position(expected.data)).abs()[same]
    most, share = (int(steps.max()), float(steps.float().mean())) if steps.numel() else (0, 0.0)
    scales = float(differ.float().mean())
    passed = scales < 0.01 and most <= 1 and share < 1e-3
    return {"passed": passed, "share_of_scales": scales, "share_of_numbers": share, "most_steps": most}


def _position(data: Tensor) -> Tensor:
    """Eight-bit floats numbered in ascending order, both zeros 0."""
    code = data.view(torch.uint8).int()
    return torch.where(code < 128, code, 128 - code)


def exact_swiglu(gate_up_RI2: Tensor, weight_R1: Tensor, d_RI: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """In float64: (activation, d gate|up, d weight [R], sum of magnitudes of d weight's terms [R])."""
    gate, up = gate_up_RI2.double().chunk(2, dim=1)
    weight, d = weight_R1.double(), d_RI.double()
    sigmoid = gate.sigmoid()
    silu = gate * sigmoid
    d_gate = d * weight * up * (sigmoid * (1 + gate * (1 - sigmoid)))
    terms = d * silu * up
    return silu * up * weight, torch.cat([d_gate, d * weight * silu], dim=1), terms.sum(1), terms.abs().sum(1)
