"""Places, names and counts of a completion's tokens."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from clearseek.inference.model import Model
from clearseek.inference.request import Chosen
from clearseek.serve.completions import _Logprobs
from tests.serve.served import Served, ids, script

PROMPT = "hé世 hello 👋"


def check_places(text: str, told: Any, hidden: int) -> None:
    """Check that each token but the hidden ones is where its offset says."""
    for token, offset in list(zip(told.tokens, told.text_offset, strict=True))[hidden:]:
        if token.startswith("bytes:"):
            raw = bytes(int(byte, 16) for byte in token.split("\\x")[1:])
            assert raw in text[offset].encode() or text[offset] == "\ufffd"
        else:
            assert text[offset:].startswith(token)
    assert told.text_offset == sorted(told.text_offset)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("broken", [False, True])
def test_offsets_are_places_in_the_text(
    client: openai.OpenAI, model: Model, monkeypatch: pytest.MonkeyPatch, stream: bool, broken: bool
) -> None:
    prompt, answer = (ids(model.tokenizer, text) for text in (PROMPT, " wörld 世!"))
    if broken:  # the prompt ends within a character, and the answer has half of one before another text
        prompt, answer = prompt[:-1], [*ids(model.tokenizer, "世")[:2], *answer, *ids(model.tokenizer, "世")[1:]]
    script(monkeypatch, model.tokenizer, answer)
    given: Any = {"model": "tiny", "prompt": [model.tokenizer.bos_id, *prompt], "echo": True, "logprobs": 2}
    given |= {"max_tokens": 60}
    found = client.completions.create(**given, stream=stream)
    choices = [chunk.choices[0] for chunk in found] if stream else [found.choices[0]]
    text, told = "".join(choice.text for choice in choices), choices[0].logprobs
    for choice in choices[1:]:
        if choice.logprobs is not None:
            told.tokens += choice.logprobs.tokens
            told.text_offset += choice.logprobs.text_offset
    assert len(told.tokens) == 1 + len(prompt) + len(answer)
    assert told.text_offset[0] == told.text_offset[1] == 0
    check_places(text, told, hidden=1)
    assert broken or text == PROMPT + " wörld 世!"


def test_offsets_count_a_first_token_that_is_shown(client: openai.OpenAI, model: Model) -> None:
    choice = client.completions.create(
        model="tiny", prompt=ids(model.tokenizer, PROMPT), echo=True, logprobs=1, max_tokens=0
    ).choices[0]
    assert choice.text == PROMPT
    check_places(choice.text, choice.logprobs, hidden=0)


def test_fragments_of_characters_have_names_of_their_own(served: Served, model: Model) -> None:
    first, second, third = ids(model.tokenizer, "世")
    likely = ((first, -1.0), (second, -2.0), (599, -3.0), (598, -4.0))  # the last two have neither text nor bytes
    told = _Logprobs(served.service).of([Chosen(third, -5.0, likely)])
    assert told["tokens"] == ["bytes:\\x96"]
    assert told["top_logprobs"] == [{"bytes:\\xe4": -1.0, "bytes:\\xb8": -2.0, "": -3.0}]


def test_tokens_that_were_read_before_are_counted_for_each_prompt(client: openai.OpenAI) -> None:
    def cached(prompt: Any) -> int:
        usage = client.completions.create(model="tiny", prompt=prompt, n=2, max_tokens=1).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        return usage.prompt_tokens_details.cached_tokens or 0

    one, other = "how are you? " * 30, "The quick brown fox. " * 30
    cached([one, other])
    assert cached([one, other]) == cached(one) + cached(other)
    assert min(cached(one), cached(other)) > 0
