"""Many requests at once: each gets the bits that it gets alone."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch

from clearseek.errors import UserError
from clearseek.inference.engine import Engine
from clearseek.inference.loops import Loops
from clearseek.inference.packed import Packed
from clearseek.inference.plain import Plain
from clearseek.inference.request import Request, Settings
from clearseek.inference.sampler import Sampling, generate
from clearseek.kernels import PAGE
from tests.inference.models import SMALL, model_of, packed

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = 40


@cache
def small() -> Packed:
    return packed(model_of(**SMALL), "BF16")


def engine(pages: int = 40, rows: int = 32, **options: Any) -> Engine:
    return Engine(Loops(small(), pages, rows, 160), **options)


def asked(rng: random.Random, starts: list[list[int]]) -> tuple[list[int], Settings]:
    """A random request; many share a beginning."""
    prompt = rng.choice(starts)[: rng.randrange(1, 90)] + [rng.randrange(VOCABULARY) for _ in range(rng.randrange(10))]
    settings = Settings(
        max_tokens=rng.randrange(40), temperature=rng.choice([0, 0.7, 1.0, 1.5]), top_p=rng.choice([1.0, 0.9]),
        top_k=rng.choice([0, 0, 20]), min_p=rng.choice([0.0, 0.0, 0.05]), seed=rng.randrange(1000),
        repetition_penalty=rng.choice([1.0, 1.0, 1.2]), presence_penalty=rng.choice([0.0, 0.0, 0.5]),
        frequency_penalty=rng.choice([0.0, 0.0, 0.3]), logit_bias=rng.choice([{}, {}, {7: 5.0}]),
        logprobs=rng.choice([None, 0, 3]), prompt_logprobs=rng.random() < 0.1,
        stop_tokens=frozenset([rng.randrange(VOCABULARY)]),
    )  # fmt: skip
    return prompt, settings


def crowd(count: int, seed: int) -> tuple[int, int]:
    """Random requests alone and in a crowd; how many were put back and how many drafts were accepted."""
    rng = random.Random(seed)
    starts = [[rng.randrange(VOCABULARY) for _ in range(100)] for _ in range(5)]
    wanted = [asked(rng, starts) for _ in range(count)]
    alone = Loops(small(), 10, 128, 160)
    expected = [Engine(alone).run([Request(*each)])[0] for each in wanted]
    order = list(range(count))
    rng.shuffle(order)
    put_back = accepted = 0
    for number in range(0, count, 30):
        current = engine(
            rng.choice([10, 16, 40]), rng.choice([7, 16, 64]), most_running=rng.choice([4, 16]), drafts=number % 60 == 0
        )
        waiting: list[int] = order[number : number + 30]
        live: dict[int, Request] = {}
        while waiting or live:
            for index in [waiting.pop() for _ in range(min(rng.randrange(4), len(waiting)))]:
                live[index] = Request(*wanted[index])
                current.add(live[index])
            current.step()
            for index, request in list(live.items()):
                if request.finish is None and rng.random() < 0.0006:
                    current.abort(request)
                if request.finish is not None:
                    compare(live.pop(index), expected[index])
                    accepted += request.accepted
        assert current.pages.free == current.pages.count
        put_back += current.counts.put_back
    return put_back, accepted


def compare(request: Request, alone: Request) -> None:
    """Whether two requests came to the same bits, as far as the first was let."""
    if request.finish == "aborted":
        assert request.answer == alone.answer[: len(request.answer)]
        return
    assert (request.answer, request.finish) == (alone.answer, alone.finish)
    assert request.prompt_logprobs == alone.prompt_logprobs


def test_a_request_gets_the_same_bits_in_a_crowd() -> None:
    put_back, accepted = crowd(120, seed=1)
    assert put_back and accepted


@pytest.mark.slow
def test_two_thousand_requests_get_the_same_bits_in_a_crowd() -> None:
    put_back, accepted = crowd(2000, seed=2)
    assert put_back and accepted


def test_greedy_text_is_the_oracles() -> None:
    model = model_of(**SMALL)
    forward = Loops(packed(model), 40, 32, 160)
    for start in range(5):
        prompt = list(range(start, start + 9))
        request = Engine(forward, drafts=True).run([Request(prompt, Settings(max_tokens=60, temperature=0))])[0]
        assert [each.token for each in request.answer] == list(generate(model, prompt, 60, Sampling(temperature=0)))


def test_plain_operations_give_the_same_text() -> None:
    prompt = [3, 1, 4, 1, 5]
    for drafts in (False, True):
        found = [
            [
                each.token
                for each in Engine(forward, drafts=drafts).run([Request(prompt, Settings(max_tokens=40))])[0].answer
            ]
            for forward in (Loops(small(), 20, 32, 160), Plain(small(), 20, 32, 160))
        ]
        assert found[0] == found[1]


def test_log_probabilities_of_a_prompt_are_the_training_models() -> None:
    model = model_of(**SMALL)
    prompt = list(range(5, 35))
    request = Request(prompt, Settings(max_tokens=0, logprobs=2, prompt_logprobs=True))
    Engine(Loops(packed(model), 10, 8, 160)).run([request])
    expected = model.logits(torch.tensor([prompt]))[0].double().log_softmax(-1)
    assert [each.token for each in request.prompt_logprobs] == prompt[1:]
    for place, each in enumerate(request.prompt_logprobs):
        assert each.logprob == pytest.approx(expected[place, prompt[place + 1]].item(), abs=1e-4)
        assert [token for token, _ in each.alternatives] == expected[place].topk(2).indices.tolist()
    assert not request.answer and request.finish == "length"


def test_a_prefix_is_read_once() -> None:
    shared = engine()
    first, second = (Request([*range(32), *range(32), last], Settings(max_tokens=3)) for last in (1, 2))
    shared.run([first])
    read = shared.counts.read
    shared.run([second])
    assert (first.reused, second.reused) == (0, 64)
    assert shared.counts.read - read == 1 + 2


def test_a_follow_up_reuses_what_was_read_beside_an_equal_prefix() -> None:
    shared = engine(rows=256)
    prefix = [*range(32), *range(32)]
    first, second = (Request([*prefix, last], Settings(max_tokens=80, temperature=0)) for last in (1, 2))
    shared.run([first, second])
    assert (first.reused, second.reused) == (0, 0)
    for before in (first, second):
        after = Request([*before.tokens[:130], 3], Settings(max_tokens=1))
        shared.run([after])
        assert after.reused == 128


def test_reuse_is_counted_once_and_of_the_prompt_alone() -> None:
    tight = engine(pages=10, rows=16)
    tight.run([Request([9] * 33, Settings(max_tokens=1))])
    requests = [Request([9] * 33 + [i] * 7, Settings(max_tokens=60, seed=i)) for i in range(4)]
    tight.run(requests)
    assert tight.counts.put_back
    assert all(request.reused <= len(request.prompt) for request in requests)
    assert tight.counts.reused == sum(request.reused for request in requests)


def test_a_request_that_outgrows_the_cache_ends() -> None:
    for drafts in (False, True):
        small_cache = engine(pages=2, drafts=drafts)
        request = Request([1, 2], Settings(max_tokens=100))
        small_cache.add(request)
        for _ in range(200):
            small_cache.step()
        assert (request.finish, request.length) == ("length", 2 * PAGE)
        assert small_cache.pages.free == 2


@pytest.mark.parametrize("limit", [0, 1])
def test_drafts_go_on_from_pages_of_a_request_that_ended_with_its_prompt(limit: int) -> None:
    prompt = [(7 * i) % VOCABULARY for i in range(64)]
    kept = []
    for most in (limit, 3):
        shared = engine(rows=128, drafts=True)
        shared.run([Request([*prompt, 5], Settings(max_tokens=most))])
        found = shared.pages.reuse([*prompt, 5])
        assert len(found) == 4
        kept.append(shared.forward.cache[:, found].clone())  # type: ignore[attr-defined]
    assert kept[1][-1].abs().sum(-1).min() > 0
    assert torch.equal(*kept)


def test_who_came_last_is_put_back_and_ends_as_well() -> None:
    tight = engine(pages=10, rows=16)
    requests = [Request([i] * 40, Settings(max_tokens=60, seed=i)) for i in range(4)]
    tight.run(requests)
    assert tight.counts.put_back and all(len(request.answer) == 60 for request in requests)


def test_a_request_ends_at_its_time() -> None:
    timed = engine()
    request = Request([1, 2], Settings(max_tokens=100), deadline=0.0)
    timed.add(request)
    assert timed.step() == [request]
    assert request.finish == "deadline" and timed.pages.free == timed.pages.count


def test_the_longest_sequence_ends_an_answer() -> None:
    request = engine().run([Request([5] * 150, Settings(max_tokens=100))])[0]
    assert (request.length, request.finish) == (160, "length")


@pytest.mark.parametrize(("prompt", "words"), [([], "empty"), ([1] * 160, "room for 160")])
def test_prompts_without_room_are_refused(prompt: list[int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        engine().add(Request(prompt, Settings()))


def test_what_goes_wrong_with_a_request_ends_it_alone() -> None:
    class Breaks:
        def allow(self, logits_V: Any) -> Any:
            raise UserError("its own fault")

        def saw(self, token: int) -> bool:
            return False

    shared = engine()
    bad, good = Request([1, 2], Settings(), guide=Breaks()), Request([1, 2], Settings(max_tokens=5))
    shared.run([bad, good])
    assert (bad.finish, bad.error) == ("error", "its own fault")
    assert len(good.answer) == 5 and shared.pages.free == shared.pages.count


def test_weights_that_are_not_finite_are_named() -> None:
    model = model_of(**SMALL)
    model.head_weight[:] = float("nan")
    request = Engine(Loops(packed(model), 10, 8, 160)).run([Request([1], Settings())])[0]
    assert request.finish == "error" and "not finite" in request.error
