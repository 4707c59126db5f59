"""Gradients from the processes that compute them to those that own them, and new weights back.

A reduce-scatter in a fixed order: every process sends each owner its own sum of the elements that the owner has, and
the owner adds what it gets as the top of the tree of :mod:`clearseek.train.accumulate`, by explicit additions. That is
as many bytes as a ring's reduce-scatter, and the bits of one process; a ring's own additions, and those of any
all-reduce, run in an order that depends on the number of processes (and ``tensor.sum(0)`` is a running sum). Megatron's
``reduce_scatter_with_fp32_accumulation`` sends in the same way.

Blocks of neighbouring processes are subtrees. So the processes of one machine may add their sums first, each for an
equal share of all elements, and send only those to other machines (:class:`TwoLevels`): the same bits, and a machine's
network carries as much as for one process.

All this goes in rounds, of which each moves a bounded number of elements (:func:`clearseek.parts.bucket`). A gradient
is let go as soon as its last element is sent, and an owner adds in the memory of its own gradient. So the exchange
takes hardly more memory than the gradients do (:func:`clearseek.parts.exchange_room`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from clearseek import parts
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


class Sum(NamedTuple):
    """What an owner adds up in a round: elements of one of its parts."""

    part: Part
    leaves: list[list[tuple[int, int]]]
    """In the tree's order: (process, number of the piece among those that it sends) of all that makes up a leaf."""


class Round(NamedTuple):
    """What a process sends and receives at a time."""

    gives: dict[int, list[Piece]]
    """By owner, itself included: what this process holds."""
    takes: dict[int, list[Piece]]
    """By holder, itself included: what this process owns."""
    sums: dict[int, Sum]
    """By number of the owned part."""
    last: list[int]
    """Numbers of held parts that no later round gives anything of."""


def windows(
    owned: Mapping[int, Sequence[Part]], holders: Mapping[str, int], size: int
) -> Iterator[dict[int, dict[int, Part]]]:
    """Elements that each owner gets in each round, by the numbers of its parts; the same on all processes.

    Tensors with equally many holders go together, so that no process receives more than a bucket. Owners begin at
    different places of what they own: where each element has one holder, not all ask the same one at a time.

    Args:
        owned: What each process owns.
        holders: How many processes hold each element of a tensor, by its name.
        size: Elements of a bucket.
    """
    for count in sorted(set(holders.values())):
        runs = {}
        for place, (owner, theirs) in enumerate(owned.items()):
            some = {number: part for number, part in enumerate(theirs) if holders[part.name] == count}
            found = list(_cut(some, max(1, size // count)))
            first = place * len(found) // len(owned)
            runs[owner] = found[first:] + found[:first]
        for number in range(max(map(len, runs.values()))):
            yield {owner: found[number] for owner, found in runs.items() if number < len(found)}


def _cut(some: Mapping[int, Part], size: int) -> Iterator[dict[int, Part]]:
    """Parts by number, cut into runs of `size` elements in all."""
    window, room = dict[int, Part](), size
    for number, part in some.items():
        start = part.start
        while start < part.stop:
            stop = min(part.stop, start + room)
            window[number] = part._replace(start=start, stop=stop)
            start, room = stop, room - (stop - start)
            if not room:
                yield window
                window, room = {}, size
    if window:
        yield window


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
        self.owners = len(owned)
        """Processes that take part."""
        self.total = sum(part.size for theirs in owned.values() for part in theirs)
        """Elements that all of them own."""
        self._all, self._leaf = (held, owned), leaf
        self._own = all(_covers(held[rank], owned[rank]) for rank in owned)
        self._inside = {
            piece.owned: piece.held
            for piece in pieces(self.held, self.owned)
            if piece.part == self.owned[piece.owned]
        }  # fmt: skip
        self.sent = 0
        """Bytes sent to other processes so far."""

    @cached_property
    def _rounds(self) -> list[Round]:
        held, owned = self._all
        all_held, all_owned = (_by_name(each.values()) for each in (held, owned))
        holders = {name: all_held[name] // size for name, size in all_owned.items()}
        gives = {other: _by_part(pieces(self.held, theirs)) for other, theirs in owned.items()}
        takes = {other: _by_part(pieces(theirs, self.owned)) for other, theirs in held.items()}
        rounds, seen = list[Round](), set[int]()
        for found in windows(owned, holders, parts.bucket(self.total)):
            mine = found.get(self._rank, {})
            out = {other: _within(gives[other], window) for other, window in found.items()}
            into = {other: _within(theirs, mine) for other, theirs in takes.items()}
            rounds.append(Round(out, into, self._sums(mine, into), []))
        for each in reversed(rounds):
            given = {piece.held for common in each.gives.values() for piece in common}
            each.last.extend(sorted(given - seen))
            seen |= given
        return rounds

    def _sums(self, mine: Mapping[int, Part], takes: Mapping[int, Sequence[Piece]]) -> dict[int, Sum]:
        leaves: dict[int, dict[int, list[tuple[int, int]]]] = {number: defaultdict(list) for number in mine}
        for other, found in takes.items():
            for number, piece in enumerate(found):
                leaves[piece.owned][self._leaf(other, piece.part)].append((other, number))
        return {
            number: Sum(part, [leaves[number][leaf] for leaf in sorted(leaves[number])])
            for number, part in mine.items()
        }  # fmt: skip

    @torch.no_grad()
    def reduce(self, held: list[Tensor], device: torch.device) -> list[Tensor]:
        """Sums over all processes of what this one owns, flat, from the sums that each has; FP32.

        The list `held` is emptied on the way, and its tensors are summed into: the caller must hold no other reference
        to what is to be let go.
        """
        _flatten(held)
        sums: list[Tensor] = [torch.empty(0)] * len(self.owned)
        for number, part in enumerate(self.owned):
            if number in self._inside:
                sums[number] = _elements(held[self._inside[number]], self.held[self._inside[number]], part)
            else:
                sums[number] = torch.empty(part.size, device=device)
        for each in self._rounds:
            found = self._collect(held, torch.empty(0, device=device), each.gives, each.takes)
            for number, (part, leaves) in each.sums.items():
                tree = TreeSum()
                for leaf in leaves:
                    tree.push([_joined([found[at] for at in leaf])])
                _write(_elements(sums[number], self.owned[number], part), tree.result()[0])
            found.clear()
            self._let_go(each.last, held, sums)
        held.clear()
        return sums

    def _let_go(self, numbers: Sequence[int], held: list[Tensor], sums: list[Tensor]) -> None:
        """Drop held tensors that are sent, all but the sums that were made in them."""
        for number in numbers:
            for owned, inside in self._inside.items():
                if inside == number and self.owned[owned] != self.held[inside]:
                    sums[owned] = sums[owned].clone()
            held[number] = torch.empty(0)

    @torch.no_grad()
    def fetch(self, held: Sequence[Tensor]) -> list[Tensor]:
        """What this process owns of tensors that all holders have alike, flat copies in their type."""
        if self._own:  # the same on all processes
            return own(self.held, self.owned, held)
        flat = [each.reshape(-1) for each in held]
        owned = [held[0].new_empty(part.size) for part in self.owned]
        for each in self._rounds:
            found = self._collect(flat, held[0], each.gives, each.takes)
            for number, (part, leaves) in each.sums.items():
                _elements(owned[number], self.owned[number], part).copy_(_joined([found[at] for at in leaves[0]]))
        return owned

    @torch.no_grad()
    def spread(self, owned: Sequence[Tensor], held: Sequence[Tensor]) -> None:
        """Write owners' new values, in the type of the weights, into the weights of all holders; the last `held` is
        written to."""
        if not held:
            assert not self.owned
            return
        flat, mine = [each.view(-1) for each in held], [each.reshape(-1) for each in owned]

        def place(piece: Piece) -> Tensor:
            return _elements(flat[piece.held], self.held[piece.held], piece.part)

        for each in self._rounds:
            places = {other: place(common[0]) for other, common in each.gives.items() if len(common) == 1}
            found = self._collect(mine, held[0], each.takes, each.gives, places, back=True)
            for (other, number), values in found.items():
                if other not in places or other == self._rank:
                    place(each.gives[other][number]).copy_(values)

    def _collect(
        self, flat: Sequence[Tensor], like: Tensor, out: Mapping[int, list[Piece]], into: Mapping[int, list[Piece]],
        places: Mapping[int, Tensor] = MappingProxyType({}), back: bool = False,
    ) -> dict[tuple[int, int], Tensor]:  # fmt: skip
        """Send every process its pieces and receive ours: (process, number of the piece) -> elements.

        What comes from some processes is received in `places`, the rest in memory of its own.
        """
        mine = self.owned if back else self.held

        def cut(piece: Piece) -> Tensor:
            number = piece.owned if back else piece.held
            return _elements(flat[number], mine[number], piece.part)

        operations: list[dist.P2POp] = []
        messages: dict[tuple[Piece, ...], Tensor] = {}  # new weights are the same for many processes
        received: dict[int, Tensor] = {}
        for other in sorted(out.keys() | into.keys()):
            if other == self._rank:
                continue
            if size := sum(piece.part.size for piece in into.get(other, ())):
                received[other] = places[other] if other in places else like.new_empty(size)
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
            split = message.split([piece.part.size for piece in into[other]])
            found |= {(other, number): each for number, each in enumerate(split)}
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

    def reduce(self, held: list[Tensor], device: torch.device) -> list[Tensor]:
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


def _by_name(everyone: Iterable[Sequence[Part]]) -> Counter[str]:
    """Elements of each tensor that processes have in all."""
    elements = Counter[str]()
    for part in (part for theirs in everyone for part in theirs):
        elements[part.name] += part.size
    return elements


def _by_part(found: Sequence[Piece]) -> dict[int, list[Piece]]:
    """Pieces by the number of the owned part."""
    by_part: dict[int, list[Piece]] = defaultdict(list)
    for piece in found:
        by_part[piece.owned].append(piece)
    return by_part


def _within(by_part: Mapping[int, Sequence[Piece]], window: Mapping[int, Part]) -> list[Piece]:
    """What of some pieces is in a window."""
    return [
        piece._replace(part=common)
        for number, part in window.items()
        for piece in by_part.get(number, ())
        if (common := piece.part.common(part)) is not None
    ]


def _elements(flat: Tensor, whole: Part, part: Part) -> Tensor:
    """A part of what a flat tensor has."""
    return flat[part.start - whole.start : part.stop - whole.start]


def _write(place: Tensor, total: Tensor) -> None:
    if place.data_ptr() != total.data_ptr():  # a process of the first lanes has added there
        place.copy_(total)


def _flatten(tensors: list[Tensor]) -> None:
    for number, each in enumerate(tensors):
        tensors[number] = each.reshape(-1)


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
