"""Comparisons of two models against statsmodels, enumeration and simulated evaluations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as theirs_mcnemar
from statsmodels.stats.multitest import multipletests

from clearseek.evaluate.comparison import compare, difference_interval, holm, mcnemar, paired_permutation


@given(st.integers(0, 200), st.integers(0, 200))
@settings(deadline=None)
def test_mcnemar_equals_statsmodels(first: int, second: int) -> None:
    expected = theirs_mcnemar([[3, first], [second, 5]], exact=True).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9, abs=1e-15)


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


@pytest.mark.parametrize("questions", [20, 64, 300])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_models_that_are_equally_good_are_told_apart_in_five_of_a_hundred(questions: int, share: float) -> None:
    draw, count = np.random.default_rng(0), 10_000
    one, other = draw.random((2, count, questions)) < share
    pairs = np.stack([(one & ~other).sum(1), (other & ~one).sum(1)], 1)
    kinds, often = np.unique(pairs, axis=0, return_counts=True)
    alarms = sum(n for (b, c), n in zip(kinds.tolist(), often.tolist(), strict=True) if mcnemar(b, c) <= 0.05)
    assert alarms / count <= 0.05


@pytest.mark.slow
def test_the_permutation_test_alarms_in_five_of_a_hundred() -> None:
    """Four samples of each question; a thousand evaluations of fewer draws stand for ten thousand."""
    draw, count, alarms = np.random.default_rng(0), 1000, 0
    for _ in range(count):
        share_Q = draw.beta(0.5, 0.5, 30)
        d = (draw.binomial(4, share_Q) - draw.binomial(4, share_Q)) / 4
        alarms += paired_permutation(d) <= 0.05
    assert alarms / count <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / count)


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
    assert low == -high and 0 < high < 0.03
    draw, held = np.random.default_rng(0), 0
    for seed in range(200):
        low, high = difference_interval(draw.choice([-1.0, 0.0, 1.0], 60, p=[0.1, 0.7, 0.2]), seed=seed)
        held += low <= 0.1 <= high
    assert held / 200 >= 0.9


def test_what_cannot_be_compared() -> None:
    for first, second in (([], []), ([1.0], [1.0, 0.0]), ([math.nan], [1.0]), ([1.0], [math.inf])):
        with pytest.raises(ValueError):
            compare(first, second)
