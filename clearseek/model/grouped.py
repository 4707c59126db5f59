"""Grouped matrix products: one product for all experts.

Rows stand sorted by expert; `ends_E` (int32, cumulative) says where each expert's block ends. On a GPU this is
PyTorch's grouped kernel. On a CPU PyTorch's own loop copies each block's result once more, so the loop is written
out, each product going straight to its place.

Shapes: R rows, E experts, K inner, M outer size.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def _blocks(ends_E: Tensor) -> list[tuple[int, int, int]]:
    """(expert, start, end) of every non-empty block."""
    bounds = [0, *ends_E.tolist()]
    return [(e, start, end) for e, (start, end) in enumerate(pairwise(bounds)) if end > start]


def grouped_mm(x_RK: Tensor, w_EKM: Tensor, ends_E: Tensor) -> Tensor:
    """Row block e of x times matrix e of w, for every e: [R, M]."""
    if x_RK.device.type != "cpu":
        return F.grouped_mm(x_RK, w_EKM, offs=ends_E)
    out_RM = torch.empty(x_RK.shape[0], w_EKM.shape[2], dtype=x_RK.dtype)
    for e, start, end in _blocks(ends_E):
        torch.mm(x_RK[start:end], w_EKM[e], out=out_RM[start:end])
    return out_RM


def grouped_mm_weight(g_RM: Tensor, x_RK: Tensor, ends_E: Tensor) -> Tensor:
    """Transposed row block e of g times row block e of x, for every e (zero for an expert without rows): [E, M, K]."""
    if x_RK.device.type != "cpu":
        return F.grouped_mm(g_RM.t(), x_RK, offs=ends_E)
    blocks = _blocks(ends_E)
    shape = (ends_E.numel(), g_RM.shape[1], x_RK.shape[1])
    out_EMK = torch.empty(shape, dtype=x_RK.dtype) if len(blocks) == shape[0] else torch.zeros(shape, dtype=x_RK.dtype)
    for e, start, end in blocks:
        torch.mm(g_RM[start:end].t(), x_RK[start:end], out=out_EMK[e])
    return out_EMK
