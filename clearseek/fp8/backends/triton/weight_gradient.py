"""The scaled matrix product of the weight gradient: columns times columns, FP32 out, for one matrix or for each expert.

The inner dimension is the token. Both operands have a scale for 128 tokens of one channel, so promotion multiplies
every partial sum by its row's and its column's scale (DeepSeek-V3 report, section 3.3.2). Each expert's programs walk
over the slices of its own rows, whose bounds the kernel reads from the ends; an expert without rows has a gradient of
zero. Bits as in :mod:`~clearseek.fp8.backends.triton.products`: one program an element, ascending slices, no atomics.

Shapes: N output features, K inputs, R rows (the inner dimension), G = R / 128 slices, E experts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from clearseek.fp8.backends.triton.loading import Launch, describable, fetch, launch_for, load_scales, operand, place_of
from clearseek.fp8.backends.triton.products import tma_works
from clearseek.fp8.backends.triton.quantise import contiguous, on_device
from clearseek.fp8.formats import TILE, Quantised


@triton.jit
def weight_gradient_kernel(
    a, a_scale, b, b_scale, ends, y, N, K, R, a_scale_row, a_scale_group, b_scale_row, b_scale_group,
    GROUPED: tl.constexpr, WHOLE: tl.constexpr, HALVES: tl.constexpr, TOGETHER: tl.constexpr,
    TMA: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """``y[e] = a[:, rows of e] @ b[:, rows of e].T``; WHOLE: tiles fill the output; EVEN: 128 divides R."""
    down, across = tl.cdiv(N, 128), tl.cdiv(K, 128 * HALVES)
    expert = tl.program_id(0) // (down * across)
    i, j = place_of(tl.program_id(0) % (down * across), down, across, TOGETHER)
    begin = 0
    finish = tl.cdiv(R, 128)
    if GROUPED:
        begin = tl.load(ends + expert - 1, mask=expert > 0, other=0) // 128
        finish = tl.cdiv(tl.load(ends + expert), 128)

    row = i * 128
    column = j * 128 * HALVES
    total0 = tl.zeros((128, 128), dtype=tl.float32)
    total1 = tl.zeros((128, 128), dtype=tl.float32)
    for g in range(begin, finish):
        s = load_scales(a_scale + g * a_scale_group, row, N, a_scale_row, WHOLE)
        left = fetch(a, 0, row, g, N, R, TMA, EVEN)
        right = fetch(b, 0, column, g, K, R, TMA, EVEN)
        part = tl.dot(left, tl.trans(right))
        t = load_scales(b_scale + g * b_scale_group, column, K, b_scale_row, WHOLE)
        total0 += part * (s[:, None] * t[None, :])
        if HALVES == 2:
            right = fetch(b, 0, column + 128, g, K, R, TMA, EVEN)
            part = tl.dot(left, tl.trans(right))
            t = load_scales(b_scale + g * b_scale_group, column + 128, K, b_scale_row, WHOLE)
            total1 += part * (s[:, None] * t[None, :])

    rows = row + tl.arange(0, 128)
    columns = column + tl.arange(0, 128)
    pointers = y + (expert.to(tl.int64) * N + rows)[:, None] * K + columns[None, :]
    inside = (rows < N)[:, None]
    tl.store(pointers, total0, mask=inside & (columns < K)[None, :])
    if HALVES == 2:
        tl.store(pointers + 128, total1, mask=inside & (columns + 128 < K)[None, :])


def weight_gradient(a: Quantised, b: Quantised, launch: Launch | None = None) -> Tensor:
    """As :func:`clearseek.fp8.matmul.scaled_mm` in FP32 of columns [N, R] and [K, R]: [N, K]."""
    return _product(a, b, None, launch)[0]


def grouped_weight_gradient(a: Quantised, b: Quantised, ends_E: Tensor, launch: Launch | None = None) -> Tensor:
    """As :func:`clearseek.fp8.matmul.grouped_scaled_mm_inner`: FP32 [E, N, K].

    Experts' rows must end at multiples of 128, or where the operands end; the kernel does not check it.
    """
    return _product(a, b, ends_E, launch)


def _product(a: Quantised, b: Quantised, ends_E: Tensor | None, launch: Launch | None) -> Tensor:
    outputs, rows = contiguous(a.data).shape
    inputs = len(contiguous(b.data))
    if b.data.shape[1] != rows:
        raise ValueError(f"the inner dimensions differ: {rows} on the left, {b.data.shape[1]} on the right")
    experts = 1 if ends_E is None else len(ends_E)
    if launch is None:
        tma = tma_works(a.data.device) and describable(a.data, b.data)
        launch = launch_for(outputs, inputs, tma, a.data.device, experts)
    y_ENK = torch.empty(experts, outputs, inputs, dtype=torch.float32, device=a.data.device)
    with on_device(y_ENK):
        grid = (experts * triton.cdiv(outputs, TILE) * triton.cdiv(inputs, TILE * launch.halves),)
        weight_gradient_kernel[grid](
            operand(a.data, launch.tma), a.scale, operand(b.data, launch.tma), b.scale,
            a.scale if ends_E is None else contiguous(ends_E), y_ENK, outputs, inputs, rows,
            *a.scale.stride(), *b.scale.stride(),
            GROUPED=ends_E is not None, WHOLE=outputs % TILE == 0 and inputs % (TILE * launch.halves) == 0,
            HALVES=launch.halves, TOGETHER=launch.together,
            TMA=launch.tma, EVEN=rows % TILE == 0, num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
    return y_ENK
