"""Answers of a server under load have the bits of answers alone, and can be derived again from their records."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from clearseek.inference.answer import Record, derive
from clearseek.inference.model import Model
from tests.serve.served import PAGES, Served, serving
from tests.serve.test_openai import SCHEMA, TOOL


def request(number: int) -> dict[str, Any]:
    """One of many different requests, some with a prompt that others share."""
    draw = random.Random(number)
    words = ["hello", "world", "how", "are", "you", "quick", "brown", "fox"]
    text = "The quick brown fox. " * (number % 5) + " ".join(draw.choices(words, k=draw.randrange(1, 60)))
    found: dict[str, Any] = {
        "messages": [{"role": "user", "content": text}], "max_tokens": draw.randrange(1, 60), "seed": number,
        "temperature": draw.choice([0, 0.7, 1.0, 1.3]), "top_p": draw.choice([1, 0.9]), "top_k": draw.choice([0, 40]),
        "logprobs": draw.random() < 0.7, "thinking": draw.random() < 0.3, "record": True,
        "frequency_penalty": draw.choice([0, 0.5]), "stop": draw.choice([None, "e", ["you", "x"]]),
    }  # fmt: skip
    if number % 7 == 1:
        found["response_format"] = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    if number % 7 == 2:
        found |= {"tools": [TOOL], "tool_choice": "required"}
    return found


def record(served: Served, number: int) -> dict[str, Any]:
    """The record of a request's answer."""
    response = served.post("/v1/chat/completions", request(number))
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["choices"][0]["record"]
    return found


def under_load(served: Served, count: int) -> list[dict[str, Any]]:
    """Records of answers that were written at once."""
    with ThreadPoolExecutor(24) as clients:
        return list(clients.map(lambda number: record(served, number), range(count)))


def check_derivations(model: Model, served: Served, count: int) -> None:
    """Derive each of `count` records without the server."""
    for found in under_load(served, count):
        derived = derive(model, Record.model_validate(found), PAGES)
        assert derived.differs is None, derived
        assert not derived.notes
        assert derived.tokens == len(found["answer"])


def test_answers_under_load_are_those_alone(served: Served) -> None:
    together = under_load(served, 14)
    assert together == [record(served, number) for number in range(14)]
    served.wait_until_idle()


def test_records_of_a_server_under_load_can_be_derived_again(model: Model, served: Served) -> None:
    check_derivations(model, served, 10)


@pytest.mark.slow
def test_a_hundred_of_a_hundred_records_can_be_derived_again(model: Model) -> None:
    with serving(model, pages=60) as cramped:  # few pages, so answers are put back
        check_derivations(model, cramped, 100)
        assert cramped.worker.engine.counts.put_back > 0


def test_drafts_change_no_answer(model: Model, served: Served) -> None:
    with serving(model.without_drafts()) as plain:
        for number in range(3):
            with_drafts, without = record(served, number), record(plain, number)
            assert with_drafts["answer"] == without["answer"]
            assert with_drafts["logprobs"] == without["logprobs"]
