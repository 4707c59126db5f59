"""A row's text is in its field, inside others or in messages; else it is said why there is none."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.data.rows import UnusableError, parse, row_text

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(JSON, st.text())
def test_every_row_has_text_or_a_reason(row: Any, field: str) -> None:
    found = row_text("here:1", row, field)
    assert isinstance(found, bytes) or (found.cause and str(found).startswith("here:1: "))


@pytest.mark.parametrize(
    ("row", "field", "text"),
    [
        ({"text": "é"}, "text", "é"),
        ({"a": {"b": {"c": "deep"}}}, "a.b.c", "deep"),
        ({"a.b": "flat", "a": {"b": "deep"}}, "a.b", "flat"),
        ({"m": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}, "m",
         "System: Be brief.\n\nUser: Hi\n"),
        ({"m": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}, "m", "User: Hi\n\nAssistant: Ho\n"),
        ({"m": [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image"}]}]}, "m",
         "User: see\n\n"),
        ({"m": [{"role": "assistant", "content": None, "tool_calls": [{"id": "é"}]}]}, "m",
         'Assistant: [{"id": "é"}]\n'),
    ],
)  # fmt: skip
def test_text_of_a_row(row: dict[str, Any], field: str, text: str) -> None:
    assert row_text("here", row, field) == text.encode()


@pytest.mark.parametrize(
    ("row", "field", "cause"),
    [
        ({"text": None}, "text", "null"),
        ({"text": 5.0}, "text", "not text"),
        ({"text": ["a", "b"]}, "text", "not text"),
        ({"text": []}, "text", "not text"),
        ({"text": "\ud800"}, "text", "lone surrogates"),
        ({"a": None}, "a.b", 'without "a.b"'),
        ({"m": [{"role": "user"}]}, "m", "not messages"),
        ([1], "text", "not objects"),
        ("text", "text", "not objects"),
    ],
)
def test_reason_of_a_row(row: Any, field: str, cause: str) -> None:
    found = row_text("here", row, field)
    assert isinstance(found, UnusableError) and found.cause == cause
    assert "NoneType" not in str(found)


def test_numbers_may_have_any_length() -> None:
    assert parse('{"n": %s, "text": "x"}' % ("9" * 100_000))["text"] == "x"
    assert json.dumps(parse("[1, 2.5]")) == "[1.0, 2.5]"


def test_messages_with_the_nulls_of_parquet() -> None:
    pieces = [{"type": "image", "text": None, "url": "x"}, {"type": "text", "text": "yes", "url": None}]
    calls = [{"at": date(2026, 1, 1)}]
    talk = [
        {"role": None, "from": "human", "content": None, "value": "is it?", "tool_calls": None},
        {"role": "assistant", "from": None, "content": pieces, "value": None, "tool_calls": calls},
    ]
    text = b'User: is it?\n\nAssistant: \nyes[{"at": "2026-01-01"}]\n'
    assert row_text("a", {"m": talk}, "m") == text
