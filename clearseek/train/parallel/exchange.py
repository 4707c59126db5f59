"""Gradients from the processes that compute them to those that own them, and new weights back.

A reduce-scatter in a fixed order: every process sends each owner its own sum of the elements that the owner has, and
the owner adds what it gets as the top of the tree of :mod:`clearseek.train.accumulate`, by explicit additions. That is
as many bytes as a ring's reduce-scatter, and the bits of one process; a ring's own additions, and those of any
all-reduce, run in an order that depends on the number of processes (and ``tensor.sum(0)`` is a running sum). Megatron's
``reduce_scatter_with_fp32_accumulation`` sends in the same way.

Blocks of neighbouring processes are subtrees. So the processes of one machine may add their sums first, each for an
equal share of all elements, and send only those to other machines (:class:`TwoLevels`): the same bits, and a machine's
network carries as much as for one process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from clearseek.parts import Part
from clearseek.train.accumulate import TreeSum


class Piece(NamedTuple):
    """What a holder and an owner have in common: elements of one tensor, by their places in both."""

    held: int
    """Number of the holder's part."""
    owned: int
    """Number of the owner's part."""
    part: Part


def pieces(held: Sequence[Part], owned: Sequence[Part]) -> list[Piece]:
    """All that a holder and an owner have in common, in the owner's order and then the holder's."""
    by_name: dict[str, list[int]] = defaultdict(list)
    for number, part in enumerate(held):
        by_name[part.name].append(number)
    return [
        Piece(number, owner, common)
        for owner, part in enumerate(owned)
        for number in by_name.get(part.name, ())
        if (common := held[number].common(part)) is not None
    ]


class Exchange:
    """The exchange among the copies of a stage.

    Args:
        rank: This process.
        held: What each process computes gradients and needs weights of.
        owned: What each process updates.
        leaf: Number of a process's sum of a part among the sums of other processes, in the order of their lanes.
    """

    def __init__(
        self, rank: int, held: Mapping[int, Sequence[Part]], owned: Mapping[int, Sequence[Part]],
        leaf: Callable[[int, Part], int],
    ) -> None:  # fmt: skip
        self.held, self.owned, self._rank = held[rank], owned[rank], rank
        self._gives = {other: pieces(self.held, owned[other]) for other in owned}
        self._takes = {other: pieces(held[other], self.owned) for other in held}
        self._leaves: list[dict[int, list[tuple[int, int]]]] = [defaultdict(list) for _ in self.owned]
        for other, found in self._takes.items():
            for number, piece in enumerate(found):
                self._leaves[piece.owned][leaf(other, piece.part)].append((other, number))
        self._own = all(_covers(held[rank], owned[rank]) for rank in owned)
        self.sent = 0
        """Bytes sent to other processes so far."""

    @torch.no_grad()
    def reduce(self, held: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        """Sums over all processes of what this one owns, flat, from the sums that each has; FP32."""
        found = self._collect(held, torch.empty(0, device=device), self._gives, self._takes)
        sums: list[Tensor] = [torch.empty(0)] * len(self.owned)
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, leaves in enumerate(self._leaves):
            alike[tuple(sorted(leaves))].append(number)
        for order, numbers in alike.items():
            tree = TreeSum()
            for leaf in order:
                tree.push([_joined([found[at] for at in self._leaves[number][leaf]]) for number in numbers])
            for number, total in zip(numbers, tree.result(), strict=True):
                sums[number] = total
        return sums

    @torch.no_grad()
    def fetch(self, held: Sequence[Tensor]) -> list[Tensor]:
        """What this process owns of tensors that all holders have alike, flat copies in their type."""
        if self._own:  # the same on all processes
            return own(self.held, self.owned, held)
        found = self._collect(held, held[0], self._gives, self._takes)
        firsts = [leaves[min(leaves)] for leaves in self._leaves]
        return [_joined([found[at] for at in first]).clone() for first in firsts]

    @torch.no_grad()
    def spread(self, owned: Sequence[Tensor], held: Sequence[Tensor]) -> None:
        """Write owners' new values, in the type of the weights, into the weights of all holders; the last `held` is
        written to."""
        flat = [each.view(-1) for each in held]
        if not held:
            assert not self.owned
            return
        found = self._collect(owned, held[0], self._takes, self._gives, back=True)
        for other, common in self._gives.items():
            for number, piece in enumerate(common):
                start = self.held[piece.held].start
                flat[piece.held][piece.part.start - start : piece.part.stop - start] = found[other, number]

    def _collect(
        self, tensors: Sequence[Tensor], like: Tensor, out: Mapping[int, list[Piece]],
        into: Mapping[int, list[Piece]], back: bool = False,
    ) -> dict[tuple[int, int], Tensor]:  # fmt: skip
        """Send every process its pieces and receive ours: (process, number of the piece) -> elements."""
        mine = self.owned if back else self.held
        flat = [each.reshape(-1) for each in tensors]

        def cut(piece: Piece) -> Tensor:
            number = piece.owned if back else piece.held
            start = mine[number].start
            return flat[number][piece.part.start - start : piece.part.stop - start]

        operations: list[dist.P2POp] = []
        messages: dict[tuple[Piece, ...], Tensor] = {}  # new weights are the same for many processes
        received: dict[int, Tensor] = {}
        for other in sorted(out.keys() | into.keys()):
            if other == self._rank:
                continue
            if size := sum(piece.part.size for piece in into.get(other, ())):
                received[other] = like.new_empty(size)
                operations.append(dist.P2POp(dist.irecv, received[other], other))
            if common := out.get(other, []):
                key = tuple(common)
                if key not in messages:
                    messages[key] = _joined([cut(piece) for piece in common])
                self.sent += messages[key].numel() * messages[key].element_size()
                operations.append(dist.P2POp(dist.isend, messages[key], other))
        for handle in dist.batch_isend_irecv(operations) if operations else ():
            handle.wait()
        found: dict[tuple[int, int], Tensor] = {}
        for number, piece in enumerate(into.get(self._rank, ())):
            found[self._rank, number] = cut(piece)
        for other, message in received.items():
            parts = message.split([piece.part.size for piece in into[other]])
            found |= {(other, number): part for number, part in enumerate(parts)}
        return found


class TwoLevels:
    """The exchange among whole copies on several machines, first within each machine, then across; see the module.

    Args:
        rank: This process.
        held: What each process holds; all hold the same.
        owned: What each process updates.
        each: Processes of a machine, a power of two, which are neighbours in `held`.
    """

    def __init__(
        self, rank: int, held: Mapping[int, Sequence[Part]], owned: Mapping[int, Sequence[Part]], each: int
    ) -> None:
        ranks = list(held)
        place = {other: divmod(number, each) for number, other in enumerate(ranks)}
        machine, number = place[rank]
        together, alike = ranks[machine * each : (machine + 1) * each], ranks[number::each]

        def between(other: int) -> list[Part]:
            """What a process sums up for itself and its likes on other machines."""
            return [part for owner in ranks[place[other][1] :: each] for part in owned[owner]]

        self.held, self.owned, self._between = held[rank], owned[rank], between(rank)
        self.within = Exchange(
            rank, {other: held[other] for other in together}, {other: between(other) for other in together},
            lambda other, _: place[other][1],
        )  # fmt: skip
        self.across = Exchange(
            rank, dict.fromkeys(alike, self._between), {other: owned[other] for other in alike},
            lambda other, _: place[other][0],
        )  # fmt: skip

    @property
    def sent(self) -> int:
        """Bytes sent to other processes so far."""
        return self.within.sent + self.across.sent

    def reduce(self, held: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        """As :meth:`Exchange.reduce`."""
        return self.across.reduce(self.within.reduce(held, device), device)

    def fetch(self, held: Sequence[Tensor]) -> list[Tensor]:
        """As :meth:`Exchange.fetch`."""
        return own(self.held, self.owned, held)

    def spread(self, owned: Sequence[Tensor], held: Sequence[Tensor]) -> None:
        """As :meth:`Exchange.spread`."""
        between = [held[0].new_empty(part.size) for part in self._between]
        self.across.spread(owned, between)
        self.within.spread(between, held)


def own(held: Sequence[Part], owned: Sequence[Part], tensors: Sequence[Tensor]) -> list[Tensor]:
    """What a process owns of the tensors that it holds itself, flat copies."""
    return [
        tensors[piece.held].reshape(-1)[piece.part.start - held[piece.held].start :][: piece.part.size].clone()
        for piece in pieces(held, owned)
    ]


def machines(hosts: Sequence[str]) -> int | None:
    """Processes of each machine, given the hosts of all; None unless there are several machines with a power of two of
    neighbouring processes each, and more than one."""
    each = next((number for number, host in enumerate(hosts) if host != hosts[0]), 0)
    blocks = [hosts[first : first + each] for first in range(0, len(hosts), each)] if each > 1 else []
    apart = len({block[0] for block in blocks}) == len(blocks)
    equal = all(len(block) == each and len(set(block)) == 1 for block in blocks)
    return each if blocks and apart and equal and not each & (each - 1) else None


def _covers(held: Sequence[Part], owned: Sequence[Part]) -> bool:
    found = pieces(held, owned)
    return [piece.part for piece in found] == list(owned)


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
