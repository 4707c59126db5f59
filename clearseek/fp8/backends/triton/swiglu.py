"""SwiGLU fused with quantising: BF16 gate|up in, eight bits out, and the way back.

The forward reads gate and up once and writes both as tiles for the backward, and the weighted activation as tiles for
the down projection. The backward recomputes SwiGLU's output from those tiles (DeepSeek-V3 report, section 3.2.3), and
writes all operands of the products around it: d gate|up as tiles and as columns, the activation as columns. Arithmetic
is FP32; activation and gradients are rounded to BF16 before they are quantised, like the output of a SwiGLU kernel that
does not quantise, so scales follow from the same numbers.

The router weight's gradient is a sum over the width: each program sums its 128 columns, and one reduction adds the
partial sums in a fixed order, without atomics.

Shapes: R rows, I width (a multiple of 128), G = I / 128.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from clearseek.fp8.backends.triton.casts import amax_of, quantised, scale_of, to_bfloat16
from clearseek.fp8.backends.triton.quantise import ROWS, contiguous, empty_tiles, on_device
from clearseek.fp8.formats import TILE, Quantised


class Backward(NamedTuple):
    """Results of SwiGLU's backward."""

    tiles: Quantised
    """d gate|up [R, 2I], for the input gradient."""
    columns: Quantised
    """d gate|up transposed [2I, R], for the weight gradient of gate and up."""
    act: Quantised
    """The weighted activation, recomputed, transposed [I, R], for the weight gradient of down."""
    d_weight_R: Tensor
    """Gradient of the router's weights, FP32."""


@triton.jit
def _store_tiles(values, data, scale, row, first, group, rows, width, POWER_OF_TWO: tl.constexpr):
    """Quantise [rows, 128] values by row, and store them from column `first` on."""
    scales = scale_of(amax_of(values, 1), POWER_OF_TWO)
    eight = quantised(values, scales[:, None], POWER_OF_TWO)
    column = first + tl.arange(0, 128)
    tl.store(data + row.to(tl.int64)[:, None] * width + column[None, :], eight, mask=(row < rows)[:, None])
    tl.store(scale + group.to(tl.int64) * rows + row, scales, mask=row < rows)


@triton.jit
def _store_columns(values, data, scale, row, first, block, rows, width, POWER_OF_TWO: tl.constexpr):
    """Quantise [128, 128] values by column, and store them transposed from row `first` on."""
    scales = scale_of(amax_of(values, 0), POWER_OF_TWO)
    eight = quantised(values, scales[None, :], POWER_OF_TWO)
    column = first + tl.arange(0, 128)
    place = column.to(tl.int64)[None, :] * rows + row[:, None]
    tl.store(data + place, eight, mask=(row < rows)[:, None] & (column < width)[None, :])
    tl.store(scale + block.to(tl.int64) * width + column, scales)


@triton.jit
def forward_kernel(
    gate_up, weight, kept, kept_scale, act, act_scale, rows, width,
    ROWS: tl.constexpr, POWER_OF_TWO: tl.constexpr,
):  # fmt: skip
    """Tiles of gate|up [R, 2I] and of silu(gate) * up * weight [R, I]."""
    groups = width // 128
    group = tl.program_id(0) % groups
    row = (tl.program_id(0) // groups) * ROWS + tl.arange(0, ROWS)
    inside = (row < rows)[:, None]
    first = group * 128
    place = row.to(tl.int64)[:, None] * (2 * width) + (first + tl.arange(0, 128))[None, :]
    gate = tl.load(gate_up + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + place + width, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + row, mask=row < rows, other=0.0).to(tl.float32)
    _store_tiles(gate, kept, kept_scale, row, first, group, rows, 2 * width, POWER_OF_TWO)
    _store_tiles(up, kept, kept_scale, row, width + first, groups + group, rows, 2 * width, POWER_OF_TWO)
    out = to_bfloat16(gate * tl.sigmoid(gate) * up * w[:, None]).to(tl.float32)
    _store_tiles(out, act, act_scale, row, first, group, rows, width, POWER_OF_TWO)


@triton.jit
def _kept(kept, scale, row, column, rows, width, scale_row, scale_group):
    """BF16 values of the tiles from `column` on, as FP32."""
    inside = row < rows
    scales = tl.load(scale + row.to(tl.int64) * scale_row + (column // 128) * scale_group, mask=inside, other=1.0)
    place = row.to(tl.int64)[:, None] * width + (column + tl.arange(0, 128))[None, :]
    values = tl.load(kept + place, mask=inside[:, None], other=0.0).to(tl.float32)
    return to_bfloat16(values * scales[:, None]).to(tl.float32)


@triton.jit
def backward_kernel(
    d_act, kept, kept_scale, weight, tiles, tiles_scale, columns, columns_scale, act, act_scale, d_weight, rows, width,
    kept_scale_row, kept_scale_group, POWER_OF_TWO: tl.constexpr,
):  # fmt: skip
    """Everything of :class:`Backward` for 128 rows and 128 of the width; `d_weight` [G, R] gets partial sums.

    The three outputs are made one after the other, each from inputs fetched again (from cache), because all three at
    once do not fit the registers.
    """
    groups = width // 128
    group = tl.program_id(0) % groups
    block = tl.program_id(0) // groups
    row = block * 128 + tl.arange(0, 128)
    first = group * 128
    w = tl.load(weight + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    d_act += row.to(tl.int64)[:, None] * width + (first + tl.arange(0, 128))[None, :]
    inside = (row < rows)[:, None]

    gate = _kept(kept, kept_scale, row, first, rows, 2 * width, kept_scale_row, kept_scale_group)
    up = _kept(kept, kept_scale, row, width + first, rows, 2 * width, kept_scale_row, kept_scale_group)
    out = gate * tl.sigmoid(gate) * up
    d = tl.load(d_act, mask=inside, other=0.0).to(tl.float32)
    tl.store(d_weight + group.to(tl.int64) * rows + row, tl.sum(d * out, axis=1), mask=row < rows)
    out = to_bfloat16(out * w).to(tl.float32)
    _store_columns(out, act, act_scale, row, first, block, rows, width, POWER_OF_TWO)

    gate = _kept(kept, kept_scale, row, first, rows, 2 * width, kept_scale_row, kept_scale_group)
    d = tl.load(d_act, mask=inside, other=0.0).to(tl.float32) * w
    d_up = to_bfloat16(d * (gate * tl.sigmoid(gate))).to(tl.float32)
    _store_tiles(d_up, tiles, tiles_scale, row, width + first, groups + group, rows, 2 * width, POWER_OF_TWO)
    _store_columns(d_up, columns, columns_scale, row, width + first, block, rows, 2 * width, POWER_OF_TWO)

    gate = _kept(kept, kept_scale, row, first, rows, 2 * width, kept_scale_row, kept_scale_group)
    up = _kept(kept, kept_scale, row, width + first, rows, 2 * width, kept_scale_row, kept_scale_group)
    d = tl.load(d_act, mask=inside, other=0.0).to(tl.float32) * w
    sigmoid = tl.sigmoid(gate)
    d_gate = to_bfloat16(d * up * (sigmoid * (1 + gate * (1 - sigmoid)))).to(tl.float32)
    _store_tiles(d_gate, tiles, tiles_scale, row, first, group, rows, 2 * width, POWER_OF_TWO)
    _store_columns(d_gate, columns, columns_scale, row, first, block, rows, 2 * width, POWER_OF_TWO)


def swiglu(gate_up_RI2: Tensor, weight_R1: Tensor, power_of_two: bool) -> tuple[Quantised, Quantised]:
    """(Tiles of gate|up [R, 2I], tiles of silu(gate) * up * weight [R, I])."""
    rows, width = _sizes(gate_up_RI2)
    kept = empty_tiles(rows, 2 * width, gate_up_RI2.device)
    act = empty_tiles(rows, width, gate_up_RI2.device)
    with on_device(gate_up_RI2):
        forward_kernel[(triton.cdiv(rows, ROWS) * (width // TILE),)](
            gate_up_RI2, contiguous(weight_R1), *kept, *act, rows, width,
            ROWS=ROWS, POWER_OF_TWO=power_of_two,
        )  # fmt: skip
    return kept, act


def swiglu_backward(d_act_RI: Tensor, kept: Quantised, weight_R1: Tensor, power_of_two: bool) -> Backward:
    """Gradients and operands from the output's gradient and the tiles that :func:`swiglu` kept."""
    rows, width = _sizes(kept.data)
    device = d_act_RI.device
    tiles, columns = empty_tiles(rows, 2 * width, device), empty_tiles(2 * width, rows, device)
    act = empty_tiles(width, rows, device)
    d_weight_GR = torch.empty(width // TILE, rows, dtype=torch.float32, device=device)
    with on_device(d_act_RI):
        backward_kernel[(triton.cdiv(rows, TILE) * (width // TILE),)](
            contiguous(d_act_RI), kept.data, kept.scale, contiguous(weight_R1),
            *tiles, *columns, *act, d_weight_GR, rows, width, *kept.scale.stride(),
            POWER_OF_TWO=power_of_two, num_warps=16,
        )  # fmt: skip
    return Backward(tiles, columns, act, d_weight_GR.sum(0))


def _sizes(gate_up_RI2: Tensor) -> tuple[int, int]:
    """(Rows, width). Raises ValueError where gate's tiles would reach into up."""
    rows, both = contiguous(gate_up_RI2).shape
    if both % (2 * TILE):
        raise ValueError(f"gate and up are {both // 2} wide each: use a multiple of {TILE}")
    return rows, both // 2
