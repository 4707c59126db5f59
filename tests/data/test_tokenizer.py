"""The tokenizer is exact, deterministic, and never makes a special token from text."""
# ruff: noqa: RUF001 - full-width bars are meant

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.data.tokenizer import SMALLEST_VOCABULARY, SPECIAL_TOKENS, Tokenizer, train
from clearseek.errors import UserError

TEXTS = [f"def function_{n}(x):\n    return x + {n * 37}  # the {n}th function\n\n" for n in range(300)]
TOKENIZER = train(TEXTS, 400)
PIECES = st.one_of(st.text(), st.sampled_from(SPECIAL_TOKENS), st.sampled_from(["<", "｜", "▁", ">", "think", "\r\n"]))


def test_exact_size_and_special_ids() -> None:
    assert TOKENIZER.vocab_size == 400
    assert [TOKENIZER.id_of(token) for token in SPECIAL_TOKENS] == list(range(19))
    assert TOKENIZER.id_of("<｜begin▁of▁sentence｜>") == TOKENIZER.bos_id == 0
    assert TOKENIZER.id_of("<｜end▁of▁sentence｜>") == TOKENIZER.eos_id == 1
    assert TOKENIZER.id_of("<｜▁pad▁｜>") == 2
    with pytest.raises(UserError, match="<other>"):
        TOKENIZER.id_of("<other>")


@given(st.lists(PIECES).map("".join))
def test_any_text_round_trips_without_special_tokens(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert all(identity >= len(SPECIAL_TOKENS) for identity in ids)


@given(st.lists(st.lists(PIECES).map("".join), max_size=5))
def test_batch_is_the_same_as_one_by_one(texts: list[str]) -> None:
    assert TOKENIZER.encode_batch(texts) == [TOKENIZER.encode(text) for text in texts]


def test_special_ids_decode_to_their_names_and_control_can_be_left_out() -> None:
    ids = [0, *TOKENIZER.encode("a"), TOKENIZER.id_of("</think>"), 1]
    assert TOKENIZER.decode(ids) == "<｜begin▁of▁sentence｜>a</think><｜end▁of▁sentence｜>"
    assert TOKENIZER.decode(ids, skip_control=True) == "a</think>"


def test_splits_as_deepseek_does() -> None:
    pieces = json.loads(TOKENIZER.content)["pre_tokenizer"]["pretokenizers"]
    assert [piece["type"] for piece in pieces] == ["Split", "Split", "Split", "ByteLevel"]
    texts = ["1234567", "中文 text", "don't stop.\n\n  next", "x +=1;\r\ny", "  a", "\ta", "e\u0301a"]
    expected = [
        ["123", "456", "7"],
        ["中文", " text"],
        ["don", "'t", " stop", ".\n\n", " ", " next"],
        ["x", " +=", "1", ";\r\n", "y"],
        [" ", " a"],
        ["\ta"],
        ["e\u0301a"],
    ]
    splitter = TOKENIZER._decoder.pre_tokenizer
    for text, pieces in zip(texts, expected, strict=True):
        spans = [span for _, span in splitter.pre_tokenize_str(text)]
        assert [text[start:end] for start, end in spans] == pieces


def test_training_is_deterministic_across_thread_counts() -> None:
    program = "from tests.data.test_tokenizer import TOKENIZER; print(TOKENIZER.sha256)"
    for threads in ("1", "2", "7"):
        result = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "RAYON_NUM_THREADS": threads},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.strip() == TOKENIZER.sha256


def test_save_and_load_keep_the_bytes(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.sha256 == TOKENIZER.sha256 == hashlib.sha256(again.content).hexdigest()
    assert again.encode(TEXTS[7]) == TOKENIZER.encode(TEXTS[7])
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_vocabulary_that_the_text_cannot_fill() -> None:
    with pytest.raises(UserError, match=r"supports a vocabulary of (\d+) tokens") as error:
        train(["tiny text, tiny text"], 4096)
    size = int(str(error.value).split("vocabulary of ")[1].split()[0])
    assert train(["tiny text, tiny text"], size).vocab_size == size
    with pytest.raises(UserError, match=str(SMALLEST_VOCABULARY)):
        train(TEXTS, SMALLEST_VOCABULARY - 1)


def test_bad_tokenizer_files_are_refused(tmp_path: Path) -> None:
    spec = json.loads(TOKENIZER.content)
    path = tmp_path / "tokenizer.json"
    without = {**spec, "added_tokens": spec["added_tokens"][1:]}
    without["model"] = {**spec["model"], "vocab": {k: v for k, v in spec["model"]["vocab"].items() if v}}
    for content, complaint in [
        (b"{", "not a tokenizer.json"),
        (b"{}", "not a tokenizer.json"),
        (b"\xff", "not a tokenizer.json"),
        (json.dumps({**spec, "model": {**spec["model"], "dropout": 0.1}}).encode(), "dropout"),
        (json.dumps(without).encode(), "begin▁of▁sentence"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=complaint):
            Tokenizer.load(path)
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        Tokenizer.load(tmp_path / "missing.json")
