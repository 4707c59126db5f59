"""Two models on the same questions: is one better, and could this many questions have told?

Questions are paired, so what they have in common cancels. One sample each: McNemar's exact test, a coin for the
questions that one model alone got right. Several samples, or scores that are not right or wrong: the signs of the
questions' differences are drawn at random (Fisher's paired permutation test). All signs are counted where the scores
are shares of so many samples, or the questions few; of others some are drawn.

Neither test uses the normal distribution, and neither does the interval: a bootstrap, to which two questions are added,
one for each model, so that what was seen twice or never is not taken for all that there is. Of several tasks the
p-values are Holm's (1979). Only the plan (how many questions would be needed) is a calculation by the normal
distribution, where there are several samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clearseek.evaluate.statistics import CONFIDENCE, Interval

POWER = 0.8
"""Chance with which a test is said to see a difference."""
RESAMPLES = 9_999
"""Draws of signs or of questions; p-values of drawn signs are not below 1e-4."""
_MOST_UNITS = 20_000
"""Size up to which the sums of all signs are counted."""
MOST_QUESTIONS = 10**7
"""Questions up to which it is searched how many would be needed."""
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

    def sentence(self, unit: float = 100.0, name: str = "points", digits: int = 1) -> str:
        """One honest sentence about the first model; numbers are in `unit`, with so many digits behind the point."""
        shown, least = abs(self.difference) * abs(unit), 10.0**-digits
        seen = f"{shown:.{digits}f} {name}" if shown >= least / 2 or not shown else f"less than {least:g} {name}"
        with_n = f"with {self.questions:,} question{'s' * (self.questions != 1)}"
        if self.verdict != "cannot be told apart":
            low, high = sorted(each * unit for each in self.interval)
            ends = f"{low:+.{digits}f} to {high:+.{digits}f}"
            return f"{self.verdict}: by {seen} {with_n} ({ends}, {told_p(self.p)})"
        told = f"cannot be told apart {with_n}"
        if not self.difference:
            smallest = f"{self.smallest * abs(unit):.{digits}f}"
            seen = f"only {smallest} {name}" if math.isfinite(self.smallest) else "no difference at all"
            return f"{told}: the scores are equal, and {seen} would have been seen"
        if not math.isfinite(self.factor):
            return f"{told}: {seen} apart; more than {MOST_QUESTIONS:,} would be needed"
        return f"{told}: {seen} apart; {_rounded_up(self.factor)} times as many would be needed"


def _rounded_up(factor: float) -> str:
    """A factor in two digits, never less than it is."""
    unit = 10.0 ** (math.floor(math.log10(factor)) - 1)
    return f"{math.ceil(factor / unit - 1e-9) * unit:,.{0 if factor >= 10 else 1}f}"


def told_p(p: float) -> str:
    """A p-value as people write it, with its sign."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def compare(
    first: Sequence[float], second: Sequence[float], samples: int = 1, confidence: float = CONFIDENCE, seed: int = 0,
    tasks: int = 1,
) -> Comparison:  # fmt: skip
    """Compare two models' scores of the same questions.

    Args:
        first: The first model's mean score of each question.
        second: The second's, in the same order.
        samples: Samples of a question that each of these is the mean of.
        confidence: Of the interval; 1 minus it is the level of the test.
        seed: Of the draws.
        tasks: Comparisons that are made side by side: what would be needed, or would have been seen, is told for the
            level that each of them has to reach.

    Raises ValueError for no questions, for numbers of questions that differ, and for scores that are not finite.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} scores and {len(second)}: compare the questions that both answered")
    if not len(first):
        raise ValueError("no questions")
    if samples < 1 or tasks < 1 or not 0 < confidence < 1:
        raise ValueError(f"{samples} samples, confidence {confidence}: at least one sample, a number between 0 and 1")
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("scores that are not finite")
    d, level = a - b, (1 - confidence) / tasks  # Holm's first step, which is Bonferroni's
    if samples == 1 and set(np.unique(np.concatenate([a, b]))) <= {0.0, 1.0}:
        p, test = mcnemar(int((d > 0).sum()), int((d < 0).sum())), "McNemar's exact test"
        discordant = float((d != 0).mean())
        smallest = _smallest_binary(len(d), discordant, level)
        factor = _questions_for(abs(float(d.mean())), len(d), discordant, level) / len(d)
    else:
        p, test = paired_permutation(d, samples, seed), "paired permutation test"
        smallest = _smallest_mean(d, level)
        factor = _questions_for_mean(d, level) / len(d)
    interval = difference_interval(d, confidence, seed)
    return Comparison(len(d), float(a.mean()), float(b.mean()), interval, p, test, smallest, factor, confidence)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value, from the questions that one model alone got right (McNemar, 1947). 1 for none."""
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def paired_permutation(differences: Sequence[float] | NDArray[np.float64], samples: int = 1, seed: int = 0) -> float:
    """Two-sided p-value of the mean difference, under random signs.

    Exact where the differences are multiples of ``1 / samples``, or are few; otherwise of :data:`RESAMPLES` draws.
    """
    from scipy.stats import permutation_test

    d = np.asarray(differences, dtype=np.float64)
    d = d[d != 0]  # a sign of zero changes nothing
    if len(d) < 2:
        return 1.0  # both signs of one are as large
    units = d * samples
    whole = np.rint(units)
    if np.abs(units - whole).max() < 1e-6 and np.abs(whole).sum() <= _MOST_UNITS:
        return _all_signs(whole.astype(np.int64))
    d = d / np.abs(d).max()
    found = permutation_test(
        (d,), lambda x, axis: np.round(np.mean(x, axis=axis), 12), permutation_type="samples", vectorized=True,
        n_resamples=RESAMPLES, batch=max(1, 10**7 // len(d)), rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(min(1.0, found.pvalue))


def _all_signs(whole: NDArray[np.int64]) -> float:
    """Share of all signs of whole numbers whose sum is as far from zero: their sums' distribution, convolved."""
    sizes, counts = np.unique(np.abs(whole[whole != 0]), return_counts=True)
    chance = np.ones(1)  # of the sum of those with a plus
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        pluses = np.zeros(size * count + 1)
        pluses[::size] = _coins(count)
        chance = np.convolve(chance, pluses)
    sums = 2 * np.arange(len(chance)) - (len(chance) - 1)
    return float(min(1.0, chance[np.abs(sums) >= abs(int(whole.sum()))].sum()))


@lru_cache(maxsize=256)
def _coins(count: int) -> NDArray[np.float64]:
    """Chance of 0 to `count` heads."""
    from scipy.stats import binom

    return np.asarray(binom.pmf(np.arange(count + 1), count, 0.5))


def difference_interval(
    differences: Sequence[float] | NDArray[np.float64],
    confidence: float = CONFIDENCE,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Interval for the mean difference over questions like these: of the bootstrap, corrected (BCa; Efron, 1987).

    `resamples` are drawn of up to 2,000 questions, of more questions fewer, but 2,000 at least.
    Raises ValueError for no differences.
    """
    from scipy.stats import bootstrap

    d = _with_two_more(np.asarray(differences, dtype=np.float64))
    found = bootstrap(
        (d,), lambda x, axis: np.mean(x, axis=axis), confidence_level=confidence, method="BCa", vectorized=True,
        n_resamples=min(resamples, max(1_999, 2 * 10**7 // len(d))), batch=max(1, 10**6 // len(d)),
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Interval(float(found.confidence_interval.low), float(found.confidence_interval.high))


def _with_two_more(d: NDArray[np.float64]) -> NDArray[np.float64]:
    """The differences and two more, as large as the largest and one each way; of 1 where all are zero.

    What Agresti and Min (2005) do for pairs that are right or wrong: without, differences that are rare or all one
    way look as if nothing else could happen.
    """
    if not len(d):
        raise ValueError("no questions")
    most = float(np.abs(d).max()) or 1.0
    return np.append(d, [most, -most])


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of several tasks: one below 5 % by chance alone is seen in 5 % of all comparisons (Holm, 1979)."""
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"{name}: p = {p}")
    adjusted, largest, left = dict[str, float](), 0.0, len(p_values)
    for name, p in sorted(p_values.items(), key=lambda each: each[1]):
        largest = max(largest, min(1.0, p * left))
        adjusted[name], left = largest, left - 1
    return {name: adjusted[name] for name in p_values}


def of_several_tasks(comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The comparisons of several tasks, their p-values Holm's, so that all verdicts hold together."""
    adjusted = holm({name: each.p for name, each in comparisons.items()})
    return {name: replace(each, p=adjusted[name]) for name, each in comparisons.items()}


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
    while _smallest_binary(many, discordant, level) > difference:
        few, many = many, 2 * many
        if few > MOST_QUESTIONS:
            return math.inf
    while many - few > max(1, many // 200):
        middle = (few + many) // 2
        few, many = (middle, many) if _smallest_binary(middle, discordant, level) > difference else (few, middle)
    return many


def _smallest_mean(d: NDArray[np.float64], level: float) -> float:
    """Smallest mean difference that the permutation test would see, from the questions' own spread.

    With random signs a mean m of n differences varies by ``sqrt((s^2 + m^2) / n)``, s being their spread. It must lie z
    of these from zero, and in a fifth of all evaluations falls 0.84 of ``s / sqrt(n)`` short of the true one.
    """
    from scipy.special import ndtri

    z, short, n = float(ndtri(1 - level / 2)), float(ndtri(POWER)), len(d)
    if 2 * 0.5**n > level or n <= z * z:
        return math.inf
    return _spread(d) / math.sqrt(n) * (z / math.sqrt(1 - z * z / n) + short)


def _spread(d: NDArray[np.float64]) -> float:
    """Standard deviation of the questions' differences; where all are equal, of these and two more."""
    return float(d.std(ddof=1) if np.ptp(d) > 0 else _with_two_more(d).std())


def _questions_for_mean(d: NDArray[np.float64], level: float) -> float:
    """Questions with which the permutation test has its power for the mean difference that was seen."""
    from scipy.special import ndtri

    seen, spread = abs(float(d.mean())), _spread(d)
    if not seen:
        return math.inf
    z, short = float(ndtri(1 - level / 2)), float(ndtri(POWER))
    needed = ((z + short) * spread / seen) ** 2 + z * z
    return max(needed, math.log2(2 / level)) if needed <= MOST_QUESTIONS else math.inf
