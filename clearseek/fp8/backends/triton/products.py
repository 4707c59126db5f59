"""The scaled matrix products of the forward and of the input gradient: rows of tiles times blocks, BF16 out.

One program makes a tile of the output, 128 rows high and 128 or twice 128 wide. It walks along the inner dimension in
slices of 128: a product of eight-bit numbers on the tensor cores from zero, then one multiply-add a number in FP32 with
the product of the two scales (DeepSeek-V3 report, section 3.3.2). Two halves share the left operand, which saves
traffic; and while the second half's product runs on the tensor cores, the first half's sums are promoted.

Experts: a tile of rows lies inside one expert's block, because blocks begin at multiples of 128. The device looks up
each tile's expert in the ends, so the host never waits for them. Rows past the last expert's end become zeros.

Bits: one program sums an output element, in ascending slices of 128, each of which the hardware sums in steps of 32.
Neither the width of tiles nor the way operands are fetched changes that order, and no atomics are used.

Shapes: M rows, N output features, K inner, G slices of 128, E experts.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from clearseek.fp8.backends.triton.casts import to_bfloat16
from clearseek.fp8.backends.triton.loading import (
    Launch,
    capability,
    describable,
    fetch,
    launch_for,
    load_scales,
    operand,
    place_of,
)
from clearseek.fp8.backends.triton.quantise import contiguous, on_device
from clearseek.fp8.formats import TILE, Quantised


@triton.jit
def product_kernel(
    a, a_scale, b, b_scale, expert_of, ends, y, M, N, K, E,
    a_scale_row, a_scale_group, b_scale_expert, b_scale_row, b_scale_group,
    GROUPED: tl.constexpr, WHOLE: tl.constexpr, HALVES: tl.constexpr, TOGETHER: tl.constexpr,
    TMA: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """``y = a @ b[e].T``; if GROUPED, `expert_of` says which of E experts a tile of rows belongs to, E for none.

    WHOLE says that 128 divides M, EVEN that it divides K.
    """
    i, j = place_of(tl.program_id(0), tl.cdiv(M, 128), tl.cdiv(N, 128 * HALVES), TOGETHER)
    slices = tl.cdiv(K, 128)
    expert = 0
    base = 0
    if GROUPED:
        expert = tl.load(expert_of + i)
        slices = tl.where(expert < E, slices, 0)
        expert = tl.minimum(expert, E - 1)
        b_scale += expert * b_scale_expert
        if TMA:
            base = expert * N
        else:
            b += expert.to(tl.int64) * N * K

    row = i * 128
    column = j * 128 * HALVES
    block = j * HALVES
    scale0 = b_scale + block * b_scale_row
    scale1 = b_scale + tl.minimum(block + 1, tl.cdiv(N, 128) - 1) * b_scale_row
    total0 = tl.zeros((128, 128), dtype=tl.float32)
    total1 = tl.zeros((128, 128), dtype=tl.float32)
    for g in range(0, slices):
        scales = load_scales(a_scale + g * a_scale_group, row, M, a_scale_row, WHOLE)
        promote = scales * tl.load(scale0 + g * b_scale_group)
        left = fetch(a, 0, row, g, M, K, TMA, EVEN)
        right = fetch(b, base, column, g, N, K, TMA, EVEN)
        total0 += tl.dot(left, tl.trans(right)) * promote[:, None]
        if HALVES == 2:
            promote = scales * tl.load(scale1 + g * b_scale_group)
            right = fetch(b, base, column + 128, g, N, K, TMA, EVEN)
            total1 += tl.dot(left, tl.trans(right)) * promote[:, None]

    rows = row + tl.arange(0, 128)
    columns = column + tl.arange(0, 128)
    pointers = y + rows.to(tl.int64)[:, None] * N + columns[None, :]
    inside = (rows < M)[:, None]
    if GROUPED:
        kept = (rows < tl.load(ends + expert))[:, None]
        total0 = tl.where(kept, total0, 0.0)
        total1 = tl.where(kept, total1, 0.0)
    tl.store(pointers, to_bfloat16(total0), mask=inside & (columns < N)[None, :])
    if HALVES == 2:
        tl.store(pointers + 128, to_bfloat16(total1), mask=inside & (columns + 128 < N)[None, :])


def scaled_mm(a: Quantised, b: Quantised, launch: Launch | None = None) -> Tensor:
    """As :func:`clearseek.fp8.matmul.scaled_mm` of tiles [M, K] and blocks [N, K]: BF16 [M, N]."""
    return _product(a, b, None, launch)


def grouped_scaled_mm(a: Quantised, b: Quantised, ends_E: Tensor, launch: Launch | None = None) -> Tensor:
    """As :func:`clearseek.fp8.matmul.grouped_scaled_mm` of tiles [R, K] and blocks [E, N, K]: BF16 [R, N].

    Experts' blocks must begin at multiples of 128 rows; the kernel does not check it.
    """
    return _product(a, b, ends_E, launch)


def _product(a: Quantised, b: Quantised, ends_E: Tensor | None, launch: Launch | None) -> Tensor:
    rows, inner = contiguous(a.data).shape
    outputs = contiguous(b.data).shape[-2]
    if b.data.shape[-1] != inner:
        raise ValueError(f"the inner dimensions differ: {inner} on the left, {b.data.shape[-1]} on the right")
    if launch is None:
        tma = tma_works(a.data.device) and describable(a.data, b.data)
        launch = launch_for(rows, outputs, tma, a.data.device)
    y_MN = torch.empty(rows, outputs, dtype=torch.bfloat16, device=a.data.device)
    if ends_E is None:
        experts, tables = 0, (y_MN, y_MN)  # not read
    else:
        # Looked up before the kernel: a value that all threads load alike takes no registers, which are short.
        starts = torch.arange(0, rows, TILE, dtype=ends_E.dtype, device=ends_E.device)
        experts, tables = len(ends_E), (torch.searchsorted(ends_E, starts, right=True, out_int32=True), ends_E)
    with on_device(y_MN):
        product_kernel[(triton.cdiv(rows, TILE) * triton.cdiv(outputs, TILE * launch.halves),)](
            operand(a.data, launch.tma), a.scale, operand(b.data, launch.tma), b.scale, *tables, y_MN,
            rows, outputs, inner, experts, *a.scale.stride(),
            0 if b.scale.ndim == 2 else b.scale.stride(0), *b.scale.stride()[-2:],
            GROUPED=ends_E is not None, WHOLE=rows % TILE == 0, HALVES=launch.halves, TOGETHER=launch.together,
            TMA=launch.tma, EVEN=inner % TILE == 0, num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
    return y_MN


@functools.cache
def tma_works(device: torch.device) -> bool:
    """Whether fetching by descriptor runs on `device` and gives the same bits as fetching by address: tried once."""
    if capability(device.index) < (9, 0):
        return False
    generator = torch.Generator(device).manual_seed(0)
    numbers = torch.randn(2, 256, 384, generator=generator, device=device).to(torch.float8_e4m3fn)
    a, b = (Quantised(each, torch.ones(len(each) // (1, TILE)[i], 3, device=device)) for i, each in enumerate(numbers))
    try:
        found = scaled_mm(a, b, Launch(halves=2, warps=8, stages=3, tma=True))
        torch.cuda.synchronize(device)
    except Exception:  # a driver, a GPU or a Triton without descriptors raises one of many errors
        return False
    return torch.equal(found, scaled_mm(a, b, Launch(halves=1, warps=8, stages=3, tma=False)))
