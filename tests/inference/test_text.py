"""Text while it comes: the same as the whole, whatever the borders of tokens."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.data.tokenizer import SPECIAL_TOKENS, Tokenizer, train
from clearseek.inference.text import Bytes, Text

WORDS = ["the end of the text, die Größe, 世界, 🌍🚀 and ends"] * 30


@cache
def tokenizer() -> Tokenizer:
    return train(WORDS, 400)


@given(st.text(max_size=40))
def test_bytes_of_tokens_are_the_texts(text: str) -> None:
    bytes_of = Bytes(tokenizer())
    assert b"".join(map(bytes_of, tokenizer().encode(text))) == text.encode()


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_a_special_token_has_its_name(name: str) -> None:
    assert Bytes(tokenizer())(tokenizer().id_of(name)) == name.encode()


def test_an_id_without_a_token_is_nothing() -> None:
    assert Bytes(tokenizer())(10**6) == b""


Stops = st.lists(st.text("abe ", min_size=1, max_size=4), max_size=3)


@given(st.text("abe 世", max_size=30), Stops)
def test_text_ends_before_the_first_stop_text(text: str, stops: list[str]) -> None:
    found = Text(Bytes(tokenizer()), stops)
    pieces = []
    for token in tokenizer().encode(text):
        pieces.append(found.add(token))
        if found.stopped is not None:
            break
    pieces.append(found.end())
    expected, whole = text, b""
    for token in tokenizer().encode(text):  # the first token that completes any stop text ends the answer
        whole += Bytes(tokenizer())(token)
        so_far = whole.decode("utf-8", "ignore")
        if ends := [so_far.find(stop) for stop in stops if stop in so_far]:
            expected = so_far[: min(ends)]
            break
    assert "".join(pieces) == expected
    assert (found.stopped is not None) == any(stop in text for stop in stops)


def test_nothing_is_shown_that_may_begin_a_stop_text() -> None:
    text = Text(lambda token: bytes([token]), ["stop!"])  # type: ignore[arg-type]
    shown = [text.add(byte) for byte in b"a stop at st"]
    assert shown == [*"a ", "", "", "", "", "stop ", "a", "t", " ", "", ""]
    assert text.end() == "st"


def test_a_character_is_shown_when_it_is_whole() -> None:
    text = Text(lambda token: bytes([token]))  # type: ignore[arg-type]
    assert [text.add(byte) for byte in "é世".encode()] == ["", "é", "", "", "世"]
    assert text.add(0xE4) == "" and text.end() == "�"
