"""Log-likelihoods of many texts are, to the bit, what the engine gives for each text alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from clearseek.errors import UserError
from clearseek.inference.engine import Engine
from clearseek.inference.likelihood import Counts, Text, log_likelihoods
from clearseek.inference.loops import Loops
from clearseek.inference.request import Request, Settings
from clearseek.kernels import PAGE
from tests.inference.models import FORWARDS, SMALL, model_of, packed

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = 40
LONGEST = 160


def tree(seed: int, count: int) -> list[Text]:
    """Texts that go on from places in one another: inside pages, at their ends, and twice the same."""
    rng = random.Random(seed)
    texts = [[rng.randrange(VOCABULARY) for _ in range(50)]]
    for _ in range(count - 1):
        stem = rng.choice(texts)
        kept = rng.choice([0, 1, PAGE, len(stem) - 1, len(stem), rng.randint(0, len(stem))])
        added = rng.choice([0, 1, 1, 2, 5, PAGE, 40])
        texts.append([*stem[:kept], *(rng.randrange(VOCABULARY) for _ in range(added))][: LONGEST + 1])
    texts = [[*text, *(rng.randrange(VOCABULARY) for _ in range(2 - len(text)))] for text in texts]
    return [Text(text, rng.choice([1, len(text) - 1, rng.randint(1, len(text) - 1)])) for text in texts]


def one_by_one(texts: list[Text]) -> list[list[float | None]]:
    engine = Engine(Loops(packed(model_of(**SMALL)), 12, 32, LONGEST + 1))
    settings = Settings(max_tokens=0, prompt_logprobs=True, logprobs=1)
    found = [engine.run([Request([*text.tokens], settings)])[0].prompt_logprobs for text in texts]
    return [[chosen.logprob for chosen in each[text.first - 1 :]] for each, text in zip(found, texts, strict=True)]


@pytest.mark.parametrize(("rows", "pages"), [(64, 300), (5, 300), (64, 12), (7, 11), (1, 10)])
def test_the_engine_gives_the_same(rows: int, pages: int) -> None:
    texts = tree(rows + pages, 60)
    expected = one_by_one(texts)
    found = log_likelihoods(Loops(packed(model_of(**SMALL)), pages, rows, LONGEST), texts)
    assert [each.logp.tolist() for each in found] == expected
    assert all(len(each.likeliest) == len(each.logp) for each in found)


@pytest.mark.parametrize("kind", FORWARDS)
def test_likeliest_tokens_and_numbers_are_the_training_models(kind: str) -> None:
    model = model_of(**SMALL)
    texts = tree(3, 20)
    found = log_likelihoods(FORWARDS[kind](packed(model), 40, 16, LONGEST), texts)
    flags = []
    for (tokens, first), each in zip(texts, found, strict=True):
        logits = model.logits(torch.tensor([tokens[:-1]]))[0, first - 1 :].double()
        target = torch.tensor(tokens[first:])
        logp = logits.log_softmax(-1).gather(1, target[:, None])[:, 0]
        assert np.abs(each.logp - logp.numpy()).max() < 1e-4
        assert each.likeliest.tolist() == (logits.argmax(-1) == target).tolist()
        flags += each.likeliest.tolist()
    assert 0 < sum(flags) < len(flags)


def test_a_shared_prefix_is_read_once_and_logits_are_of_weighed_tokens_alone() -> None:
    rng = random.Random(5)
    shared, questions = [rng.randrange(VOCABULARY) for _ in range(100)], [[n, n + 1, n + 2] for n in range(0, 20, 4)]
    texts = [Text([*shared, *question, answer], 103) for question in questions for answer in (7, 8, 9)]
    texts += [Text([*shared, *questions[0], 7, answer], 103) for answer in (1, 2)]
    counts = Counts()
    log_likelihoods(Loops(packed(model_of(**SMALL)), 60, 32, LONGEST), texts, counts)
    assert counts.read == 100 + 5 * 3 + 1  # the last token of a text is never read
    assert counts.logits == 5 + 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (Text([1], 1), "no token to weigh"),
        (Text([1, 2], 0), "no token to weigh"),
        (Text([1, 2], 2), "no token to weigh"),
        (Text([1] * 162, 1), "room for 161"),
        (Text([1, 40], 1), "outside 0 to 39"),
        (Text([-1, 1], 1), "outside 0 to 39"),
    ],
)
def test_texts_without_room_are_refused(text: Text, words: str) -> None:
    forward = Loops(packed(model_of(**SMALL)), 12, 32, LONGEST)
    with pytest.raises(UserError, match=f"text 1.*{words}"):
        log_likelihoods(forward, [Text([1, 2], 1), text])


def test_no_texts() -> None:
    assert log_likelihoods(Loops(packed(model_of(**SMALL)), 12, 32, LONGEST), []) == []


def test_logits_that_are_not_finite_are_named() -> None:
    model = model_of(**SMALL)
    model.head_weight[3] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        log_likelihoods(Loops(packed(model), 12, 32, LONGEST), [Text([1, 2], 1)])
