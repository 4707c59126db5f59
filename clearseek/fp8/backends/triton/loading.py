"""What both kinds of product share: the order of output tiles, fetching operands, and launching a kernel.

Operands are fetched through tensor-map descriptors (TMA) where those run: one thread requests a 128 x 128 piece, and no
registers hold addresses. Elsewhere each thread computes its own addresses. Both ways fetch the same bytes.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from clearseek.fp8.formats import TILE


class Launch(NamedTuple):
    """Shape of a product's tiles and programs; every choice gives the same bits."""

    halves: int
    """Output tiles are 128 rows and `halves` times 128 columns."""
    warps: int
    stages: int
    """Slices in flight, each 32 KB of shared memory, or 48 KB with two halves."""
    tma: bool
    """Whether operands are fetched by descriptor."""
    together: int = 8
    """Rows of tiles swept together, whose left operands share each right operand's trip through L2."""


@triton.jit
def place_of(tile, down, across, TOGETHER: tl.constexpr):
    """(Row, column) of output tile number `tile` among `down` x `across`."""
    band = tile // (TOGETHER * across)
    height = tl.minimum(down - band * TOGETHER, TOGETHER)
    inside = tile % (TOGETHER * across)
    return band * TOGETHER + inside % height, inside // height


@triton.jit
def fetch(matrix, base, first, slice, rows, K, TMA: tl.constexpr, EVEN: tl.constexpr):
    """[128, 128] of a matrix [rows, K]: slice number `slice` of 128 columns, of the rows from `first` on.

    Rows past the last one hold anything, because their results are not stored. By descriptor, the matrix begins at row
    `base` of a stack; otherwise `matrix` points at its beginning. EVEN says that 128 divides K.
    """
    if TMA:
        values = matrix.load([base + first, slice * 128])
    else:
        row = (first + tl.arange(0, 128)) % rows
        inner = slice * 128 + tl.arange(0, 128)
        pointers = matrix + row.to(tl.int64)[:, None] * K + inner[None, :]
        if EVEN:
            values = tl.load(pointers)
        else:
            values = tl.load(pointers, mask=(inner < K)[None, :], other=0.0)
    return values


@triton.jit
def load_scales(scales, first, length, stride, WHOLE: tl.constexpr):
    """128 scales from number `first` on; WHOLE says that all exist.

    The addresses are one number for all and a constant for each, and WHOLE needs no mask, because registers are short.
    """
    index = tl.arange(0, 128)
    pointers = scales + first * stride + index * stride
    if WHOLE:
        values = tl.load(pointers)
    else:
        values = tl.load(pointers, mask=first + index < length, other=0.0)
    return values


def operand(data: Tensor, tma: bool) -> Tensor | TensorDescriptor:
    """A kernel's argument to fetch from: a matrix, or a stack of matrices one below the other."""
    return TensorDescriptor.from_tensor(data.view(-1, data.shape[-1]), [TILE, TILE]) if tma else data


def describable(*data: Tensor) -> bool:
    """Whether descriptors can describe these tensors: rows and beginnings at multiples of 16 bytes."""
    return all(each.shape[-1] % 16 == 0 and each.data_ptr() % 16 == 0 for each in data)


@functools.cache
def capability(index: int | None) -> tuple[int, int]:
    """Compute capability of a CUDA device; (0, 0) for a CPU, where the interpreter runs."""
    return (0, 0) if index is None else torch.cuda.get_device_capability(index)


@functools.cache
def processors(index: int | None) -> int:
    """Multiprocessors of a CUDA device."""
    return 1 if index is None else torch.cuda.get_device_properties(index).multi_processor_count


def launch_for(rows: int, columns: int, tma: bool, device: torch.device, matrices: int = 1) -> Launch:
    """The fixed choice for `matrices` outputs of [rows, columns].

    Wide tiles fetch a quarter less for each product, and are taken where enough of them fill the GPU. Wide tiles need
    Hopper's shared memory, and descriptors, without which registers run out.
    """
    down, across = triton.cdiv(rows, TILE), triton.cdiv(columns, TILE)
    hopper = capability(device.index) >= (9, 0)
    if tma and hopper and matrices * down * (across // 2) >= processors(device.index):
        return Launch(halves=2, warps=8, stages=4, tma=tma)
    return Launch(halves=1, warps=8, stages=4 if hopper else 2, tma=tma)
