"""Grouped matrix products: each expert's rows times its own matrix.

Rows stand sorted by expert; `ends_E` (int32, cumulative) says where each expert's block ends. On a GPU one grouped
kernel takes all experts at once. On a CPU the work goes expert by expert, so that what passes from one product to the
next (the block's rows, its activations, its gradients) is still in cache; the products write into a space that is there
for all of them. :func:`parts` says which pieces to work in.

Shapes: R rows, E experts, K inner, M outer size.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Part(NamedTuple):
    """Experts that are worked on together, and their rows."""

    experts: slice
    rows: slice
    ends_E: Tensor
    """Ends of their blocks, int32, counted from the part's first row."""


def parts(ends_E: Tensor, rows: int) -> list[Part]:
    """The pieces to work in: on a CPU each expert that has rows, on a GPU all `rows` at once."""
    if ends_E.device.type != "cpu":
        return [Part(slice(None), slice(0, rows), ends_E)]
    bounds = [0, *ends_E.tolist()]
    return [
        Part(slice(e, e + 1), slice(start, end), ends_E[e : e + 1] - start)
        for e, (start, end) in enumerate(pairwise(bounds))
        if end > start
    ]


def space_for(x: Tensor, rows: int, columns: int) -> Tensor | None:
    """Where the products of all parts write their rows; None on a GPU, whose one product makes its own."""
    return x.new_empty(rows, columns) if x.device.type == "cpu" else None


def gradient_space(w_EMK: Tensor) -> Tensor | None:
    """The same for the weights' gradient: zeros, for experts without rows write nothing."""
    return torch.zeros_like(w_EMK) if w_EMK.device.type == "cpu" else None


def grouped_mm(x_RK: Tensor, w_EKM: Tensor, ends_E: Tensor, space_RM: Tensor | None, rows: slice) -> Tensor:
    """Row block e of x times matrix e of w, for every e of a part, in these `rows` of the space if there is one.

    Rows after the last block mean nothing.
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
    empty_E = ends_E.diff(prepend=ends_E.new_zeros(1)) == 0  # no rows, no gradient, whatever the kernel leaves there
    return y_EMK.masked_fill_(empty_E[:, None, None], 0.0)
