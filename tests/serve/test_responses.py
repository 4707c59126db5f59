"""OpenAI's client against ``/v1/responses``."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from clearseek.inference.model import Model
from tests.serve.served import ids, script
from tests.serve.test_openai import SCHEMA

TOOL: Any = {"type": "function", "name": "pick", "parameters": SCHEMA, "strict": True}


def settings(**more: Any) -> dict[str, Any]:
    """A request whose answer is always the same."""
    return {"model": "tiny", "input": "hello", "max_output_tokens": 12, "extra_body": {"seed": 3}} | more


def streamed(client: openai.OpenAI, given: dict[str, Any]) -> tuple[list[Any], Any]:
    """Events of a stream, and the response that the last of them tells."""
    events = list(client.responses.create(**given, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events, events[-1].response


def same(a: Any, b: Any) -> bool:
    """Whether two outputs differ in their ids alone."""
    without = [
        [{k: v for k, v in item.model_dump().items() if k not in ("id", "call_id")} for item in x.output]
        for x in (a, b)
    ]
    return without[0] == without[1]


def test_a_stream_is_the_same_response_in_pieces(client: openai.OpenAI) -> None:
    given = settings(instructions="Be kind.", include=["message.output_text.logprobs"], top_logprobs=1)
    whole = client.responses.create(**given)
    events, told = streamed(client, given)
    assert same(whole, told)
    assert whole.output_text == "".join(e.delta for e in events if e.type == "response.output_text.delta") != ""
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")  # type: ignore[union-attr]
    assert whole.usage is not None
    assert whole.usage.output_tokens == 12
    assert len(whole.output[0].content[0].logprobs) == 12  # type: ignore[union-attr,arg-type]
    assert whole.store is False  # type: ignore[attr-defined]


def test_a_call_comes_and_its_result_goes_back(client: openai.OpenAI) -> None:
    given = settings(max_output_tokens=60, tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    whole = client.responses.create(**given)
    events, told = streamed(client, given)
    assert same(whole, told)
    call = whole.output[0]
    assert whole.status == "completed"
    assert call.type == "function_call"
    assert set(json.loads(call.arguments)) == {"a", "b"}
    assert "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta") == call.arguments
    with client.responses.stream(**given) as stream:
        assert stream.get_final_response().output[0].arguments == call.arguments  # type: ignore[union-attr]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "7"}
    after = client.responses.create(**settings(input=[{"role": "user", "content": "hello"}, call.model_dump(), result]))
    assert after.usage is not None
    assert after.usage.output_tokens == 12


def test_thinking_is_an_item_and_goes_back(client: openai.OpenAI) -> None:
    whole = client.responses.create(**settings(reasoning={"effort": "high"}))
    assert whole.output[0].type == "reasoning"
    assert whole.output[0].content
    events, told = streamed(client, settings(reasoning={"effort": "high"}))
    assert same(whole, told)
    assert "response.reasoning_text.delta" in {event.type for event in events}
    before: Any = [{"role": "user", "content": "hello"}, *[item.model_dump() for item in whole.output],
                   {"role": "assistant", "content": [{"type": "output_text", "text": "hi"}]},
                   {"role": "user", "content": "x"}]  # fmt: skip
    assert client.responses.create(**settings(input=before)).status == "incomplete"


def test_a_schema_is_followed(client: openai.OpenAI) -> None:
    form = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    assert set(json.loads(client.responses.create(**settings(text=form, max_output_tokens=60)).output_text)) == {
        "a",
        "b",
    }


@pytest.mark.parametrize(
    "wrong", [{"store": True}, {"previous_response_id": "resp_1"}, {"conversation": "conv_1"}, {"background": True}]
)
def test_stored_state_is_refused(client: openai.OpenAI, wrong: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError, match="keeps nothing"):
        client.responses.create(**settings(**wrong))


def test_log_probabilities_are_those_of_the_tokens_of_the_text(
    client: openai.OpenAI, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, model.tokenizer, ids(model.tokenizer, "ab", "</think>", "cé"))
    given = settings(reasoning={"effort": "high"}, include=["message.output_text.logprobs"])
    whole = client.responses.create(**given)
    events, told = streamed(client, given)
    assert same(whole, told)
    text = whole.output[1].content[0]  # type: ignore[union-attr,index]
    assert [each.bytes for each in text.logprobs] == [list(b"c"), [0xC3], [0xA9]]  # type: ignore[union-attr]
    pieces = [each for e in events if e.type == "response.output_text.delta" for each in e.logprobs]
    assert [each.logprob for each in pieces] == [each.logprob for each in text.logprobs]  # type: ignore[union-attr]


def test_an_item_that_is_cut_is_incomplete_and_thoughts_are_counted(
    client: openai.OpenAI, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, model.tokenizer, ids(model.tokenizer, "ab", "</think>", "cde"))
    events, told = streamed(client, settings(reasoning={"effort": "high"}, max_output_tokens=4))
    done = [event.item.status for event in events if event.type == "response.output_item.done"]
    assert done == [item.status for item in told.output] == ["completed", "incomplete"]
    assert told.usage.output_tokens_details.reasoning_tokens == 2
    chat = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello"}], reasoning_effort="high"
    )
    assert chat.usage is not None
    assert chat.usage.completion_tokens_details is not None
    assert chat.usage.completion_tokens_details.reasoning_tokens == 2
