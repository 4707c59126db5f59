"""What OpenAI's chats, OpenAI's responses and Anthropic's messages share, each in its own form."""
# ruff: noqa: RUF001

from __future__ import annotations

import re
from typing import Any

import pytest

from clearseek.chat.render import render
from clearseek.inference.answer import Delta, Record, derive
from clearseek.inference.model import Model
from clearseek.serve.blocks import Blocks
from clearseek.serve.openai import message_delta
from clearseek.serve.worker import Update
from tests.serve.served import PAGES, Served, ids, script

HELLO: Any = {"role": "user", "content": "hello"}
FORMS = ("chat", "responses", "messages")
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
CALL = ("<｜tool▁call▁begin｜>", "pick", "<｜tool▁sep｜>", "{}", "<｜tool▁call▁end｜>")
TWO_CALLS = ("hi", "<｜tool▁calls▁begin｜>", *CALL, *CALL, "<｜tool▁calls▁end｜>")


def called(form: str, results: str, names: str) -> list[Any]:
    """A conversation in which tools were called, by ids of one letter, and gave results."""
    if form == "chat":
        calls = [{"id": name, "type": "function", "function": {"name": "pick", "arguments": "{}"}} for name in names]
        told = [{"role": "tool", "tool_call_id": name, "content": f"result {name}"} for name in results]
        return [HELLO, {"role": "assistant", "content": None, "tool_calls": calls}, *told]
    if form == "responses":
        items = [{"type": "function_call", "call_id": name, "name": "pick", "arguments": "{}"} for name in names]
        outputs = [{"type": "function_call_output", "call_id": name, "output": f"result {name}"} for name in results]
        return [HELLO, *items, *outputs]
    uses = [{"type": "tool_use", "id": name, "name": "pick", "input": {}} for name in names]
    blocks = [{"type": "tool_result", "tool_use_id": name, "content": f"result {name}"} for name in results]
    return [HELLO, {"role": "assistant", "content": uses}, {"role": "user", "content": blocks}]


def asked(form: str, conversation: list[Any], **more: Any) -> dict[str, Any]:
    """A request in a form."""
    function = {"name": "pick", "parameters": {"type": "object"}}
    tool = {
        "chat": {"type": "function", "function": function}, "responses": {"type": "function", **function},
        "messages": {"name": "pick", "input_schema": {"type": "object"}},
    }[form]  # fmt: skip
    most = "max_output_tokens" if form == "responses" else "max_tokens"
    name = "input" if form == "responses" else "messages"
    return {name: conversation, "tools": [tool], most: 60, "seed": 1, "record": True} | more


def answer(served: Served, form: str, request: dict[str, Any]) -> tuple[list[tuple[str, str]], dict[str, Any], Any]:
    """Kinds and texts of an answer's parts, its record, and why it ended."""
    response = served.post(PATHS[form], request)
    assert response.status_code == 200, response.text
    told = response.json()
    if form == "chat":
        choice = told["choices"][0]
        message = choice["message"]
        parts = [(kind, message[kind]) for kind in ("reasoning", "content") if message.get(kind)]
        parts += [("call", call["function"]["arguments"]) for call in message.get("tool_calls", ())]
        return parts, choice["record"], choice["finish_reason"]
    kinds = {"reasoning": "reasoning", "thinking": "reasoning", "message": "content", "text": "content"}
    parts = []
    for part in told["output" if form == "responses" else "content"]:
        kind = kinds.get(part["type"], "call")
        text = str(part.get("input", part.get("arguments"))) if kind == "call" else part.get("text", "")
        if kind != "call" and form == "responses":
            text = part["content"][0]["text"]
        parts.append((kind, text or part.get("thinking", "")))
    return parts, told["record"], told.get("stop_reason", told.get("status"))


THINKING: dict[str, dict[str, Any]] = {
    "chat": {"thinking": True}, "responses": {"reasoning": {"effort": "high"}},
    "messages": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_to_a_tools_result_begins_without_thinking(
    served: Served, model: Model, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    script(monkeypatch, model.tokenizer, ids(model.tokenizer, "hello world"))
    parts, record, _ = answer(served, form, asked(form, called(form, "a", "a"), **THINKING[form]))
    assert parts == [("content", "hello world")]
    assert record["thinking"] is False
    script(monkeypatch, model.tokenizer, ids(model.tokenizer, "hello", "</think>", "world"))
    parts, record, _ = answer(served, form, asked(form, [HELLO], **THINKING[form]))
    assert parts == [("reasoning", "hello"), ("content", "world")]
    assert record["thinking"] is True


def test_a_stop_text_counts_after_a_tools_result(served: Served, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, model.tokenizer, ids(model.tokenizer, "hello world"))
    parts, _, _ = answer(served, "chat", asked("chat", called("chat", "a", "a"), thinking=True, stop="w"))
    assert parts == [("content", "hello ")]


@pytest.mark.parametrize("form", FORMS)
def test_results_go_to_the_model_in_the_order_of_their_calls(served: Served, form: str) -> None:
    prompts = [answer(served, form, asked(form, called(form, r, "abc")))[1]["prompt"] for r in ("abc", "cab")]
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("results", "words"), [("ax", "'x'.*no such call"), ("aa", "second"), ("a", "'b' has no")])
def test_results_that_fit_no_call_are_refused(served: Served, form: str, results: str, words: str) -> None:
    response = served.post(PATHS[form], asked(form, called(form, results, "ab")))
    assert response.status_code == 400
    assert re.search(words, response.json()["error"]["message"])


ONE_CALL: dict[str, dict[str, Any]] = {
    "chat": {"parallel_tool_calls": False}, "responses": {"parallel_tool_calls": False},
    "messages": {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_ends_with_its_first_call_where_one_is_allowed(
    served: Served, model: Model, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    script(monkeypatch, model.tokenizer, ids(model.tokenizer, *TWO_CALLS))
    ends = {"chat": "tool_calls", "responses": "completed", "messages": "tool_use"}
    parts, _, end = answer(served, form, asked(form, [HELLO]))
    assert ([kind for kind, _ in parts], end) == (["content", "call", "call"], ends[form])
    parts, record, end = answer(served, form, asked(form, [HELLO], **ONE_CALL[form]))
    assert (parts, end) == ([("content", "hi"), ("call", "{}")], ends[form])
    assert derive(model, Record.model_validate(record), PAGES).differs is None


def test_a_delta_has_one_entry_for_each_call() -> None:
    deltas = [
        Delta("name", 0, "f"), Delta("arguments", 0, "{"), Delta("arguments", 0, "}"),
        Delta("name", 1, "g"), Delta("arguments", 1, "[]"),
    ]  # fmt: skip
    blocks = Blocks()
    first, second = message_delta(blocks.take(Update(deltas, [], None)), blocks)["tool_calls"]
    assert (first["index"], first["function"]) == (0, {"name": "f", "arguments": "{}"})
    assert (second["index"], second["function"]) == (1, {"name": "g", "arguments": "[]"})
    assert first["id"] != second["id"]
    (later,) = message_delta(blocks.take(Update([Delta("arguments", 1, "!")], [], "stop")), blocks)["tool_calls"]
    assert later == {"index": 1, "function": {"arguments": "!"}}


# --- An answer that goes on with a text of the assistant --------------------------------------------------------------

OPEN: Any = [HELLO, {"role": "assistant", "content": "The quick"}]


def test_anthropics_answer_goes_on_with_the_assistants_text(served: Served, model: Model) -> None:
    expected = [*render(model.tokenizer, [HELLO]).ids, *model.tokenizer.encode("The quick")]
    _, record, _ = answer(served, "messages", asked("messages", OPEN, tools=None))
    assert record["prompt"] == expected
    counted = served.post("/v1/messages/count_tokens", {"messages": OPEN}).json()
    assert counted == {"input_tokens": len(expected)}


def test_a_chats_answer_goes_on_where_that_is_asked_for(served: Served, model: Model) -> None:
    expected = render(model.tokenizer, OPEN).ids
    assert answer(served, "chat", asked("chat", OPEN, tools=None))[1]["prompt"] == expected
    _, record, _ = answer(served, "chat", asked("chat", OPEN, tools=None, continue_final_message=True))
    assert record["prompt"] == [*render(model.tokenizer, [HELLO]).ids, *model.tokenizer.encode("The quick")]


@pytest.mark.parametrize(
    "wrong",
    [
        THINKING["messages"], {"tool_choice": {"type": "any"}},
        {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
        {"messages": called("messages", "", "a")[:2]},
    ],
)  # fmt: skip
def test_what_cannot_go_on_is_refused(served: Served, wrong: dict[str, Any]) -> None:
    response = served.post("/v1/messages", asked("messages", OPEN) | wrong)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "continued" in response.json()["error"]["message"]
