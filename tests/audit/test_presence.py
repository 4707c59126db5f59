"""Whether a file is what its name says: any bytes get an answer, and honest forms are not turned away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.audit.evidence import Grade
from clearseek.audit.presence import Kind, different_words, fault, sift
from clearseek.audit.questions import DOCUMENTS_REPORT
from clearseek.errors import UserError
from clearseek.filetypes import read_pointer
from clearseek.reading.listing import listing
from clearseek.reading.source import Folder

ENDINGS = ("md", "pdf", "json", "jsonl", "npy", "bin", "parquet", "csv", "json.gz", "model", "")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
)
KEYS = st.sampled_from(["files", "shards", "distribution", "train", "splits", "name", "bytes", "token_bytes", "tokens"])


def folder(root: Path, name: str, content: bytes) -> Folder:
    (root / name).parent.mkdir(exist_ok=True, parents=True)
    (root / name).write_bytes(content)
    return Folder(root)


@given(st.sampled_from(get_args(Kind)), st.sampled_from(ENDINGS), st.binary(max_size=400))
def test_any_bytes_get_an_answer(tmp_path_factory: pytest.TempPathFactory, kind: Kind, ending: str, raw: bytes) -> None:
    name = f"x.{ending}"
    source = folder(tmp_path_factory.mktemp("release"), name, raw)
    try:
        why = fault(source, name, kind)
    except UserError:
        assert raw.startswith(b"version https://git-lfs")
        return
    assert why or raw
    found = sift(source, [name], kind)
    assert (found.real, bool(found.hollow)) == ([] if why else [name], bool(why))


@given(st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=4), max_size=5))
def test_any_manifest_gets_an_answer(tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]) -> None:
    found = listing(folder(tmp_path_factory.mktemp("release"), "data/manifest.json", json.dumps(content).encode()))
    assert found is None or not found.counted or found.problem


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("tokens.npy", np.arange(500, dtype="<u2").tobytes(), "data"),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "' + b"a" * 200_000 + b'"}\n', "data"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd" + bytes(200), "data"),
        ("vocab.json", json.dumps({str(number): number for number in range(300)}).encode(), "tokenizer"),
        ("spiece.model", bytes(2000), "tokenizer"),
        ("r.txt", b"accuracy of everything: 0.5\n", "results"),
    ],
)
def test_honest_forms_are_what_they_are_called(tmp_path: Path, name: str, content: bytes, kind: Kind) -> None:
    assert fault(folder(tmp_path, name, content), name, kind) == ""


def test_words_of_other_scripts_count() -> None:
    assert different_words("模型训练数据 model Model") == 7
    assert different_words("# 1 2 _ |") == 0


def test_a_pointer_is_not_judged(tmp_path: Path) -> None:
    source = folder(tmp_path, "a.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match="not here"):
        fault(source, "a.bin", "data")
    assert sift(source, ["a.bin"], "data").unread


def test_a_pointer_names_size_and_hash(tmp_path: Path) -> None:
    text = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 2000000\n"
    source = folder(tmp_path, "report.pdf", text)
    pointer = source.pointer("report.pdf")
    assert pointer is not None and (pointer.size, pointer.sha256) == (2_000_000, "a" * 64)
    assert source.stored_size("report.pdf") == 2_000_000
    assert not source.is_other("report.pdf", "a" * 64) and source.is_other("report.pdf", "b" * 64)
    row = sift(source, ["report.pdf"], "report").missing(source, DOCUMENTS_REPORT, "nothing")
    assert (row.answer, row.grade) == ("yes", Grade.LINKED) and "2,000,000 bytes" in row.reason


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (b"../../.git/annex/objects/a/b/SHA256E-s7--" + b"c" * 64 + b".bin\n", 7),
        (b"/annex/objects/MD5-s9--0", 0),
        (b"version https://git-lfs.github.com/spec/v2\nsize 5\n", 5),
        (b"See /annex/objects/x for more.", None),
        (b"version 2 of the text", None),
    ],
)
def test_what_a_pointer_is(text: bytes, size: int | None) -> None:
    found = read_pointer(text)
    assert (None if found is None else found.size) == size
