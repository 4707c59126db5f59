"""Which elements of which tensors a process holds, and which of them its optimiser owns.

Every way of sharing out a model (chunks for the optimiser, experts, stages, FSDP's rows) gives a process runs of whole
elements of named tensors in their flat order. So one description, :class:`Part`, serves optimiser, checkpoints and
hashes.

The optimiser's state is dealt out among the processes that hold the same weights (ZeRO-1, Rajbhandari et al., 2020,
section 5.1). A tensor may only be cut where no bit depends on it: at whole chunks, over which the gradient's norm and
the hashes are taken, and under Muon at whole matrices too.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, prod
from typing import NamedTuple

CHUNK = 1 << 16
"""Elements of a chunk."""
BUCKET = 1 << 23
"""Elements that a process receives at most at a time of others' gradients or weights, and sends: 32 MiB in FP32."""
_LEAST, _SHARE = 1 << 21, 16
"""Elements of the smallest bucket, and what share of a small model's gradients one is at most."""


class Part(NamedTuple):
    """Elements `start` to `stop` of a tensor's flat form."""

    name: str
    """The tensor, as a single process calls it."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Elements."""
        return self.stop - self.start

    @property
    def whole(self) -> bool:
        """Whether nothing of the tensor is missing."""
        return (self.start, self.stop) == (0, prod(self.shape))

    @staticmethod
    def of(name: str, shape: Sequence[int]) -> Part:
        """All of a tensor."""
        return Part(name, tuple(shape), 0, prod(shape))

    def rows(self, start: int, stop: int) -> Part:
        """Rows of the whole tensor along its first dimension."""
        row = prod(self.shape[1:])
        return self._replace(start=start * row, stop=stop * row)

    def common(self, other: Part) -> Part | None:
        """What both have of the same tensor, or None."""
        start, stop = max(self.start, other.start), min(self.stop, other.stop)
        return self._replace(start=start, stop=stop) if self.name == other.name and start < stop else None


def unit(shape: Sequence[int], matrix: int | None = None) -> int:
    """Elements between two places where a tensor may be cut; at least all of it where there is no such place inside.

    Args:
        shape: Of the whole tensor.
        matrix: Elements of one of Muon's matrices, of which the tensor is a stack; None under AdamW.
    """
    return CHUNK if matrix is None else matrix * (CHUNK // gcd(CHUNK, matrix))


def deal(parts: Sequence[tuple[Part, int]], owners: int) -> list[list[Part]]:
    """Deal tensors out among `owners`, in order and nearly evenly: each owner's parts are one run of all elements.

    Args:
        parts: What is dealt out, with each tensor's :func:`unit`. A unit belongs to the part that its first element is
            in; so a part's last unit may end behind the part, and what is before its first unit is not dealt out here.
        owners: Processes that hold these parts.

    Returns:
        Parts of each owner; some may own nothing of a small model.
    """
    whole = [(_units(part, size), size) for part, size in parts]
    total = sum(part.size for part, _ in whole)
    dealt: list[list[Part]] = [[] for _ in range(owners)]
    first = 0  # number of the part's first element among all
    for part, size in whole:
        cuts = [_cut(part, size, total * owner // owners - first) for owner in range(owners + 1)]
        for owner in range(owners):
            start = part.start if owner == 0 else cuts[owner]
            stop = part.stop if owner == owners - 1 else cuts[owner + 1]
            if start < stop:
                dealt[owner].append(part._replace(start=start, stop=stop))
        first += part.size
    return dealt


def bucket(elements: int) -> int:
    """Elements that move at a time where processes share so many."""
    return min(BUCKET, max(_LEAST, elements // _SHARE))


def exchange_room(
    held: Sequence[Part], owned: Sequence[Sequence[Part]], owners: int, total: int, in_place: bool = True
) -> list[int]:
    """Most elements that each owner's exchange of gradients takes beside those that it holds when it begins.

    That is what it receives and what it sends at a time, or a copy of what it owns of a tensor that is let go; and
    memory for sums of parts that it does not hold all of.

    Args:
        held: What all of these owners compute gradients of, one part of each tensor.
        owned: What each of them adds up.
        owners: Processes of the exchange.
        total: Elements that all of them own.
        in_place: Whether a gradient's memory is its own, so that sums are made in it.
    """
    wholes, elements = {part.name: part for part in held if in_place}, sum(part.size for part in held)
    found = []
    for parts in owned:
        apart, cut, own = 0, dict[str, int](), sum(part.size for part in parts)
        for part in parts:
            whole = wholes.get(part.name)
            if whole is None or not whole.start <= part.start <= part.stop <= whole.stop:
                apart += part.size
            elif whole != part:
                cut[part.name] = cut.get(part.name, 0) + part.size
        sent = min(bucket(total), elements - (own - apart)) + min(bucket(total), (owners - 1) * own)
        found.append(apart + max(sent, max(cut.values(), default=0)))
    return found


def _units(part: Part, size: int) -> Part:
    """The part's own units, whole."""
    end = prod(part.shape)
    start, stop = (min(end, -(-edge // size) * size) for edge in (part.start, part.stop))
    return part._replace(start=start, stop=stop)


def _cut(part: Part, size: int, wanted: int) -> int:
    """The place in the tensor, between two units, that is nearest to the part's element `wanted`."""
    inside = part.start + round(wanted / size) * size
    return max(part.start, min(part.stop, inside))
