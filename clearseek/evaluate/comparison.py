"""Two models on the same questions: is one better, and could this many questions have told?

Questions are paired, so what they have in common cancels. One sample each: McNemar's exact test, a coin for the
questions that one model alone got right. Several samples, or scores that are not right or wrong: the signs of the
questions' differences are drawn at random (Fisher's paired permutation test), all of them where they are few enough.

Neither uses the normal distribution. Of several tasks the p-values are Holm's (1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clearseek.evaluate.statistics import CONFIDENCE, Interval

POWER = 0.8
"""Chance with which a test is said to see a difference."""
RESAMPLES = 9_999
"""Draws of signs or of questions; p-values below 1e-4 are not told apart."""
Verdict = Literal["better", "worse", "cannot be told apart"]


@dataclass(frozen=True)
class Comparison:
    """What the first model's scores say beside the second's."""

    questions: int
    first: float
    second: float
    """Means over the questions."""
    interval: Interval
    """For the difference, first minus second, over questions like these."""
    p: float
    """Chance of a difference as large, were the models equally good; Holm's where there are several tasks."""
    test: str
    smallest: float
    """Smallest difference that this test, with so many questions, would have seen with a chance of 80 %; infinite where
    it sees none."""
    factor: float
    """How many times as many questions would show the difference that was seen, were it true; infinite for none."""
    confidence: float = CONFIDENCE

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first - self.second

    @property
    def verdict(self) -> Verdict:
        """What may be said."""
        if self.p > 1 - self.confidence or not self.difference:
            return "cannot be told apart"
        return "better" if self.difference > 0 else "worse"

    def sentence(self, unit: float = 100.0, name: str = "points") -> str:
        """One honest sentence about the first model."""
        seen = f"{abs(self.difference) * unit:.1f} {name}"
        with_n = f"with {self.questions:,} question{'s' * (self.questions != 1)}"
        if self.verdict != "cannot be told apart":
            low, high = (each * unit for each in self.interval)
            return f"{self.verdict}: by {seen} {with_n} ({low:+.1f} to {high:+.1f}, p = {told_p(self.p)})"
        told = f"cannot be told apart {with_n}"
        if not self.difference:
            seen = f"only {self.smallest * unit:.1f} {name}" if math.isfinite(self.smallest) else "no difference at all"
            return f"{told}: the scores are equal, and {seen} would have been seen"
        return f"{told}: {seen} apart; {math.ceil(self.factor * 10) / 10:,.4g} times as many would be needed"


def told_p(p: float) -> str:
    """A p-value as people write it."""
    return "below 0.0001" if p < 1e-4 else f"{p:.2g}"


def compare(
    first: Sequence[float], second: Sequence[float], samples: int = 1, confidence: float = CONFIDENCE, seed: int = 0
) -> Comparison:
    """Compare two models' scores of the same questions.

    Args:
        first: The first model's mean score of each question.
        second: The second's, in the same order.
        samples: Samples that these are means of.
        confidence: Of the interval; 1 minus it is the level of the test.
        seed: Of the draws.

    Raises ValueError for no questions, for numbers of questions that differ, and for scores that are not finite.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} scores and {len(second)}: compare the questions that both answered")
    if not len(first):
        raise ValueError("no questions")
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("scores that are not finite")
    d = a - b
    binary = samples == 1 and set(np.unique(np.concatenate([a, b]))) <= {0.0, 1.0}
    if binary:
        p, test = mcnemar(int((d > 0).sum()), int((d < 0).sum())), "McNemar's exact test"
        discordant = float((d != 0).mean())
        smallest = _smallest_binary(len(d), discordant, 1 - confidence)
        factor = _questions_for(abs(float(d.mean())), len(d), discordant, 1 - confidence) / len(d)
    else:
        p, test = paired_permutation(d, seed), "paired permutation test"
        smallest = _smallest_mean(d, 1 - confidence, seed)
        factor = (smallest / float(d.mean())) ** 2 if d.mean() else math.inf
    interval = difference_interval(d, confidence, seed)
    return Comparison(len(d), float(a.mean()), float(b.mean()), interval, p, test, smallest, factor, confidence)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value, from the questions that one model alone got right (McNemar, 1947). 1 for none."""
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def paired_permutation(differences: Sequence[float] | NDArray[np.float64], seed: int = 0) -> float:
    """Two-sided p-value of the mean difference, under random signs; exact where 2^questions signs are few."""
    from scipy.stats import permutation_test

    d = np.asarray(differences, dtype=np.float64)
    d = d[d != 0]  # a sign of zero changes nothing
    if not len(d):
        return 1.0
    if len(d) == 1:
        return 1.0  # both signs are as large
    found = permutation_test(
        (d,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=RESAMPLES, batch=1000, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(min(1.0, found.pvalue))


def difference_interval(
    differences: Sequence[float] | NDArray[np.float64], confidence: float = CONFIDENCE, seed: int = 0
) -> Interval:
    """Interval for the mean difference over questions like these: of the bootstrap, corrected (BCa; Efron, 1987).

    Where all differences are equal nothing tells how they vary: a question more of either kind is assumed.
    """
    from scipy.stats import bootstrap

    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2 or np.ptp(d) == 0:
        value, spread = float(d.mean()), 1 - 0.5 ** (1 / len(d)) if len(d) else 1.0
        return Interval(value - spread, value + spread)
    found = bootstrap(
        (d,), lambda x, axis: np.mean(x, axis=axis), confidence_level=confidence, method="BCa", vectorized=True,
        n_resamples=RESAMPLES, batch=1000, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Interval(float(found.confidence_interval.low), float(found.confidence_interval.high))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of several tasks: one below 5 % by chance alone is seen in 5 % of all comparisons (Holm, 1979)."""
    adjusted, largest, left = dict[str, float](), 0.0, len(p_values)
    for name, p in sorted(p_values.items(), key=lambda each: each[1]):
        largest = max(largest, min(1.0, p * left))
        adjusted[name], left = largest, left - 1
    return {name: adjusted[name] for name in p_values}


def _smallest_binary(questions: int, discordant: float, level: float) -> float:
    """Smallest difference of shares for which McNemar's exact test has its power, given how often models disagree.

    Where they never did, one question in so many is taken.
    """
    from scipy.stats import binom

    share = max(discordant, 1 / questions)
    n_N = np.arange(int(binom.ppf(1e-9, questions, share)), int(binom.isf(1e-9, questions, share)) + 1)
    n_N = n_N if len(n_N) <= 400 else np.unique(np.linspace(n_N[0], n_N[-1], 400).astype(int))
    weight_N = binom.pmf(n_N, questions, share)
    weight_N /= weight_N.sum()
    # Largest count of the rarer kind at which the test still refuses; -1 for none.
    most_N = binom.ppf(level / 2, n_N, 0.5) - (binom.cdf(binom.ppf(level / 2, n_N, 0.5), n_N, 0.5) > level / 2)

    def power(difference: float) -> float:
        first = 0.5 + difference / (2 * share)
        seen_N = binom.cdf(most_N, n_N, 1 - first) + binom.cdf(most_N, n_N, first)
        return float((weight_N * np.where(most_N >= 0, seen_N, 0.0)).sum())

    if power(share) < POWER:
        return _more_discordant(questions, level, share)
    low, high = 0.0, share
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle) < POWER else (low, middle)
    return high


def _more_discordant(questions: int, level: float, share: float) -> float:
    """Smallest difference seen where one model alone is ever right; infinite where even on all questions none is."""
    from scipy.stats import binom

    needed = next((n for n in range(1, questions + 1) if 2 * 0.5**n <= level), questions + 1)
    low, high = share, 1.0
    if needed > questions:
        return math.inf
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if binom.sf(needed - 1, questions, middle) < POWER else (low, middle)
    return high


def _questions_for(difference: float, questions: int, discordant: float, level: float) -> float:
    """Questions with which McNemar's exact test has its power for a difference; infinite for none."""
    if not difference:
        return math.inf
    few, many = questions, questions
    while _smallest_binary(many, discordant, level) > difference and many < 10**7:
        few, many = many, 2 * many
    while many - few > max(1, many // 200):
        middle = (few + many) // 2
        few, many = (middle, many) if _smallest_binary(middle, discordant, level) > difference else (few, middle)
    return many


def _smallest_mean(d: NDArray[np.float64], level: float, seed: int) -> float:
    """Smallest mean difference that the permutation test would see, from the questions' own spread.

    A mean beyond the signs' quantile is significant; the bootstrap says how far below the truth a mean falls.
    """
    draw = np.random.default_rng(seed)
    centred = d - d.mean()
    if not np.any(centred):
        return float(np.abs(d).max())
    signs = draw.choice([-1.0, 1.0], size=(2000, len(d)))
    beyond = float(np.quantile(np.abs(signs @ centred) / len(d), 1 - level))
    means = draw.choice(centred, size=(2000, len(d))).mean(1)
    return beyond - float(np.quantile(means, 1 - POWER))
