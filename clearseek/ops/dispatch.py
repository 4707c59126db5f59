"""Tokens to experts and back: the row of each token-expert pair, with rows sorted by expert.

Pairs are sorted with a *stable* sort, so that each expert has one contiguous block of rows. Both ways are gathers:
every row stores its pair and every pair its row, and a token's K rows are summed in a fixed order. Without atomics,
bits are the same every time. Each block is padded with rows of weight zero to a multiple of :func:`alignment_of`,
because matrix libraries build a kernel per shape, and blocks of any length would need a new kernel for nearly every
product; also, FP8 tiles of 128 rows must not cross experts.

Shapes: T tokens, K experts per token, P = T * K pairs, R rows (pairs and padding), E experts, D hidden.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ALIGNMENT = 128
"""Rows of which a block is a multiple: on a GPU, in FP8, and for experts with that many rows."""


class Routing(NamedTuple):
    """Experts of each token, and the order of the pairs."""

    index_TK: Tensor
    """Chosen experts, int64."""
    weight_TK: Tensor
    """Weights of the chosen experts, FP32, with gradient."""
    order_P: Tensor
    """Token-expert pairs (t * K + j) sorted by expert, and in their own order within an expert, int64."""
    load_E: Tensor
    """Tokens per expert, int64."""
    balance_loss: Tensor | None = None
    """Sequence-wise balance loss before its factor, FP32 scalar; None if left out."""

    @classmethod
    def of(cls, index_TK: Tensor, weight_TK: Tensor, experts: int, balance_loss: Tensor | None = None) -> Routing:
        """Sort and count the choices.

        The counts come from places in the sorted list, because `bincount` would make the host wait for a GPU.
        """
        expert_P, order_P = index_TK.flatten().sort(dim=0, stable=True)
        bounds_E = torch.searchsorted(expert_P, torch.arange(experts + 1, device=expert_P.device))
        return cls(index_TK, weight_TK, order_P, bounds_E.diff(), balance_loss)


class Layout(NamedTuple):
    """Rows of the token-expert pairs, and pairs of the rows."""

    place_P: Tensor
    """Row of pair t * K + j, int64."""
    pair_R: Tensor
    """Pair of each row, int64; P for padding."""
    token_R: Tensor
    """Token of each row, int64; for padding the token given to :func:`lay_out`."""
    ends_E: Tensor
    """End of each expert's block, int32; the rows after the last block are spare."""

    def weights(self, weight_TK: Tensor, dtype: torch.dtype) -> Tensor:
        """The router's weight of each row, [R, 1], which is 0 for padding."""
        return F.pad(weight_TK.flatten().to(dtype), (0, 1)).index_select(0, self.pair_R).unsqueeze(1)


def alignment_of(pairs: int, experts: int, device: torch.device) -> int:
    """Rows of which blocks are multiples: 128, but 8 or 1 on a CPU with few rows an expert, to limit padding."""
    if device.type != "cpu" or pairs >= ALIGNMENT * experts:
        return ALIGNMENT
    return 8 if pairs >= 8 * experts else 1


def lay_out(routing: Routing, alignment: int, padding: int = 0) -> Layout:
    """Give each pair a row, in blocks of multiples of `alignment`; rows of padding have the token `padding`."""
    index_TK, order_P, load_E = routing.index_TK, routing.order_P, routing.load_E
    pairs, experts, device = order_P.numel(), load_E.numel(), order_P.device
    padded_E = (load_E + (alignment - 1)).div(alignment, rounding_mode="floor") * alignment
    ends_E = padded_E.cumsum(0)
    shift_E = (ends_E - padded_E) - (load_E.cumsum(0) - load_E)  # rows of padding before each block
    expert_P = index_TK.flatten().index_select(0, order_P)
    row_P = torch.arange(pairs, device=device) + shift_E.index_select(0, expert_P)
    rows = pairs + experts * (alignment - 1)  # enough for any loads: sizes never change
    rows += -rows % alignment
    row_R = torch.arange(rows, device=device)
    expert_R = torch.searchsorted(ends_E, row_R, right=True).clamp_(max=experts - 1)
    filled_R = row_R < (ends_E - padded_E + load_E).index_select(0, expert_R)
    sorted_R = (row_R - shift_E.index_select(0, expert_R)).clamp_(max=pairs - 1)
    pair_R = order_P.index_select(0, sorted_R).masked_fill_(~filled_R, pairs)
    token_R = pair_R.div(index_TK.shape[1], rounding_mode="floor").masked_fill_(~filled_R, padding)
    return Layout(row_P.index_select(0, order_P.argsort()), pair_R, token_R, ends_E.to(torch.int32))


def combine(y_RD: Tensor, place_P: Tensor, k: int) -> Tensor:
    """Sum each token's K rows: [T, D]; `place_P` is the row of pair t * K + j in y."""
    return F.embedding_bag(place_P.view(-1, k), y_RD, mode="sum")
