"""The same questions under several variants: how far does the score move, and how much of that is sampling alone?

Variants are seeds, batch sizes, wordings of the prompt, engines. Were they all alike, a question's scores could be
dealt to the variants in any order. So they are dealt again (Cochran's Q for right and wrong, 1950; Friedman's idea for
scores between): every way is counted where that is possible, of others some are drawn. What the ways give is what
sampling explains of the range; what exceeds it is the variation's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from clearseek.evaluate.comparison import RESAMPLES, told_p
from clearseek.evaluate.statistics import CONFIDENCE

_MOST_WORK = 3 * 10**7
"""Sums up to which every way to deal is counted."""


@dataclass(frozen=True)
class Robustness:
    """How much a score depends on something that should not matter."""

    questions: int
    means: dict[str, float]
    """Mean score of each variant."""
    range: float
    """Highest mean minus lowest."""
    explained: float
    """Range that sampling alone stays within, at the confidence."""
    p: float
    """Chance that sampling alone moves the means so far apart (their variance), were all variants alike."""
    exact: bool
    """Whether every way to deal the scores was counted."""
    noise: float
    """Standard deviation of the means that sampling explains."""
    added: float
    """Standard deviation that the variation adds to it; 0 where the means spread no more than sampling would."""
    confidence: float = CONFIDENCE

    @property
    def differ(self) -> bool:
        """Whether the variants can be told apart."""
        return self.p <= 1 - self.confidence

    def sentence(self, unit: float = 100.0, name: str = "points") -> str:
        """One honest sentence on the variants."""
        low, high = min(self.means.values()) * unit, max(self.means.values()) * unit
        seen = f"{len(self.means)} variants on {self.questions:,} question{'s' * (self.questions != 1)}: "
        seen += f"{low:.1f} to {high:.1f}, {self.range * unit:.1f} {name} apart"
        share = f"sampling alone explains up to {self.explained * unit:.1f}"
        if self.differ:
            return f"{seen}; {share}: the variants differ ({told_p(self.p)}), by {self.added * unit:.1f} {name} more"
        return f"{seen}; {share}: they cannot be told apart ({told_p(self.p)})"


def robustness(variants: Mapping[str, Sequence[float]], confidence: float = CONFIDENCE, seed: int = 0) -> Robustness:
    """How far a score moves between variants, and how much of that sampling explains.

    Args:
        variants: Name -> score of each question, in the same order in all.
        confidence: Of the range that is explained; 1 minus it is the level of the test.
        seed: Of the draws, where not every way is counted.

    Raises ValueError for fewer than two variants, for no questions, for numbers of questions that differ, and for
    scores that are not finite.
    """
    counts = {name: len(scores) for name, scores in variants.items()}
    if len(counts) < 2:
        raise ValueError(f"{len(counts)} variants: at least two")
    if len(set(counts.values())) > 1:
        raise ValueError(f"variants of {counts} questions: compare the questions that all answered")
    x_QV = np.array(list(variants.values()), dtype=np.float64).T
    questions, width = x_QV.shape if x_QV.size else (0, 0)
    if not questions:
        raise ValueError("no questions")
    if not np.isfinite(x_QV).all() or not 0 < confidence < 1:
        raise ValueError("scores that are not finite, or a confidence that is not between 0 and 1")
    sums_V, rest_QV = x_QV.sum(0), x_QV[np.ptp(x_QV, axis=1) > 0]  # what all variants share moves none of them
    ways = _every_way(rest_QV) if np.isin(rest_QV, (0.0, 1.0)).all() else None
    totals_WV, chance_W = ways or _some_ways(rest_QV, seed)
    seen_V = rest_QV.sum(0)
    scale = max(1.0, float(np.abs(seen_V).max()))
    told_W = totals_WV.var(1) >= seen_V.var() - 1e-9 * scale * scale
    range_W, order = np.ptp(totals_WV, axis=1), np.argsort(np.ptp(totals_WV, axis=1))
    within = np.searchsorted(np.cumsum(chance_W[order]), confidence - 1e-12)
    explained = float(range_W[order[min(int(within), len(order) - 1)]])
    centred_QV = x_QV - x_QV.mean(1, keepdims=True)
    residual_QV = centred_QV - centred_QV.mean(0)
    freedom = (questions - 1) * (width - 1)
    noise = float((residual_QV**2).sum()) / freedom / questions if freedom else 0.0
    between = float((sums_V / questions).var(ddof=1))
    return Robustness(
        questions, dict(zip(variants, (sums_V / questions).tolist(), strict=True)), float(np.ptp(sums_V)) / questions,
        explained / questions, float(min(1.0, chance_W[told_W].sum())), ways is not None, math.sqrt(noise),
        math.sqrt(max(0.0, between - noise)), confidence,
    )  # fmt: skip


Ways = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Totals of the variants under each way to deal, and the chance of each."""


def _every_way(x_QV: NDArray[np.float64]) -> Ways | None:
    """Distribution of the variants' right answers, each question's dealt in every way; None where these are too many.

    The last variant's total follows from the others', so it needs no axis.
    """
    questions, width = x_QV.shape
    right_Q = x_QV.sum(1).astype(int)
    if questions * (questions + 1) ** (width - 1) * 2**width > _MOST_WORK:
        return None
    chance = np.zeros((questions + 1,) * (width - 1))
    chance[(0,) * (width - 1)] = 1.0
    for right in right_Q.tolist():
        deals = list(combinations(range(width), right))
        after = np.zeros_like(chance)
        for deal in deals:
            to = tuple(slice(1, None) if v in deal else slice(None) for v in range(width - 1))
            of = tuple(slice(None, -1) if v in deal else slice(None) for v in range(width - 1))
            after[to] += chance[of] / len(deals)
        chance = after
    found = np.argwhere(chance > 0)
    last = right_Q.sum() - found.sum(1, keepdims=True)
    return np.hstack([found, last]).astype(np.float64), chance[chance > 0]


def _some_ways(x_QV: NDArray[np.float64], seed: int) -> Ways:
    """Totals of the variants for the way that was seen, and for as many others as are drawn."""
    draw = np.random.default_rng(seed)
    totals = np.empty((RESAMPLES + 1, x_QV.shape[1]))
    totals[0] = x_QV.sum(0)
    for number in range(1, RESAMPLES + 1):
        totals[number] = draw.permuted(x_QV, axis=1).sum(0)
    return totals, np.full(RESAMPLES + 1, 1 / (RESAMPLES + 1))
