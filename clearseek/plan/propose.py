"""Layouts for a number of devices, by the time that they lose, and settings with which a layout would fit.

Two things of a layout cost time: a pipeline that fills and drains (:func:`~clearseek.plan.traffic.bubble`), and what is
sent (:func:`~clearseek.plan.traffic.traffic`), which a good implementation hides behind work in part. Layouts that fit
are ordered by the sum, as if nothing were hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any, get_args

from clearseek.config import Recipe
from clearseek.plan.layout import ParallelLayout, Schedule, layouts
from clearseek.plan.placement import Placement
from clearseek.plan.states import lanes_each, partial_sums
from clearseek.plan.traffic import Traffic, bubble, traffic

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Proposal:
    """A layout, and what it costs beside the arithmetic."""

    layout: ParallelLayout
    memory: int
    """Bytes on the fullest device, activations with it."""
    lanes: int
    """Lanes of each process."""
    micro_batches: int
    """Micro-batches of a lane."""
    partial_sums: int
    """FP32 sets of gradients that a process holds at once beside those of a micro-batch."""
    bubble: float
    """Share of a step that a pipeline idles."""
    traffic: Traffic
    """What a process in the middle of the pipeline sends in a step."""

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "layout": str(self.layout),
            "bytes_on_the_fullest_device": self.memory,
            "lanes_of_a_process": self.lanes,
            "micro_batches_of_a_lane": self.micro_batches,
            "partial_sums": self.partial_sums,
            "bubble": self.bubble,
            "sent_bytes_a_step": {name: each._asdict() for name, each in self.traffic._asdict().items()},
            "seconds_of_sending_a_step": self.traffic.seconds,
        }


def describe(placement: Placement, layout: ParallelLayout) -> Proposal:
    """A layout's costs."""
    train = placement.recipe.train
    return Proposal(
        layout,
        placement.memory(layout).total,
        lanes_each(train, layout),
        train.micro_batches // train.summed_lanes,
        partial_sums(train, layout),
        bubble(placement.recipe, layout),
        traffic(placement.recipe, layout, _middle(layout)),
    )


def others(placement: Placement, layout: ParallelLayout, budget: float, work: float) -> list[Proposal]:
    """Up to three other layouts on as many devices that fit, those that lose least time first.

    Args:
        placement: The recipe's.
        layout: The one that is shown already.
        budget: Bytes of a device.
        work: Seconds of a step's arithmetic.
    """
    recipe = placement.recipe
    found = {each for schedule in get_args(Schedule) for each in layouts(recipe, schedule)} - {layout}
    fits = [each for each in found if each.devices == layout.devices and placement.may_fit(each, budget)]

    def lost(each: ParallelLayout) -> tuple[float, str]:
        idle = bubble(recipe, each)
        return work * idle / (1 - idle) + traffic(recipe, each, _middle(each)).seconds, str(each)

    made = (describe(placement, each) for each in sorted(fits, key=lost))
    return list(islice((each for each in made if each.memory <= budget), _SHOWN))


def cures(recipe: Recipe, placement: Placement, layout: ParallelLayout, budget: float) -> list[tuple[str, int]]:
    """Settings with each of which a layout would fit that does not, and the bytes on the fullest device then."""
    changes: list[tuple[str, str, str]] = [
        ("train", "expert_gradients", "merged"), ("train", "recompute", "selective"), ("optimizer", "moments", "bf16"),
    ]  # fmt: skip
    found = []
    for table, key, value in changes:
        settings = getattr(recipe, table)
        if getattr(settings, key) != value:
            changed = recipe.model_copy(update={table: settings.model_copy(update={key: value})})
            recompute = None if key == "recompute" else placement.recompute
            found.append((f'{table}.{key} = "{value}"', Placement(changed, recompute).memory(layout).total))
    found.append(("--recompute full", Placement(recipe, "full").memory(layout).total))
    return [(setting, size) for setting, size in found if size <= budget]


def _middle(layout: ParallelLayout) -> int:
    """A process in the middle of the pipeline."""
    return layout.pp // 2 * layout.copies
