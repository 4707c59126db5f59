from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearseek.errors import UserError
from clearseek.inference.sampler import Sampling, generate, pick
from clearseek.model.transformer import DeepSeekModel
from tests.tiny import tiny

PROMPT = [5, 17, 200]
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def model() -> DeepSeekModel:
    made = DeepSeekModel(tiny(model={"initializer_range": 0.5}).model).requires_grad_(False)
    made.initialise(3)
    return made


def recomputed(model: DeepSeekModel, prompt: list[int], count: int, sampling: Sampling) -> list[int]:
    """What `generate` must give, without a cache: the whole text goes through the model for every token."""
    draw, text = torch.Generator().manual_seed(sampling.seed), list(prompt)
    for _ in range(count):
        text.append(pick(model.logits(torch.tensor([text]))[0, -1].float(), sampling, draw))
    return text[len(prompt) :]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.7, 0.9, 1), Sampling(2.0, 1.0, 2)])
@pytest.mark.parametrize("prompt", [PROMPT, [0], list(range(40))])
def test_the_cache_changes_nothing(model: DeepSeekModel, prompt: list[int], sampling: Sampling) -> None:
    written = list(generate(model, prompt, 20, sampling))
    assert written == recomputed(model, prompt, 20, sampling)
    assert len(set(written)) > 3


def test_the_same_seed_gives_the_same_text_and_another_seed_another(model: DeepSeekModel) -> None:
    texts = [list(generate(model, PROMPT, 20, Sampling(1.0, 1.0, seed))) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_a_seed_neither_reads_nor_moves_the_global_generator(model: DeepSeekModel) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = list(generate(model, PROMPT, 5, Sampling(1.0)))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert list(generate(model, PROMPT, 5, Sampling(1.0))) == first


def test_text_ends_before_a_stop_token(model: DeepSeekModel) -> None:
    whole = list(generate(model, PROMPT, 20, GREEDY))
    at = next(i for i, token in enumerate(whole) if i and token not in whole[:i])
    assert list(generate(model, PROMPT, 20, GREEDY, frozenset({whole[at]}))) == whole[:at]
    assert list(generate(model, PROMPT, 20, GREEDY, frozenset({whole[0]}))) == []


def test_text_ends_with_the_context(model: DeepSeekModel) -> None:
    longest = model.config.max_position_embeddings
    assert len(list(generate(model, PROMPT, 1000, GREEDY))) == longest - len(PROMPT)
    assert len(list(generate(model, [1] * (longest - 1), 10, GREEDY))) == 1
    with pytest.raises(UserError, match="the prompt has 64 tokens, but the model sees at most 64: shorten it"):
        next(generate(model, [1] * longest, 10, GREEDY))


def test_no_prompt_is_refused(model: DeepSeekModel) -> None:
    with pytest.raises(UserError, match="empty"):
        next(generate(model, [], 10, GREEDY))


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_bad_settings_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(bad)).replace('_', '-')} = "):
        Sampling(**bad)


LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=12).map(torch.tensor)


def allowed(logits_V: Tensor, temperature: float, top_p: float) -> set[int]:
    """Plain reference: the fewest likeliest tokens whose probabilities reach `top_p`, the earlier of equals first."""
    p = (logits_V.double() / temperature).softmax(-1).tolist()
    held, kept = 0.0, set()
    for token in sorted(range(len(p)), key=lambda i: (-p[i], i)):
        if held >= top_p:
            break
        kept.add(token)
        held += p[token]
    return kept


@given(LOGITS, st.floats(0.1, 3), st.floats(0.01, 0.99))
@settings(max_examples=100, deadline=None)
def test_top_p_draws_from_the_fewest_likeliest(logits_V: Tensor, temperature: float, top_p: float) -> None:
    draw = torch.Generator().manual_seed(0)
    drawn = {pick(logits_V, Sampling(temperature, top_p), draw) for _ in range(30)}
    slack = allowed(logits_V, temperature, top_p - 1e-9), allowed(logits_V, temperature, top_p + 1e-9)
    assert drawn <= slack[0] | slack[1]


def test_frequencies_follow_the_probabilities() -> None:
    logits_V = torch.tensor([0.1, 0.6, 0.3]).log()
    draw = torch.Generator().manual_seed(0)
    counts = Counter(pick(logits_V, Sampling(1.0, 1.0), draw) for _ in range(4000))
    assert [counts[i] / 4000 for i in range(3)] == pytest.approx([0.1, 0.6, 0.3], abs=0.03)
    counts = Counter(pick(logits_V, Sampling(1.0, 0.7), draw) for _ in range(4000))
    assert [counts[i] / 4000 for i in range(3)] == pytest.approx([0.0, 2 / 3, 1 / 3], abs=0.03)
    counts = Counter(pick(logits_V, Sampling(0.5, 1.0), draw) for _ in range(4000))
    assert [counts[i] / 4000 for i in range(3)] == pytest.approx([1 / 46, 36 / 46, 9 / 46], abs=0.03)


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-40, 1e-6])
def test_the_coldest_draw_is_the_likeliest(temperature: float) -> None:
    logits_V = torch.tensor([1.0, 30.0, -5.0, 29.0])
    assert all(pick(logits_V, Sampling(temperature), torch.Generator().manual_seed(s)) == 1 for s in range(20))


def test_the_hottest_draw_is_even() -> None:
    draw = torch.Generator().manual_seed(0)
    assert {pick(torch.arange(8.0), Sampling(1e300, 1.0), draw) for _ in range(200)} == set(range(8))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_broken_model_is_named(bad: float, temperature: float) -> None:
    with pytest.raises(UserError, match="not finite"):
        pick(torch.tensor([0.0, bad]), Sampling(temperature), torch.Generator())
