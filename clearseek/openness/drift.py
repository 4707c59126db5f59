"""Honest drift: how far apart two runs of the same steps end when only rounding differs.

Another kind of machine adds in another order, so its bits are not the release's, and equality proves nothing. But how
much rounding alone can do is measurable where one is: train the segment several times more, from weights changed in
their last places. How far the published run lies from ours is then set against the farthest of these. How fine the
band is depends on how long the segment is and how far training has got; docs/notebook.md, "Honest drift", says what it
finds and what it lets pass. So it is no re-execution to the bit, and never said to be one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

NUDGES: Final = (2.0**-23, 2.0**-20, 2.0**-17)
"""Relative changes of the weights with which the further runs begin; the first is FP32's unit in the last place."""
BAND: Final = 4.0
"""How many times the drift measured here the published run may be away: honest runs were at most 1.9 times."""
_QUANTUM: Final = 2.0**-20
"""Nats: the last place of an FP32 loss of 8 to 16, below which there is nothing to compare."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a segment's training went."""

    losses: tuple[float, ...]
    """Of each step, in nats."""
    weights: Mapping[str, Tensor]
    """After the last."""


@dataclass(frozen=True, slots=True)
class Distance:
    """Between two outcomes of the same steps."""

    loss: float
    """Mean over the steps of the difference, in nats."""
    weights: float
    """Euclidean, over all weights."""

    def within(self, drift: Distance) -> bool:
        """Whether no more than rounding explains it."""
        return self.loss <= BAND * drift.loss + _QUANTUM and self.weights <= BAND * drift.weights


def outcome(lines: Sequence[bytes], weights: Mapping[str, Tensor]) -> Outcome:
    """From lines of a transcript and the tensors after them, which are copied."""
    losses = tuple(float.fromhex(json.loads(line)["loss"]) for line in lines)
    return Outcome(losses, {name: value.detach().cpu().clone() for name, value in weights.items()})


def distance(one: Outcome, other: Outcome) -> Distance:
    """How far apart they are; infinitely, where their steps or shapes are not the same."""
    shapes = [{name: value.shape for name, value in each.weights.items()} for each in (one, other)]
    if len(one.losses) != len(other.losses) or shapes[0] != shapes[1]:
        return Distance(float("inf"), float("inf"))
    loss = sum(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True)) / max(len(one.losses), 1)
    square = sum(
        float((value.double() - other.weights[name].double()).square().sum()) for name, value in one.weights.items()
    )
    return Distance(loss, square**0.5)


def farthest(distances: Sequence[Distance]) -> Distance:
    """The largest of each kind."""
    return Distance(max(each.loss for each in distances), max(each.weights for each in distances))


@torch.no_grad()
def nudge(weights: Sequence[Tensor], size: float) -> None:
    """Multiply every weight by 1 + `size` or 1 - `size`, by a draw that is always the same."""
    generator = torch.Generator().manual_seed(0)
    for weight in weights:
        up = torch.randint(0, 2, weight.shape, generator=generator, dtype=torch.int8).to(weight.device)
        weight.mul_(1 + size * (2 * up.float() - 1))
