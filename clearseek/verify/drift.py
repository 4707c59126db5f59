"""Honest drift: how far apart two runs of the same steps end when only rounding differs.

Another kind of machine adds in another order, so its bits are not the release's, and equality proves nothing. But how
much rounding alone can do is measurable where one is: train the segment several times more, from weights changed in
their last places. How far the published run lies from ours, in every number of its lines and every tensor of its
checkpoint, is then set against the farthest of these. How fine the band is depends on how long the segment is and how
far training has got; docs/notebook.md, "Honest drift", says what it finds and what it lets pass. So it is no
re-execution to the bit, and never said to be one.
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
"""How many times the drift measured here the published run may be away: honest runs were at most 1.9 times."""
_QUANTUM: Final = 2.0**-20
"""Nats, or a share: the last place of an FP32 loss of 8 to 16, below which there is nothing to compare."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a segment's training went."""

    records: tuple[StepRecord, ...]
    """One a step."""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """Of the checkpoint after the last, by group: weights, buffers, each kind of the optimiser's."""


@dataclass(frozen=True, slots=True)
class Distance:
    """Between two outcomes of the same steps."""

    loss: float
    """Mean over the steps of the largest difference among a line's losses, in nats."""
    norm: float
    """Mean over the steps of the relative difference of the gradient's norm."""
    groups: Mapping[str, float]
    """Group of tensors -> Euclidean distance over all of them."""

    def within(self, drift: Distance, slack: Mapping[str, float]) -> bool:
        """Whether no more than rounding explains it; `slack` is what a group's unit of change amounts to."""
        return (
            self.loss <= BAND * drift.loss + _QUANTUM
            and self.norm <= BAND * drift.norm + _QUANTUM
            and all(
                value <= BAND * drift.groups.get(group, 0.0) + slack.get(group, 0.0)
                for group, value in self.groups.items()
            )
        )


def outcome(records: Sequence[StepRecord], tensors: Mapping[str, Mapping[str, Tensor]]) -> Outcome:
    """From the records of steps and the tensors after them, which are copied."""
    copied: dict[str, dict[str, Tensor]] = {}
    for group, held in tensors.items():
        for name, value in held.items():
            # Moments differ by powers of ten in size, so each kind is measured by itself.
            kind = f"{group}, {name.rpartition('.')[2]}" if group == "optimizer" else group
            copied.setdefault(kind, {})[name] = value.detach().cpu().clone()
    return Outcome(tuple(records), copied)


def distance(one: Outcome, other: Outcome) -> Distance:
    """How far apart they are; infinitely, where their steps, fields, names or shapes are not the same."""
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
    """Between two numbers; infinitely, where one is none."""
    away = abs(one - other)
    return away if isfinite(away) else inf


def _square(one: Tensor, other: Tensor) -> float:
    found = float((one.double() - other.double()).square().sum())
    return found if isfinite(found) else inf


def farthest(distances: Sequence[Distance]) -> Distance:
    """The largest of each kind."""
    groups = {group: max(each.groups[group] for each in distances) for group in distances[0].groups}
    return Distance(max(each.loss for each in distances), max(each.norm for each in distances), groups)


@torch.no_grad()
def nudge(weights: Sequence[Tensor], size: float) -> None:
    """Multiply every weight by 1 + `size` or 1 - `size`, by a draw that is always the same."""
    generator = torch.Generator().manual_seed(0)
    for weight in weights:
        up = torch.randint(0, 2, weight.shape, generator=generator, dtype=torch.int8).to(weight.device)
        weight.mul_(1 + size * (2 * up.float() - 1))
