"""Units of the optimiser's work, and which process owns which (ZeRO-1, without torch).

A sharded optimiser gives the bits of a whole one only where no cut goes through what it computes as one. So it is cut
into *units*: AdamW's are chunks of 65,536 elements, in which norm and hashes are taken too; Muon's are as few whole
matrices as fill whole chunks, or the whole tensor where no number of its matrices does.

The processes that hold the same tensors share out their units: all copies of a pipeline stage those of the dense
tensors, the copies of one part of the experts (``ep``) those of its experts. Each owns a run of units in the order of
parameters, as near as units allow to an equal share: a unit is owned by the share that its middle falls into.

An expert's rows may end inside a unit. The unit is then shared out with the part that holds its first element.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from math import lcm, prod
from typing import NamedTuple

from clearseek.plan.layout import ParallelLayout
from clearseek.plan.parts import Part

CHUNK = 1 << 16
"""Elements of a chunk: AdamW's unit, and the piece that norm and hashes are taken of."""


class Whole(NamedTuple):
    """A tensor to be trained, before it is shared out."""

    name: str
    """As a single process calls it."""
    shape: tuple[int, ...]
    muon: bool = False
    """Whether Muon updates it; else AdamW does."""
    expert: bool = False
    """Whether it is a stack of experts, which `ep` spreads over copies."""


def unit_size(tensor: Whole) -> int:
    """Elements of each unit of a tensor but the last, which may be shorter."""
    if not tensor.muon:
        return CHUNK
    halves = 2 if tensor.name.endswith("experts.gate_up_proj") else 1  # gate and up are a matrix each
    return min(lcm(prod(tensor.shape[-2:]) // halves, CHUNK), prod(tensor.shape))


def held(tensor: Whole, layout: ParallelLayout, copy: int) -> Part:
    """Elements whose weights a copy holds and computes gradients of: all, or its part of the experts."""
    size = prod(tensor.shape)
    parts, number = (layout.ep, copy % layout.ep) if tensor.expert else (1, 0)
    return Part(tensor.name, tensor.shape, size * number // parts, size * (number + 1) // parts)


def deal(tensors: Iterable[Whole], layout: ParallelLayout) -> list[list[Part]]:
    """What each copy of a stage owns: the units, joined to runs, of the stage's tensors in the order of parameters."""
    tensors = list(tensors)
    shares: list[list[Part]] = [[] for _ in range(layout.copies)]
    for number in range(layout.ep):
        experts = [(_from_first_element(held(each, layout, number), each), each) for each in tensors if each.expert]
        for owner, parts in enumerate(_deal(experts, layout.copies // layout.ep)):
            shares[owner * layout.ep + number] += parts
    dense = [(held(each, layout, 0), each) for each in tensors if not each.expert]
    for share, parts in zip(shares, _deal(dense, layout.copies), strict=True):
        share += parts
    order = {each.name: place for place, each in enumerate(tensors)}
    return [sorted(share, key=lambda part: order[part.name]) for share in shares]


def _from_first_element(part: Part, tensor: Whole) -> Part:
    """The units whose first element lies in a part."""
    unit, size = unit_size(tensor), prod(tensor.shape)
    start, stop = (min(-(-edge // unit) * unit, size) for edge in (part.start, part.stop))
    return part._replace(start=start, stop=stop)


def _deal(parts: Sequence[tuple[Part, Whole]], owners: int) -> list[list[Part]]:
    """Runs of units for each owner, of parts that begin with a unit."""
    dealt: list[list[Part]] = [[] for _ in range(owners)]
    total, before = sum(part.size for part, _ in parts), 0
    for part, tensor in parts:
        unit = unit_size(tensor)
        units = range(0, part.size, unit)

        def owner(start: int, part: Part = part, unit: int = unit, before: int = before) -> int:
            return (2 * before + start + min(start + unit, part.size)) * owners // (2 * total)

        first = 0
        while first < len(units):
            whose = owner(units[first])
            end = bisect_right(units, whose, lo=first, key=owner)
            stop = min(end * unit, part.size)
            dealt[whose].append(part._replace(start=part.start + units[first], stop=part.start + stop))
            first = end
        before += part.size
    return dealt
