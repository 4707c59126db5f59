"""How often the intervals of an evaluation hold the truth, and how often its tests see a difference that is not there.

    python benchmarks/interval_coverage.py

simulates evaluations, at least 10,000 of each kind, and writes ``benchmarks/results/interval_coverage.json``. What is
exact about one sample a question (the binomial distribution) is also added up without simulation: ``least`` is the
coverage of the share, of a thousand, at which it is least. Nothing here is timed.

Questions of an evaluation with several samples each differ in difficulty as one of :data:`KINDS` says. The first five
are held to the bar of 2 points; the last two show where no interval can hold it: a rare kind of question that decides
much, of which most evaluations have few or none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clearseek.evaluate.comparison import compare, difference_interval, mcnemar, paired_permutation
from clearseek.evaluate.robustness import robustness
from clearseek.evaluate.statistics import (
    Interval,
    exact_interval,
    fixed_questions,
    pass_at_k_interval,
    sampled_questions,
    wilson_interval,
)

RESULT: Final = Path(__file__).parent / "results" / "interval_coverage.json"
SIMULATIONS: Final = 10_000
TRIALS: Final = (20, 64, 300)
SHARES: Final = (0.02, 0.5, 0.95)
KINDS: Final = ("alike", "beta 0.1", "beta 0.3", "beta 0.7", "certain", "two kinds", "rare kind")
"""Difficulties of questions: all alike, beta distributions whose samples have this correlation, each question always
right or never, an easy and a hard kind, and mostly certain ones beside a few that are not."""
HELD: Final = KINDS[:6]
Array = NDArray[np.float64]


def difficulties(kind: str, share: float, draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Chances of a right answer of questions of this kind, whose mean is `share`."""
    if kind == "alike":
        return np.full(shape, share)
    certain = (draw.random(shape) < share).astype(float)
    if kind == "certain":
        return certain
    if kind == "two kinds":  # each a fifth as far from 0 and from 1 as the mean
        low, high = share / 5, 1 - (1 - share) / 5
        return np.where(draw.random(shape) < (share - low) / (high - low), high, low)
    if kind == "rare kind":
        return np.where(draw.random(shape) < 0.6, certain, share)
    size = 1 / float(kind.split()[1]) - 1
    return draw.beta(share * size, (1 - share) * size, shape)


def held(intervals: list[Interval], truth: float | Array) -> float:
    """Share of the intervals that hold the truth."""
    low, high = np.array(intervals).T
    return float(((low <= np.asarray(truth) + 1e-12) & (np.asarray(truth) - 1e-12 <= high)).mean())


def of_counts(right_RQ: NDArray[np.int64], samples: int, of: Callable[[list[int]], Interval]) -> list[Interval]:
    """The interval of every evaluation, computed once for those with the same counts."""
    counts_RK = np.stack([(right_RQ == each).sum(1) for each in range(samples + 1)], 1)
    kinds, where = np.unique(counts_RK, axis=0, return_inverse=True)
    found = [of(np.repeat(np.arange(samples + 1), each).tolist()) for each in kinds]
    return [found[each] for each in where.reshape(-1)]


def one_sample(trials: int, share: float, draw: np.random.Generator) -> dict[str, float]:
    """Coverage of simulated evaluations with one sample a question."""
    right_R = draw.binomial(trials, share, SIMULATIONS)
    ways = {"exact": exact_interval, "wilson": wilson_interval}
    tables = {name: [way(right, trials) for right in range(trials + 1)] for name, way in ways.items()}
    return {name: held([table[right] for right in right_R], share) for name, table in tables.items()}


def added_up(trials: int) -> dict[str, float]:
    """Least and mean coverage over a thousand shares, by the binomial distribution."""
    from scipy.stats import binom

    share_S = (np.arange(1000) + 0.5) / 1000
    chance_SK = binom.pmf(np.arange(trials + 1), trials, share_S[:, None])
    out = {}
    for name, way in (("exact", exact_interval), ("wilson", wilson_interval)):
        low, high = np.array([way(right, trials) for right in range(trials + 1)]).T
        covered = (chance_SK * ((low <= share_S[:, None]) & (share_S[:, None] <= high))).sum(1)
        out |= {f"{name}, least": float(covered.min()), f"{name}, mean": float(covered.mean())}
    return out


def several_samples(
    kind: str, share: float, draw: np.random.Generator, questions: int = 64, samples: int = 4
) -> dict[str, float]:
    """Coverage of simulated evaluations with several samples of each question."""
    share_RQ = difficulties(kind, share, draw, (SIMULATIONS, questions))
    right_RQ = draw.binomial(samples, share_RQ)
    sampled = of_counts(right_RQ, samples, lambda right: sampled_questions(right, samples))
    fixed = of_counts(right_RQ, samples, lambda right: fixed_questions(right, samples))
    return {"sampled": held(sampled, share), "fixed": held(fixed, share_RQ.mean(1))}


def pass_at(kind: str, share: float, draw: np.random.Generator, questions: int, samples: int, k: int) -> float:
    """Coverage of the interval of pass@k."""
    from scipy.integrate import quad
    from scipy.stats import beta

    if kind == "alike":
        truth = 1 - (1 - share) ** k
    else:
        size = 1 / float(kind.split()[1]) - 1
        law = beta(share * size, (1 - share) * size)
        truth = 1 - quad(lambda p: law.cdf(p) * k * (1 - p) ** (k - 1), 0, 1)[0] if k > 1 else share
    right_RQ = draw.binomial(samples, difficulties(kind, share, draw, (SIMULATIONS, questions)))
    return held(of_counts(right_RQ, samples, lambda right: pass_at_k_interval(samples, right, k)), truth)


def false_alarms(questions: int, share: float, draw: np.random.Generator) -> dict[str, float]:
    """Share of evaluations of two equally good models that the tests tell apart at 5 %."""
    one, other = draw.random((2, SIMULATIONS, questions)) < share
    pairs = np.stack([(one & ~other).sum(1), (other & ~one).sum(1)], 1)
    kinds, often = np.unique(pairs, axis=0, return_counts=True)
    alarms = sum(n for (b, c), n in zip(kinds.tolist(), often.tolist(), strict=True) if mcnemar(b, c) <= 0.05)
    share_RQ = difficulties("beta 0.3", share, draw, (SIMULATIONS, questions))
    d_RQ = (draw.binomial(4, share_RQ) - draw.binomial(4, share_RQ)) / 4
    means = sum(paired_permutation(d, 4) <= 0.05 for d in d_RQ)
    return {"mcnemar": alarms / SIMULATIONS, "permutation": means / SIMULATIONS}


def variants_told_apart(questions: int, width: int, count: int, draw: np.random.Generator) -> float:
    """Share of evaluations under alike variants that are told apart at 5 %."""
    alarms = 0
    for _ in range(count):
        share_Q = draw.beta(0.5, 0.5, questions)
        scores = (draw.random((width, questions)) < share_Q).astype(float)
        alarms += robustness({str(n): each for n, each in enumerate(scores.tolist())}).differ
    return alarms / count


PAIRS: Final = {
    "rare, both ways": (0.05, 0.05),
    "rare, one way": (0.02, 0.0),
    "uneven": (0.1, 0.02),
    "often": (0.3, 0.1),
}
"""How often the first model alone is right, and the second alone."""


def differences(questions: int, count: int, draw: np.random.Generator, resamples: int = 999) -> dict[str, float]:
    """Coverage of the interval for a difference: of right and wrong, and of means of four samples."""
    out = {}
    for name, (first, second) in PAIRS.items():
        d_RQ = draw.choice([1.0, -1.0, 0.0], (count, questions), p=[first, second, 1 - first - second])
        found = [difference_interval(d, seed=n, resamples=resamples) for n, d in enumerate(d_RQ)]
        out[name] = held(found, first - second)
    share_RQ = draw.beta(0.5, 0.5, (count, questions))
    d_RQ = (draw.binomial(4, share_RQ) - draw.binomial(4, 0.8 * share_RQ)) / 4
    found = [difference_interval(d, seed=n, resamples=resamples) for n, d in enumerate(d_RQ)]
    return out | {"means of 4 samples": held(found, 0.1)}


def power(questions: int, count: int, draw: np.random.Generator) -> float:
    """How often means of four samples that differ by the smallest difference to be seen are told apart."""
    many = np.sort(draw.binomial(4, 0.5, 10**5) - draw.binomial(4, 0.5, 10**5)) / 4
    typical = many[((np.arange(questions) + 0.5) / questions * len(many)).astype(int)]
    smallest = compare(np.maximum(typical, 0), np.maximum(-typical, 0), samples=4).smallest
    shape = (count, questions)
    first, second = (draw.binomial(4, 0.5 + sign * smallest / 2, shape) / 4 for sign in (1, -1))
    return sum(paired_permutation(d, 4) <= 0.05 for d in first - second) / count


def main() -> None:
    """Simulate everything and write the result."""
    from record import write_result  # tests import this file from another folder

    draw = np.random.default_rng(0)
    result: dict[str, Any] = {
        "what": "share of simulated evaluations whose interval of 95 % holds the truth, and of equally good models "
        "that are told apart at 5 %",
        "simulations": SIMULATIONS,
        "standard_error": math.sqrt(0.05 * 0.95 / SIMULATIONS),
        "one_sample": {str(n): {str(p): one_sample(n, p, draw) for p in SHARES} for n in TRIALS},
        "one_sample_added_up": {str(n): added_up(n) for n in TRIALS},
    }
    for questions, samples in ((64, 4), (30, 16), (300, 4)):
        result[f"{questions} questions, {samples} samples"] = {
            kind: {str(p): several_samples(kind, p, draw, questions, samples) for p in SHARES} for kind in KINDS
        }
        print(f"{questions} questions, {samples} samples", flush=True)
    result["pass@4 of 16 samples, 64 questions"] = {
        kind: {str(p): pass_at(kind, p, draw, 64, 16, 4) for p in SHARES} for kind in ("alike", "beta 0.3", "beta 0.7")
    }
    print("pass@k", flush=True)
    result["false_alarms"] = {str(n): {str(p): false_alarms(n, p, draw) for p in SHARES} for n in TRIALS}
    print("false alarms", flush=True)
    result["alike_variants_told_apart"] = {
        "evaluations": 2_000,
        **{f"{width} variants": variants_told_apart(64, width, 2_000, draw) for width in (2, 3, 4)},
    }
    print("variants", flush=True)
    result["differences"] = {"evaluations": 1_000, **{str(n): differences(n, 1_000, draw) for n in TRIALS}}
    result["power_at_the_smallest_difference"] = {str(n): power(n, SIMULATIONS, draw) for n in TRIALS}
    write_result(RESULT, result)
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
