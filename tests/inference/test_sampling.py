"""Draws: what they follow, and that drafts change none of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from clearseek.errors import UserError
from clearseek.inference.engine import Engine, Rows
from clearseek.inference.request import Request, Settings
from clearseek.inference.sampling import Logits, adjusted, draws, likeliest, log_probabilities, noise, pick, weigh_rows
from clearseek.kernels import PAGE, launch

LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0, 1.5], dtype=np.float32)
DRAWS = 100_000


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launch, "unavailable", lambda: "left out")
    yield


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


class Fixed:
    """A model that always gives LOGITS, and whose drafts are drawn from other ones."""

    rows, longest, page_count, vocabulary = 128, 4 * PAGE, 64 * 4, len(LOGITS)

    def step(self, rows: Rows) -> Tensor:
        return torch.from_numpy(LOGITS).repeat(len(rows.wanted), 1)

    def draft(self, rows: Rows, sources: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(DRAFT).repeat(len(rows.wanted), 1)

    def experts(self, row: int) -> tuple[tuple[int, ...], ...]:
        return ()


class AcceptsAll(Engine):
    """A wrong rule: every draft becomes a token."""

    def _draw(self, request: Request, logits_V: Logits, row: int, draft: int | None = None) -> int:
        only = np.where(np.arange(len(logits_V)) == draft, 0, -np.inf).astype(np.float32)
        return super()._draw(request, logits_V if draft is None else only, row, draft)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [False, True])
def test_speculative_draws_follow_the_model_and_a_wrong_rule_does_not(wrong: bool) -> None:
    engine = (AcceptsAll if wrong else Engine)(Fixed(), drafts=True)
    requests = [Request([0], Settings(max_tokens=50, seed=seed)) for seed in range(DRAWS // 50)]
    engine.run(requests)
    assert engine.counts.drafts > DRAWS / 3
    assert (engine.counts.accepted == engine.counts.drafts) is wrong
    seen = np.bincount([chosen.token for request in requests for chosen in request.answer], minlength=8)
    assert seen.sum() == DRAWS
    assert (stats.chisquare(seen, probabilities(1, 8) * DRAWS).pvalue > 0.001) is not wrong


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


@settings(deadline=None)  # the first example may compile
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


LARGE = np.random.default_rng(1).normal(size=5000)
SHAPES = {"flat": LARGE * 0.01, "usual": LARGE * 3, "steep": LARGE * 30, "equal": np.round(LARGE)}


def by_definition(logits: Logits, s: Settings, position: int) -> int:
    """The drawn token, by filters in their plainest form."""
    scaled = (logits.astype(np.float64) - logits.max()) / s.temperature
    order = [i for i in np.argsort(-scaled, kind="stable") if math.exp(scaled[i]) >= s.min_p]
    order = order[: s.top_k or None]
    held, kept, total = 0.0, [], sum(math.exp(scaled[i]) for i in order)
    for token in order:
        if held >= s.top_p * total:
            break
        kept.append(token)
        held += math.exp(scaled[token])
    tokens = np.array(kept)
    return int(tokens[np.argmax(scaled[tokens] + noise(s.seed, position, tokens))])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("changes", [
    {}, {"top_p": 0.95}, {"top_p": 0.3}, {"top_p": 1e-9}, {"top_k": 1}, {"top_k": 40}, {"top_k": 40, "top_p": 0.5},
    {"min_p": 0.1}, {"min_p": 0.02, "top_p": 0.7, "top_k": 9}, {"temperature": 5.0, "top_p": 0.999},
])  # fmt: skip
def test_draws_are_those_of_the_definition(shape: str, changes: dict[str, Any]) -> None:
    logits = SHAPES[shape].astype(np.float32)
    logits[7] = -np.inf
    for seed in range(20):
        settings = Settings(seed=seed, **changes)
        assert pick(logits, settings, seed) == by_definition(logits, settings, seed)


@pytest.mark.skipif(launch.unavailable() is not None, reason=str(launch.unavailable()))
def test_loops_and_numpy_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, tokens = SHAPES["usual"].astype(np.float32), np.arange(50_000)
    settings = [Settings(seed=seed * 2**50, top_p=p) for seed in range(100) for p in (1.0, 0.9)]

    def all_of_it() -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
        return [pick(logits, s, 3) for s in settings], noise(2**63 - 1, 2**40, tokens), log_probabilities(logits)

    by_loops, told = all_of_it(), draws()
    monkeypatch.setattr(launch, "unavailable", lambda: "left out")
    by_numpy = all_of_it()
    assert by_loops[0] == by_numpy[0]
    for found, expected in zip(by_loops[1:], by_numpy[1:], strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    assert told == "loops-1" != draws()


def test_without_numba_the_instructions_are_told(without_numba: None) -> None:
    told = draws()
    assert np.__version__ in told
    assert told.removeprefix(f"numpy {np.__version__}, ")


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 45))
def test_the_likeliest_are_the_first_of_a_stable_sort(values: list[int], count: int) -> None:
    numbers = np.array(values, dtype=np.float64)
    assert likeliest(numbers, count).tolist() == np.argsort(-numbers, kind="stable")[:count].tolist()


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


@pytest.mark.parametrize("numba", [True, False])
def test_tokens_are_weighed_as_their_rows_say(numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows may be named in any order and left out; of equal largest logits the first is the likeliest."""
    if not numba:
        monkeypatch.setattr(launch, "unavailable", lambda: "left out")
    logits = np.random.default_rng(1).normal(size=(5, 3001)).astype(np.float32)
    logits[3, [7, 8]] = 9
    rows, tokens = np.array([3, 3, 3, 0, 4, 4, 0]), np.array([8, 7, 0, 5, 3000, int(logits[4].argmax()), 5])
    logp, likeliest = weigh_rows(logits, rows, tokens)
    assert logp.tolist() == [log_probabilities(logits[row])[token] for row, token in zip(rows, tokens, strict=True)]
    assert likeliest.tolist() == [False, True, False, False, False, True, False]


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_refused(value: float, numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not numba:
        monkeypatch.setattr(launch, "unavailable", lambda: "left out")
    for place in (0, 1, 9):
        logits = np.zeros((2, 10), dtype=np.float32)
        logits[1, place] = value
        assert weigh_rows(logits, np.array([0]), np.array([3]))[0][0] == pytest.approx(-np.log(10))
        with pytest.raises(UserError, match="not finite"):
            weigh_rows(logits, np.array([1]), np.array([3]))


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
