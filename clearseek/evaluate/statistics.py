"""What a count of right answers says: pass@k without bias, and intervals for a share.

*pass@k* is the chance that at least one of k samples is right. Taking ``1 - (1 - share)^k`` of a measured share is too
low on average; drawing k of the n samples without putting any back is not (Chen et al., 2021, arXiv:2107.03374,
section 2.1).

*Intervals.* Wilson's (1927) is the set of shares that a test by the normal distribution would not refuse: right on
average, and sensible at 0 and 1, unlike the share plus or minus twice its standard error. Clopper and Pearson's (1934)
comes from the binomial distribution itself and holds its confidence for every share, at the price of being wider.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that k samples hold a right one, from `right` of `samples`: ``1 - C(n-c, k) / C(n, k)``.

    Raises ValueError unless 1 <= k <= samples and 0 <= right <= samples.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k = {k} of {samples} samples: use 1 to the number of samples")
    if not 0 <= right <= samples:
        raise ValueError(f"{right} right of {samples} samples")
    every = math.comb(samples, k)
    return (every - math.comb(samples - right, k)) / every  # whole numbers, so it is rounded once


def mean_pass_at_k(samples: int, right: Sequence[int], k: int) -> float:
    """Mean of :func:`pass_at_k` over problems, of each of which so many samples were right. NaN for no problems."""
    return fmean(pass_at_k(samples, each, k) for each in right) if right else math.nan


def wilson_interval(right: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for the share of right ones; (0, 1) for no trials.

    Raises ValueError unless 0 <= right <= trials and 0 < confidence < 1.
    """
    _check(right, trials, confidence)
    if not trials:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, scale = right / trials, 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return (max(0.0, middle - half) if right else 0.0), (min(1.0, middle + half) if right < trials else 1.0)


def exact_interval(right: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval for the share of right ones; (0, 1) for no trials.

    Raises ValueError unless 0 <= right <= trials and 0 < confidence < 1.
    """
    _check(right, trials, confidence)
    tail = (1 - confidence) / 2
    low = _share_with_tail(right, trials, tail) if right else 0.0
    high = 1 - _share_with_tail(trials - right, trials, tail) if right < trials else 1.0
    return low, high


def _check(right: int, trials: int, confidence: float) -> None:
    if not 0 <= right <= trials:
        raise ValueError(f"{right} right of {trials} trials")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence}: use a number between 0 and 1")


def _share_with_tail(right: int, trials: int, tail: float) -> float:
    """The share at which so many right ones or more have the chance `tail`, by halving an interval."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        if _at_least(right, trials, middle) < tail:
            low = middle
        else:
            high = middle


def _at_least(right: int, trials: int, share: float) -> float:
    """Chance of `right` or more of `trials`, `right` at least 1: the regularised incomplete beta function."""
    a, b = float(right), float(trials - right + 1)
    if share <= 0 or share >= 1:
        return float(share >= 1)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(share) + b * math.log1p(-share)
    )
    if share < (a + 1) / (a + b + 2):  # where the fraction converges fast
        return front * _beta_fraction(a, b, share) / a
    return 1 - front * _beta_fraction(b, a, 1 - share) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Continued fraction of the incomplete beta function (NIST Digital Library 8.17.22), by Lentz's method."""
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    value, m = d, 0
    while True:
        m += 1
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            step = c * d
            value *= step
        if abs(step - 1) < 1e-14:
            return value
