"""How generation keeps matrices in memory.

A matrix is stored once, in FP32, BF16, or int8 with one scale per row. Rows and inner dimension are padded with zeros
to multiples of 16, so that kernels have no remainders. On a processor, narrow types lie in *pairs* of rows, in the
order in which a kernel reads them: 16 numbers of the first row, 16 of the second, and so on. One stream of addresses is
what processors fetch ahead best. BF16 numbers i and i + 8 of 16 share a word, from which a shift and a mask widen them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clearseek.kernels import BLOCK, TOGETHER

Kind = Literal["F32", "BF16", "I8"]
DTYPES: dict[Kind, torch.dtype] = {"F32": torch.float32, "BF16": torch.bfloat16, "I8": torch.int8}
_PIECE = 64 << 20
"""Bytes of memory that are asked for at a time."""


def wide(n: int, to: int = BLOCK) -> int:
    """`n` rounded up to a multiple of `to`."""
    return n + -n % to


def padded(x: Tensor, *sizes: int) -> Tensor:
    """`x` with zeros behind each of its last dimensions up to `sizes`."""
    missing = [pair for size, own in zip(sizes[::-1], list(x.shape)[::-1], strict=False) for pair in (0, size - own)]
    return F.pad(x, missing)


@dataclass(frozen=True)
class Matrix:
    """Rows of weights in a stored type: [rows, inner], both multiples of 16."""

    values: Tensor
    """[rows, inner]; of pairs, the memory alone has this size."""
    scales: Tensor | None
    """FP32 [rows] for int8: what a row's whole numbers are multiplied by."""
    paired: bool

    @property
    def kind(self) -> Kind:
        """The stored type."""
        return next(kind for kind, dtype in DTYPES.items() if dtype == self.values.dtype)

    def part(self, index: int, parts: int) -> Matrix:
        """One of `parts` equal blocks of rows."""
        scales = None if self.scales is None else self.scales.unflatten(0, (parts, -1))[index]
        return Matrix(self.values.unflatten(0, (parts, -1))[index], scales, self.paired)

    def floats(self) -> Tensor:
        """The numbers, FP32 [rows, inner]."""
        values = (_unpaired(self.values) if self.paired else self.values).float()
        return values if self.scales is None else values * self.scales.unsqueeze(-1)


class Store:
    """Stores matrices in one type."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._free = torch.empty(0, dtype=torch.uint8)

    def matrix(self, weight: Tensor, kind: Kind | None = None) -> Matrix:
        """Store [..., rows, inner], by default in the store's type."""
        kind = kind or self.kind
        weight = weight.flatten(0, -2)
        weight, scales = padded(weight, *map(wide, weight.shape)), None
        if kind == "I8":
            weight = weight.float()
            scales = weight.abs().amax(-1) / 127
            weight = (weight / scales.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)).round()
        values, paired = weight.to(DTYPES[kind]), kind != "F32" and weight.is_cpu
        values = _paired(values) if paired else values.contiguous()
        return Matrix(self._kept(values) if weight.is_cpu else values, scales, paired)

    def _kept(self, values: Tensor) -> Tensor:
        """A copy in large pieces of memory, which NumPy asks the system to map by pages of 2 MB where it can.

        A step reads all activated weights once: looking up pages of 4 KB would cost it a third of its time.
        """
        size = values.numel() * values.element_size()
        if size > len(self._free):
            self._free = torch.from_numpy(np.empty(max(_PIECE, size + 64), dtype=np.uint8))
            self._free = self._free[-self._free.data_ptr() % 64 :]
        kept, self._free = self._free[:size], self._free[wide(size, 64) :]
        return kept.view(values.dtype).view(values.shape).copy_(values)


def _paired(values: Tensor) -> Tensor:
    """Rows in pairs; BF16 numbers i and i + 8 of each 16 side by side."""
    rows, inner = values.shape
    if values.dtype == torch.bfloat16:
        return values.view(-1, TOGETHER, inner // 16, 2, 8).permute(0, 2, 1, 4, 3).reshape(rows, inner)
    return values.view(-1, TOGETHER, inner // 16, 16).transpose(1, 2).reshape(rows, inner)


def _unpaired(values: Tensor) -> Tensor:
    rows, inner = values.shape
    if values.dtype == torch.bfloat16:
        return values.view(-1, inner // 16, TOGETHER, 8, 2).permute(0, 2, 1, 4, 3).reshape(rows, inner)
    return values.view(-1, inner // 16, TOGETHER, 16).transpose(1, 2).reshape(rows, inner)
