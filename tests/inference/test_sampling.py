"""Draws: what they follow, and that drafts change none of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from clearseek.errors import UserError
from clearseek.inference.request import Settings
from clearseek.inference.sampling import adjusted, log_probabilities, noise, pick

LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0, 1.5], dtype=np.float32)
DRAWS = 100_000


def drawn(settings: dict[str, Any], count: int = DRAWS) -> NDArray[np.int64]:
    """How often each token is drawn over many seeds."""
    tokens = [pick(LOGITS, Settings(seed=seed, **settings), 7) for seed in range(count)]
    return np.bincount(tokens, minlength=len(LOGITS))


def probabilities(temperature: float, kept: int) -> NDArray[np.float64]:
    """Probabilities of the `kept` likeliest tokens."""
    p = np.exp(LOGITS.astype(np.float64) / temperature)
    p[np.argsort(-p)[kept:]] = 0
    whole: NDArray[np.float64] = p / p.sum()
    return whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "temperature", "kept"),
    [({}, 1, 8), ({"temperature": 0.5}, 0.5, 8), ({"top_k": 3}, 1, 3), ({"top_p": 0.8}, 1, 4), ({"min_p": 0.3}, 1, 3)],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(settings: dict[str, Any], temperature: float, kept: int) -> None:
    seen, expected = drawn(settings), probabilities(temperature, kept) * DRAWS
    assert seen[expected == 0].sum() == 0
    assert stats.chisquare(seen[expected > 0], expected[expected > 0]).pvalue > 0.001


@pytest.mark.slow
def test_neighbouring_positions_are_drawn_independently() -> None:
    pairs = np.zeros((8, 8))
    for seed in range(DRAWS // 2):
        settings = Settings(seed=seed)
        pairs[pick(LOGITS, settings, 4), pick(LOGITS, settings, 5)] += 1
    p = probabilities(1, 8)
    assert stats.chisquare(pairs.ravel(), np.outer(p, p).ravel() * pairs.sum()).pvalue > 0.001


DRAFT = np.array([0.0, 1.0, 0.5, 2.0, -0.5, -1.0, 1.0, 1.5], dtype=np.float32)


def speculated(seed: int, accept_all: bool) -> int:
    """A token by draft and check, as the engine does it; with a deliberately wrong rule, the draft itself."""
    settings = Settings(seed=seed)
    draft, checked = pick(DRAFT, settings, 7), pick(LOGITS, settings, 7)
    return draft if accept_all else checked


@pytest.mark.slow
def test_speculative_draws_follow_the_model_and_a_wrong_rule_does_not() -> None:
    expected = probabilities(1, 8) * DRAWS
    for wrong in (False, True):
        seen = np.bincount([speculated(seed, wrong) for seed in range(DRAWS)], minlength=8)
        assert (stats.chisquare(seen, expected).pvalue > 0.001) is not wrong


def test_drafts_agree_more_often_than_chance() -> None:
    """Two draws with one noise agree at least (1 - d) / (1 + d) of the time, d being the distance of their odds."""
    p, q = probabilities(1, 8), np.exp(DRAFT.astype(np.float64))
    q /= q.sum()
    distance, seeds = np.abs(p - q).sum() / 2, range(4000)
    agreed = np.mean([pick(LOGITS, Settings(seed=s), 3) == pick(DRAFT, Settings(seed=s), 3) for s in seeds])
    assert agreed > (1 - distance) / (1 + distance) - 0.03
    assert agreed > 2 * (p * q).sum()


def test_noise_is_of_gumbel_and_depends_on_seed_position_and_token() -> None:
    tokens = np.arange(20_000)
    whole = noise(5, 3, tokens)
    assert stats.kstest(whole, "gumbel_r").pvalue > 0.001
    assert np.array_equal(noise(5, 3, tokens[[7, 4]]), whole[[7, 4]])
    for other in (noise(6, 3, tokens), noise(5, 4, tokens), noise(2**62, 3, tokens)):
        assert abs(np.corrcoef(whole, other)[0, 1]) < 0.03


Finite = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=30)


@given(Finite, st.floats(0.1, 5), st.floats(0.05, 1), st.integers(0, 30), st.integers(0, 2**40))
def test_a_drawn_token_is_among_those_that_the_filters_leave(
    values: list[float], temperature: float, top_p: float, top_k: int, seed: int
) -> None:
    logits = np.array(values, dtype=np.float32)
    token = pick(logits, Settings(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed), 1)
    rank = int((logits > logits[token]).sum())
    assert not top_k or rank < top_k
    p = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    p = np.sort(p / p.sum())[::-1]
    assert p[:rank].sum() <= top_p + 1e-9


@given(Finite)
def test_no_temperature_takes_the_first_of_the_largest(values: list[float]) -> None:
    logits = np.array(values, dtype=np.float32)
    assert pick(logits, Settings(temperature=0), 0) == values.index(max(values))


def test_penalties_follow_their_definitions() -> None:
    logits = np.array([1.0, -1.0, 2.0, 0.5], dtype=np.float32)
    settings = Settings(
        repetition_penalty=2, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={3: 4.0, 99: 1.0}
    )
    found = adjusted(logits, settings, [0, 1, 2, 2], 2)
    # halved or doubled where seen; the answer has token 2 twice
    assert found.tolist() == [0.5, -2.0, 1.0 - 0.5 - 0.5, 4.5]
    assert logits.tolist() == [1.0, -1.0, 2.0, 0.5]


def test_without_penalties_logits_are_not_copied() -> None:
    assert adjusted(LOGITS, Settings(), [1, 2], 1) is LOGITS


def test_log_probabilities_are_of_the_unchanged_logits() -> None:
    expected = LOGITS.astype(np.float64) - np.log(np.exp(LOGITS.astype(np.float64)).sum())
    assert np.allclose(log_probabilities(LOGITS), expected, atol=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(UserError, match="not finite"):
        pick(np.full(4, value, dtype=np.float32), Settings(), 0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"temperature": float("nan")}, "temperature"), ({"top_p": 0.0}, "top_p"), ({"seed": -1}, "seed"),
     ({"logit_bias": {1: 1000.0}}, "logit_bias"), ({"max_tokens": -1, "top_k": -2}, "max_tokens.*top_k")],
)  # fmt: skip
def test_settings_out_of_range_are_named_together(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Settings(**wrong)
