"""What a score says: pass@k without bias, and intervals for a share of right answers.

*pass@k* is the chance that at least one of k samples is right. Taking ``1 - (1 - share)^k`` of a measured share is too
low on average; drawing k of the n samples without putting any back is not (Chen et al., 2021, arXiv:2107.03374,
section 2.1).

*One sample of each question.* Wilson's (1927) interval is the set of shares that a test by the normal distribution
would not refuse: right on average, and sensible at 0 and 1, unlike the share plus or minus twice its standard error.
Clopper and Pearson's (1934) comes from the binomial distribution itself and holds its confidence for every share, at
the price of being wider.

*Several samples of each question* can answer two questions, whose intervals differ several times in width:

- :func:`fixed_questions`: how far would the score move if the same questions were asked again? Only sampling moves it.
- :func:`sampled_questions`: how well does the model do on questions *like* these? The questions are a sample too, and
  the samples of one question are alike (Miller, 2024, arXiv:2411.00640, section 2.2).

Below some 300 questions the normal approximation is too narrow (Bowyer et al., 2025, arXiv:2503.01747): what is not
exact here goes through Wilson's interval with an *effective* number of trials, after Korn and Graubard (1998). How
often each interval holds the truth is measured (``benchmarks/interval_coverage.py``). No interval knows of a rare kind
of question that the sample happens to have none of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_ALIKE = np.linspace(0.01, 0.99, 30)
"""Correlations of two samples of a question that are considered, none to full."""


class Interval(NamedTuple):
    """Bounds of a share, both within it."""

    low: float
    high: float


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


def pass_at_k_interval(samples: int, right: Sequence[int], k: int, confidence: float = CONFIDENCE) -> Interval:
    """Interval for the mean of :func:`pass_at_k` over all questions that these were drawn from.

    (0, 1) for fewer than two questions. Its width is that of the questions' spread. Where all questions score alike,
    nothing tells how they vary: each then counts as one trial.

    Raises ValueError as :func:`pass_at_k` does, and unless 0 < confidence < 1.
    """
    _check(0, samples, confidence)
    x_Q = np.array([pass_at_k(samples, each, k) for each in right])
    questions = len(x_Q)
    if k == 1 or questions < 2:
        return sampled_questions(right, samples, confidence)
    mean, spread = float(x_Q.mean()), float(x_Q.var(ddof=1)) / questions
    trials = min(mean * (1 - mean) / spread, questions * samples / k) if spread else questions
    return _effective(mean, trials * _few(questions, confidence), confidence)


def sampling_error(share: float, questions: int, samples: int = 1) -> float:
    """Most that the standard error of a mean share can be with the questions fixed: ``sqrt(p (1 - p) / (n k))``.

    Questions that differ vary less than alike ones of the same mean, so it is a bound, known without one record.

    Raises ValueError unless 0 <= share <= 1 and there is a sample of a question.
    """
    if not 0 <= share <= 1 or questions < 1 or samples < 1:
        raise ValueError(f"a share of {share} of {questions} questions, {samples} samples each")
    return math.sqrt(share * (1 - share) / (questions * samples))


def wilson_interval(right: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's interval for the share of right ones; (0, 1) for no trials.

    Raises ValueError unless 0 <= right <= trials and 0 < confidence < 1.
    """
    _check(right, trials, confidence)
    return _effective(right / trials, trials, confidence) if trials else Interval(0.0, 1.0)


def exact_interval(right: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Clopper and Pearson's interval for the share of right ones; (0, 1) for no trials.

    Raises ValueError unless 0 <= right <= trials and 0 < confidence < 1.
    """
    from scipy.special import betaincinv

    _check(right, trials, confidence)
    tail = (1 - confidence) / 2
    low = float(betaincinv(right, trials - right + 1, tail)) if right else 0.0
    return Interval(low, float(betaincinv(right + 1, trials - right, 1 - tail)) if right < trials else 1.0)


def fixed_questions(right: Sequence[int], samples: int, confidence: float = CONFIDENCE) -> Interval:
    """Interval for the mean share of right samples, had these same questions been sampled without end.

    With one sample a question nothing tells sampling from questions; the interval is Wilson's, too wide if anything.

    Args:
        right: Right samples of each question.
        samples: Samples of each question.
        confidence: Wanted chance that such an interval holds the true value.

    Raises ValueError where a count does not fit, or confidence is not between 0 and 1.
    """
    x_Q = _shares(right, samples, confidence)
    if not len(x_Q):
        return Interval(0.0, 1.0)
    mean, trials = float(x_Q.mean()), len(x_Q) * samples
    if samples == 1:
        return _effective(mean, trials, confidence)
    # Of each question without bias, and pulled to the mean by one sample, so that 4 of 4 is not certain.
    p_Q = (x_Q * samples + mean) / (samples + 1)
    variance = float((p_Q * (1 - p_Q)).mean()) * samples / (samples - 1) / trials
    variance = min(variance, mean * (1 - mean) / trials) if 0 < mean < 1 else 0.0
    return _effective(mean, mean * (1 - mean) / variance if variance > 0 else trials, confidence)


def sampled_questions(right: Sequence[int], samples: int, confidence: float = CONFIDENCE) -> Interval:
    """Interval for the mean share of right samples over all questions that these were drawn from.

    The number of effective trials lies between that of questions and that of samples, by how alike a question's samples
    are. Two estimates of that are made, and the smaller one is used: from the spread of the questions' shares (Korn and
    Graubard, 1998), which takes no model and few questions mislead, and from a beta-binomial likelihood.

    Args:
        right: Right samples of each question.
        samples: Samples of each question.
        confidence: Wanted chance that such an interval holds the true value.

    Raises ValueError where a count does not fit, or confidence is not between 0 and 1.
    """
    x_Q = _shares(right, samples, confidence)
    questions = len(x_Q)
    if questions < 2:
        return Interval(0.0, 1.0)
    mean = float(x_Q.mean())
    if samples == 1:
        return _effective(mean, questions, confidence)
    spread = float(x_Q.var(ddof=1)) / questions
    most = questions * samples if 0 < mean < 1 else questions
    by_spread = min(mean * (1 - mean) / spread, most) if spread else most
    by_spread *= _few(questions, confidence)
    by_model = questions * samples / (1 + (samples - 1) * _likeness(right, samples))
    return _effective(mean, min(by_spread, by_model), confidence)


def _few(questions: int, confidence: float) -> float:
    """Share of the trials that are left when their variance is estimated from so many questions (Student's t)."""
    from scipy.special import ndtri, stdtrit

    tail = 0.5 + confidence / 2
    return float(ndtri(tail) / stdtrit(questions - 1, tail)) ** 2


def _likeness(right: Sequence[int], samples: int) -> float:
    """Mean correlation of two samples of a question, by the beta-binomial likelihood at the mean share."""
    from scipy.special import betaln

    counts = np.bincount(np.asarray(right), minlength=samples + 1)
    share = (sum(right) + 0.5) / (len(right) * samples + 1)
    size = 1 / _ALIKE - 1
    a, b, told = share * size, (1 - share) * size, np.zeros(len(size))
    for k in counts.nonzero()[0]:
        told += counts[k] * (betaln(a + k, b + samples - k) - betaln(a, b))
    told -= 0.35 * np.log(_ALIKE)  # the prior: questions of most sets are less alike than not
    weight = np.exp(told - told.max())
    return float((weight * _ALIKE).sum() / weight.sum())


def _shares(right: Sequence[int], samples: int, confidence: float) -> NDArray[np.float64]:
    counts = np.asarray(right)
    if (
        counts.size
        and not (np.isreal(counts) & (counts >= 0) & (counts <= samples) & (counts == np.rint(counts))).all()
    ):
        raise ValueError(f"right samples of questions must be whole numbers from 0 to {samples}")
    _check(0, samples, confidence)
    if samples < 1:
        raise ValueError(f"{samples} samples of each question: at least one")
    return counts.astype(np.float64) / samples


def _effective(mean: float, trials: float, confidence: float) -> Interval:
    """Wilson's interval, whose number of trials need not be whole."""
    from scipy.special import ndtri

    z = float(ndtri(0.5 + confidence / 2))
    scale = 1 + z * z / trials
    middle = (mean + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(mean * (1 - mean) / trials + z * z / (4 * trials * trials))
    return Interval(max(0.0, middle - half) if mean else 0.0, min(1.0, middle + half) if mean < 1 else 1.0)


def _check(right: int, trials: int, confidence: float) -> None:
    if not 0 <= right <= trials or right != int(right) or trials != int(trials):
        raise ValueError(f"{right} right of {trials} trials")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence}: use a number between 0 and 1")
