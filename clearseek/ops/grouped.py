"""Grouped matrix products: each expert's rows times its own matrix.

Rows are sorted by expert; `ends_E` (int32, cumulative) holds the end of each expert's block. On a GPU one grouped
kernel computes all experts at once. On a CPU the work goes expert by expert, so that one product's results (the block's
rows, its activations, its gradients) are still in cache for the next; all products write into one shared space.
:func:`parts` returns the pieces of work.

Shapes: R rows, E experts, K inner, M outer size.
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


def grouped_mm_weight(g_RM: Tensor, x_RK: Tensor, ends_E: Tensor, space_EMK: Tensor | None, experts: slice) -> Tensor:
    """The weights' gradient: row block e of g, transposed, times row block e of x, for every e of a part."""
    if space_EMK is not None:
        torch.mm(g_RM.t(), x_RK, out=space_EMK[experts][0])
        return space_EMK
    y_EMK: Tensor = F.grouped_mm(g_RM.t(), x_RK, offs=ends_E)
    empty_E = ends_E.diff(prepend=ends_E.new_zeros(1)) == 0  # no rows: no gradient, but the kernel leaves anything
    return y_EMK.masked_fill_(empty_E[:, None, None], 0.0)
