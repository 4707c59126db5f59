"""Tokens to experts and back: where each token-expert pair stands among rows sorted by expert.

Pairs are sorted with a *stable* sort, so that each expert sees one contiguous block of rows. The way back is a gather
(every pair has its own place) and a sum over K in a fixed order: no atomics, the same bits every time. Each block is
padded to a multiple of `ALIGNMENT` rows whose weight is zero: matrix libraries build a kernel per shape, and with
blocks of any length nearly every product would need a new one; FP8 tiles of 128 rows must not cross experts either.

Shapes: T tokens, K experts per token, P = T * K pairs, R rows (pairs and padding), E experts, D hidden.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ALIGNMENT = 128
"""Rows that an expert's block is a multiple of; a few pairs alone, as when writing token by token, go unpadded."""


class Layout(NamedTuple):
    """Where each token-expert pair stands among the rows."""

    place_P: Tensor
    """Row of pair t * K + j, int64."""
    token_R: Tensor
    """Token of each row, int64; for padding the one that was asked for."""
    ends_E: Tensor
    """End of each expert's block, int32; the rows after the last block are spare."""


def lay_out(index_TK: Tensor, load_E: Tensor, alignment: int | None = None, padding: int = 0) -> Layout:
    """Sort pairs by expert, stably, into blocks padded to multiples of `alignment`: by default :data:`ALIGNMENT`,
    and 1 where there are fewer pairs than that. Rows of padding stand for token `padding`."""
    k = index_TK.shape[1]
    expert_P, order_P = index_TK.flatten().sort(dim=0, stable=True)
    if alignment is None:
        alignment = ALIGNMENT if order_P.numel() >= ALIGNMENT else 1
    padded_E = (load_E + (alignment - 1)).div(alignment, rounding_mode="floor") * alignment
    ends_E = padded_E.cumsum(0)
    shift_E = (ends_E - padded_E) - (load_E.cumsum(0) - load_E)  # rows of padding before each block
    row_P = torch.arange(order_P.numel(), device=order_P.device) + shift_E.index_select(0, expert_P)
    place_P = torch.empty_like(order_P)
    place_P[order_P] = row_P
    rows = order_P.numel() + load_E.numel() * (alignment - 1)  # enough for any loads: sizes never change
    rows += -rows % alignment
    token_R = torch.full((rows,), padding, dtype=torch.int64, device=order_P.device)
    token_R[row_P] = order_P.div(k, rounding_mode="floor")
    return Layout(place_P, token_R, ends_E.to(torch.int32))


def combine(y_RD: Tensor, place_P: Tensor, k: int) -> Tensor:
    """Sum each token's K rows: [T, D]. `place_P` says where the row of pair t * K + j stands in y."""
    return F.embedding_bag(place_P.view(-1, k), y_RD, mode="sum")
