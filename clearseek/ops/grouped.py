"""Grouped matrix products: each expert's rows times its own matrix.

Rows are sorted by expert; `ends_G` (int32, cumulative) holds the end of each expert's block, or of its several blocks.
On a GPU one grouped kernel computes all experts at once. On a CPU the work goes block by block, so that one product's
results (the block's rows, its activations, its gradients) are still in cache for the next; all products write into one
shared space. :func:`parts` returns the pieces of work.

Shapes: R rows, E experts, G blocks, K inner, M outer size.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clearseek.kernels import operations
from clearseek.ops.compiled import loops_take


class Part(NamedTuple):
    """Experts that are computed together, and their rows."""

    experts: slice
    rows: slice
    ends_E: Tensor
    """Ends of the experts' blocks, int32, counted from the part's first row."""


def parts(ends_E: Tensor, rows: int) -> list[Part]:
    """Pieces of work: on a CPU each expert that has rows, on a GPU all `rows` at once."""
    if ends_E.device.type != "cpu":
        return [Part(slice(None), slice(0, rows), ends_E)]
    bounds = [0, *ends_E.tolist()]
    return [
        Part(slice(e, e + 1), slice(start, end), ends_E[e : e + 1] - start)
        for e, (start, end) in enumerate(pairwise(bounds))
        if end > start
    ]


class Blocks(NamedTuple):
    """Blocks that have rows, one after the other from row 0 on: what products over all of them at once need."""

    rows: int
    """Rows of all blocks, spare ones at the end not among them; on a GPU all rows."""
    sizes: list[int] | None
    """Rows of each block; None on a GPU, which takes all blocks at once."""
    experts: list[int]
    """Expert of each block, ascending; empty on a GPU."""
    ends_E: Tensor
    """Ends of the blocks, int32."""

    def rows_of_experts(self) -> dict[int, int]:
        """Rows of each expert that has some, which lie one after the other."""
        found: dict[int, int] = {}
        for expert, size in zip(self.experts, self.sizes or (), strict=True):
            found[expert] = found.get(expert, 0) + size
        return found


def blocks(ends_G: Tensor, rows: int, expert_G: Tensor | None = None) -> Blocks:
    """The blocks of a layout of so many rows, spare ones among them.

    Block g belongs to expert g, or to `expert_G[g]` where an expert has several blocks one after the other.
    """
    if ends_G.device.type != "cpu":
        return Blocks(rows, None, [], ends_G)
    bounds = [0, *ends_G.tolist()]
    experts = range(len(ends_G)) if expert_G is None else expert_G.tolist()
    filled = [(e, end - start) for e, (start, end) in zip(experts, pairwise(bounds), strict=True) if end > start]
    return Blocks(bounds[-1], [size for _, size in filled], [e for e, _ in filled], ends_G)


def products(x_RK: Tensor, w_EKM: Tensor, these: Blocks, total_RM: Tensor | None = None) -> Tensor:
    """Each block's rows of x times its expert's matrix, [R, M]; added to `total_RM` in place, if given.

    A block's product is one of its own: its rows' bits do not depend on other blocks.
    """
    if these.sizes is None:
        y_RM: Tensor = F.grouped_mm(x_RK, w_EKM, offs=these.ends_E)
        return y_RM if total_RM is None else total_RM.add_(y_RM)
    if total_RM is None and loops_take(x_RK) and operations.takes_products(w_EKM):
        return operations.products(x_RK[: these.rows], w_EKM, these.rows_of_experts())
    out_RM = x_RK.new_empty(these.rows, w_EKM.shape[2]) if total_RM is None else total_RM
    pieces = zip(x_RK.split(these.sizes), _matrices(w_EKM, these.experts), out_RM.split(these.sizes), strict=True)
    for x_rK, w_KM, out_rM in pieces:
        if total_RM is None:
            torch.mm(x_rK, w_KM, out=out_rM)
        else:
            out_rM.addmm_(x_rK, w_KM)
    return out_RM


def weight_products(g_RM: Tensor, x_RK: Tensor, these: Blocks, experts: int) -> Tensor:
    """Gradients [E, M, K] of all experts' weights: an expert's rows of g, transposed, times its rows of x."""
    if these.sizes is None:
        y_EMK: Tensor = F.grouped_mm(g_RM.t(), x_RK, offs=these.ends_E)
        empty_E = these.ends_E.diff(prepend=these.ends_E.new_zeros(1)) == 0  # no rows: the kernel leaves anything
        return y_EMK.masked_fill_(empty_E[:, None, None], 0.0)
    sizes = these.rows_of_experts()
    y_EMK = g_RM.new_zeros(experts, g_RM.shape[1], x_RK.shape[1])
    rows = list(sizes.values())
    pieces = zip(g_RM.split(rows), x_RK.split(rows), _matrices(y_EMK, list(sizes)), strict=True)
    for g_rM, x_rK, y_MK in pieces:
        torch.mm(g_rM.t(), x_rK, out=y_MK)
    return y_EMK


def _matrices(w_EKM: Tensor, experts: list[int]) -> list[Tensor]:
    """The matrices of some experts; all are taken apart at once where most are needed."""
    if 4 * len(experts) < len(w_EKM):
        return [w_EKM[e] for e in experts]
    every = w_EKM.unbind(0)
    return [every[e] for e in experts]


def space_for(x: Tensor, rows: int, columns: int) -> Tensor | None:
    """Memory for the rows of all parts' products; None on a GPU, whose single product allocates its own."""
    return x.new_empty(rows, columns) if x.device.type == "cpu" else None


def gradient_space(w_EMK: Tensor) -> Tensor | None:
    """Memory for the weights' gradient, zero for experts without rows; None on a GPU."""
    return torch.zeros_like(w_EMK) if w_EMK.device.type == "cpu" else None


def grouped_mm(x_RK: Tensor, w_EKM: Tensor, ends_E: Tensor, space_RM: Tensor | None, rows: slice) -> Tensor:
    """Row block e of x times matrix e of w, for every e of a part, written to `rows` of the space, if given.

    Rows after the last block are undefined.
    """
    if space_RM is not None:
        return torch.mm(x_RK, w_EKM[0], out=space_RM[rows])
    y_RM: Tensor = F.grouped_mm(x_RK, w_EKM, offs=ends_E)
    return y_RM


def grouped_mm_weight(g_RM: Tensor, x_RK: Tensor, part: Part, space_EMK: Tensor | None) -> Tensor:
    """The weights' gradient: row block e of g, transposed, times row block e of x, for every e of a part.

    Written to the part's experts in the space, if given.
    """
    if space_EMK is not None:
        torch.mm(g_RM.t(), x_RK, out=space_EMK[part.experts][0])
        return space_EMK
    ends_E = part.ends_E
    y_EMK: Tensor = F.grouped_mm(g_RM.t(), x_RK, offs=ends_E)
    empty_E = ends_E.diff(prepend=ends_E.new_zeros(1)) == 0  # no rows: no gradient, but the kernel leaves anything
    return y_EMK.masked_fill_(empty_E[:, None, None], 0.0)
