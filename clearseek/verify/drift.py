"""Honest drift: the distance between two runs of the same steps that differ in rounding alone.

Another kind of machine adds in another order, so its bits are not the release's, and equality cannot be asked for. But
the effect of rounding can be measured on the spot: train the segment several times more, from weights changed in their
last places. The distance of the published run from ours, in every number of its lines and every tensor of its
checkpoint, is then set against the farthest of these. The width of the band depends on the segment's length and on how
far training has got; docs/notebook.md, "Honest drift", says what it finds and what it lets pass. So the comparison is
not a re-execution to the bit, and never called one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Final

import torch
from torch import Tensor

from clearseek.train.record import StepRecord

NUDGES: Final = (2.0**-23, 2.0**-20, 2.0**-17)
"""Relative changes of the weights with which the further runs begin; the first is FP32's unit in the last place."""
BAND: Final = 4.0
"""Largest distance of the published run, in multiples of the drift measured here; honest runs reached 1.9."""
_QUANTUM: Final = 2.0**-20
"""Last place of an FP32 loss of 8 to 16, in nats or as a share, below which nothing is compared."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Records and tensors of a trained segment."""

    records: tuple[StepRecord, ...]
    """Records of the steps."""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """Tensors after the last step by group: weights, buffers, each kind of the optimiser's."""


@dataclass(frozen=True, slots=True)
class Distance:
    """Distance between two outcomes of the same steps."""

    loss: float
    """Mean over the steps of the largest difference among a line's losses, in nats."""
    norm: float
    """Mean over the steps of the relative difference of gradient norms."""
    groups: Mapping[str, float]
    """Group of tensors -> Euclidean distance over all of them."""

    def within(self, drift: Distance, slack: Mapping[str, float]) -> bool:
        """Whether rounding explains the distance; `slack` is the size of one unit of change in a group."""
        return (
            self.loss <= BAND * drift.loss + _QUANTUM
            and self.norm <= BAND * drift.norm + _QUANTUM
            and all(
                value <= BAND * drift.groups.get(group, 0.0) + slack.get(group, 0.0)
                for group, value in self.groups.items()
            )
        )


def outcome(records: Sequence[StepRecord], tensors: Mapping[str, Mapping[str, Tensor]]) -> Outcome:
    """An outcome of records and copies of the tensors after them."""
    copied: dict[str, dict[str, Tensor]] = {}
    for group, held in tensors.items():
        for name, value in held.items():
            # Moments differ by powers of ten in size, so each kind is its own group.
            kind = f"{group}, {name.rpartition('.')[2]}" if group == "optimizer" else group
            copied.setdefault(kind, {})[name] = value.detach().cpu().clone()
    return Outcome(tuple(records), copied)


def distance(one: Outcome, other: Outcome) -> Distance:
    """Distance between two outcomes, infinite where steps, fields, names or shapes differ."""
    shapes = [
        {(group, name): value.shape for group, held in each.tensors.items() for name, value in held.items()}
        for each in (one, other)
    ]
    nowhere = Distance(inf, inf, dict.fromkeys(one.tensors, inf))
    if len(one.records) != len(other.records) or shapes[0] != shapes[1]:
        return nowhere
    losses, norms = [], []
    for ours, theirs in zip(one.records, other.records, strict=True):
        same = (ours.step, ours.tokens, ours.scalars.keys()) == (theirs.step, theirs.tokens, theirs.scalars.keys())
        if not same or len(ours.balance) != len(theirs.balance):
            return nowhere
        losses.append(max(_apart(value, theirs.scalars[name]) for name, value in ours.scalars.items()))
        norms.append(_apart(ours.grad_norm, theirs.grad_norm) / max(abs(ours.grad_norm), 1e-30))
    groups = {
        group: sum(_square(value, other.tensors[group][name]) for name, value in held.items()) ** 0.5
        for group, held in one.tensors.items()
    }
    count = max(len(losses), 1)
    return Distance(sum(losses) / count, sum(norms) / count, groups)


def _apart(one: float, other: float) -> float:
    """Distance between two numbers, infinite where one of them is not finite."""
    away = abs(one - other)
    return away if isfinite(away) else inf


def _square(one: Tensor, other: Tensor) -> float:
    found = float((one.double() - other.double()).square().sum())
    return found if isfinite(found) else inf


def farthest(distances: Sequence[Distance]) -> Distance:
    """Largest distance of each kind."""
    groups = {group: max(each.groups[group] for each in distances) for group in distances[0].groups}
    return Distance(max(each.loss for each in distances), max(each.norm for each in distances), groups)


@torch.no_grad()
def nudge(weights: Sequence[Tensor], size: float) -> None:
    """Multiply every weight by 1 + `size` or 1 - `size`, by a fixed random draw."""
    generator = torch.Generator().manual_seed(0)
    for weight in weights:
        up = torch.randint(0, 2, weight.shape, generator=generator, dtype=torch.int8).to(weight.device)
        weight.mul_(1 + size * (2 * up.float() - 1))
