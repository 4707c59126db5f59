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


class Part(NamedTuple):
    """Experts that are computed together, and their rows."""

    experts: slice
    rows: slice
    ends_E: Tensor
    """Ends of the experts' blocks, int32, counted from the part's first row."""
    more: bool = False
    """Whether the part before had rows of the same expert."""


def parts(ends_G: Tensor, rows: int, expert_G: Tensor | None = None) -> list[Part]:
    """Pieces of work: on a CPU each block that has rows, on a GPU all `rows` at once.

    Block g belongs to expert g, or to `expert_G[g]` where an expert has several blocks one after the other.
    """
    if ends_G.device.type != "cpu":
        assert expert_G is None
        return [Part(slice(None), slice(0, rows), ends_G)]
    bounds = [0, *ends_G.tolist()]
    experts = range(len(ends_G)) if expert_G is None else expert_G.tolist()
    found, before = list[Part](), None
    for g, (e, (start, end)) in enumerate(zip(experts, pairwise(bounds), strict=True)):
        if end > start:
            found.append(Part(slice(e, e + 1), slice(start, end), ends_G[g : g + 1] - start, e == before))
            before = e
    return found


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

    Written to the part's experts in the space, if given; added there to what parts before gave the same expert.
    """
    if space_EMK is not None:
        out_MK = space_EMK[part.experts][0]
        if part.more:
            out_MK.addmm_(g_RM.t(), x_RK)
        else:
            torch.mm(g_RM.t(), x_RK, out=out_MK)
        return space_EMK
    ends_E = part.ends_E
    y_EMK: Tensor = F.grouped_mm(g_RM.t(), x_RK, offs=ends_E)
    empty_E = ends_E.diff(prepend=ends_E.new_zeros(1)) == 0  # no rows: no gradient, but the kernel leaves anything
    return y_EMK.masked_fill_(empty_E[:, None, None], 0.0)
