"""Anthropic's client against ``/v1/messages``."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.serve.served import Served
from tests.serve.test_openai import SCHEMA

HELLO: Any = [{"role": "user", "content": "hello"}]
TOOL: Any = {"name": "pick", "description": "Picks.", "input_schema": SCHEMA}


def settings(**more: Any) -> dict[str, Any]:
    """A request whose answer is always the same."""
    return {"model": "tiny", "messages": HELLO, "max_tokens": 12, "extra_body": {"seed": 3}} | more


def streamed(claude: anthropic.Anthropic, given: dict[str, Any]) -> Any:
    """The message that the client puts together from events."""
    with claude.messages.stream(**given) as stream:
        return stream.get_final_message()


def test_a_stream_is_the_same_message_in_pieces(claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(**settings(system="Be kind."))
    pieces = streamed(claude, settings(system=[{"type": "text", "text": "Be kind."}]))
    assert whole.content[0].type == "text"
    assert [block.model_dump(exclude={"parsed_output"}) for block in pieces.content] == [
        b.model_dump() for b in whole.content
    ]
    assert whole.stop_reason == pieces.stop_reason == "max_tokens"
    assert whole.usage.output_tokens == pieces.usage.output_tokens == 12
    assert pieces.usage.input_tokens + (pieces.usage.cache_read_input_tokens or 0) > 0


def test_stop_sequences_are_named(claude: anthropic.Anthropic) -> None:
    text = claude.messages.create(**settings()).content[0].text  # type: ignore[union-attr]
    cut = claude.messages.create(**settings(stop_sequences=[text[3:5]]))
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", text[3:5])


def test_thinking_is_a_block_and_goes_back(claude: anthropic.Anthropic) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    whole, pieces = claude.messages.create(**settings(thinking=thinking)), streamed(claude, settings(thinking=thinking))
    assert whole.content[0].type == pieces.content[0].type == "thinking"
    assert whole.content[0].thinking == pieces.content[0].thinking != ""
    before = [*HELLO, {"role": "assistant", "content": [block.model_dump() for block in whole.content]}, *HELLO]
    assert claude.messages.create(**settings(messages=before)).usage.output_tokens == 12


def test_a_call_comes_and_its_result_goes_back(claude: anthropic.Anthropic) -> None:
    choice = {"type": "any", "disable_parallel_tool_use": True}
    given = settings(max_tokens=60, tools=[TOOL], tool_choice=choice)
    whole, pieces = claude.messages.create(**given), streamed(claude, given)
    call = whole.content[0]
    assert call.type == "tool_use"
    assert whole.stop_reason == "tool_use"
    assert call.input == pieces.content[0].input
    assert set(call.input) == {"a", "b"}  # type: ignore[call-overload]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "7"}]}
    messages = [*HELLO, {"role": "assistant", "content": [call.model_dump()]}, {"role": "user", "content": [result]}]
    assert claude.messages.create(**settings(messages=messages, tools=[TOOL])).usage.output_tokens == 12


def test_tokens_are_counted_as_they_are_read(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model="tiny", messages=HELLO, system="Be kind.", tools=[TOOL])
    usage = claude.messages.create(**settings(system="Be kind.", tools=[TOOL])).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "text alone"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "runs none"),
        ({"tool_choice": {"type": "tool", "name": "none"}, "tools": [TOOL]}, "no such function"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_errors_have_anthropics_form(claude: anthropic.Anthropic, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=words) as caught:
        claude.messages.create(**settings(**wrong))
    assert caught.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]


def test_other_errors_have_it_too(served: Served, claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(**settings(model="other"))
    foreign = served.post("/v1/messages", {}, headers={"Origin": "http://evil.example"})
    assert (foreign.status_code, foreign.json()["error"]["type"]) == (403, "permission_error")
