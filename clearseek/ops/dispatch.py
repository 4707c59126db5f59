"""Tokens to experts and back: the row of each token-expert pair, with rows sorted by expert.

Pairs are sorted with a *stable* sort, so that each expert has one contiguous block of rows. Both ways are gathers:
every row stores its pair and every pair its row, and a token's K rows are summed in a fixed order. Without atomics,
bits are the same every time. Each block is padded with rows of weight zero to a multiple of :func:`alignment_of`,
because matrix libraries build a kernel per shape, and blocks of any length would need a new kernel for nearly every
product; also, FP8 tiles of 128 rows must not cross experts.

A library rounds a row's product differently in a block of another length, or at another place in it. So where documents
are told apart, each has a block of its own in every expert on a CPU: no bit of it depends on its neighbours.

Shapes: T tokens, K experts per token, P = T * K pairs, R rows (pairs and padding), E experts, G blocks (experts, or
experts x documents), D hidden.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ALIGNMENT = 128
"""Rows of which a block is a multiple: on a GPU, in FP8, and for experts with that many rows."""
DOCUMENT_ALIGNMENT = 8
"""Rows of which a document's own block is a multiple: always the same, whatever else the batch holds."""


class Routing(NamedTuple):
    """Experts of each token, and the order of the pairs."""

    index_TK: Tensor
    """Chosen experts, int64."""
    weight_TK: Tensor
    """Weights of the chosen experts, FP32, with gradient."""
    order_P: Tensor
    """Token-expert pairs (t * K + j) sorted by expert, and in their own order within an expert, int64."""
    load_E: Tensor
    """Pairs per expert, int64."""
    counted_E: Tensor
    """Tokens per expert without padding, int64: the load that is balanced."""
    balance_loss: Tensor | None = None
    """Sequence-wise balance loss before its factor, FP32 scalar; None if left out."""
    document_T: Tensor | None = None
    """Number of each token's document, int64, ascending; None where documents are not told apart."""

    @classmethod
    def of(
        cls, index_TK: Tensor, weight_TK: Tensor, experts: int, balance_loss: Tensor | None = None,
        valid_T: Tensor | None = None, document_T: Tensor | None = None,
    ) -> Routing:  # fmt: skip
        """Sort and count the choices; tokens that are not valid are padding."""
        expert_P, order_P = index_TK.flatten().sort(dim=0, stable=True)
        load_E = counted_E = _counts(expert_P, experts)
        if valid_T is not None:
            counted_E = _counts(index_TK.masked_fill(~valid_T.unsqueeze(1), experts).flatten().sort().values, experts)
        return cls(index_TK, weight_TK, order_P, load_E, counted_E, balance_loss, document_T)


def _counts(sorted_P: Tensor, size: int) -> Tensor:
    """How often 0 .. size - 1 occur in sorted numbers.

    The counts come from places in the sorted list, because `bincount` would make the host wait for a GPU.
    """
    return torch.searchsorted(sorted_P, torch.arange(size + 1, device=sorted_P.device)).diff()


class Layout(NamedTuple):
    """Rows of the token-expert pairs, and pairs of the rows."""

    place_P: Tensor
    """Row of pair t * K + j, int64."""
    pair_R: Tensor
    """Pair of each row, int64; P for padding."""
    token_R: Tensor
    """Token of each row, int64; for padding the token given to :func:`lay_out`."""
    ends_G: Tensor
    """End of each block, int32; the rows after the last block are spare."""
    expert_G: Tensor | None = None
    """Expert of each block, int64; None for one block an expert."""

    def weights(self, weight_TK: Tensor, dtype: torch.dtype) -> Tensor:
        """The router's weight of each row, [R, 1], which is 0 for padding."""
        return F.pad(weight_TK.flatten().to(dtype), (0, 1)).index_select(0, self.pair_R).unsqueeze(1)


def alignment_of(pairs: int, experts: int, device: torch.device) -> int:
    """Rows of which blocks are multiples: 128, but 8 or 1 on a CPU with few rows an expert, to limit padding."""
    if device.type != "cpu" or pairs >= ALIGNMENT * experts:
        return ALIGNMENT
    return 8 if pairs >= 8 * experts else 1


def lay_out(routing: Routing, alignment: int, padding: int = 0, by_document: bool = False) -> Layout:
    """Give each pair a row, in blocks of multiples of `alignment`; rows of padding have the token `padding`.

    `by_document` gives each document of an expert a block, as the routing numbers them; else each expert has one.
    """
    index_TK, order_P, device = routing.index_TK, routing.order_P, routing.order_P.device
    pairs, k, experts = order_P.numel(), index_TK.shape[1], routing.load_E.numel()
    if alignment == 1 and not by_document:  # the same by fewer operations: of a few tokens they are most of the time
        place_P = torch.empty_like(order_P).scatter_(0, order_P, torch.arange(pairs, device=device))
        token_R = order_P.div(k, rounding_mode="floor")
        return Layout(place_P, order_P, token_R, routing.load_E.cumsum(0, dtype=torch.int32))
    group_P, load_G, expert_G = index_TK.flatten().index_select(0, order_P), routing.load_E, None
    if by_document:
        assert routing.document_T is not None
        documents = int(routing.document_T[-1]) + 1
        group_P = group_P * documents + routing.document_T.index_select(0, order_P.div(k, rounding_mode="floor"))
        load_G = _counts(group_P, experts * documents)  # tokens ascend within an expert, and documents with them
        expert_G = torch.arange(experts, device=device).repeat_interleave(documents)
    groups = load_G.numel()
    padded_G = (load_G + (alignment - 1)).div(alignment, rounding_mode="floor") * alignment
    ends_G = padded_G.cumsum(0)
    shift_G = (ends_G - padded_G) - (load_G.cumsum(0) - load_G)  # rows of padding before each block
    row_P = torch.arange(pairs, device=device) + shift_G.index_select(0, group_P)
    rows = pairs + min(groups, pairs) * (alignment - 1)  # enough for any loads: sizes never change
    rows += -rows % alignment
    row_R = torch.arange(rows, device=device)
    group_R = torch.searchsorted(ends_G, row_R, right=True).clamp_(max=groups - 1)
    filled_R = row_R < (ends_G - padded_G + load_G).index_select(0, group_R)
    sorted_R = (row_R - shift_G.index_select(0, group_R)).clamp_(max=pairs - 1)
    pair_R = order_P.index_select(0, sorted_R).masked_fill_(~filled_R, pairs)
    token_R = pair_R.div(k, rounding_mode="floor").masked_fill_(~filled_R, padding)
    place_P = torch.empty_like(row_P).scatter_(0, order_P, row_P)  # each pair once: the order of writing is free
    return Layout(place_P, pair_R, token_R, ends_G.to(torch.int32), expert_G)


def combine(y_RD: Tensor, place_P: Tensor, k: int) -> Tensor:
    """Sum each token's K rows: [T, D]; `place_P` is the row of pair t * K + j in y."""
    return F.embedding_bag(place_P.view(-1, k), y_RD, mode="sum")
