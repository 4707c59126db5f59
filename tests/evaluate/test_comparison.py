"""Comparisons of two models against statsmodels, enumeration and simulated evaluations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test
from statsmodels.stats.contingency_tables import mcnemar as theirs_mcnemar
from statsmodels.stats.multitest import multipletests

from benchmarks.interval_coverage import SHARES, TRIALS, differences, false_alarms, power
from clearseek.evaluate.comparison import (
    compare,
    difference_interval,
    holm,
    mcnemar,
    of_several_tasks,
    paired_permutation,
)


@given(st.integers(0, 200), st.integers(0, 200))
@settings(deadline=None)
def test_mcnemar_equals_statsmodels(first: int, second: int) -> None:
    expected = theirs_mcnemar([[3, first], [second, 5]], exact=True).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@settings(max_examples=12, deadline=None)  # each collects garbage in statsmodels
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(values: list[float]) -> None:
    names = [f"task {number}" for number in range(len(values))]
    expected = multipletests(values, method="holm")[1]
    assert [*holm(dict(zip(names, values, strict=True))).values()] == pytest.approx(expected, rel=1e-9, abs=1e-15)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
@settings(deadline=None, max_examples=50)
def test_the_permutation_test_counts_all_signs(quarters: list[int]) -> None:
    d = [each / 4 for each in quarters]
    sums = [sum(s * x for s, x in zip(signs, d, strict=True)) for signs in itertools.product([-1, 1], repeat=len(d))]
    expected = sum(abs(each) >= abs(sum(d)) for each in sums) / len(sums)
    assert paired_permutation(d) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=12))
@settings(deadline=None, max_examples=30)
def test_the_permutation_test_equals_scipys(quarters: list[int]) -> None:
    d = np.array(quarters) / 4
    theirs = permutation_test((d,), np.mean, permutation_type="samples", n_resamples=10_000).pvalue
    assert paired_permutation(d, samples=4) == pytest.approx(theirs, rel=1e-9)
    assert paired_permutation(d * 1.234567) == pytest.approx(theirs, rel=1e-9)  # not of whole units: by scipy


@given(st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None, max_examples=30)
def test_mcnemar_is_the_permutation_test_of_right_and_wrong(first: int, second: int) -> None:
    d = [1.0] * first + [-1.0] * second + [0.0] * 5
    assert paired_permutation(d) == pytest.approx(mcnemar(first, second), rel=1e-9)


def test_ties_of_rounded_sums_count() -> None:
    assert paired_permutation([0.1, 0.2, -0.3], samples=1) == 1.0


@pytest.mark.parametrize("questions", TRIALS)
def test_models_that_are_equally_good_are_told_apart_in_five_of_a_hundred(questions: int) -> None:
    """10,000 evaluations of each share, with one sample (McNemar) and with four of questions that differ."""
    draw = np.random.default_rng(0)
    for share in SHARES:
        found = false_alarms(questions, share, draw)
        assert found["mcnemar"] <= 0.05 and found["permutation"] <= 0.05


def test_the_smallest_difference_is_seen_in_four_of_five_evaluations() -> None:
    draw, questions, discordant = np.random.default_rng(0), 200, 0.3
    first = np.r_[np.ones(60), np.zeros(140)]
    second = np.r_[np.zeros(30), np.ones(30), np.zeros(140)]
    second[60:90] = 1  # 30 questions each way
    found = compare(first, second)
    share = 0.5 + found.smallest / (2 * discordant)
    seen = 0
    for _ in range(2000):
        n = draw.binomial(questions, discordant)
        b = draw.binomial(n, share)
        seen += mcnemar(b, n - b) <= 0.05
    assert seen / 2000 == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("questions", [20, 100])
def test_the_smallest_difference_of_means_is_seen_in_four_of_five_evaluations(questions: int) -> None:
    assert power(questions, 1_000, np.random.default_rng(3)) == pytest.approx(0.8, abs=0.07)


def test_one_honest_sentence() -> None:
    better = compare([1.0] * 30 + [0.0] * 70, [0.0] * 100)
    assert better.verdict == "better" and better.sentence().startswith("better: by 30.0 points with 100 questions (+")
    worse = compare([0.0] * 100, [1.0] * 30 + [0.0] * 70)
    assert worse.verdict == "worse" and worse.p == better.p and worse.difference == -0.3
    neither = compare([1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0])
    assert neither.verdict == "cannot be told apart" and neither.factor > 1
    assert "with 4 questions: 25.0 points apart; " in neither.sentence() and "times as many" in neither.sentence()
    same = compare([1.0, 0.0], [1.0, 0.0])
    assert same.p == 1.0 and same.factor == math.inf and "the scores are equal" in same.sentence()


def test_means_of_samples_are_compared_by_signs() -> None:
    draw = np.random.default_rng(0)
    share_Q = draw.random(64)
    found = compare(draw.binomial(4, share_Q) / 4, draw.binomial(4, 0.5 * share_Q) / 4, samples=4)
    assert found.test == "paired permutation test" and found.verdict == "better"
    assert found.interval.low < found.difference < found.interval.high and found.interval.low > 0
    assert found == compare(draw.binomial(4, share_Q) / 4, [0.0] * 64, 4) or found.questions == 64


def test_intervals_of_differences() -> None:
    low, high = difference_interval([0.0] * 50)
    assert low < 0 < high < 0.1
    low, high = difference_interval([1.0] * 50)
    assert 0.8 < low < high <= 1
    found = differences(20, 60, np.random.default_rng(0), resamples=499)
    assert all(each >= 0.88 for each in found.values()), found
    with pytest.raises(ValueError):
        difference_interval([])


def test_verdicts_of_several_tasks_hold_together() -> None:
    alone = compare([1.0] * 8 + [0.0] * 12, [0.0] * 20)
    strong = compare([1.0] * 20, [0.0] * 20)
    found = of_several_tasks({"sums": alone, "copying": strong, "parsing": compare([1.0] * 7 + [0.0] * 13, [0.0] * 20)})
    assert alone.verdict == found["sums"].verdict == "better" and found["sums"].p == pytest.approx(2 * alone.p)
    assert found["copying"].p == pytest.approx(3 * strong.p) and found["parsing"].p == pytest.approx(2**-6)
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError):
            holm({"sums": p})


def test_more_questions_are_needed_than_there_are() -> None:
    draw = np.random.default_rng(4)
    for n in (2, 5, 20, 200):
        for samples in (1, 4):
            share_Q = draw.random(n)
            found = compare(*(draw.binomial(samples, share_Q) / samples for _ in range(2)), samples=samples)
            assert found.verdict == "cannot be told apart" and found.factor > 1, found
            assert found.sentence().startswith(f"cannot be told apart with {n} questions: ")
    alike = compare([0.25] * 5, [0.0] * 5, samples=4)
    assert alike.p == pytest.approx(2 / 2**5) and 1 < alike.factor < 2 and math.isinf(alike.smallest)
    near = compare([1.0] + [0.5] * 9_999, [0.0] + [0.5] * 9_999, samples=2)
    assert "less than 0.1 points apart" in near.sentence()


def test_many_comparisons_need_more_questions_than_one() -> None:
    draw = np.random.default_rng(0)
    for samples in (1, 4):
        first, second = (draw.binomial(samples, share, 300) / samples for share in (0.6, 0.5))
        alone, among = (compare(first, second, samples, tasks=tasks) for tasks in (1, 20))
        assert (alone.p, alone.interval) == (among.p, among.interval)  # of this task alone, until Holm
        assert among.factor > 1.2 * alone.factor and among.smallest > 1.1 * alone.smallest


def test_small_differences_keep_their_digits() -> None:
    better = compare([-2.10] * 50 + [-2.0] * 50, [-2.12] * 50 + [-2.03] * 50)
    said = better.sentence(-1.0, "bits per byte", digits=4)
    assert said.startswith("better: by 0.0250 bits per byte with 100 questions (-0.0") and "+" not in said
    none = compare([-2.1, -2.2], [-2.10000001, -2.2])
    assert "less than 0.0001 bits per byte apart" in none.sentence(-1.0, "bits per byte", digits=4)


def test_what_cannot_be_compared() -> None:
    for samples, confidence in ((0, 0.95), (1, 0.0), (1, 1.0), (1, math.nan)):
        with pytest.raises(ValueError):
            compare([1.0], [0.0], samples, confidence)
    for first, second in (([], []), ([1.0], [1.0, 0.0]), ([math.nan], [1.0]), ([1.0], [math.inf])):
        with pytest.raises(ValueError):
            compare(first, second)
