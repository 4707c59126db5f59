"""The reference, which defines a scaled matrix product in FP8.

Both operands have the inner dimension last, ``y = a @ b.T``, in pieces of 128 along it. For each slice of 128 the
eight-bit numbers are multiplied and summed in FP32 (every single product is exact), the sum is multiplied by the
product of the two scales, and slices are added in FP32 in ascending order. DeepSeek-V3's kernels do the same on tensor
cores, whose own accumulator keeps about 14 bits: partial sums are promoted to FP32 every 128 elements (report, section
3.3.2). The three products of a linear layer all have this form:

    forward           x [T, K] tiles          w [N, K] blocks           y [T, N]
    input gradient    g [T, N] tiles          w.T [K, N] blocks         dx [T, K]
    weight gradient   g.T [N, T] tiles        x.T [K, T] tiles          dw [N, K], FP32

Error against exact arithmetic on the same eight-bit numbers, with u = 2^-24 and S = sum of |a_k b_k| (decoded): a slice
adds at most 127 roundings, its scaling 2, the sum over G slices at most G, so |error| <= (129 + G) u S to first order,
before rounding to the output type.

Shapes: M rows, N output features, K inner, G slices of 128 of it, E experts, R rows sorted by expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from clearseek.fp8.formats import TILE, Quantised


def scaled_mm(a: Quantised, b: Quantised, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """``a @ b.T`` [M, N] in `dtype`, with FP32 sums.

    `a` has data [M, K] and scales [M, G]; `b` has data [N, K] and scales [N, G] (tiles) or [ceil(N / 128), G] (blocks).
    """
    scale_NG = rows_of_scales(b)
    y_MN = torch.zeros(len(a.data), len(b.data), dtype=torch.float32, device=a.data.device)
    for g in range(a.scale.shape[1]):
        inner = slice(g * TILE, (g + 1) * TILE)
        part_MN = a.data[:, inner].float() @ b.data[:, inner].float().t()
        y_MN += part_MN * (a.scale[:, g, None] * scale_NG[:, g])
    return y_MN.to(dtype)


def grouped_scaled_mm(a: Quantised, b: Quantised, ends_E: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Row block e of `a` times matrix e of `b`, transposed: [R, N] in `dtype`; rows after the last block are zero.

    `a` has data [R, K] and scales [R, G]; `b` has data [E, N, K] and scales [E, ceil(N / 128), G]; `ends_E` holds the
    cumulative ends of the experts' rows.
    """
    y_RN = torch.zeros(len(a.data), b.data.shape[1], dtype=dtype, device=a.data.device)
    for e, rows in blocks(ends_E):
        y_RN[rows] = scaled_mm(a.at(rows), b.at(e), dtype)
    return y_RN


def grouped_scaled_mm_inner(a: Quantised, b: Quantised, ends_E: Tensor) -> Tensor:
    """The weights' gradient, FP32 [E, N, K]: every expert's product over its own rows, zero for an expert without rows.

    `a` has data [N, R] and scales [N, R / 128]; `b` has data [K, R] and scales [K, R / 128]. Along R, the inner
    dimension, experts end at `ends_E` (cumulative) and begin at multiples of 128, or a ValueError is raised.
    """
    begins = [0, *ends_E.tolist()][:-1]
    if any(begin % TILE for begin in begins):  # the last expert may end in a partial tile
        raise ValueError(f"experts' rows must begin at multiples of {TILE}, but they begin at {begins}")
    y_ENK = torch.zeros(len(ends_E), len(a.data), len(b.data), dtype=torch.float32, device=a.data.device)
    for e, rows in blocks(ends_E):
        y_ENK[e] = scaled_mm(along(a, rows), along(b, rows), torch.float32)
    return y_ENK


def blocks(ends_E: Tensor) -> Iterator[tuple[int, slice]]:
    """Number and rows of each expert that has rows."""
    for e, (start, end) in enumerate(pairwise([0, *ends_E.tolist()])):
        if end > start:
            yield e, slice(start, end)


def along(q: Quantised, inner: slice) -> Quantised:
    """An operand's part of the inner dimension, beginning at a multiple of 128."""
    tiles = slice(inner.start // TILE, -(-inner.stop // TILE))
    return Quantised(q.data[:, inner], q.scale[:, tiles])


def rows_of_scales(b: Quantised) -> Tensor:
    """The scales of every row of `b`: [N, G]."""
    rows = len(b.data)
    return b.scale if len(b.scale) == rows else b.scale.repeat_interleave(TILE, 0)[:rows]
