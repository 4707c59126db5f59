"""pass@k against its definition, intervals against statsmodels and against what they promise."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from benchmarks.interval_coverage import HELD, SHARES, SIMULATIONS, added_up, one_sample, pass_at, several_samples
from benchmarks.interval_coverage import TRIALS as TRIALS_SIMULATED
from clearseek.evaluate.statistics import (
    Interval,
    exact_interval,
    fixed_questions,
    mean_pass_at_k,
    pass_at_k,
    pass_at_k_interval,
    sampled_questions,
    sampling_error,
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
        for right, trials, confidence in (
            (-1, 5, 0.95),
            (6, 5, 0.95),
            (1, 5, 0.0),
            (1, 5, 1.0),
            (1, 5, math.nan),
            (math.nan, 5, 0.95),
            (1.5, 5, 0.95),
        ):
            with pytest.raises(ValueError):
                interval(right, trials, confidence)
    for samples, right, k in ((4, 1, 0), (4, 1, 5), (0, 0, 1), (4, 5, 1), (4, -1, 1)):
        with pytest.raises(ValueError):
            pass_at_k(samples, right, k)


ERROR = 3 * math.sqrt(0.05 * 0.95 / SIMULATIONS)
"""What 10,000 simulated evaluations cannot tell."""


@given(TRIALS, st.sampled_from([0.5, 0.9, 0.95, 0.999]))
@settings(max_examples=20, deadline=None)
def test_intervals_equal_scipys_own(counts: tuple[int, int], confidence: float) -> None:
    right, trials = counts
    for method, found in (("wilson", wilson_interval), ("exact", exact_interval)):
        theirs = binomtest(right, trials).proportion_ci(confidence, method)
        assert found(right, trials, confidence) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("trials", TRIALS_SIMULATED)
@pytest.mark.parametrize("share", SHARES)
def test_exact_intervals_of_simulated_evaluations(trials: int, share: float) -> None:
    assert one_sample(trials, share, np.random.default_rng(0))["exact"] >= 0.95 - ERROR


@pytest.mark.parametrize("trials", TRIALS_SIMULATED)
def test_exact_holds_for_every_share_and_wilson_on_average(trials: int) -> None:
    found = added_up(trials)
    assert found["exact, least"] >= 0.95
    assert found["wilson, mean"] == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", HELD)
def test_intervals_of_questions_with_several_samples(kind: str) -> None:
    """64 questions, 4 samples each: within 2 points; with the questions fixed never too narrow."""
    draw = np.random.default_rng(1)
    for share in SHARES:
        found = several_samples(kind, share, draw)
        assert found["sampled"] == pytest.approx(0.95, abs=0.02 + ERROR), share
        assert found["fixed"] >= 0.93, share


def test_the_worked_example_of_a_reproduction() -> None:
    """Open-r1's table has R1-Distill-Llama-70B at 63.0, DeepSeek's 70.0: AIME's 30 questions, 64 samples each."""
    error = sampling_error((0.63 + 0.70) / 2, questions=30, samples=64)
    assert round(100 * error, 2) == 1.08
    assert (0.70 - 0.63) / (error * math.sqrt(2)) == pytest.approx(4.6, abs=0.005)
    alike = fixed_questions([42] * 30, 64)  # 65.6 % of each: nothing varies more
    assert (alike.high - alike.low) / 2 / 1.96 == pytest.approx(sampling_error(42 / 64, 30, 64), rel=0.01)
    for share, questions, samples in ((-0.1, 30, 1), (1.1, 30, 1), (math.nan, 30, 1), (0.5, 0, 1), (0.5, 30, 0)):
        with pytest.raises(ValueError):
            sampling_error(share, questions, samples)


def test_pass_at_k_has_an_interval() -> None:
    right = [0] * 20 + [1] * 10 + [8] * 10 + [16] * 24
    low, high = pass_at_k_interval(16, right, 4)
    assert low < mean_pass_at_k(16, right, 4) < high and high - low > 0.15
    assert pass_at_k_interval(16, right, 1) == sampled_questions(right, 16)
    assert pass_at_k_interval(4, [4] * 30, 2) == wilson_like(30)
    assert pass_at_k_interval(4, [], 2) == pass_at_k_interval(4, [2], 2) == (0.0, 1.0)
    for samples, counts, k in ((4, [5, 1], 2), (4, [1, 1], 5), (4, [1, 1], 0)):
        with pytest.raises(ValueError):
            pass_at_k_interval(samples, counts, k)


def wilson_like(questions: int) -> Interval:
    """Wilson's interval for all right, with the quantile of Student's t."""
    t = float(stats.t.ppf(0.975, questions - 1))
    return Interval(pytest.approx(questions / (questions + t * t)), 1.0)


@pytest.mark.slow
def test_the_interval_of_pass_at_k_holds() -> None:
    draw = np.random.default_rng(2)
    for kind in ("alike", "beta 0.3"):
        assert pass_at(kind, 0.2, draw, questions=64, samples=16, k=4) >= 0.93, kind


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
        for right, samples, confidence in (
            ([5], 4, 0.95), ([-1], 4, 0.95), ([1], 4, 1.0), ([math.nan], 4, 0.95), ([1.5], 4, 0.95), ([0], 0, 0.95)
        ):  # fmt: skip
            with pytest.raises(ValueError):
                interval(right, samples, confidence)
    assert sampled_questions([2], 4) == (0.0, 1.0)
    low, high = fixed_questions([2], 4)
    assert 0 < low < 0.5 < high < 1
