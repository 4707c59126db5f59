"""pass@k against its definition, intervals against scipy and against what they promise."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clearseek.evaluate.statistics import exact_interval, mean_pass_at_k, pass_at_k, wilson_interval


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
def test_intervals_equal_scipy(counts: tuple[int, int], confidence: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    right, trials = counts
    result = stats.binomtest(right, trials)
    for method, found in (("wilson", wilson_interval), ("exact", exact_interval)):
        theirs = result.proportion_ci(confidence, method=method)
        low, high = found(right, trials, confidence)
        assert (low, high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-12), method
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
