"""Variants of an evaluation against enumeration, McNemar's test and simulated evaluations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.interval_coverage import variants_told_apart
from clearseek.evaluate.comparison import mcnemar
from clearseek.evaluate.robustness import robustness


@given(st.integers(2, 3), st.data())
@settings(deadline=None, max_examples=30)
def test_every_way_to_deal_the_scores_is_counted(width: int, data: st.DataObject) -> None:
    row = st.tuples(*[st.sampled_from([0.0, 1.0])] * width)
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    seen = np.array(rows).sum(0)
    ways = [np.array(way).sum(0) for way in itertools.product(*[list(itertools.permutations(each)) for each in rows])]
    expected = sum(way.var() >= seen.var() - 1e-12 for way in ways) / len(ways)
    found = robustness({str(n): column for n, column in enumerate(zip(*rows, strict=True))})
    assert found.exact and found.p == pytest.approx(expected, rel=1e-9)
    ranges = sorted(float(np.ptp(way)) for way in ways)
    least = ranges[math.ceil(0.95 * len(ranges) - 1e-9) - 1] / len(rows)
    assert found.explained == pytest.approx(least) and found.range == pytest.approx(np.ptp(seen) / len(rows))


@given(st.integers(0, 30), st.integers(0, 30))
@settings(deadline=None, max_examples=30)
def test_two_variants_are_mcnemars_test(first: int, second: int) -> None:
    scores = {"a": [1.0] * first + [0.0] * second + [1.0], "b": [0.0] * first + [1.0] * second + [1.0]}
    assert robustness(scores).p == pytest.approx(mcnemar(first, second), rel=1e-9)


@pytest.mark.parametrize("width", [2, 3])
def test_alike_variants_are_told_apart_in_five_of_a_hundred(width: int) -> None:
    count = 500
    found = variants_told_apart(40, width, count, np.random.default_rng(0))
    assert found <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / count)


def test_what_sampling_explains_and_what_the_variation_adds() -> None:
    draw = np.random.default_rng(1)
    share_Q = draw.beta(2, 2, 400)
    alike = robustness({str(seed): draw.binomial(4, share_Q) / 4 for seed in range(4)})
    assert not alike.differ and not alike.exact and alike.range <= alike.explained
    assert alike.noise == pytest.approx(math.sqrt((share_Q * (1 - share_Q)).mean() / 4 / 400), rel=0.1)
    assert "they cannot be told apart" in alike.sentence() and alike.sentence().startswith(
        "4 variants on 400 questions"
    )
    moved = [-0.09, -0.03, 0.03, 0.09]
    other = robustness({str(n): draw.binomial(4, np.clip(share_Q + m, 0, 1)) / 4 for n, m in enumerate(moved)})
    assert other.differ and other.p == 1e-4 and other.range > other.explained
    assert other.added == pytest.approx(np.std(moved, ddof=1), rel=0.25) and "the variants differ" in other.sentence()
    between = np.var(list(other.means.values()), ddof=1)
    assert other.added**2 + other.noise**2 == pytest.approx(between, rel=1e-9)
    assert robustness({"a": [0.5, 0.25], "b": [0.5, 0.25]}).p == 1.0


def test_many_variants_or_questions_are_drawn_by_seed() -> None:
    draw = np.random.default_rng(2)
    scores = {str(n): (draw.random(64) < 0.5).astype(float) for n in range(8)}
    found = robustness(scores)
    assert not found.exact and found == robustness(scores) and 1e-4 <= found.p <= 1


def test_degenerate_variants() -> None:
    one = robustness({"a": [1.0], "b": [0.0], "c": [1.0]})
    assert one.p == 1.0 and one.questions == 1 and one.noise == 0 and "1 question:" in one.sentence()
    same = robustness({"a": [1.0] * 30, "b": [1.0] * 30})
    assert same.p == 1.0 and same.range == same.explained == same.added == 0
    for variants in (
        {}, {"a": [1.0]}, {"a": [], "b": []}, {"a": [1.0], "b": [1.0, 0.0]}, {"a": [math.nan], "b": [1.0]},
        {"a": [math.inf], "b": [1.0]},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            robustness(variants)
