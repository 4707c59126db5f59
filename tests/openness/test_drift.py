"""How far apart outcomes are, and what counts as within rounding's reach."""

from __future__ import annotations

import json
import math

import pytest
import torch

from clearseek.openness.drift import BAND, NUDGES, Distance, Outcome, distance, farthest, nudge, outcome


def made(*losses: float, weight: float = 1.0) -> Outcome:
    return Outcome(losses, {"a": torch.full((3, 4), weight), "b": torch.ones(2)})


def test_distance_is_the_mean_of_losses_and_euclidean_in_weights() -> None:
    found = distance(made(1.0, 2.0), made(1.5, 1.0, weight=1.5))
    assert found == Distance(0.75, math.sqrt(12 * 0.25))
    assert distance(made(1.0), made(1.0)) == Distance(0.0, 0.0)


@pytest.mark.parametrize(
    "other", [made(1.0), Outcome((1.0, 2.0), {"a": torch.ones(3, 4)}), Outcome((1.0, 2.0), {"a": torch.ones(2)})]
)
def test_other_steps_or_shapes_are_infinitely_far(other: Outcome) -> None:
    found = distance(made(1.0, 2.0), other)
    assert found == Distance(math.inf, math.inf)
    assert not found.within(Distance(1e9, 1e9))


def test_a_loss_that_is_no_number_is_within_nothing() -> None:
    assert not distance(made(math.nan), made(1.0)).within(Distance(1.0, 1.0))
    assert not distance(made(1.0, weight=math.nan), made(1.0)).within(Distance(1.0, 1.0))


def test_the_band_is_a_multiple_of_both() -> None:
    drift = farthest([Distance(0.01, 1.0), Distance(0.002, 3.0)])
    assert drift == Distance(0.01, 3.0)
    assert Distance(0.01 * BAND, 3.0 * BAND).within(drift)
    assert not Distance(0.0101 * BAND, 3.0).within(drift)
    assert not Distance(0.01, 3.01 * BAND).within(drift)
    assert Distance(2.0**-21, 0.0).within(Distance(0.0, 0.0)), "a loss one unit in its last place away"


def test_an_outcome_copies_the_weights() -> None:
    weights = {"a": torch.ones(2)}
    found = outcome([json.dumps({"loss": (1.25).hex()}).encode()], weights)
    weights["a"].zero_()
    assert found.losses == (1.25,)
    assert torch.equal(found.weights["a"], torch.ones(2))


@pytest.mark.parametrize("size", NUDGES)
def test_a_nudge_moves_every_weight_by_its_size_the_same_each_time(size: float) -> None:
    first, second = torch.full((1000,), 3.0), torch.full((1000,), 3.0)
    nudge([first], size)
    nudge([second], size)
    assert torch.equal(first, second)
    assert bool(((first - 3.0).abs() - 3.0 * size).abs().le(2.0**-22).all())
    assert 400 < int((first > 3.0).sum()) < 600
