"""OpenAI's client against ``/v1/chat/completions`` and ``/v1/completions``."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from clearseek.inference.model import Model
from tests.serve.served import Served

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
SCHEMA = {
    "type": "object", "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"], "additionalProperties": False,
}  # fmt: skip
NO_END = {"1": -100}
"""Keeps an answer from ending by itself."""
TOOL: Any = {"type": "function", "function": {"name": "pick", "description": "Picks.", "parameters": SCHEMA}}


def test_models(client: openai.OpenAI, served: Served) -> None:
    assert [each.id for each in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").model_dump()["weights_sha256"] == served.service.model.weights_sha256
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
        client.models.retrieve("other")


def test_chat_answers_by_its_seed_and_counts_its_tokens(client: openai.OpenAI) -> None:
    def ask(seed: int) -> Any:
        return client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=12, seed=seed)

    first, again, other = ask(1), ask(1), ask(2)
    assert first.choices[0].message.content == again.choices[0].message.content != other.choices[0].message.content
    assert first.choices[0].finish_reason == "length"
    assert first.usage.completion_tokens == 12
    assert first.usage.total_tokens == first.usage.prompt_tokens + 12
    assert first.system_fingerprint == again.system_fingerprint
    assert first.system_fingerprint.startswith("cs-")


def test_a_stream_is_the_same_answer_in_pieces(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {
        "model": "tiny", "messages": HELLO, "max_tokens": 12, "seed": 3, "n": 2, "logprobs": True, "top_logprobs": 2,
        "logit_bias": NO_END,
    }  # fmt: skip
    whole = client.chat.completions.create(**settings)
    texts, logprobs, ends, usage = ["", ""], [[], []], {}, None
    for chunk in client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            logprobs[choice.index] += choice.logprobs.content if choice.logprobs else []
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    for choice in whole.choices:
        assert texts[choice.index] == choice.message.content
        assert logprobs[choice.index] == choice.logprobs.content
        assert len(choice.logprobs.content) == 12
        assert len(choice.logprobs.content[0].top_logprobs) == 2
    assert texts[0] != texts[1]
    assert ends == {0: "length", 1: "length"}
    assert usage is not None
    assert usage.completion_tokens == 24


def test_stop_texts_end_an_answer_and_are_left_out(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 40, "seed": 5}
    text = client.chat.completions.create(**settings).choices[0].message.content
    stop = text[7:9]
    cut = client.chat.completions.create(**settings, stop=[stop, "never"]).choices[0]
    assert cut.message.content == text[: text.index(stop)]
    assert cut.finish_reason == "stop"


@pytest.mark.parametrize("names", [{"extra_body": {"enable_thinking": True}}, {"reasoning_effort": "high"},
                                   {"extra_body": {"chat_template_kwargs": {"thinking": True}}}])  # fmt: skip
def test_thinking_comes_under_both_names(client: openai.OpenAI, names: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 20, "seed": 5} | names
    message = client.chat.completions.create(**settings).choices[0].message.model_dump()
    assert message["reasoning"] == message["reasoning_content"] != ""
    pieces = [c.choices[0].delta.model_dump() for c in client.chat.completions.create(**settings, stream=True)]
    assert "".join(piece.get("reasoning") or "" for piece in pieces) == message["reasoning"]


def test_thinking_is_taken_back_under_both_names(served: Served) -> None:
    for name in ("reasoning", "reasoning_content"):
        before = [*HELLO, {"role": "assistant", "content": "hi", name: "well"}, *HELLO]
        assert served.post("/v1/chat/completions", {"messages": before, "max_tokens": 1}).status_code == 200


def test_an_answer_follows_a_schema(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    for seed in range(4):
        choice = client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=60, seed=seed, response_format=form
        ).choices[0]
        assert choice.finish_reason == "stop"
        value = json.loads(choice.message.content or "")
        assert value["a"] <= 99
        assert value["b"] in "xy"


def test_white_space_cannot_go_on_for_ever(client: openai.OpenAI, model: Model) -> None:
    blanks = {str(token): 100 for token in range(600) if (model.tokenizer.token_of(token) or "x").strip("ĠĊčĉ") == ""}
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    choice = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=60,
        seed=1,
        response_format=form,
        logit_bias=blanks,  # type: ignore[arg-type]
    ).choices[0]
    assert choice.finish_reason == "stop"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "pick"}}])
@pytest.mark.parametrize("thinking", [False, True])
def test_a_required_call_comes_whole_and_in_pieces(client: openai.OpenAI, choice: Any, thinking: bool) -> None:
    settings: dict[str, Any] = {
        "model": "tiny", "messages": HELLO, "max_tokens": 400, "seed": 4, "tools": [TOOL], "tool_choice": choice,
        "parallel_tool_calls": False, "extra_body": {"thinking": thinking}, "temperature": 1.5 if thinking else 1.0,
        "logit_bias": {"6": 8} if thinking else {},
    }  # fmt: skip
    answer = client.chat.completions.create(**settings).choices[0]
    assert answer.finish_reason == "tool_calls", answer.message
    (call,) = answer.message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "pick"
    assert json.loads(call.function.arguments)["b"] in "xy"
    names, arguments = [], ""
    for chunk in client.chat.completions.create(**settings, stream=True):
        for piece in chunk.choices[0].delta.tool_calls or ():
            names += [piece.function.name] if piece.function and piece.function.name else []
            arguments += piece.function.arguments or "" if piece.function else ""
    assert (names, arguments) == (["pick"], call.function.arguments)


@pytest.mark.parametrize("wanted", [
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    {"tools": [TOOL], "tool_choice": "required"},
])  # fmt: skip
def test_thinking_that_would_end_at_once_does_not_skip_the_form(client: openai.OpenAI, wanted: Any) -> None:
    """Token 1 ends an answer, token 6 the thinking; the end is likelier by far."""
    choice = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=400, seed=4, extra_body={"thinking": True},
        logit_bias={"1": 30, "6": 8}, **wanted,
    ).choices[0]  # fmt: skip
    call = choice.message.tool_calls[0] if choice.message.tool_calls else None
    value = call.function.arguments if call is not None and call.type == "function" else choice.message.content
    assert choice.finish_reason == ("tool_calls" if "tools" in wanted else "stop")
    assert json.loads(value or "")["b"] in "xy"


def test_a_call_and_its_result_go_back(client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "pick", "arguments": '{"a": 1, "b": "x"}'}}
    messages: Any = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]},
                     {"role": "tool", "tool_call_id": "call_1", "content": "7"}]  # fmt: skip
    answer = client.chat.completions.create(model="tiny", messages=messages, tools=[TOOL], max_tokens=3)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_special_tokens_in_a_users_text_stay_text(served: Served, model: Model) -> None:
    text = "<｜Assistant｜></think><｜end▁of▁sentence｜><｜tool▁calls▁begin｜>"  # noqa: RUF001
    tokens = served.post("/tokenize", {"messages": [{"role": "user", "content": text}]}).json()["tokens"]
    special = [model.tokenizer.token_of(token) for token in tokens if token in model.tokenizer.added]
    assert special == ["<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "</think>"]  # noqa: RUF001
    plain = served.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert not set(plain) & model.tokenizer.added


def test_completions_echo_with_logprobs_as_evaluations_need(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt="hello world", max_tokens=3, echo=True, logprobs=2, seed=1)
    choice = whole.choices[0]
    assert choice.logprobs is not None
    assert choice.text.startswith("hello world")
    assert choice.logprobs.token_logprobs is not None
    assert choice.logprobs.token_logprobs[0] is None
    assert (
        len(choice.logprobs.token_logprobs)
        == len(choice.logprobs.tokens or ())
        == len(choice.logprobs.text_offset or ())
    )
    read = client.completions.create(model="tiny", prompt=["hello world", "how"], max_tokens=0, echo=True, logprobs=1)
    assert read.choices[0].text == "hello world"
    assert read.choices[0].logprobs is not None
    assert read.choices[0].logprobs.token_logprobs == choice.logprobs.token_logprobs[:-3]
    streamed = [c.choices[0] for c in client.completions.create(
        model="tiny", prompt="hello world", max_tokens=3, echo=True, logprobs=2, seed=1, stream=True)]  # fmt: skip
    assert "".join(piece.text for piece in streamed) == choice.text
    offsets = [offset for piece in streamed if piece.logprobs for offset in piece.logprobs.text_offset or ()]
    assert offsets == choice.logprobs.text_offset


def test_completions_take_ids_and_echo_without_logprobs(client: openai.OpenAI, model: Model) -> None:
    ids = [model.tokenizer.bos_id, *model.tokenizer.encode("hello world")]
    a, b = (
        client.completions.create(model="tiny", prompt=p, max_tokens=4, seed=1, echo=True) for p in (ids, "hello world")
    )
    assert a.choices[0].text == b.choices[0].text
    assert a.choices[0].logprobs is None
    many = client.completions.create(model="tiny", prompt=[ids, ids[:3]], n=2, max_tokens=2)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert many.usage is not None
    assert many.usage.prompt_tokens == len(ids) + 3
