"""Completions in a batch are those that the engine writes one by one."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch

from clearseek.errors import UserError
from clearseek.inference.batch import Completion, complete, pages_needed
from clearseek.inference.engine import Engine
from clearseek.inference.loops import Loops
from clearseek.inference.request import Request, Settings
from clearseek.kernels import PAGE
from tests.inference.models import FORWARDS, SMALL, model_of, packed

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = 40


def prompts(seed: int, lengths: tuple[int, ...]) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCABULARY) for _ in range(length)] for length in lengths]


def one_by_one(asked: list[list[int]], prompt_N: list[int], seeds: list[int], settings: Settings) -> list[Request]:
    engine = Engine(Loops(packed(model_of(**SMALL)), 12, 32, 160))
    requests = []
    for prompt, seed in zip(prompt_N, seeds, strict=True):
        each = dataclasses.replace(settings, seed=seed, logprobs=0)
        requests += engine.run([Request(asked[prompt], each)])
    return requests


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.8}, {"temperature": 0.7}, {"top_k": 5, "temperature": 1.3}])
@pytest.mark.parametrize(("rows", "pages"), [(64, 200), (7, 200), (64, 14), (3, 9)])
def test_the_engine_writes_the_same(filters: dict[str, Any], rows: int, pages: int) -> None:
    settings = Settings(max_tokens=24, stop_tokens=frozenset({3, 11}), **filters)
    asked = prompts(1, (1, 5, PAGE, PAGE + 1, 2 * PAGE + 5))
    prompt_N = [number for number in range(len(asked)) for _ in range(4)]
    seeds = [1000 + 7 * number for number in range(len(prompt_N))]
    found = complete(Loops(packed(model_of(**SMALL)), pages, rows, 160), asked, prompt_N, seeds, settings)
    expected = one_by_one(asked, prompt_N, seeds, settings)
    for got, want in zip(found, expected, strict=True):
        own = got.tokens.tolist()[: len(got.tokens) - got.ended]
        assert own == [chosen.token for chosen in want.answer] and got.ended == (want.finish == "stop")
        if not filters:  # the engine's are of the model's distribution
            assert [chosen.logprob for chosen in want.answer] == got.logp.tolist()[: len(own)]
    assert len({tuple(each.tokens) for each in found}) > 10


@pytest.mark.parametrize("kind", FORWARDS)
def test_log_probabilities_are_of_what_was_drawn_from(kind: str) -> None:
    model = model_of(**SMALL)
    settings = Settings(max_tokens=12, temperature=1.3, top_p=0.7)
    asked = prompts(2, (4, 9))
    found = complete(FORWARDS[kind](packed(model), 60, 16, 160), asked, [0, 0, 1], [5, 6, 7], settings)
    for each, prompt in zip(found, (asked[0], asked[0], asked[1]), strict=True):
        whole = torch.tensor([prompt + each.tokens.tolist()])
        logits = model.logits(whole)[0, len(prompt) - 1 : -1].double() / 1.3
        for logits_V, token, logp, kept in zip(logits, each.tokens, each.logp, each.kept or (), strict=True):
            p, order = logits_V.softmax(-1).sort(descending=True)
            nucleus = order[: int((p.cumsum(0) < 0.7).sum()) + 1]
            assert kept.tolist() == sorted(nucleus.tolist())
            expected = logits_V[token] - logits_V[nucleus].logsumexp(-1)
            assert abs(float(expected) - logp) < 1e-4


@pytest.mark.parametrize("kind", FORWARDS)
def test_every_token_s_experts_come_along(kind: str) -> None:
    model = model_of(**SMALL)
    asked = prompts(3, (5, PAGE + 3))
    forward = FORWARDS[kind](packed(model), 60, 8, 160)
    found: list[Completion] = complete(forward, asked, [0, 1, 1], [5, 6, 7], Settings(max_tokens=6))
    for each, prompt in zip(found, (asked[0], asked[1], asked[1]), strict=True):
        inputs = torch.tensor([prompt + each.tokens.tolist()[:-1]])
        chosen = []
        for layer in model.moe_layers:
            layer.gate.register_forward_hook(lambda m, x, routing, to=chosen: to.append(routing.index_TK))
        model(inputs)
        for layer in model.moe_layers:
            layer.gate._forward_hooks.clear()
        expected = np.stack([index_TK.numpy() for index_TK in chosen[: len(each.routes)]])
        assert np.array_equal(np.sort(each.routes), np.sort(expected))


def test_greedy() -> None:
    asked = prompts(4, (6,))
    settings = Settings(max_tokens=10, temperature=0)
    (found,) = complete(Loops(packed(model_of(**SMALL)), 20, 8, 160), asked, [0], [0], settings)
    (expected,) = one_by_one(asked, [0], [0], settings)
    assert found.tokens.tolist() == [chosen.token for chosen in expected.answer]
    assert not found.logp.any() and not found.ended


def test_pages_suffice_and_errors_are_clear() -> None:
    asked, settings = prompts(5, (6, 40)), Settings(max_tokens=30)
    pages = pages_needed(asked, 4, settings)
    forward = Loops(packed(model_of(**SMALL)), pages, 64, 160)
    assert len(complete(forward, asked, [0, 0, 1, 1], [1, 2, 3, 4], settings)) == 4
    with pytest.raises(UserError, match="the cache is too small for one completion"):
        complete(Loops(packed(model_of(**SMALL)), 3, 64, 160), asked, [1], [1], settings)
    with pytest.raises(UserError, match="prompt 1 has 0 tokens"):
        complete(forward, [[1], []], [0, 1], [1, 1], settings)
    with pytest.raises(UserError, match="prompt 0 has 140 tokens: with 30 of a completion there is room for 1 to 130"):
        complete(forward, [[1] * 140], [0], [1], settings)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(wrong: float) -> None:
    model = model_of(**SMALL)
    model.model.norm.weight[0] = wrong
    with pytest.raises(UserError, match="not finite"):
        complete(Loops(packed(model), 20, 8, 160), [[1, 2]], [0], [0], Settings(max_tokens=3))
