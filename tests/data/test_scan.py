"""The first reading keeps sixteen bytes a document, and decides as if it had kept all."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.config import DataConfig
from clearseek.data import scan as module
from clearseek.data.manifest import documents_sha256
from clearseek.data.scan import Scan, scan, split_of
from clearseek.data.sources import Source, open_source


def source(*texts: str) -> Source:
    """A source whose documents are in memory."""
    rows = [(f"a:{number}", text.encode()) for number, text in enumerate(texts, 1)]
    return Source("rows", "CC0-1.0", (("a", Path("a")),), lambda name, path: iter(rows))


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=60), st.floats(0, 0.99), st.integers(1, 9))
def test_a_scan_is_what_its_definition_says(texts: list[str], fraction: float, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE", piece)
        found = Scan(source(*texts), fraction, lambda count: None)
        distinct = list(dict.fromkeys(texts))
        hashes = [hashlib.sha256(text.encode()).hexdigest() for text in distinct]
        splits = [split_of(sha256, fraction) for sha256 in hashes]
        assert found.sha256 == documents_sha256(zip(hashes, splits, strict=True))
        assert found.duplicates == len(texts) - len(distinct)
        assert found.bytes == sum(map(len, distinct))
        assert [(document.text, split) for document, split in found.again(source(*texts))] == list(
            zip(distinct, splits, strict=True)
        )
        training = sorted(
            (sha256, len(text))
            for sha256, text, split in zip(hashes, distinct, splits, strict=True)
            if split == "train"
        )
        assert found.splits()["train"] == (len(training), sum(size for _, size in training))
        for most in (1, 5, 1000):
            wanted, total = found.sample(most)
            taken, size = [], 0
            for sha256, length in training:
                if size < most:
                    taken, size = [*taken, sha256], size + length
            assert (total, [sha256 for sha256, _ in training if wanted(sha256)]) == (size, taken)


def test_sixteen_bytes_a_document_stay(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f"document {n}"}) for n in range(40_000)))
    found = open_source(DataConfig(source="jsonl", paths=("a.jsonl",)), tmp_path)
    tracemalloc.start()
    kept = Scan(found, 0.05, lambda count: None)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept.duplicates == 0
    assert held / 40_000 < 20  # 16, and an eighth that a growing array keeps in reserve


def test_one_text_is_cut_until_some_is_held_out(tmp_path: Path) -> None:
    for number in range(12):
        text = "".join(f"Sentence {number} {line} of a small text.\n" for line in range(20 * (number + 1)))
        (tmp_path / "a.txt").write_text(text)
        whole = open_source(DataConfig(source="files", paths=("a.txt",)), tmp_path)
        cut, found = scan(whole, 0.05, lambda count: None)
        held = found.splits()["heldout"][1]
        assert cut.part_bytes and 0 < held <= 0.15 * len(text)
        assert found.bytes == len(text)
        assert scan(whole, 0.05, lambda count: None)[1].sha256 == found.sha256


@pytest.mark.parametrize("size", [60, 100, 200, 400])
def test_texts_of_a_line_are_cut_too(size: int, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / "a.txt").write_text("".join(f"{number * 7919 * word % 999:x} " for word in range(size))[:size])
        whole = open_source(DataConfig(source="files", paths=("a.txt",)), tmp_path)
        _, found = scan(whole, 0.05, lambda count: None)
        assert found.splits()["heldout"][0] and found.splits()["train"][0]


def test_files_that_hold_something_out_are_left_whole(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    cut, _ = scan(open_source(DataConfig(source="files", paths=("*.txt",)), tmp_path), 0.05, lambda count: None)
    assert cut.part_bytes == 0
