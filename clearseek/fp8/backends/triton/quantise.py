"""Quantising kernels: each reads its input once and writes every operand made from it.

A weight gradient needs its operands transposed with 128 tokens to a scale, because Hopper's FP8 tensor cores only take
operands with the inner dimension last. The reference makes tiles, columns and transposed blocks in several passes; here
one pass over a 128 x 128 piece in registers makes row tiles and column tiles alike. Scales of tiles and columns are
stored with neighbouring rows adjacent, as the products read them; data and scales equal :mod:`clearseek.fp8.quantise`
to the bit.

Shapes: M rows, K columns, N output features, E experts; G stands for any size over 128, rounded up.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from clearseek.fp8.backend import Weight
from clearseek.fp8.backends.triton.casts import amax_of, quantised, scale_of, to_bfloat16
from clearseek.fp8.formats import E4M3, TILE, Quantised

ROWS = 32
"""Rows of a program that makes row tiles."""
CHANNELS = 64
"""Columns of a program that makes column tiles only."""


@triton.jit
def tiles_kernel(
    x, data, scale, M, K, x_row, scale_group,
    ROWS: tl.constexpr, POWER_OF_TWO: tl.constexpr,
):  # fmt: skip
    """1 x 128 tiles of `x` [M, K] with rows `x_row` apart."""
    groups = tl.cdiv(K, 128)
    group = tl.program_id(0) % groups
    row = (tl.program_id(0) // groups) * ROWS + tl.arange(0, ROWS)
    column = group * 128 + tl.arange(0, 128)
    inside = (row < M)[:, None] & (column < K)[None, :]
    wide = row.to(tl.int64)[:, None]
    values = tl.load(x + wide * x_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
    scales = scale_of(amax_of(values, 1), POWER_OF_TWO)
    eight = quantised(values, scales[:, None], POWER_OF_TWO)
    tl.store(data + wide * K + column[None, :], eight, mask=inside)
    tl.store(scale + group.to(tl.int64) * scale_group + row, scales, mask=row < M)


@triton.jit
def columns_kernel(
    x, x_scale, tiles, tiles_scale, data, scale, M, K, x_row, x_scale_row, x_scale_group,
    COLUMNS: tl.constexpr, ENCODED: tl.constexpr, WITH_TILES: tl.constexpr,
    POWER_OF_TWO: tl.constexpr,
):  # fmt: skip
    """128 x 1 tiles of `x` [M, K], transposed; WITH_TILES also makes its 1 x 128 tiles (then COLUMNS is 128).

    ENCODED says that `x` is tiles, whose BF16 values are quantised.
    """
    groups = tl.cdiv(K, COLUMNS)
    part = tl.program_id(0) % groups
    group = tl.program_id(0) // groups
    row = group * 128 + tl.arange(0, 128)
    column = part * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < M)[:, None] & (column < K)[None, :]
    wide = row.to(tl.int64)[:, None]
    values = tl.load(x + wide * x_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if ENCODED:
        old = tl.load(x_scale + row.to(tl.int64) * x_scale_row + (part * COLUMNS // 128) * x_scale_group,
                      mask=row < M, other=1.0)  # fmt: skip
        values = to_bfloat16(values * old[:, None]).to(tl.float32)
    scales = scale_of(amax_of(values, 0), POWER_OF_TWO)
    eight = quantised(values, scales[None, :], POWER_OF_TWO)
    tl.store(data + column.to(tl.int64)[None, :] * M + row[:, None], eight, mask=inside)
    tl.store(scale + group.to(tl.int64) * K + column, scales, mask=column < K)
    if WITH_TILES:
        tl.static_assert(COLUMNS == 128 and not ENCODED, "tiles are of BF16 or FP32, 128 columns wide")
        # Fetched again, from cache: values held until here would take the registers of a second program.
        values = tl.load(x + wide * x_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
        scales = scale_of(amax_of(values, 1), POWER_OF_TWO)
        eight = quantised(values, scales[:, None], POWER_OF_TWO)
        tl.store(tiles + wide * K + column[None, :], eight, mask=inside)
        tl.store(tiles_scale + part.to(tl.int64) * M + row, scales, mask=row < M)


@triton.jit
def blocks_kernel(w, data, transposed, scale, N, K, POWER_OF_TWO: tl.constexpr):
    """128 x 128 blocks of a stack [E, N, K], written as they are and transposed."""
    across, down = tl.cdiv(K, 128), tl.cdiv(N, 128)
    j = tl.program_id(0) % across
    i = (tl.program_id(0) // across) % down
    expert = (tl.program_id(0) // (across * down)).to(tl.int64)
    row = i * 128 + tl.arange(0, 128)
    column = j * 128 + tl.arange(0, 128)
    inside = (row < N)[:, None] & (column < K)[None, :]
    place = row.to(tl.int64)[:, None] * K + column[None, :]
    start = expert * N * K
    values = tl.load(w + start + place, mask=inside, other=0.0).to(tl.float32)
    one_scale = scale_of(amax_of(amax_of(values, 1), 0), POWER_OF_TWO)
    eight = quantised(values, one_scale, POWER_OF_TWO)
    tl.store(data + start + place, eight, mask=inside)
    tl.store(transposed + start + column.to(tl.int64)[None, :] * N + row[:, None], eight, mask=inside)
    tl.store(scale + (expert * down + i) * across + j, one_scale)


@triton.jit
def decode_kernel(data, scale, out, M, K, scale_row, scale_group, ROWS: tl.constexpr):
    """The BF16 values of tiles [M, K]."""
    groups = tl.cdiv(K, 128)
    group = tl.program_id(0) % groups
    row = (tl.program_id(0) // groups) * ROWS + tl.arange(0, ROWS)
    column = group * 128 + tl.arange(0, 128)
    inside = (row < M)[:, None] & (column < K)[None, :]
    place = row.to(tl.int64)[:, None] * K + column[None, :]
    scales = tl.load(scale + row.to(tl.int64) * scale_row + group * scale_group, mask=row < M, other=1.0)
    values = tl.load(data + place, mask=inside, other=0.0).to(tl.float32) * scales[:, None]
    tl.store(out + place, to_bfloat16(values), mask=inside)


def tiles(x_MK: Tensor, power_of_two: bool) -> Quantised:
    """As :func:`clearseek.fp8.quantise.quantise_tiles`; scales [M, G] are stored column by column."""
    rows, columns = x_MK.shape
    out = empty_tiles(rows, columns, x_MK.device)
    groups = triton.cdiv(columns, TILE)
    with on_device(x_MK):
        tiles_kernel[(triton.cdiv(rows, ROWS) * groups,)](
            x_MK, out.data, out.scale, rows, columns, row_stride(x_MK), rows,
            ROWS=ROWS, POWER_OF_TWO=power_of_two,
        )  # fmt: skip
    return out


def columns(x_MK: Tensor, power_of_two: bool) -> Quantised:
    """As :func:`clearseek.fp8.quantise.quantise_columns`: data [K, M], scales [K, G]."""
    return _columns(x_MK, None, power_of_two, with_tiles=False)[1]


def tiles_and_columns(x_MK: Tensor, power_of_two: bool) -> tuple[Quantised, Quantised]:
    """Tiles and columns from one pass over `x_MK`."""
    return _columns(x_MK, None, power_of_two, with_tiles=True)


def retile(q: Quantised, power_of_two: bool) -> Quantised:
    """Columns of the tiles' values, without a BF16 tensor in between."""
    return _columns(q.data, q.scale, power_of_two, with_tiles=False)[1]


def decode(q: Quantised) -> Tensor:
    """BF16 values of tiles."""
    rows, columns = contiguous(q.data).shape
    out_MK = torch.empty(rows, columns, dtype=torch.bfloat16, device=q.data.device)
    with on_device(out_MK):
        decode_kernel[(triton.cdiv(rows, ROWS) * triton.cdiv(columns, TILE),)](
            q.data, q.scale, out_MK, rows, columns, *q.scale.stride(), ROWS=ROWS
        )
    return out_MK


def blocks(w_ENK: Tensor, power_of_two: bool) -> Weight:
    """As :func:`clearseek.fp8.quantise.quantise_blocks`, for both directions; [N, K] or [E, N, K]."""
    rows, columns = contiguous(w_ENK).shape[-2:]
    grid = (triton.cdiv(rows, TILE), triton.cdiv(columns, TILE))
    stack = w_ENK.shape[:-2]
    data = torch.empty(w_ENK.shape, dtype=E4M3, device=w_ENK.device)
    transposed = torch.empty(*stack, columns, rows, dtype=E4M3, device=w_ENK.device)
    scale = torch.empty(*stack, *grid, dtype=torch.float32, device=w_ENK.device)
    with on_device(w_ENK):
        blocks_kernel[(stack.numel() * grid[0] * grid[1],)](
            w_ENK, data, transposed, scale, rows, columns,
            POWER_OF_TWO=power_of_two, num_warps=8,
        )  # fmt: skip
    return Weight(Quantised(data, scale), Quantised(transposed, scale.mT))


def _columns(
    x_MK: Tensor, x_scale_MG: Tensor | None, power_of_two: bool, with_tiles: bool
) -> tuple[Quantised, Quantised]:
    """(Tiles, columns); without `with_tiles` the first element is meaningless."""
    rows, columns = x_MK.shape
    out = empty_tiles(columns, rows, x_MK.device)
    tile = empty_tiles(rows, columns, x_MK.device) if with_tiles else out
    scale_MG = out.scale if x_scale_MG is None else x_scale_MG
    width = TILE if with_tiles else CHANNELS
    # With tiles: registers for two programs a multiprocessor, so that one loads while the other computes.
    launch = {"num_warps": 8, "maxnreg": 128} if with_tiles else {"num_warps": 4}
    with on_device(x_MK):
        columns_kernel[(triton.cdiv(rows, TILE) * triton.cdiv(columns, width),)](
            x_MK, scale_MG, tile.data, tile.scale, out.data, out.scale, rows, columns,
            row_stride(x_MK), *scale_MG.stride(),
            COLUMNS=width, ENCODED=x_scale_MG is not None, WITH_TILES=with_tiles,
            POWER_OF_TWO=power_of_two, **launch,
        )  # fmt: skip
    return tile, out


def empty_tiles(rows: int, columns: int, device: torch.device) -> Quantised:
    """Uninitialised tiles of [rows, columns], with each group's scales adjacent."""
    data = torch.empty(rows, columns, dtype=E4M3, device=device)
    return Quantised(data, torch.empty(triton.cdiv(columns, TILE), rows, device=device).t())


def on_device(x: Tensor) -> torch.cuda.device_of:
    """Launch on the device of `x`, whichever is current."""
    return torch.cuda.device_of(x)


def row_stride(x_MK: Tensor) -> int:
    """Number of elements from row to row. Raises ValueError where a row's elements are not adjacent."""
    if x_MK.ndim != 2 or (x_MK.stride(1) != 1 and x_MK.shape[1] > 1):
        raise ValueError(f"a matrix with adjacent elements in a row is needed, not strides {x_MK.stride()}")
    return x_MK.stride(0)


def contiguous(x: Tensor) -> Tensor:
    """`x` itself. Raises ValueError where it is not contiguous."""
    if not x.is_contiguous():
        raise ValueError(f"a contiguous tensor is needed, not shape {tuple(x.shape)} with strides {x.stride()}")
    return x
