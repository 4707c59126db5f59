"""Lines of JSON become conversations; what is wrong with a line is one error with file, line and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.chat.render import render
from clearseek.config import DataConfig, ProblemsConfig, SftConfig
from clearseek.data.packs import Example, Reading
from clearseek.data.tokenizer import EOS, SPECIAL_TOKENS, Tokenizer
from clearseek.errors import UserError
from clearseek.posttrain.conversations import demonstrations, read_conversations
from clearseek.train.run import Run
from tests.posttrain.conftest import write_lines


@pytest.fixture(scope="session")
def tokenizer(parent: Run) -> Tokenizer:
    return Tokenizer.load(parent.tokenizer)


def read(
    folder: Path, lines: list[Any], tokenizer: Tokenizer, reading: Reading | None = None, unusable: Any = "refuse",
    **sft: Any,
) -> list[Example]:  # fmt: skip
    write_lines(folder / "a.jsonl", lines)
    data = DataConfig(source="jsonl", paths=("a.jsonl",), licence="MIT", unusable=unusable)
    return list(read_conversations(data, SftConfig(**sft), tokenizer, reading or Reading(), folder))


def learnt(example: Example, tokenizer: Tokenizer) -> str:
    return tokenizer.decode([id for id, own in zip(example.ids, example.written, strict=True) if own])


USER = {"role": "user", "content": "What is 2+2?"}
MAPPED = {"prompt": "q", "answer": "a"}


def test_messages_become_what_the_chat_template_renders(tmp_path: Path, tokenizer: Tokenizer) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "4"},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "It is."},
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    line = {"messages": messages, "tools": tools}
    for thinking, text in ((False, "Yes." + EOS), (True, "It is.</think>Yes." + EOS)):
        (example,) = read(tmp_path, [line], tokenizer, thinking=thinking)
        rendered = render(tokenizer, messages, tools, thinking, prompt=False)
        assert (example.ids, example.written) == (rendered.ids, rendered.written)
        assert learnt(example, tokenizer).endswith("Four." + EOS + text)
        assert (example.id, example.source, example.licence) == ("a.jsonl:1", "jsonl", "MIT")


def test_declared_keys_become_messages(tmp_path: Path, tokenizer: Tokenizer) -> None:
    lines = [
        {"q": "2+2", "doc": {"a": "<<x>>4<<y>>"}, "s": "Add."},
        {"q": "3+3", "doc": {"a": "6"}},
        {"messages": [USER, {"role": "assistant", "content": "<<x>>4"}]},
    ]
    found = read(tmp_path, lines, tokenizer, prompt="q", answer="doc.a", system="s", strip="<<[^>]*>>")
    expected = [
        [
            {"role": "system", "content": "Add."},
            {"role": "user", "content": "2+2"},
            {"role": "assistant", "content": "4"},
        ],
        [{"role": "user", "content": "3+3"}, {"role": "assistant", "content": "6"}],
        [USER, {"role": "assistant", "content": "4"}],
    ]
    assert [each.ids for each in found] == [render(tokenizer, each, prompt=False).ids for each in expected]


def test_a_message_of_weight_0_is_read_and_not_learnt(tmp_path: Path, tokenizer: Tokenizer) -> None:
    answers = [{"role": "assistant", "content": str(n), "weight": weight} for n, weight in ((1, 0), (2, 1), (3, 0))]
    messages = [USER, answers[0], USER, answers[1], answers[2]]
    (example,) = read(tmp_path, [{"messages": messages}], tokenizer)
    assert learnt(example, tokenizer) == "2" + EOS
    assert example.ids == render(tokenizer, messages, prompt=False).ids


@given(st.text(max_size=30), st.text(min_size=1, max_size=30), st.lists(st.sampled_from(SPECIAL_TOKENS), max_size=3))
@settings(max_examples=40, deadline=None)
def test_texts_never_become_special_tokens(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, question: str, answer: str, marks: list[str]
) -> None:
    answer = answer.join(["", *marks, ""]) if marks else answer
    line = json.dumps({"q": question + "?", "a": answer})
    reading = Reading()
    try:
        (example,) = read(tmp_path_factory.mktemp("lines"), [line], tokenizer, reading, **MAPPED)
    except UserError as error:
        assert "surrogate" in str(error) and any("\ud800" <= letter <= "\udfff" for letter in question + answer)
        return
    assert learnt(example, tokenizer) == answer + EOS
    assert sum(id in tokenizer.added for id in example.ids) == 5, "begin, user, assistant, end of thoughts, end"
    assert reading.spelled >= len(marks)


ANSWER = {"role": "assistant", "content": "4"}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "4"}


def called(arguments: Any, name: str = "f") -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


BAD = [
    ('{"messages": [', "a.jsonl:2: not valid JSON"),
    ("[1, 2]", "a.jsonl:2: must be a JSON object"),
    ("[" * 100_000, "a.jsonl:2: not valid JSON: nested too deeply"),
    ('{"messages": NaN}', "a.jsonl:2: not valid JSON"),
    ('{"messages": [], "messages": []}', "a.jsonl:2: the JSON key 'messages' appears twice"),
    ('{"messages": [{"role": "user", "role": "system"}]}', "a.jsonl:2: the JSON key 'role' appears twice"),
    (r'{"q": "\ud800", "a": "b"}', "a.jsonl:2: not valid JSON"),
    (b'{"q": "\xff", "a": "b"}', "a.jsonl:2: not valid JSON: not UTF-8"),
    ({"mesages": []}, 'a.jsonl:2: no key "q"; keys: mesages: set sft.prompt'),
    ({"q": "2", "A": "4"}, 'a.jsonl:2: no key "a"; keys: q, A: set sft.answer'),
    ({"q": 2, "a": "4"}, 'a.jsonl:2: "q" is a number, not text: set sft.prompt'),
    ({"q": "2", "a": ["4"]}, 'a.jsonl:2: "a" is a list, not text: set sft.answer'),
    ({"q": "2", "a": None}, 'a.jsonl:2: "a" is null, not text'),
    ({"q": "2", "a": ""}, 'a.jsonl:2: "a" is empty'),
    ({"messages": []}, "a.jsonl:2: messages: give a list of at least one message"),
    ({"messages": None}, "a.jsonl:2: messages: give a list"),
    ({"messages": "hello"}, "a.jsonl:2: messages: give a list"),
    ({"messages": [USER]}, "a.jsonl:2: messages: no answer to learn"),
    ({"messages": [USER, {"role": "assistant", "content": ""}]}, "a.jsonl:2: messages[1].content: an answer without"),
    ({"messages": [USER, {"role": "assistant", "reasoning_content": "so"}]}, "a.jsonl:2: messages[1].content: an ans"),
    ({"messages": [USER, {"role": "assistant", "content": 4}]}, "a.jsonl:2: messages[1].content: give a text"),
    ({"messages": [USER, {"role": "assistant", "content": {"text": "4"}}]}, "a.jsonl:2: messages[1].content: give"),
    ({"messages": [{"role": "user", "content": None}]}, "a.jsonl:2: messages[0].content: give a text"),
    ({"messages": [{"role": "robot", "content": "4"}]}, "a.jsonl:2: messages[0].role: 'robot': use system, user"),
    ({"messages": [{"content": "4"}]}, "a.jsonl:2: messages[0].role: None: use system, user"),
    ({"messages": ["4"]}, "a.jsonl:2: messages[0]: give an object"),
    (
        {"messages": [{"role": "system", "content": "a"}, USER, {"role": "developer", "content": "b"}]},
        "a.jsonl:2: messages[2].role: a second system message",
    ),
    ({"messages": [USER, {"role": "assistant", "content": "4", "weight": 0.5}]}, "a.jsonl:2: messages[1].weight: 0.5"),
    ({"messages": [USER, {"role": "assistant", "content": "4", "weight": 0}]}, "a.jsonl:2: messages: no answer"),
    (
        {"messages": [USER, {"role": "assistant", "content": "4", "function_call": {"name": "f"}}]},
        "a.jsonl:2: messages[1].function_call: an old form",
    ),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [{"id": 1}]}]}, "a.jsonl:2: messages[1].tool_calls[0]"),
    ({"messages": [USER, {"role": "assistant", "content": "4"}], "tools": "f"}, "a.jsonl:2: tools: give a list"),
    ({"messages": [USER, {"role": "system", "content": "b"}, ANSWER]}, "a.jsonl:2: messages[1].role: a system message"),
    ({"messages": [USER, ANSWER, {"role": "system", "content": "b"}]}, "a.jsonl:2: messages[2].role: a system message"),
    ({"messages": [RESULT, ANSWER]}, "a.jsonl:2: messages[0].role: a tool's result without a call"),
    ({"messages": [USER, RESULT, ANSWER]}, "a.jsonl:2: messages[1].role: a tool's result without a call"),
    ({"messages": [USER, called("{}"), USER, RESULT, ANSWER]}, "a.jsonl:2: messages[3].role: a tool's result without"),
    ({"messages": [USER, called('{"a":')]}, "a.jsonl:2: messages[1].tool_calls[0].function.arguments: not valid JSON"),
    (
        {"messages": [USER, called("[1]")]},
        "a.jsonl:2: messages[1].tool_calls[0].function.arguments: must be a JSON obj",
    ),
    ({"messages": [USER, called('{"a": NaN}')]}, "a.jsonl:2: messages[1].tool_calls[0].function.arguments: not valid"),
    ({"messages": [USER, called(3)]}, "a.jsonl:2: messages[1].tool_calls[0].function.arguments: must be a JSON object"),
    ({"messages": [USER, called("{}", name="")]}, "a.jsonl:2: messages[1].tool_calls[0]: give a function with name"),
    (
        json.dumps({"messages": [USER, called({"a": 0.5})]}).replace("0.5", "1e999"),
        "a.jsonl:2: messages[1].tool_calls[0].function.arguments: a number without end",
    ),
    (
        json.dumps({"messages": [USER, ANSWER], "tools": [{"name": "f", "parameters": {"a": 0.5}}]}).replace(
            "0.5", "-1e999"
        ),
        "a.jsonl:2: tools[0].parameters: a number without end",
    ),
    ({"messages": [USER | {"tool_calls": [{}]}, ANSWER]}, "a.jsonl:2: messages[0].tool_calls: only the assistant's"),
    ({"messages": [USER | {"reasoning_content": "so"}, ANSWER]}, "a.jsonl:2: messages[0].reasoning_content: only the"),
    ({"messages": [{"role": "r" * 10_000, "content": "4"}]}, "a.jsonl:2: messages[0].role: 'rrr"),
    (r'{"q": "\ud800", "a": "b"}', "a.jsonl:2: not valid JSON: '\\ud800' is half of a surrogate pair"),
]


@pytest.mark.parametrize(("line", "problem"), BAD, ids=range(len(BAD)))
def test_a_wrong_line_is_named(tmp_path: Path, tokenizer: Tokenizer, line: Any, problem: str) -> None:
    lines = [{"q": "1+1", "a": "2"}, line, {"q": "1+2", "a": "3"}]
    with pytest.raises(UserError) as refused:
        read(tmp_path, lines, tokenizer, **MAPPED)
    assert str(refused.value).startswith(problem), refused.value
    assert '(data.unusable = "skip" leaves out what is unusable)' in str(refused.value)
    assert len(str(refused.value)) < 300
    reading = Reading()
    found = read(tmp_path, lines, tokenizer, reading, "skip", **MAPPED)
    assert [each.id for each in found] == ["a.jsonl:1", "a.jsonl:3"] and reading.unusable.total() == 1


def test_an_answer_of_thoughts_that_the_template_leaves_out_is_empty(tmp_path: Path, tokenizer: Tokenizer) -> None:
    thought = {"role": "assistant", "reasoning_content": "so"}
    (example,) = read(tmp_path, [{"messages": [USER, ANSWER, USER, thought]}], tokenizer, thinking=True)
    assert learnt(example, tokenizer) == f"4{EOS}so</think>{EOS}"
    with pytest.raises(
        UserError, match=r"messages\[1\]\.content: an answer without text \(reasoning alone is learnt in "
    ):
        read(tmp_path, [{"messages": [USER, thought, USER, ANSWER]}], tokenizer, thinking=True)


def test_results_of_calls_are_read(tmp_path: Path, tokenizer: Tokenizer) -> None:
    second = called("") | {"content": "again"}
    (example,) = read(tmp_path, [{"messages": [USER, called({"a": [1.5]}), RESULT, second, RESULT, ANSWER]}], tokenizer)
    assert '{"a": [1.5]}' in learnt(example, tokenizer) and learnt(example, tokenizer).endswith(f"{EOS}4{EOS}")


def test_settings_that_fit_no_line_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    good = {"q": "1+1", "a": "2"}
    with pytest.raises(
        UserError, match=r'no key "messages"; keys: q, a: set sft\.messages, or sft\.prompt and sft\.answer'
    ):
        read(tmp_path, [good], tokenizer)
    with pytest.raises(UserError, match=r'sft\.system = "s": no line has this key'):
        read(tmp_path, [good], tokenizer, **MAPPED, system="s")
    with pytest.raises(UserError, match=r"sft\.strip = '<<' matches nothing"):
        read(tmp_path, [good], tokenizer, **MAPPED, strip="<<")
    with pytest.raises(UserError, match=r"messages\[1\]\.content: an answer without text"):
        read(tmp_path, [good], tokenizer, **MAPPED, strip=".*")
    with pytest.raises(UserError, match=r"a\.jsonl:1: talk\[0\]\.role"):
        read(tmp_path, [{"talk": [{"role": "x"}]}], tokenizer, messages="talk")


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_an_empty_file_is_refused(tmp_path: Path, tokenizer: Tokenizer, content: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    data = DataConfig(source="jsonl", paths=("a.jsonl",))
    with pytest.raises(UserError, match=r"a\.jsonl: no line with a conversation: the file is empty"):
        list(read_conversations(data, SftConfig(), tokenizer, Reading(), tmp_path))


def test_more_demonstrations_than_problems_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"sft\.demonstrations = 200: only \d+ different problems"):
        list(demonstrations(ProblemsConfig(kind="addition", digits=1), 200, tokenizer))
