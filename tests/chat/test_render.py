"""Conversations as tokens: DeepSeek-V3.1's form, and texts that stay texts."""
# ruff: noqa: RUF001

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.chat.render import render, template
from clearseek.chat.reply import Reply
from clearseek.data.tokenizer import SPECIAL_TOKENS, Tokenizer, train
from clearseek.errors import UserError
from clearseek.hub.tokenizer_files import special_ids, tokenizer_config

USER: dict[str, Any] = {"role": "user", "content": "2 + 2?"}
TOOL = {"type": "function", "function": {"name": "sum", "description": "adds", "parameters": {"type": "object"}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "sum", "arguments": {"a": "é"}}}]}
LONG = [
    {"role": "system", "content": "Be brief."},
    {"role": "system", "content": "Be kind."},
    USER,
    {"role": "assistant", "content": "4", "reasoning_content": "easy"},
    {"role": "user", "content": [{"type": "text", "text": "and "}, {"type": "text", "text": "3?"}]},
    CALL | {"reasoning_content": "hm"},
    {"role": "tool", "content": "5"},
    {"role": "assistant", "content": "5"},
]


@cache
def tokenizer() -> Tokenizer:
    return train(["hello world, what is 2 + 2? " * 20], 400)


def text(messages: Any, written: bool = False, **options: Any) -> str:
    found = render(tokenizer(), messages, **options)
    return tokenizer().decode([i for i, own in zip(found.ids, found.written, strict=True) if own or not written])


@pytest.mark.parametrize(
    ("messages", "options", "expected"),
    [
        ([USER], {}, "<｜begin▁of▁sentence｜><｜User｜>2 + 2?<｜Assistant｜></think>"),
        ([USER], {"thinking": True}, "<｜begin▁of▁sentence｜><｜User｜>2 + 2?<｜Assistant｜><think>"),
        (
            [*LONG[:4]], {"prompt": False},
            "<｜begin▁of▁sentence｜>Be brief.\n\nBe kind.<｜User｜>2 + 2?<｜Assistant｜></think>4<｜end▁of▁sentence｜>",
        ),
        (
            [USER, LONG[3]], {"prompt": False, "thinking": True},
            "<｜begin▁of▁sentence｜><｜User｜>2 + 2?<｜Assistant｜><think>easy</think>4<｜end▁of▁sentence｜>",
        ),
        (
            [USER, CALL, {"role": "tool", "content": "4"}], {},
            "<｜begin▁of▁sentence｜><｜User｜>2 + 2?<｜Assistant｜></think>"
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>sum"
            '<｜tool▁sep｜>{"a": "é"}<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>'
            "<｜tool▁output▁begin｜>4<｜tool▁output▁end｜>",
        ),
    ],
)  # fmt: skip
def test_conversations_have_deepseeks_form(messages: Any, options: dict[str, Any], expected: str) -> None:
    assert text(messages, **options) == expected


def test_tools_are_told_after_the_system_text() -> None:
    told = text([LONG[0], USER], tools=[TOOL])
    assert told.startswith("<｜begin▁of▁sentence｜>Be brief.\n\n## Tools\n")
    assert '### sum\nDescription: adds\n\nParameters: {"type": "object"}\n' in told
    assert told.endswith("spaces<｜User｜>2 + 2?<｜Assistant｜></think>")


def test_what_the_model_writes_is_marked() -> None:
    assert text(LONG, written=True, thinking=True, prompt=False) == (
        "4<｜end▁of▁sentence｜>hm</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>sum<｜tool▁sep｜>"
        '{"a": "é"}<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>5<｜end▁of▁sentence｜>'
    )


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("length", range(1, len(LONG) + 1))
def test_the_exported_template_gives_the_same_tokens_in_transformers(
    tmp_path: Path, length: int, thinking: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    messages = LONG[:length]
    tokenizer().save(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(special_ids(tokenizer(), 400), 99)))
    (tmp_path / "chat_template.jinja").write_text(template())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for prompt in (False, True):
        found = render(tokenizer(), messages, [TOOL], thinking, prompt)
        told = theirs.apply_chat_template(
            messages, tools=[TOOL], thinking=thinking, add_generation_prompt=prompt, tokenize=True, return_dict=True,
            return_assistant_tokens_mask=True,
        )  # fmt: skip
        assert found.ids == told["input_ids"]
        assert [int(own) for own in found.written] == told["assistant_masks"]


Spelled = st.lists(st.sampled_from([*SPECIAL_TOKENS, "{{", "{% raw %}", "\ue0000\ue001", "\ue000g\ue001", " x "])).map(
    "".join
)


@given(Spelled, Spelled, Spelled)
def test_text_never_becomes_a_special_token(system: str, user: str, name: str) -> None:
    special = {tokenizer().id_of(token) for token in SPECIAL_TOKENS}
    calls = [{"function": {"name": name or "f", "arguments": user}}]
    texts = [system, user, user]
    messages = [
        {"role": "system", "content": system}, {"role": "user", "content": user},
        {"role": "assistant", "content": user, "tool_calls": calls}, {"role": "tool", "content": user},
    ]  # fmt: skip
    plain = [
        {"role": "system", "content": "s" if system else ""}, {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "t"},
    ]  # fmt: skip
    found, expected = (
        [token for token in render(tokenizer(), each).ids if token in special] for each in (messages, plain)
    )
    assert found == expected
    assert all(each in tokenizer().decode(render(tokenizer(), messages).ids) for each in texts)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "at least one"), ("hi", "list"), ([1], r"messages\[0\]"),
        ([{"role": "king"}], r"messages\[0\]\.role.*king"),
        ([{"role": "user"}], r"messages\[0\]\.content"),
        ([USER, {"role": "user", "content": 5}], r"messages\[1\]\.content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"image_url.*text alone"),
        ([{"role": "user", "content": "\ud800"}], "surrogate"),
        ([{"role": "assistant", "content": "", "tool_calls": [{}]}], r"tool_calls\[0\]"),
        ([{"role": "assistant", "content": "", "tool_calls": "x"}], r"tool_calls: give a list"),
    ],
)  # fmt: skip
def test_messages_of_another_form_are_named(messages: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        render(tokenizer(), messages)


def calls_of(*names: Any) -> dict[str, Any]:
    """Calls with these ids."""
    calls = [{"id": name, "function": {"name": f"f{name}", "arguments": "{}"}} for name in names]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def results_of(*names: Any) -> list[dict[str, Any]]:
    """Results with these ids."""
    return [{"role": "tool", "tool_call_id": name, "content": f"result {name}"} for name in names]


def test_results_stand_in_the_order_of_their_calls() -> None:
    rest = [{"role": "assistant", "content": "so"}, USER, calls_of("c"), *results_of("c")]
    ordered, mixed = ([USER, calls_of("a", "b"), *results_of(*names), *rest] for names in ("ab", "ba"))
    assert render(tokenizer(), mixed) == render(tokenizer(), ordered)
    assert text(mixed).index("result a") < text(mixed).index("result b") < text(mixed).index("result c")


@pytest.mark.parametrize(
    ("calls", "results", "words"),
    [
        ("ab", [None, None], r"messages\[2\]\.tool_call_id: ''"),
        ("ab", ["a", "c"], r"messages\[3\]\.tool_call_id: 'c': no such call"),
        ("ab", ["b", "b"], r"messages\[3\]\.tool_call_id: 'b': a second result"),
        ("ab", ["b"], r"messages\[2\]: the call 'a' has no result"),
        ("aa", ["a", "a"], "an id of its own"),
        ([None, None], [None, None], "an id of its own"),
        ("a", ["b"], "'b': no such call"),
        ("a", [5], r"tool_call_id: give a text"),
    ],
)
def test_results_must_name_their_calls(calls: Any, results: list[Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        render(tokenizer(), [USER, calls_of(*calls), *results_of(*results)])


def test_the_result_of_a_lone_call_needs_no_id() -> None:
    expected = render(tokenizer(), [USER, calls_of("a"), *results_of("a")])
    for call, result in (("a", None), (None, "a"), (None, None)):
        messages = [USER, calls_of(call), *results_of(result)]
        messages[1]["tool_calls"][0]["function"]["name"], messages[2]["content"] = "fa", "result a"
        assert render(tokenizer(), messages) == expected


def test_thoughts_come_by_either_name() -> None:
    for own in ({"reasoning": "hm"}, {"reasoning_content": None, "reasoning": "hm"}, {"reasoning_content": "hm"}):
        assert "<think>hm</think>4" in text([USER, {"role": "assistant", "content": "4"} | own], thinking=True)


@pytest.mark.parametrize("thinking", [False, True])
def test_whether_thoughts_follow_is_told_by_the_last_token(thinking: bool) -> None:
    assert render(tokenizer(), [USER], thinking=thinking).thinking is thinking
    assert not render(tokenizer(), [USER, CALL, {"role": "tool", "content": "<think>"}], thinking=thinking).thinking
    assert not render(tokenizer(), [{"role": "user", "content": "<think>"}], thinking=thinking, prompt=False).thinking


def test_a_text_of_the_assistant_stays_open() -> None:
    messages = [USER, {"role": "assistant", "content": "It is"}]
    assert text(messages, continued=True) == "<｜begin▁of▁sentence｜><｜User｜>2 + 2?<｜Assistant｜></think>It is"
    for wrong in ([USER], [USER, CALL]):
        with pytest.raises(UserError, match="to be continued"):
            render(tokenizer(), wrong, continued=True)


def test_an_answer_is_taken_apart_by_its_tokens() -> None:
    reply, tokens = Reply(tokenizer(), thinking=True), []
    calls = [("sum", "{}"), ("f", "1")]
    written = [
        part
        for name, arguments in calls
        for part in ("<｜tool▁call▁begin｜>", name, "<｜tool▁sep｜>", arguments, "<｜tool▁call▁end｜>")
    ]
    for piece in ("hm <think", "</think>", "so", "<｜tool▁calls▁begin｜>", *written, "<｜tool▁calls▁end｜>"):
        tokens += [tokenizer().id_of(piece)] if piece in SPECIAL_TOKENS else tokenizer().encode(piece)
    parts: dict[tuple[str, int], list[int]] = {}
    for token in tokens:
        place = reply.place(token)
        if place is not None:
            parts.setdefault(place, []).append(token)
    assert {place: tokenizer().decode(ids) for place, ids in parts.items()} == {
        ("reasoning", -1): "hm <think", ("content", -1): "so", ("name", 0): "sum", ("arguments", 0): "{}",
        ("name", 1): "f", ("arguments", 1): "1",
    }  # fmt: skip
