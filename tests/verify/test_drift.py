"""How far apart outcomes are, and what counts as within rounding's reach."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from clearseek.train.record import StepRecord
from clearseek.verify.drift import BAND, NUDGES, Distance, Outcome, distance, farthest, nudge, outcome


def made(*losses: float, weight: float = 1.0, norm: float = 2.0, moment: float = 0.5, more: str = "b") -> Outcome:
    records = [StepRecord(number, {"loss": loss}, norm, 32 * number) for number, loss in enumerate(losses, 1)]
    tensors = {
        "weights": {"a": torch.full((3, 4), weight), more: torch.ones(2)},
        "buffers": {"bias": torch.zeros(4)},
        "optimizer": {"a.exp_avg": torch.full((3, 4), moment), "a.exp_avg_sq": torch.full((3, 4), moment * 1e-6)},
    }
    return outcome(records, tensors)


def apart(loss: float = 0.0, norm: float = 0.0, **groups: float) -> Distance:
    return Distance(loss, norm, {"weights": 0.0, "buffers": 0.0} | groups)


NO_SLACK: dict[str, float] = {}


def test_distance_is_the_mean_of_losses_and_euclidean_in_each_group() -> None:
    found = distance(made(1.0, 2.0), made(1.5, 1.0, weight=1.5, norm=3.0, moment=0.75))
    assert (found.loss, found.norm) == (0.75, 0.5)
    assert found.groups == pytest.approx(
        {"weights": math.sqrt(12 * 0.25), "buffers": 0.0, "optimizer, exp_avg": math.sqrt(12 / 16),
         "optimizer, exp_avg_sq": 1e-6 * math.sqrt(12 / 16)}
    )  # fmt: skip
    same = distance(made(1.0), made(1.0))
    assert (same.loss, same.norm, set(same.groups.values())) == (0.0, 0.0, {0.0})


@pytest.mark.parametrize("other", [made(1.0), made(1.0, 2.0, more="c")])
def test_other_steps_or_names_are_infinitely_far(other: Outcome) -> None:
    found = distance(made(1.0, 2.0), other)
    assert found.loss == math.inf
    assert not found.within(apart(1e9, 1e9), NO_SLACK)


def test_other_fields_and_tokens_are_infinitely_far() -> None:
    one, other = made(1.0), made(1.0)
    changed = Outcome((replace(other.records[0], tokens=7),), other.tensors)
    assert distance(one, changed).loss == math.inf
    changed = Outcome((replace(other.records[0], scalars={"loss": 1.0, "mtp_loss": 1.0}),), other.tensors)
    assert distance(one, changed).loss == math.inf


@pytest.mark.parametrize("change", [{"weight": math.nan}, {"norm": math.nan}, {"moment": math.inf}])
def test_what_is_no_number_is_within_nothing(change: dict[str, float]) -> None:
    wide = Distance(1e9, 1e9, dict.fromkeys(made(1.0).tensors, 1e9))
    assert not distance(made(math.nan), made(1.0)).within(wide, NO_SLACK)
    assert not distance(made(1.0, **change), made(1.0)).within(wide, NO_SLACK)
    assert distance(made(1.0, weight=2.0), made(1.0)).within(wide, NO_SLACK)


def test_the_band_is_a_multiple_of_each() -> None:
    drift = farthest([apart(0.01, 0.1, weights=1.0), apart(0.002, 0.3, weights=3.0)])
    assert drift == apart(0.01, 0.3, weights=3.0)
    assert apart(0.01 * BAND, 0.3 * BAND, weights=3.0 * BAND).within(drift, NO_SLACK)
    assert not apart(0.0101 * BAND).within(drift, NO_SLACK)
    assert not apart(0.0, 0.31 * BAND).within(drift, NO_SLACK)
    assert not apart(0.01, weights=3.01 * BAND).within(drift, NO_SLACK)
    assert not apart(buffers=0.1).within(drift, NO_SLACK)
    assert apart(buffers=0.1).within(drift, {"buffers": 0.2})
    assert apart(2.0**-21).within(apart(), NO_SLACK), "a loss one unit in its last place away"


def test_an_outcome_copies_the_tensors() -> None:
    weights = {"a": torch.ones(2)}
    found = outcome([StepRecord(1, {"loss": 1.25}, 1.0, 2)], {"weights": weights})
    weights["a"].zero_()
    assert torch.equal(found.tensors["weights"]["a"], torch.ones(2))


@pytest.mark.parametrize("size", NUDGES)
def test_a_nudge_moves_every_weight_by_its_size_the_same_each_time(size: float) -> None:
    first, second = torch.full((1000,), 3.0), torch.full((1000,), 3.0)
    nudge([first], size)
    nudge([second], size)
    assert torch.equal(first, second)
    assert bool(((first - 3.0).abs() - 3.0 * size).abs().le(2.0**-22).all())
    assert 400 < int((first > 3.0).sum()) < 600
