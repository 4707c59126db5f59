"""Draws judged: whether recorded tokens are what logits, noise and filters give.

Every draw is judged by itself. A token that loses by less than rounding moves sums is *undecided*, and counted; so is a
filter that decided between numbers as close. Sums are compared with a margin: a share (:data:`MARGIN`) of the largest
logit, over the temperature.

Shapes: C draws, U hidden states that they were made from, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from clearseek.inference.request import Settings
from clearseek.inference.sampling import draw_rows, noise
from clearseek.posttrain.rollouts import Rollouts, Whole

MARGIN: Final = {torch.float32: 2.0**-16, torch.bfloat16: 2.0**-6}
"""Share of the largest logit, in size, by which rounding may move a logit: where the sampler multiplied in FP32, and in
BF16. Engine and trainer differ by 2^-20 and less in FP32."""
ROUTER: Final = {torch.float32: 2.0**-14, torch.bfloat16: 2.0**-5}
"""The same for a router's scores, which lie between 0 and 1."""


@dataclass
class Judged:
    """What a pass found."""

    draws: int = 0
    undecided: int = 0
    """Draws whose token, or whose filter, lost by no more than rounding."""
    choices: int = 0
    """Choices of experts."""
    close: int = 0
    """Choices of experts that are others here, by no more than rounding."""
    wrong: list[str] = field(default_factory=list)
    """The first contradictions, in words."""

    @staticmethod
    def of(rollouts: Rollouts) -> Judged:
        """Of a record of which no draw is judged yet."""
        return Judged(choices=int((rollouts.length_N - 1).sum()) * len(rollouts.route_LTK))

    def add(self, other: Judged) -> None:
        """Count another pass with this one."""
        self.draws, self.undecided = self.draws + other.draws, self.undecided + other.undecided
        self.choices, self.close = self.choices + other.choices, self.close + other.close
        self.wrong += other.wrong


class Draws(NamedTuple):
    """Draws of a record; those from one hidden state side by side."""

    state: Whole
    """Of each draw, the number of the hidden state that it was made from."""
    completion: Whole
    seed: Whole
    position: Whole
    token: Whole
    record: Whole
    """Its number among the draws of the record."""

    def part(self, chosen: slice | Whole) -> Draws:
        """Some draws."""
        return Draws(*(each[chosen] for each in self))

    def by_state(self, state: Whole) -> Draws:
        """The same draws, from these states and in their order."""
        return self._replace(state=state).part(np.argsort(state, kind="stable"))


def draws_of(rollouts: Rollouts, number_M: Whole) -> Draws:
    """All draws of some completions, one completion's after the other's, each from a state of its own."""
    drawn_n = rollouts.drawn_n.numpy()
    draw_begins, token_begins = (each.cumsum() - each for each in (drawn_n, rollouts.length_N.numpy()))
    count_M = drawn_n[number_M]
    completion = np.repeat(number_M, count_M)
    within = np.arange(len(completion)) - np.repeat(count_M.cumsum() - count_M, count_M)
    position = rollouts.prompt_N.numpy()[completion] + within
    return Draws(
        state=np.arange(len(completion)),
        completion=completion,
        seed=rollouts.seed_N.numpy()[completion],
        position=position,
        token=rollouts.token_T.numpy()[token_begins[completion] + position].astype(np.int64),
        record=draw_begins[completion] + within,
    )


def judge(
    logits_UV: NDArray[np.float32], draws: Draws, rollouts: Rollouts, settings: Settings, share: float, found: Judged
) -> None:
    """Judge draws from these logits; `share` is that of :data:`MARGIN`."""
    said_C = rollouts.logp_C.numpy()[draws.record].astype(np.float64)
    ours = draw_rows(logits_UV, settings, draws.seed, draws.position, draws.state)
    suspect = (ours.tokens != draws.token) | ~(
        np.abs(ours.logp - said_C) <= _tolerance(logits_UV, settings, share)[draws.state]
    )
    if ours.kept is not None or len(rollouts.kept_ends_C):
        theirs = [_kept(rollouts, number) for number in draws.record.tolist()]
        mine: Sequence[Whole | None] = ours.kept or [None] * len(theirs)
        suspect |= [not _alike(one, other) for one, other in zip(mine, theirs, strict=True)]
    found.draws += len(suspect)
    for c in np.flatnonzero(suspect).tolist():
        draw = _Draw(
            logits_UV[draws.state[c]], int(draws.seed[c]), int(draws.position[c]), int(draws.token[c]),
            float(said_C[c]), _kept(rollouts, int(draws.record[c])),
        )  # fmt: skip
        _look(draw, settings, share, f"completion {draws.completion[c]}, position {draw.position}", found)


def _tolerance(logits_UV: NDArray[np.float32], settings: Settings, share: float) -> NDArray[np.float64]:
    """How far rounding may move sums of these logits, over the temperature."""
    size_U = np.maximum(logits_UV.max(1), -logits_UV.min(1)).astype(np.float64)
    found: NDArray[np.float64] = np.maximum(size_U, 1.0) * (share / settings.temperature)
    return found


def _kept(rollouts: Rollouts, draw: int) -> Whole | None:
    """What filters left at a draw by the record; None where it says nothing of filters."""
    if not len(rollouts.kept_ends_C):
        return None
    first = int(rollouts.kept_ends_C[draw - 1]) if draw else 0
    return rollouts.kept_ids[first : int(rollouts.kept_ends_C[draw])].long().numpy()


def _alike(one: Whole | None, other: Whole | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, np.sort(other))


class _Draw(NamedTuple):
    """A draw by the record, and its logits here."""

    logits_V: NDArray[np.float32]
    seed: int
    position: int
    token: int
    logp: float
    kept: Whole | None


def _look(draw: _Draw, settings: Settings, share: float, where: str, found: Judged) -> None:
    """Judge a draw that is not exactly ours: undecided if rounding explains it."""
    margin = float(_tolerance(draw.logits_V[None], settings, share)[0])
    scaled_V = (draw.logits_V.astype(np.float64) - draw.logits_V.max()) / settings.temperature
    if (draw.kept is None) != (settings.top_p >= 1) or (draw.kept is not None and not _is_set(draw, len(scaled_V))):
        found.wrong.append(f"{where}: the record's tokens after top_p = {settings.top_p} are no such set")
        return
    kept = np.arange(len(scaled_V)) if draw.kept is None else np.sort(draw.kept)
    if draw.kept is not None and not _may_keep(scaled_V, kept, settings.top_p, margin):
        found.wrong.append(f"{where}: not the tokens that top_p = {settings.top_p} leaves")
        return
    sums = scaled_V[kept] + noise(draw.seed, draw.position, kept)
    own = np.flatnonzero(kept == draw.token)
    best = int(sums.argmax())
    if not len(own) or sums[best] - sums[own[0]] > 2 * margin:
        found.wrong.append(f"{where}: token {draw.token}, and weights and noise give {int(kept[best])}")
        return
    logp = scaled_V[draw.token] - np.log(np.exp(scaled_V[kept]).sum())
    if not abs(logp - draw.logp) <= 2 * margin:
        found.wrong.append(f"{where}: log-probability {draw.logp:.6f}, and the weights give {logp:.6f}")
        return
    found.undecided += 1


def _is_set(draw: _Draw, size: int) -> bool:
    kept = draw.kept
    assert kept is not None
    return len(kept) > 0 and len(np.unique(kept)) == len(kept) and bool(kept.min() >= 0) and bool(kept.max() < size)


def _may_keep(scaled_V: NDArray[np.float64], kept: Whole, top_p: float, margin: float) -> bool:
    """Whether these may be the fewest likeliest tokens that hold `top_p`, as far as rounding lets one see."""
    p_V = np.exp(scaled_V)
    p_V /= p_V.sum()
    out = np.ones(len(p_V), dtype=bool)
    out[kept] = False
    ordered = not out.any() or bool(scaled_V[kept].min() >= scaled_V[out].max() - 2 * margin)
    held, least = float(p_V[kept].sum()), float(p_V[kept].min())
    return ordered and held >= top_p - 2 * margin and held - least <= top_p + 2 * margin
