"""Documents become shards by content alone, whole or not at all, and every change shows."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.config import DataConfig
from clearseek.data import shards
from clearseek.data import tokenizer as names
from clearseek.data.manifest import Manifest, Split, check_files, documents_sha256, read_documents, read_manifest
from clearseek.data.scan import split_of
from clearseek.data.shards import held_out_bytes, prepare_data, rearranged
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from tests.data.conftest import CONFIG, VOCABULARY, write_corpus


def stream(folder: Path, split: Split) -> np.ndarray:
    manifest = read_manifest(folder)
    parts = [np.fromfile(folder / name, dtype=f"<u{manifest.token_bytes}") for name in manifest.split(split).shards]
    return np.concatenate(parts)


def offsets(folder: Path, split: Split) -> list[int]:
    return np.fromfile(folder / f"{split}.offsets", dtype="<i8").tolist()


def change(**settings: Any) -> DataConfig:
    return CONFIG.model_copy(update=settings)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# What the shards hold


def test_every_document_is_bos_text_eos(corpus: Path, prepared: Path) -> None:
    tokenizer = Tokenizer.load(prepared / "tokenizer.json")
    entries = list(read_documents(prepared))
    assert sorted(entry.id for entry in entries) == sorted(path.name for path in corpus.iterdir())
    for split in shards.SPLITS:
        tokens, mine = stream(prepared, split), [entry for entry in entries if entry.split == split]
        bounds = offsets(prepared, split)
        assert len(bounds) == len(mine) + 1 and bounds[-1] == len(tokens)
        for entry, (start, end) in zip(mine, pairwise(bounds), strict=True):
            document = tokens[start:end].tolist()
            assert (document[0], document[-1], len(document)) == (0, 1, entry.tokens)
            assert tokenizer.decode(document[1:-1]).encode() == (corpus / entry.id).read_bytes()
            assert not entry.fim and entry.licence == "CC0-1.0"


def test_manifest_describes_the_folder(prepared: Path) -> None:
    manifest, entries = read_manifest(prepared), list(read_documents(prepared))
    check_files(prepared, manifest)
    assert {entry.name for entry in manifest.files} == {path.name for path in prepared.iterdir()} - {"manifest.json"}
    assert manifest.licences == {"CC0-1.0": 40}
    assert manifest.train.documents + manifest.heldout.documents == 40
    for split in shards.SPLITS:
        mine = [entry for entry in entries if entry.split == split]
        assert manifest.split(split).bytes == sum(entry.bytes for entry in mine)
        assert manifest.split(split).tokens == sum(entry.tokens for entry in mine)
    assert manifest.tokenizer_sha256 == Tokenizer.load(prepared / "tokenizer.json").sha256
    assert set(manifest.versions) == {"clearseek", "python", "tokenizers"}


def test_held_out_text_is_the_held_out_documents(corpus: Path, prepared: Path) -> None:
    held_out = [entry.id for entry in read_documents(prepared) if entry.split == "heldout"]
    assert held_out_bytes(prepared) == b"".join((corpus / name).read_bytes() for name in held_out)


def test_tokenizer_learns_from_training_documents_only(tmp_path: Path) -> None:
    write_corpus(tmp_path / "texts")
    held_out = next(path for path in sorted((tmp_path / "texts").iterdir()))
    number = 0
    while split_of(hashlib.sha256(f"{'zqzq ' * 500}{number}".encode()).hexdigest(), 0.2) == "train":
        number += 1
    held_out.write_text(f"{'zqzq ' * 500}{number}")
    prepare_data(CONFIG, VOCABULARY, tmp_path / "data", base=tmp_path / "texts")
    assert "zq" not in json.loads((tmp_path / "data" / "tokenizer.json").read_text())["model"]["vocab"]


def test_special_tokens_in_text_stay_text(tmp_path: Path) -> None:
    write_corpus(tmp_path / "texts")
    for number in range(10):
        (tmp_path / "texts" / f"x{number}.txt").write_text(f"{number} {''.join(names.SPECIAL_TOKENS)}")
    out = tmp_path / "data"
    prepare_data(CONFIG, VOCABULARY, out, base=tmp_path / "texts")
    for split in shards.SPLITS:
        tokens = stream(out, split)
        documents = len(offsets(out, split)) - 1
        assert np.count_nonzero(tokens == 0) == np.count_nonzero(tokens == 1) == documents
        assert not np.isin(tokens, range(2, len(names.SPECIAL_TOKENS))).any()


def test_duplicates_are_dropped_and_counted(tmp_path: Path, prepared: Path) -> None:
    write_corpus(tmp_path / "texts")
    for number in range(40):
        shutil.copy(tmp_path / "texts" / f"{number:03d}.txt", tmp_path / "texts" / f"z{number}.txt")
    manifest = prepare_data(CONFIG, VOCABULARY, tmp_path / "data", base=tmp_path / "texts")
    assert manifest.duplicates == 40
    assert manifest.fingerprint == read_manifest(prepared).fingerprint


def test_rearranged_documents_reassemble(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    prepare_data(change(fim_rate=0.5), VOCABULARY, out, base=corpus)
    tokenizer = Tokenizer.load(out / "tokenizer.json")
    begin, hole, end = (tokenizer.id_of(name) for name in (names.FIM_BEGIN, names.FIM_HOLE, names.FIM_END))
    entries = list(read_documents(out))
    assert not any(entry.fim for entry in entries if entry.split == "heldout")
    mine, tokens, bounds = [e for e in entries if e.split == "train"], stream(out, "train"), offsets(out, "train")
    assert 5 < sum(entry.fim for entry in mine) < len(mine) - 5
    for entry, (start, stop) in zip(mine, pairwise(bounds), strict=True):
        document = tokens[start:stop].tolist()
        if entry.fim:
            assert document[:2] == [0, begin] and document[-1] == 1
            at = document.index(hole), document.index(end)
            prefix, suffix, middle = document[2 : at[0]], document[at[0] + 1 : at[1]], document[at[1] + 1 : -1]
            text = "".join(tokenizer.decode(part) for part in (prefix, middle, suffix))
        else:
            text = tokenizer.decode(document[1:-1])
        assert text.encode() == (corpus / entry.id).read_bytes()


def test_shards_are_cut_at_the_limit(corpus: Path, prepared: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 1000)
    monkeypatch.setattr(shards, "BATCH_BYTES", 700)
    manifest = prepare_data(CONFIG, VOCABULARY, tmp_path / "data", base=corpus)
    sizes = [(tmp_path / "data" / name).stat().st_size for name in manifest.train.shards]
    assert len(sizes) > 3 and set(sizes[:-1]) == {1000} and 0 < sizes[-1] <= 1000
    assert (stream(tmp_path / "data", "train") == stream(prepared, "train")).all()
    assert manifest.fingerprint == read_manifest(prepared).fingerprint


def test_wide_vocabulary_takes_four_bytes(corpus: Path, prepared: Path, tmp_path: Path) -> None:
    config = change(tokenizer=str(prepared / "tokenizer.json"))
    manifest = prepare_data(config, 2**16 + 1, tmp_path / "data", base=corpus)
    assert manifest.token_bytes == 4
    assert (stream(tmp_path / "data", "train") == stream(prepared, "train")).all()


def test_progress_is_reported(corpus: Path, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    prepare_data(CONFIG, VOCABULARY, tmp_path / "data", lambda *report: heard.append(report), corpus)
    assert list(dict.fromkeys(stage for stage, _, _ in heard)) == ["read", "tokenizer", "tokenise"]
    assert ("read", 40, 0) in heard and heard[-1][1] == heard[-1][2] > 0


# The split and the fingerprint


@given(st.binary(min_size=32, max_size=32), st.floats(0, 1), st.floats(0, 1))
def test_split_only_grows_with_the_fraction(digest: bytes, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if split_of(digest.hex(), low) == "heldout":
        assert split_of(digest.hex(), high) == "heldout"
    assert split_of(digest.hex(), 0.0) == "train"
    assert split_of(digest.hex(), 1.0) == "heldout"


def test_split_does_not_depend_on_neighbours_or_names(tmp_path: Path, prepared: Path) -> None:
    write_corpus(tmp_path / "texts", documents=60)
    (tmp_path / "texts" / "000.txt").rename(tmp_path / "texts" / "renamed.txt")
    prepare_data(CONFIG, VOCABULARY, tmp_path / "data", base=tmp_path / "texts")
    before, after = ({e.sha256: e.split for e in read_documents(folder)} for folder in (prepared, tmp_path / "data"))
    assert before.items() <= after.items() and len(after) == 60


def test_two_runs_give_the_same_bytes(corpus: Path, prepared: Path, tmp_path: Path) -> None:
    prepare_data(CONFIG, VOCABULARY, tmp_path / "data", base=corpus)
    assert tree(tmp_path / "data") == tree(prepared)


def test_one_changed_byte_changes_the_fingerprint(tmp_path: Path, prepared: Path) -> None:
    write_corpus(tmp_path / "texts")
    for name in ("000.txt", "039.txt"):
        path = tmp_path / "texts" / name
        path.write_text(path.read_text().replace("Text", "Test"))
        out = tmp_path / name
        prepare_data(CONFIG, VOCABULARY, out, base=tmp_path / "texts")
        assert read_manifest(out).fingerprint != read_manifest(prepared).fingerprint


def test_fingerprint_follows_what_makes_the_tokens_and_nothing_else(
    corpus: Path, prepared: Path, tmp_path: Path
) -> None:
    first = read_manifest(prepared).fingerprint

    def fingerprint(name: str, vocabulary: int = VOCABULARY, **settings: Any) -> str:
        return prepare_data(change(**settings), vocabulary, tmp_path / name, base=corpus).fingerprint

    assert fingerprint("other-seed", seed=7, sequence_length=8, licence="MIT") == first
    different = [
        fingerprint("vocabulary", 310),
        fingerprint("fraction", held_out_fraction=0.5),
        fingerprint("fim", fim_rate=0.5),
        fingerprint("fim-seed", fim_rate=0.5, seed=7),
    ]
    assert len({first, *different}) == 5


def test_documents_hash_follows_order_and_split() -> None:
    one: list[tuple[str, Split]] = [("a" * 64, "train"), ("b" * 64, "heldout")]
    assert documents_sha256(iter(one)) != documents_sha256(reversed(one))
    assert documents_sha256(iter(one)) != documents_sha256(iter([("a" * 64, "heldout"), ("b" * 64, "heldout")]))


# Reuse, damage, refusal


def test_same_inputs_are_reused_and_others_refused(tmp_path: Path) -> None:
    texts, out = tmp_path / "texts", tmp_path / "data"
    write_corpus(texts)
    first = prepare_data(CONFIG, VOCABULARY, out, base=texts)
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare_data(CONFIG, VOCABULARY, out, base=texts) == first
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == times
    before = tree(out)
    with pytest.raises(UserError, match="other documents or settings"):
        prepare_data(CONFIG, VOCABULARY + 1, out, base=texts)
    (texts / "000.txt").write_text("another text")
    with pytest.raises(UserError, match="other documents or settings"):
        prepare_data(CONFIG, VOCABULARY, out, base=texts)
    assert tree(out) == before


@pytest.mark.parametrize("name", ["train-00000.bin", "heldout-00000.bin", "train.offsets", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_named(corpus: Path, prepared: Path, tmp_path: Path, name: str, damage: str) -> None:
    out = tmp_path / "data"
    shutil.copytree(prepared, out)
    raw = bytearray((out / name).read_bytes())
    raw[5] ^= 1
    if damage == "remove":
        (out / name).unlink()
    else:
        (out / name).write_bytes(raw if damage == "flip" else raw[:-2])
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        prepare_data(CONFIG, VOCABULARY, out, base=corpus)


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b'{"format": 1}', b'{"format": 99}', b"\xff", b"[" * 100_000])
def test_damaged_manifest_is_named(corpus: Path, prepared: Path, tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "data"
    shutil.copytree(prepared, out)
    (out / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json"):
        prepare_data(CONFIG, VOCABULARY, out, base=corpus)


def test_changed_held_out_text_is_named(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    shutil.copytree(prepared, out)
    (out / "heldout.txt").write_bytes(b"other")
    with pytest.raises(UserError, match=r"heldout\.txt"):
        held_out_bytes(out)


def test_out_that_holds_something_else_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("data", "file"):
        with pytest.raises(UserError, match=name):
            prepare_data(CONFIG, VOCABULARY, tmp_path / name, base=corpus)
    assert (tmp_path / "data" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_bad_input_writes_nothing(tmp_path: Path) -> None:
    write_corpus(tmp_path / "texts")
    (tmp_path / "texts" / "999.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"999\.txt"):
        prepare_data(CONFIG, VOCABULARY, tmp_path / "data", base=tmp_path / "texts")
    (tmp_path / "texts" / "999.txt").unlink()
    with pytest.raises(UserError, match="vocab_size"):
        prepare_data(CONFIG, 9, tmp_path / "data", base=tmp_path / "texts")
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_full_disk_leaves_nothing(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards._Writer, "flush", full)
    with pytest.raises(UserError, match="disk is full"):
        prepare_data(CONFIG, VOCABULARY, tmp_path / "data", base=corpus)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["tokenizer", "tokenise"])
def test_text_that_changes_meanwhile_is_refused(tmp_path: Path, when: str) -> None:
    write_corpus(tmp_path / "texts")
    (tmp_path / "texts" / "copy.txt").write_text("unlike the others")

    def meddle(stage: str, done: int, total: int) -> None:
        if stage == ("read" if when == "tokenizer" else "tokenizer") and done >= min(total or 41, 41):
            (tmp_path / "texts" / "039.txt").write_text("changed")

    with pytest.raises(UserError, match=r"039\.txt: changed while"):
        prepare_data(CONFIG, VOCABULARY, tmp_path / "data", meddle, tmp_path / "texts")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_empty_half_is_refused(corpus: Path, tmp_path: Path, fraction: float) -> None:
    rows = [json.dumps({"text": path.read_text(encoding="utf-8")}) for path in sorted(corpus.iterdir())]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    config = change(source="jsonl", paths=("a.jsonl",))
    with pytest.raises(UserError, match="held_out_fraction") as refusal:
        prepare_data(
            config.model_copy(update={"held_out_fraction": fraction}), VOCABULARY, tmp_path / "d", base=tmp_path
        )
    named = re.search(r"([\d.]+) is the smallest that works; 0 holds out none", str(refusal.value))
    assert named
    smallest = config.model_copy(update={"held_out_fraction": float(named[1])})
    manifest = prepare_data(smallest, VOCABULARY, tmp_path / "data", base=tmp_path)
    assert manifest.heldout.documents > 0
    less = config.model_copy(update={"held_out_fraction": float(named[1]) - 0.001})
    with pytest.raises(UserError, match="is the smallest that works"):
        prepare_data(less, VOCABULARY, tmp_path / "less", base=tmp_path)


def test_text_too_poor_for_the_vocabulary_is_said(corpus: Path, tmp_path: Path) -> None:
    manifest = prepare_data(CONFIG, 9999, tmp_path / "data", base=corpus)
    tokenizer = Tokenizer.load(tmp_path / "data" / "tokenizer.json")
    assert 320 < tokenizer.vocab_size == manifest.remarks.vocabulary < 9999
    assert f"{tokenizer.vocab_size:,} tokens" in manifest.remarks.lines()[-1]


def test_nothing_held_out_when_asked(corpus: Path, tmp_path: Path) -> None:
    manifest = prepare_data(change(held_out_fraction=0.0), VOCABULARY, tmp_path / "data", base=corpus)
    assert (manifest.heldout.documents, manifest.heldout.shards) == (0, ())
    assert held_out_bytes(tmp_path / "data") == b""


def test_given_tokenizer_must_fit(corpus: Path, prepared: Path, tmp_path: Path) -> None:
    path = str(prepared / "tokenizer.json")
    with pytest.raises(UserError, match="vocab_size = 300"):
        prepare_data(change(tokenizer=path), 300, tmp_path / "data", base=corpus)
    spec = json.loads(Path(path).read_text())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if "fim" not in token["content"]]
    vocabulary = spec["model"]["vocab"]
    spec["model"]["vocab"] = {token: number for token, number in vocabulary.items() if "fim" not in token}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    config = change(tokenizer=str(tmp_path / "tokenizer.json"), fim_rate=0.1)
    with pytest.raises(UserError, match="fim"):
        prepare_data(config, VOCABULARY, tmp_path / "data", base=corpus)
    manifest: Manifest = prepare_data(config.model_copy(update={"fim_rate": 0.0}), 400, tmp_path / "data", base=corpus)
    assert manifest.vocab_size == 400


@given(st.text(), st.integers(0, 2**63))
def test_rearranged_pieces_reassemble(text: str, seed: int) -> None:
    pieces = rearranged(text, hashlib.sha256(text.encode()).hexdigest(), 1.0, seed)
    assert pieces is not None
    assert "".join(pieces) == text


@given(st.text(), st.integers(0, 2**63))
def test_fim_rate_zero_leaves_everything(text: str, seed: int) -> None:
    assert rearranged(text, hashlib.sha256(text.encode()).hexdigest(), 0.0, seed) is None


def test_fim_rate_places_and_seed() -> None:
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(4000)]
    chosen = {seed: [rearranged("x" * 99, sha256, 0.1, seed) for sha256 in hashes] for seed in (0, 1)}
    assert 340 < sum(cut is not None for cut in chosen[0]) < 460  # 400 +- 3 standard deviations
    assert chosen[0] != chosen[1]
    everywhere = [rearranged("x" * 99, sha256, 1.0, 0) or ("", "", "") for sha256 in hashes]
    for piece in range(3):  # two uniform places: each piece is a third on average
        assert 31 < sum(len(cut[piece]) for cut in everywhere) / len(hashes) < 35
    assert {len(cut[0]) for cut in everywhere} >= {0, 1, 50}


def test_every_place_of_a_document_can_be_cut() -> None:
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(300)]
    cuts = {rearranged("ab", sha256, 1.0, 0) for sha256 in hashes}
    places = ("", "a", "ab")
    assert cuts == {
        (start, end.removeprefix(start), "ab"[len(end) :]) for start in places for end in places if end >= start
    }
