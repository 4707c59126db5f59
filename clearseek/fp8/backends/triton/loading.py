"""What both kinds of product share: the order of output tiles, fetching operands, and how a kernel is launched.

Operands are fetched through tensor-map descriptors (TMA) where those run: one thread asks for a 128 x 128 piece, and no
registers are spent on addresses. Elsewhere each thread computes its own. Both bring the same bytes.
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
    """How a product is cut and run; any choice gives the same bits."""

    halves: int
    """Output tiles are 128 rows and `halves` times 128 columns."""
    warps: int
    stages: int
    """Slices in flight: 32 KB of shared memory each, 48 KB with two halves."""
    tma: bool
    """Fetch by descriptor."""
    together: int = 8
    """Rows of tiles swept at once: so many left operands share the right one's trip through L2."""


@triton.jit
def place_of(tile, down, across, TOGETHER: tl.constexpr):
    """(Row, column) of output tile number `tile` among `down` x `across`."""
    band = tile // (TOGETHER * across)
    height = tl.minimum(down - band * TOGETHER, TOGETHER)
    inside = tile % (TOGETHER * across)
    return band * TOGETHER + inside % height, inside // height


@triton.jit
def fetch(matrix, base, first, slice, rows, K, TMA: tl.constexpr, EVEN: tl.constexpr):
    """[128, 128] of a matrix with K columns: slice `slice` of rows from `first` on, of which there are `rows`.

    Rows past the last one are anything: their results are not stored. By descriptor, `base` is the row where the matrix
    begins in the whole; otherwise `matrix` points at its beginning. EVEN says that 128 divides K.
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
    """128 scales from number `first` on; WHOLE says that all are there.

    Where they stand is one number for all and a constant for each, and there is no mask: registers are short here.
    """
    index = tl.arange(0, 128)
    pointers = scales + first * stride + index * stride
    if WHOLE:
        values = tl.load(pointers)
    else:
        values = tl.load(pointers, mask=first + index < length, other=0.0)
    return values


def operand(data: Tensor, tma: bool) -> Tensor | TensorDescriptor:
    """What a kernel takes to fetch from: a matrix, or a stack of matrices one below the other."""
    return TensorDescriptor.from_tensor(data.view(-1, data.shape[-1]), [TILE, TILE]) if tma else data


def describable(*data: Tensor) -> bool:
    """Whether descriptors can stand for these: rows and beginnings at multiples of 16 bytes."""
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
    """The fixed choice for an output of [rows, columns], `matrices` times.

    Wide tiles where there are enough of them to fill the GPU, since they fetch a quarter less for each product; they
    need Hopper's shared memory, and descriptors, without which registers run out.
    """
    down, across = triton.cdiv(rows, TILE), triton.cdiv(columns, TILE)
    hopper = capability(device.index) >= (9, 0)
    if tma and hopper and matrices * down * (across // 2) >= processors(device.index):
        return Launch(halves=2, warps=8, stages=4, tma=tma)
    return Launch(halves=1, warps=8, stages=4 if hopper else 2, tma=tma)
