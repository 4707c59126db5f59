"""pass@k against its definition, intervals against statsmodels and against what they promise."""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from clearseek.evaluate.statistics import (
    exact_interval,
    fixed_questions,
    mean_pass_at_k,
    pass_at_k,
    sampled_questions,
    wilson_interval,
)


@given(st.integers(1, 9), st.data())
def test_pass_at_k_counts_the_choices_that_hold_a_right_one(samples: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    choices = list(itertools.combinations([True] * right + [False] * (samples - right), k))
    assert pass_at_k(samples, right, k) == float(Fraction(sum(map(any, choices)), len(choices)))


@given(st.integers(1, 5000), st.data())
@settings(deadline=None)
def test_pass_at_k_of_many_samples_is_rounded_once(samples: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    exact = 1 - Fraction(math.comb(samples - right, k), math.comb(samples, k))
    assert pass_at_k(samples, right, k) == float(exact)
    assert pass_at_k(samples, right, 1) == right / samples and pass_at_k(samples, right, samples) == float(right > 0)


def test_pass_at_k_has_no_bias() -> None:
    """Its mean over what n samples would give is the chance of k samples; the naive form's is lower."""
    share, n, k = 0.2, 10, 4
    chance = [math.comb(n, c) * share**c * (1 - share) ** (n - c) for c in range(n + 1)]
    mean = sum(weight * pass_at_k(n, c, k) for c, weight in enumerate(chance))
    naive = sum(weight * (1 - (1 - c / n) ** k) for c, weight in enumerate(chance))
    assert mean == pytest.approx(1 - (1 - share) ** k, abs=1e-12) and naive < mean - 0.02


def test_mean_over_problems() -> None:
    assert mean_pass_at_k(4, [0, 2, 4], 1) == 0.5
    assert mean_pass_at_k(4, [1, 3], 4) == 1.0
    assert math.isnan(mean_pass_at_k(4, [], 1))


TRIALS = st.integers(1, 3000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))


@given(TRIALS, st.sampled_from([0.5, 0.9, 0.95, 0.999]))
@settings(max_examples=40, deadline=None)
@example((0, 512), 0.95)
@example((512, 512), 0.95)
@example((1, 1), 0.95)
@example((49_321, 100_000), 0.95)
def test_intervals_equal_statsmodels(counts: tuple[int, int], confidence: float) -> None:
    right, trials = counts
    for method, found in (("wilson", wilson_interval), ("beta", exact_interval)):
        theirs = proportion_confint(right, trials, 1 - confidence, method)
        low, high = found(right, trials, confidence)
        assert (low, high) == pytest.approx(theirs, rel=1e-9, abs=1e-12), method
        assert 0 <= low <= right / trials <= high <= 1


def test_the_exact_interval_holds_its_confidence_for_every_share() -> None:
    trials = 40
    intervals = [exact_interval(right, trials, 0.9) for right in range(trials + 1)]
    for share in (0.01, 0.1, 0.31, 0.5, 0.77, 0.99):
        held = sum(
            math.comb(trials, right) * share**right * (1 - share) ** (trials - right)
            for right, (low, high) in enumerate(intervals)
            if low <= share <= high
        )
        assert held >= 0.9


def test_ends() -> None:
    for interval in (wilson_interval, exact_interval):
        assert interval(0, 0) == (0.0, 1.0)
        assert interval(0, 10)[0] == 0.0 and interval(10, 10)[1] == 1.0
        low, high = interval(486, 512)
        assert low < 0.95 < high and high - low < 0.05
        for right, trials, confidence in ((-1, 5, 0.95), (6, 5, 0.95), (1, 5, 0.0), (1, 5, 1.0), (1, 5, math.nan)):
            with pytest.raises(ValueError):
                interval(right, trials, confidence)
    for samples, right, k in ((4, 1, 0), (4, 1, 5), (0, 0, 1), (4, 5, 1), (4, -1, 1)):
        with pytest.raises(ValueError):
            pass_at_k(samples, right, k)


SIMULATIONS = 10_000


def coverage(values: list[tuple[float, float]], truth: float | np.ndarray[Any, Any]) -> float:
    low, high = np.array(values).T
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize("trials", [20, 64, 300])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_intervals_of_simulated_evaluations(trials: int, share: float) -> None:
    right_R = np.random.default_rng(0).binomial(trials, share, SIMULATIONS)
    of = {right: (exact_interval(right, trials), wilson_interval(right, trials)) for right in range(trials + 1)}
    assert coverage([of[right][0] for right in right_R], share) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / SIMULATIONS)


def test_wilson_is_right_on_average() -> None:
    draw = np.random.default_rng(0)
    for trials in (20, 64, 300):
        of = [wilson_interval(right, trials) for right in range(trials + 1)]
        share_R = draw.random(SIMULATIONS)
        found = coverage([of[right] for right in draw.binomial(trials, share_R)], share_R)
        assert found == pytest.approx(0.95, abs=0.02)


def likes(share: float, likeness: float, draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Shares of right answers of questions whose samples have this correlation."""
    if not likeness:
        return np.full(shape, share)
    if likeness == 1:
        return (draw.random(shape) < share).astype(float)
    size = 1 / likeness - 1
    return draw.beta(share * size, (1 - share) * size, shape)


@pytest.mark.slow
@pytest.mark.parametrize("likeness", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_intervals_of_questions_with_several_samples(share: float, likeness: float) -> None:
    """64 questions, 4 samples each. What is not sampled at all (fixed questions that are alike) is never too narrow."""
    questions, samples, draw = 64, 4, np.random.default_rng(1)
    share_RQ = likes(share, likeness, draw, (SIMULATIONS, questions))
    right_RQ = np.sort(draw.binomial(samples, share_RQ), axis=1)
    sampled, fixed = functools.cache(sampled_questions), functools.cache(fixed_questions)
    rows = [tuple(row) for row in right_RQ.tolist()]
    assert coverage([sampled(row, samples) for row in rows], share) == pytest.approx(0.95, abs=0.02)
    assert coverage([fixed(row, samples) for row in rows], share_RQ.mean(1)) >= 0.93


def test_samples_of_one_question_are_not_so_many_questions() -> None:
    alike = [4] * 32 + [0] * 32
    low, high = sampled_questions(alike, 4)
    assert high - low == pytest.approx(wilson_interval(32, 64)[1] - wilson_interval(32, 64)[0], rel=0.03)
    low, high = fixed_questions(alike, 4)
    assert high - low < 0.1
    different = [2] * 64
    low, high = sampled_questions(different, 4)
    assert high - low < 0.14


def test_several_samples_at_the_ends() -> None:
    for interval in (fixed_questions, sampled_questions):
        assert interval([], 4) == (0.0, 1.0)
        low, high = interval([0] * 20, 4)
        assert low == 0.0 and 0.03 < high < 0.2
        low, high = interval([4] * 20, 4)
        assert high == 1.0 and 0.8 < low < 0.97
        assert interval([1, 0, 1, 1], 1) == wilson_interval(3, 4)
        for right, samples, confidence in (([5], 4, 0.95), ([-1], 4, 0.95), ([1], 4, 1.0)):
            with pytest.raises(ValueError):
                interval(right, samples, confidence)
    assert sampled_questions([2], 4) == (0.0, 1.0)
