"""Draws checked in one pass: by the engine, every prefix once, and by the model, which share no code but the judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearseek.inference.request import Settings
from clearseek.kernels import launch
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.rollouts import Rollouts, write_completions
from clearseek.verify.draws import Judged
from clearseek.verify.forced import check_draws, judge_by_model
from clearseek.verify.prefixes import _tree
from tests.inference.models import SMALL, model_of
from tests.model.test_parity import CASES

loops = pytest.mark.skipif(launch.unavailable() is not None, reason=str(launch.unavailable()))
WAYS = [pytest.param(True, marks=loops), False]
SEEDS = 60
"""Seed of a record's first completion."""


def record(model: DeepSeekModel, settings: Settings, prompts: int = 5, group: int = 6) -> Rollouts:
    """Groups of completions of prompts that begin alike, some of them longer than a page of the cache."""
    size, rng = model.config.vocab_size, np.random.default_rng(7)
    alike = rng.integers(0, size, 14).tolist()
    asked = [alike + rng.integers(0, size, 1 + 3 * k % 5).tolist() for k in range(prompts)]
    prompt_N = np.repeat(np.arange(prompts), group).tolist()
    seeds = [SEEDS + k for k in range(len(prompt_N))]
    found = write_completions(model, asked, prompt_N, seeds, settings)
    return Rollouts.of(prompt_N, [asked[k] for k in prompt_N], seeds, found)


def judged(model: DeepSeekModel, rollouts: Rollouts, settings: Settings, engine: bool) -> Judged:
    return (check_draws if engine else judge_by_model)(model, rollouts, settings)


SETTINGS = {
    "alike": Settings(40, 0.05, stop_tokens=frozenset([3])),
    "unlike": Settings(40, 1.0, stop_tokens=frozenset([3])),
    "filtered": Settings(20, 1.2, 0.7, stop_tokens=frozenset([3])),
}


@pytest.mark.parametrize("engine", WAYS)
@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("case", ["v3", "4 groups keep 2, odd length", "v2 lite"])
def test_what_a_model_wrote_is_decided(case: str, kind: str, engine: bool) -> None:
    model, settings = model_of(**(SMALL | {"num_nextn_predict_layers": 0} | CASES[case][0])), SETTINGS[kind]
    rollouts = record(model, settings)
    found = judged(model, rollouts, settings, engine)
    assert found == Judged(draws=len(rollouts.logp_C), choices=found.choices), (case, kind)
    assert found.choices == int((rollouts.length_N - 1).sum()) * len(rollouts.route_LTK)


@loops
def test_one_token_of_a_hundred_thousand_is_found() -> None:
    """With the reward and all hashes mended nothing else would tell."""
    model, settings = model_of(**SMALL), Settings(64, 1.0)
    rollouts = record(model, settings, prompts=25, group=64)
    assert len(rollouts.logp_C) > 100_000
    place, number = int(rollouts.length_N[:777].sum()) + 40, 777
    rollouts.token_T[place] = (int(rollouts.token_T[place]) + 1) % model.config.vocab_size
    found = judged(model, rollouts, settings, engine=True)
    wrong = [each for each in found.wrong if "and weights and noise give" in each]
    assert wrong[0].startswith(f"completion {number}, position 40: token")
    assert all(each.startswith(f"completion {number}, ") for each in found.wrong)


@pytest.mark.parametrize("engine", WAYS)
def test_another_seed_is_found(engine: bool) -> None:
    model, settings = model_of(**SMALL), SETTINGS["unlike"]
    rollouts = record(model, settings)
    rollouts.seed_N[8] += 1
    found = judged(model, rollouts, settings, engine)
    assert found.wrong and all(each.startswith("completion 8, ") for each in found.wrong)


@loops
@pytest.mark.parametrize("case", ["v3", "4 groups keep 2, odd length", "v2 lite"])
def test_engine_and_model_judge_experts_alike(case: str) -> None:
    model, settings = model_of(**(SMALL | {"num_nextn_predict_layers": 0} | CASES[case][0])), Settings(12, 1.0)
    rollouts = record(model, settings, prompts=12, group=1)
    layers, count, k = rollouts.route_LTK.shape
    generator = torch.Generator().manual_seed(4)
    for place in torch.randperm(count, generator=generator)[:6].tolist():
        chosen = torch.randperm(model.config.n_routed_experts, generator=generator)[:k]
        rollouts.route_LTK[place % layers, place] = chosen.to(torch.int16)
    ways = [judged(model, rollouts, settings, engine) for engine in (True, False)]
    experts = [sorted(each for each in way.wrong if "experts" in each) for way in ways]
    assert experts[0] == experts[1] and len(experts[0]) > 0


@pytest.mark.parametrize("engine", WAYS)
def test_an_expert_is_found_in_whichever_of_equal_completions(engine: bool) -> None:
    """What completions share is read once only where they visited the same experts."""
    model, settings = model_of(**SMALL), Settings(12, 0.001)
    honest = record(model, settings, prompts=1, group=4)
    assert len({tuple(each) for each in honest.completions()}) == 1
    assert judged(model, honest, settings, engine).wrong == []
    for number in range(4):
        length = int(honest.length_N[number])
        for place in (3, length - 2):
            rollouts = replace(honest, route_LTK=honest.route_LTK.clone())
            told_K = rollouts.route_LTK[0, number * length + place]
            told_K[0] = next(e for e in range(model.config.n_routed_experts) if e not in told_K.tolist())
            wrong = judged(model, rollouts, settings, engine).wrong
            assert any(each.startswith(f"completion {number}, position {place}: experts") for each in wrong)
            assert all(each.startswith(f"completion {number}, ") for each in wrong)


@loops
def test_rounding_elsewhere_is_not_a_lie() -> None:
    """Weights as another machine's rounding leaves them: close choices and draws are counted, and nothing is wrong."""
    model, settings = model_of(**SMALL), Settings(64, 1.0)
    rollouts = record(model, settings, prompts=8, group=32)
    generator = torch.Generator().manual_seed(5)
    for weight in model.parameters():
        weight.mul_(1 + 2.0**-21 * (2 * torch.randint(0, 2, weight.shape, generator=generator) - 1))
    ways = [judged(model, rollouts, settings, engine) for engine in (True, False)]
    assert [way.wrong for way in ways] == [[], []]
    assert all(way.undecided <= 0.001 * way.draws for way in ways)


@pytest.mark.parametrize("engine", WAYS)
def test_what_a_gpu_drew_in_bf16_is_not_accused_on_a_cpu(engine: bool) -> None:
    model, settings = model_of(**SMALL).bfloat16(), Settings(24, 1.0)
    rollouts = record(model, settings)
    generator = torch.Generator().manual_seed(5)
    for weight in model.parameters():
        weight.mul_(1 + 2.0**-9 * torch.randn(weight.shape, generator=generator))
    check = check_draws if engine else judge_by_model
    assert check(model, rollouts, settings, "cuda").wrong == [] and check(model, rollouts, settings).wrong


contents = st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=6), min_size=1, max_size=12)


@given(contents)
def test_every_prefix_is_read_once(texts: list[list[int]]) -> None:
    tokens = torch.tensor([token for text in texts for token in text], dtype=torch.int32)
    length_N, nothing = torch.tensor([len(text) for text in texts]), torch.empty(0)
    rollouts = Rollouts(
        problem_N=nothing, seed_N=nothing, prompt_N=torch.ones(len(texts), dtype=torch.int64), length_N=length_N,
        token_T=tokens, logp_C=nothing, ended_N=nothing, reward_N=nothing,
        route_LTK=torch.zeros(1, len(tokens), 2, dtype=torch.int16), kept_ids=nothing, kept_ends_C=nothing,
    )  # fmt: skip
    tree = _tree(rollouts, np.arange(len(texts)))
    prefixes = {tuple(text[: place + 1]) for text in texts for place in range(len(text) - 1)}
    ordered = [texts[number] for number in tree.number_N]
    read = [tuple(ordered[row][: place + 1]) for row, place in zip(tree.row_M, tree.position_M, strict=True)]
    assert len(read) == len(prefixes) and set(read) == prefixes
    assert all(read.index(each[:-1]) < place for place, each in enumerate(read) if len(each) > 1)
    for row, text in enumerate(ordered):
        for place in range(len(text) - 1):
            at = tree.place_NS[tree.owner_NS[row, place], place]
            assert read[at] == tuple(text[: place + 1])
