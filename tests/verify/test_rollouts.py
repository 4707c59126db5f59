"""A record beside what recipe and round say of it, without weights: every contradiction by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clearseek.inference.request import Settings
from clearseek.posttrain.rollouts import Asked, Rollouts
from clearseek.verify.rollouts import _not_its_address
from tests.tiny import tiny

END, MOST = 2, 4
PROMPTS = [[1, 5], [1, 6, 7]]
WRITTEN = [(0, [7, END]), (0, [8, 9, 8, 9]), (1, [5, 5, 5, END]), (1, [END])]
"""Prompt and tokens of each completion: ended, cut off, ended with its last token, and of its end alone."""


def record(written: list[tuple[int, list[int]]] = WRITTEN) -> Rollouts:
    tokens = [PROMPTS[prompt] + drawn for prompt, drawn in written]
    length_N = torch.tensor([len(each) for each in tokens])
    route_LTK = torch.ones(1, int(length_N.sum()), 2, dtype=torch.int16)
    route_LTK[:, :, 1] = 3
    route_LTK[:, length_N.cumsum(0) - 1] = 0
    none = torch.empty(0, dtype=torch.int64)
    return Rollouts(
        problem_N=torch.tensor([4 + prompt for prompt, _ in written]), seed_N=torch.arange(len(written)) + 10,
        prompt_N=torch.tensor([len(PROMPTS[prompt]) for prompt, _ in written]), length_N=length_N,
        token_T=torch.tensor([token for each in tokens for token in each], dtype=torch.int32),
        logp_C=-torch.ones(sum(len(drawn) for _, drawn in written)),
        ended_N=torch.tensor([drawn[-1] == END for _, drawn in written]).to(torch.uint8),
        reward_N=reward(written), route_LTK=route_LTK, kept_ids=none.int(), kept_ends_C=none,
    )  # fmt: skip


def reward(written: list[tuple[int, list[int]]]) -> torch.Tensor:
    return torch.tensor([float(len(drawn) % 2) for _, drawn in written])


def said(rollouts: Rollouts) -> str:
    asked = Asked([4, 5], PROMPTS, [prompt for prompt, _ in WRITTEN], [10, 11, 12, 13])
    task: Any = SimpleNamespace(
        asked=lambda number: asked, drawing=Settings(MOST, stop_tokens=frozenset([END])),
        rewards=lambda given: reward([(0, drawn) for drawn in given.completions()]),
    )  # fmt: skip
    return _not_its_address(task, tiny().model, 0, rollouts)


def with_one(number: int, drawn: list[int]) -> Rollouts:
    """The record with other tokens in one completion, and all else made to fit."""
    return record([(p, drawn if k == number else other) for k, (p, other) in enumerate(WRITTEN)])


def changed(name: str, place: Any, value: Any) -> Rollouts:
    tensor = getattr(record(), name).clone()
    tensor[place] = value
    return replace(record(), **{name: tensor})


WRONG: dict[str, tuple[Callable[[], Rollouts], str]] = {
    "a completion is missing": (lambda: record(WRITTEN[:3]), "3 completions, and the recipe asks for 4"),
    "problems exchanged": (lambda: changed("problem_N", slice(None), torch.tensor([5, 5, 4, 4])), "0 is of problem 5"),
    "seeds exchanged": (lambda: changed("seed_N", slice(0, 2), torch.tensor([11, 10])), "drawn with seed 11, and"),
    "no such token": (lambda: changed("token_T", 3, 300), "not in the vocabulary"),
    "a token below 0": (lambda: changed("token_T", 3, -1), "not in the vocabulary"),
    "no such expert": (lambda: changed("route_LTK", (0, 1, 0), 8), "no such expert"),
    "too few experts": (lambda: replace(record(), route_LTK=record().route_LTK[:, :, :1]), "not those of the model"),
    "another prompt": (lambda: changed("token_T", 1, 6), "0 has another prompt"),
    "too long": (lambda: with_one(1, [8, 9, 8, 9, 8]), "longer than max_tokens = 4"),
    "cut short": (lambda: with_one(1, [8, 9, 8]), "1 was cut off before max_tokens = 4"),
    "text behind the end": (lambda: with_one(0, [7, END, 7, END]), "0 does not end where its tokens say"),
    "cut off behind the end": (lambda: with_one(1, [8, END, 8, 9]), "1 does not end where its tokens say"),
    "an end that is none": (lambda: changed("ended_N", 1, 1), "1 does not end where its tokens say"),
    "an end that is denied": (lambda: changed("ended_N", 2, 0), "2 does not end where its tokens say"),
    "a reward": (lambda: changed("reward_N", 3, 0.0), "3 earns 1, and the record says 0"),
    "a part of a reward": (lambda: changed("reward_N", 0, 0.25), "0 earns 0, and the record says 0.25"),
}


def test_an_honest_record_has_no_contradiction() -> None:
    assert said(record()) == ""


@pytest.mark.parametrize("kind", WRONG)
def test_each_contradiction_is_named(kind: str) -> None:
    make, words = WRONG[kind]
    assert words in said(make())
