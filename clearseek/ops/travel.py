"""Rows of tokens to the processes that own their experts, and back.

With expert parallelism each process of a group owns an equal run of a layer's experts. A token's rows go to the owners
of its experts, the owners compute, and the results come back and are summed in the token's own order, so that no bit
tells where an expert lies. Rows travel without padding: the owner pads them again, as the source would have done.

Two ways to compute what has arrived. *Exact*: the rows of each source are laid out by themselves, so that every product
has the shape, and the bits, that it has where one process computes that source's tokens with all experts. *Merged*: the
rows of all sources together, with less padding, but in an order of summation of its own for the weights' gradients.

Shapes: T tokens, K experts per token, P = T * K pairs sorted by expert, E experts, S parts of the group and sources,
N rows that have arrived, R such rows with padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from clearseek.ops.apply import apply
from clearseek.ops.dispatch import Layout, Routing, combine, lay_out


@dataclass(frozen=True, eq=False)
class ExpertGroup:
    """Processes that hold the experts of a layer between them."""

    processes: dist.ProcessGroup
    """The processes, in the order of their parts."""
    part: int
    """Which part of the experts this process owns."""
    parts: int
    """Number of parts, which divides the number of experts."""
    exact: bool = True
    """Whether the weight gradients of every source are computed apart."""


class Visit(NamedTuple):
    """Rows that are computed together: those of one source, or of all."""

    source: int
    """Part that sent them; 0 for all sources together."""
    rows: slice
    """The rows, among those that have arrived."""
    layout: Layout
    """The rows in blocks, as of as many tokens with one expert each."""


class Travel:
    """One layer's exchange for one batch. Every process of the group makes one at the same point.

    Args:
        routing: Where this process's tokens go.
        group: Who owns which experts.
        alignment: Rows of which blocks are multiples.
        zero_padding: Whether rows of padding have a token of their own after the last, as FP8 needs it; else the first
            token stands for them, with weight zero.
    """

    def __init__(self, routing: Routing, group: ExpertGroup, alignment: int, zero_padding: bool = False) -> None:
        self.k, self._group, self._zero_padding = routing.index_TK.shape[1], group, zero_padding
        self.order_P = routing.order_P
        self.token_P = routing.order_P.div(self.k, rounding_mode="floor")
        self.place_P = torch.empty_like(self.order_P).scatter_(
            0, self.order_P, torch.arange(len(self.order_P), device=self.order_P.device)
        )
        load_SE = routing.load_E.view(group.parts, -1)
        self._sent, arrived = self._agree(load_SE, alignment)
        self._arrived = [sum(counts) for counts, _ in arrived]
        self.visits = self._apart(arrived) if group.exact else self._merged(arrived)

    @property
    def arrived(self) -> int:
        """Rows that are computed here."""
        return sum(self._arrived)

    def _agree(self, load_SE: Tensor, alignment: int) -> tuple[list[int], list[tuple[list[int], int]]]:
        """Rows for each part; of each source its rows for every expert here, and its alignment."""
        sent = torch.cat([load_SE, load_SE.new_full((len(load_SE), 1), alignment)], dim=1)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self._group.processes)
        both = torch.stack([sent, received]).tolist()  # the host waits once
        return [sum(counts[:-1]) for counts in both[0]], [(counts[:-1], counts[-1]) for counts in both[1]]

    def _apart(self, arrived: list[tuple[list[int], int]]) -> list[Visit]:
        visits, first = [], 0
        for source, (counts, alignment) in enumerate(arrived):
            rows = slice(first, first + sum(counts))
            visits.append(Visit(source, rows, self._lay_out([counts], alignment)))
            first = rows.stop
        return visits

    def _merged(self, arrived: list[tuple[list[int], int]]) -> list[Visit]:
        largest = max(alignment for _, alignment in arrived)
        layout = self._lay_out([counts for counts, _ in arrived], largest)
        return [Visit(0, slice(0, sum(self._arrived)), layout)]

    def _lay_out(self, counts_SE: list[list[int]], alignment: int) -> Layout:
        """Blocks of rows that lie sorted by source, and by expert within a source."""
        device = self.order_P.device
        counts = torch.tensor(counts_SE, device=device)
        experts = torch.arange(counts.shape[1], device=device).expand_as(counts)
        index_N1 = experts.flatten().repeat_interleave(counts.flatten()).unsqueeze(1)
        if not len(index_N1):
            empty = index_N1.flatten()
            return Layout(empty, empty, empty, torch.zeros(counts.shape[1], dtype=torch.int32, device=device))
        routing = Routing.of(index_N1, index_N1, counts.shape[1])
        return lay_out(routing, alignment, padding=len(index_N1) if self._zero_padding else 0)

    def out(self, *tensors: Tensor) -> list[Tensor]:
        """Rows of the sorted pairs, each tensor [P, any], to the owners: what arrives here [N, any]."""
        return self._exchange(tensors, self._sent, self._arrived)

    def home(self, *tensors: Tensor) -> list[Tensor]:
        """What was made of the rows that arrived, [N, any], to their sources: rows of the sorted pairs [P, any]."""
        return self._exchange(tensors, self._arrived, self._sent)

    def _exchange(self, tensors: Sequence[Tensor], sent: list[int], arriving: list[int]) -> list[Tensor]:
        """All tensors in one message, as bytes: eight-bit floats are numbers that not every transport knows."""
        sides = [tensor.contiguous().view(torch.uint8) for tensor in tensors]
        message = torch.cat(sides, dim=1) if len(sides) > 1 else sides[0]
        received = message.new_empty(sum(arriving), message.shape[1])
        dist.all_to_all_single(received, message, arriving, sent, group=self._group.processes)
        pieces = received.split([side.shape[1] for side in sides], dim=1)
        return [piece.contiguous().view(tensor.dtype) for piece, tensor in zip(pieces, tensors, strict=True)]

    def combine(self, y_PD: Tensor) -> Tensor:
        """Sum of each token's rows, [T, D]."""
        return combine(y_PD, self.place_P, self.k)


class _Out(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_TK: Tensor, travel: Travel) -> tuple[Tensor, Tensor]:
        ctx.travel = travel
        weight_P1 = weight_TK.flatten().index_select(0, travel.order_P).unsqueeze(1)
        x_ND, weight_N1 = travel.out(x_TD.index_select(0, travel.token_P), weight_P1)
        return x_ND, weight_N1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_x_ND: Tensor, d_weight_N1: Tensor) -> tuple[Tensor | None, ...]:
        travel: Travel = ctx.travel
        d_x_PD, d_weight_P1 = travel.home(d_x_ND, d_weight_N1)
        return travel.combine(d_x_PD), d_weight_P1.index_select(0, travel.place_P).view(-1, travel.k), None


class _Home(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_ND: Tensor, travel: Travel) -> Tensor:
        ctx.travel = travel
        return travel.combine(*travel.home(y_ND))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TD: Tensor) -> tuple[Tensor | None, ...]:
        travel: Travel = ctx.travel
        return travel.out(g_TD.index_select(0, travel.token_P))[0], None


def to_owners(x_TD: Tensor, weight_TK: Tensor, travel: Travel) -> tuple[Tensor, Tensor]:
    """Tokens and router weights to the experts' owners, with gradients: what arrives here, [N, D] and [N, 1]."""
    arrived: tuple[Tensor, Tensor] = apply(_Out, x_TD, weight_TK, travel)
    return arrived


def to_sources(y_ND: Tensor, travel: Travel) -> Tensor:
    """The experts' outputs back to their sources, with gradients: the sum of each token's, [T, D]."""
    y_TD: Tensor = apply(_Home, y_ND, travel)
    return y_TD
