"""The tokenizer is exact, deterministic, and never makes a special token from text."""
# ruff: noqa: RUF001 - full-width bars are meant

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.config import DataConfig
from clearseek.data import tokenizer as module
from clearseek.data.sources import open_source
from clearseek.data.tokenizer import EOS, SMALLEST_VOCABULARY, SPECIAL_TOKENS, Tokenizer, train
from clearseek.errors import UserError

TEXTS = [f"def function_{n}(x):\n    return x + {n * 37}  # the {n}th function\n\n" for n in range(300)]
TOKENIZER = train(TEXTS, 400)
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 7\n".encode()
BEFORE = "e10d17aafdc0508926da2e3bedfbd8dd3424b8f5305e8e77d014f3949ce316f7"
"""Vocabulary of a text of words, trained when pieces were never cut."""
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


def test_only_marked_texts_have_special_tokens() -> None:
    text, tokenizer = f"a{EOS}b<｜User｜>", TOKENIZER
    a, b = tokenizer.encode("a"), tokenizer.encode("b")
    assert tokenizer.encode_marked([text, ""]) == [[*a, tokenizer.eos_id, *b, tokenizer.id_of("<｜User｜>")], []]
    assert tokenizer.eos_id not in tokenizer.encode(text)


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
    most = train(["tiny text, tiny text"], 4096)
    assert SMALLEST_VOCABULARY < most.vocab_size < 4096
    assert train(["tiny text, tiny text"], most.vocab_size).sha256 == most.sha256
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
    with pytest.raises(UserError, match="cannot read"):
        Tokenizer.load(tmp_path / "missing.json")
    for content, kind in [(b"\xef\xbb\xbf" + TOKENIZER.content, None), (b"\x1f\x8b\x08\0", "gzip"), (POINTER, "LFS")]:
        path.write_bytes(content)
        if kind is None:
            assert Tokenizer.load(path).sha256 == TOKENIZER.sha256
        else:
            with pytest.raises(UserError, match=f"tokenizer.json: this is .*{kind}"):
                Tokenizer.load(path)


# Pieces without end


def cut_in_training(text: str) -> float:
    """CPU seconds that a vocabulary of this text takes."""
    started = time.process_time()
    train([text], 512)
    return time.process_time() - started


@pytest.mark.parametrize("kind", ["chinese", "dna", "base64", "spaces"])
def test_pieces_without_end_are_learnt_from_quickly(kind: str) -> None:
    """200,000 characters without a place to cut: hours, if pieces were left whole."""
    draw = random.Random(0)
    texts = {
        "chinese": lambda: "".join(chr(0x4E00 + int(draw.paretovariate(0.7)) % 5000) for _ in range(200_000)),
        "dna": lambda: "".join(draw.choices("ACGT", k=200_000)),
        "base64": lambda: base64.b64encode(draw.randbytes(150_000)).decode(),
        "spaces": lambda: " " * 200_000 + "x",
    }
    text = texts[kind]()
    assert cut_in_training(text) < 20
    tokenizer = train([text], 300)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert b"256" not in tokenizer.content.split(b'"pre_tokenizer"')[1].split(b'"post_processor"')[0]


def test_cutting_for_training_changes_no_vocabulary_of_words() -> None:
    """The hash of a vocabulary trained before pieces were cut."""
    words = random.Random(5).choices([f"word{number}" for number in range(500)], k=20_000)
    assert train([" ".join(words)], 700).sha256 == BEFORE


@pytest.mark.slow
def test_cutting_for_training_changes_no_vocabulary_of_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [document.text for document in open_source(DataConfig(), Path("/")).documents()]
    cut = train(texts, 2048).sha256
    monkeypatch.setattr(module, "LONGEST_LEARNT", 90_000)
    assert train(texts, 2048).sha256 == cut


def test_ctrl_c_is_heard_while_a_vocabulary_is_trained() -> None:
    program = (
        "import random, signal; from clearseek.data import tokenizer\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "tokenizer.LONGEST_LEARNT = 90_000\n"
        "text = 'x' + ''.join(random.Random(0).choices('ACGT', k=2_000_000))\n"
        "print('ready', flush=True)\n"
        "tokenizer.train([text], 4096)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert errors.rstrip().endswith(b"KeyboardInterrupt"), errors


def test_what_fails_in_the_texts_is_raised() -> None:
    def texts() -> Iterator[str]:
        yield "one text"
        raise UserError("the next one changed")

    with pytest.raises(UserError, match="the next one changed"):
        train(texts(), 300)
