"""Packs: every conversation once, whole and alone, in few rows, whatever the order of lines."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.config import DataConfig, SftConfig
from clearseek.data.decode import check_documents
from clearseek.data.loader import CONTEXT, LEARNT, PADDING, Loader, PackLoader, Rows
from clearseek.data.manifest import PackedEntry, check_files, read_documents, read_manifest
from clearseek.data.packs import Example, best_fit, content_of, prepare_packs
from clearseek.data.tokenizer import EOS, PAD, Tokenizer
from clearseek.errors import UserError
from tests.data.conftest import VOCABULARY

LENGTH = 24


@pytest.fixture(scope="module")
def tokenizer(prepared: Path) -> Tokenizer:
    return Tokenizer.load(prepared / "tokenizer.json")


def config(**changed: Any) -> DataConfig:
    return DataConfig(**{"source": "jsonl", "paths": ("a.jsonl",), "sequence_length": LENGTH} | changed)


def pack(
    examples: Sequence[Example], tokenizer: Tokenizer, out: Path, lookahead: int = 2, too_long: Any = "refuse",
    **changed: Any,
) -> Path:  # fmt: skip
    prepare_packs(
        examples, tokenizer, config(**changed), SftConfig(too_long=too_long), lookahead, VOCABULARY, out, source="jsonl"
    )
    return out


def examples_of(lengths: Sequence[int], seed: int = 0) -> list[Example]:
    """Different conversations of these lengths; the last token of each is learnt, and some others."""
    draw = np.random.default_rng(seed)
    found = []
    for number, length in enumerate(lengths):
        ids = draw.integers(17, VOCABULARY, length).tolist()
        ids[: min(2, length)] = [number % 200 + 17, number // 200 + 17][:length]
        written = (draw.random(length) < 0.4).tolist()
        found.append(Example(f"a.jsonl:{number + 1}", ids, [*written[:-1], True], "jsonl", "MIT"))
    return found


def all_rows(folder: Path, split: Any, lookahead: int = 2) -> Rows:
    loader = PackLoader(folder, split, LENGTH, 1, 0, lookahead)
    return loader.rows(np.arange(loader.windows_per_epoch))


# Best fit decreasing


def naive(sizes: Sequence[int], room: int) -> list[list[int]]:
    rows: list[list[int]] = []
    for index, size in enumerate(sizes):
        left = [room - sum(sizes[i] for i in row) for row in rows]
        fitting = [(each, -number) for number, each in enumerate(left) if each >= size]
        if fitting:
            rows[-min(fitting)[1]].append(index)
        else:
            rows.append([index])
    return rows


def fewest(sizes: Sequence[int], room: int) -> int:
    """The fewest rows, by trying: of every subset, rows and how full the last one is."""
    best = {0: (1, 0)}
    for subset in range(1, 1 << len(sizes)):
        options = []
        for index, size in enumerate(sizes):
            if subset >> index & 1:
                rows, full = best[subset & ~(1 << index)]
                options.append((rows, full + size) if full + size <= room else (rows + 1, size))
        best[subset] = min(options)
    return best[(1 << len(sizes)) - 1][0] if sizes else 0


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(0, 30))
def test_rows_are_those_of_the_naive_algorithm(sizes: list[int], more: int) -> None:
    sizes = sorted(sizes, reverse=True)
    room = max(sizes, default=1) + more
    found = best_fit(sizes, room)
    assert sorted(itertools.chain(*found)) == list(range(len(sizes)))
    loads = sorted(sum(sizes[i] for i in row) for row in found)
    assert all(load <= room for load in loads)
    assert loads == sorted(sum(sizes[i] for i in row) for row in naive(sizes, room))


@given(st.lists(st.integers(1, 20), max_size=9), st.integers(0, 12))
@settings(max_examples=60)
def test_rows_are_at_most_eleven_ninths_of_the_fewest(sizes: list[int], more: int) -> None:
    sizes = sorted(sizes, reverse=True)
    room = max(sizes, default=1) + more
    assert len(best_fit(sizes, room)) <= 11 / 9 * fewest(sizes, room) + 6 / 9


def test_short_conversations_leave_little_padding() -> None:
    sizes = sorted(np.random.default_rng(0).integers(20, 300, 3000).tolist(), reverse=True)
    rows = best_fit(sizes, 513)
    assert 1 - sum(sizes) / (len(rows) * 513) <= 0.03


# Rows


@given(
    st.lists(st.integers(2, LENGTH + 1), min_size=1, max_size=40), st.sampled_from([1, 2]), st.sampled_from([0.0, 0.3])
)
@settings(max_examples=25, deadline=None)
def test_every_conversation_stands_once_whole_and_alone(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, lengths: list[int], lookahead: int, share: float
) -> None:
    out = tmp_path_factory.mktemp("packs") / "data"
    given_examples = examples_of(lengths)
    try:
        pack(given_examples, tokenizer, out, lookahead, held_out_fraction=share)
    except UserError as error:
        assert share and "held_out_fraction" in str(error)
        return
    seen = []
    by_id = {example.id: example for example in given_examples}
    listed = [entry for entry in read_documents(out) if isinstance(entry, PackedEntry)]
    for split in ("train", "heldout") if share else ("train",):
        rows = all_rows(out, split, lookahead)
        assert rows.tokens_BX.shape[1] == LENGTH + lookahead
        covered = np.zeros(rows.tokens_BX.shape, dtype=int)
        for entry in (entry for entry in listed if entry.split == split):
            here = entry.row, slice(entry.first, entry.first + entry.tokens)
            example = by_id[entry.id]
            assert rows.tokens_BX[here].tolist() == example.ids and here[1].stop <= LENGTH + 1
            assert (rows.mask_BX[here] == LEARNT).tolist() == [False, *example.written[1:]]
            assert set(rows.mask_BX[here].tolist()) <= {CONTEXT, LEARNT}
            assert set(rows.start_BX[here].tolist()) == {entry.first}
            covered[here] += 1
            seen.append(entry.id)
        assert covered.max() == 1
        rest = covered == 0
        assert (rows.mask_BX[rest] == PADDING).all() and (rows.tokens_BX[rest] == tokenizer.id_of(PAD)).all()
        assert (rows.start_BX[rest] == np.repeat(covered.sum(1), rest.sum(1))).all(), "padding is its own document"
    assert sorted(seen) == sorted(by_id)
    assert check_documents(out) == len(lengths)


def test_order_and_names_of_lines_change_no_token(tokenizer: Tokenizer, tmp_path: Path) -> None:
    examples = examples_of([5, 9, 25, 3, 3, 12, 7, 20] * 5)
    pack(examples, tokenizer, tmp_path / "a", held_out_fraction=0.2)
    other = [each._replace(id=f"b:{number}") for number, each in enumerate(reversed(examples))]
    pack([*other, *other[:7]], tokenizer, tmp_path / "b", held_out_fraction=0.2)
    first, second = read_manifest(tmp_path / "a"), read_manifest(tmp_path / "b")
    assert first.fingerprint == second.fingerprint and (first.duplicates, second.duplicates) == (0, 7)
    for name in [path.name for path in (tmp_path / "a").iterdir() if path.suffix in (".bin", ".mask", ".starts")]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_is_learnt_is_part_of_the_fingerprint(tokenizer: Tokenizer, tmp_path: Path) -> None:
    first, *rest = examples_of([5, 9, 12])
    examples = [first._replace(written=[False, True, False, True, True]), *rest]
    changed = [first._replace(written=[False, True, False, False, True]), *rest]
    prints = []
    for number, (given_examples, length) in enumerate([(examples, 24), (changed, 24), (examples, 25)]):
        out = pack(given_examples, tokenizer, tmp_path / str(number), sequence_length=length, held_out_fraction=0.0)
        prints.append(read_manifest(out).fingerprint)
    assert len(set(prints)) == 3


def test_the_same_folder_is_used_again_and_another_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    out = pack(examples_of([5, 9]), tokenizer, tmp_path / "data", held_out_fraction=0.0)
    before = (out / "manifest.json").stat().st_mtime_ns
    pack(examples_of([5, 9]), tokenizer, out, held_out_fraction=0.0)
    assert (out / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other documents or settings"):
        pack(examples_of([5, 9, 4]), tokenizer, out, held_out_fraction=0.0)


@pytest.mark.parametrize(("too_long", "kept", "cropped", "left_out"), [("skip", 2, 0, 2), ("crop", 3, 1, 1)])
def test_long_conversations_are_counted(
    tokenizer: Tokenizer, tmp_path: Path, too_long: str, kept: int, cropped: int, left_out: int
) -> None:
    examples = examples_of([5, 25, 30, 40])
    examples[2] = examples[2]._replace(written=[True] * 30)
    examples[3] = examples[3]._replace(written=[False] * 39 + [True])  # its answer would be cut away
    with pytest.raises(UserError, match=r"a\.jsonl:3: 30 tokens, and data.sequence_length = 24 takes 25"):
        pack(examples, tokenizer, tmp_path / "refused", held_out_fraction=0.0)
    out = pack(examples, tokenizer, tmp_path / "data", too_long=too_long, held_out_fraction=0.0)
    manifest = read_manifest(out)
    assert manifest.packs is not None and manifest.train.documents == kept
    assert (manifest.packs.cropped, manifest.packs.too_long, manifest.packs.longest) == (cropped, left_out, 40)
    assert f"{left_out} too long" in " ".join(manifest.pack_lines())
    assert check_documents(out) == kept
    rows, by_id = all_rows(out, "train", 2), {example.id: example for example in examples}
    for entry in (each for each in read_documents(out) if isinstance(each, PackedEntry)):
        here, example = (entry.row, slice(entry.first, entry.first + entry.tokens)), by_id[entry.id]
        assert rows.tokens_BX[here].tolist() == example.ids[:25], "the beginning is kept"
        assert (rows.mask_BX[here] == LEARNT).tolist() == [False, *example.written[1:25]]


def test_a_conversation_without_anything_to_learn_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    nothing = Example("a.jsonl:7", [5, 6, 7], [True, False, False], "jsonl", "MIT")
    with pytest.raises(UserError, match=r"a\.jsonl:7: no token to learn"):
        pack([nothing], tokenizer, tmp_path / "data")
    with pytest.raises(UserError, match="no conversations"):
        pack([], tokenizer, tmp_path / "data")
    with pytest.raises(UserError, match=r"leaves 2 for training and 0 held out.*0\.\d+ is the smallest that works"):
        pack(examples_of([5, 9]), tokenizer, tmp_path / "data", held_out_fraction=1e-9)


def test_the_hash_is_that_of_the_text_for_every_tokenizer(tokenizer: Tokenizer) -> None:
    """Ids differ with the merges, and the hash does not."""
    end = tokenizer.id_of(EOS)
    merged = tokenizer.encode("the loader reads")
    single = [id for letter in "the loader reads" for id in tokenizer.encode(letter)]
    assert merged != single
    hashes = [content_of([*ids, end], [False] + [True] * len(ids), tokenizer) for ids in (merged, single)]
    assert hashes[0][1] == hashes[1][1] == 16
    written = [content_of([*ids, end], [True] * (len(ids) + 1), tokenizer) for ids in (merged, single)]
    assert written[0] == written[1] != hashes[0]
    spelled = tokenizer.encode("the loader reads" + EOS)
    assert content_of(spelled, [True] * len(spelled), tokenizer) != written[0]


# The loader


def test_each_epoch_visits_every_row_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    out = pack(examples_of([13 + n % 12 for n in range(30)]), tokenizer, tmp_path / "data", held_out_fraction=0.0)
    loader = PackLoader(out, "train", LENGTH, 6, 0, 2)
    epochs = [np.concatenate([loader.windows(5 * epoch + step) for step in range(5)]) for epoch in range(2)]
    assert all(sorted(epoch.tolist()) == list(range(30)) for epoch in epochs) and not (epochs[0] == epochs[1]).all()
    tokens = loader.rows(loader.windows(3)).tokens_BX
    assert (tokens == loader.batch(3)).all() and (tokens == Loader(out, "train", LENGTH, 6, 0, 2).batch(3)).all()
    names = loader.documents(3)
    rows = {entry.id: entry.row for entry in read_documents(out) if isinstance(entry, PackedEntry)}
    assert [rows[name] for name in names] == loader.windows(3).tolist()


def test_rows_of_another_length_are_refused(tokenizer: Tokenizer, tmp_path: Path, prepared: Path) -> None:
    out = pack(examples_of([5, 9]), tokenizer, tmp_path / "data", lookahead=2, held_out_fraction=0.0)
    for length, lookahead in ((LENGTH, 1), (LENGTH + 1, 1), (LENGTH - 1, 2)):
        with pytest.raises(UserError, match=r"rows of 24 \+ 2 tokens"):
            PackLoader(out, "train", length, 1, 0, lookahead)
    with pytest.raises(UserError, match="not packed conversations"):
        PackLoader(prepared, "train", 16, 1, 0, 1)


# A stranger's folder


def rewritten(out: Path, name: str, content: bytes) -> None:
    """Change a file, and the manifest with it."""
    from clearseek.files import sha256_bytes

    (out / name).write_bytes(content)
    manifest = json.loads((out / "manifest.json").read_bytes())
    entry = next(entry for entry in manifest["files"] if entry["name"] == name)
    entry |= {"bytes": len(content), "sha256": sha256_bytes(content)}
    (out / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "at", "problem"),
    [
        ("train-00000.bin", 4, "belong to another conversation"),
        ("train-00000.mask", 1, "masks have"),
        ("train-00000.starts", 2, "masks or starts"),
    ],
)
def test_one_changed_number_is_found(tokenizer: Tokenizer, tmp_path: Path, name: str, at: int, problem: str) -> None:
    out = pack(examples_of([25, 25, 25]), tokenizer, tmp_path / "data", held_out_fraction=0.0)
    content = bytearray((out / name).read_bytes())
    content[at] ^= 1
    (changed := tmp_path / "changed").mkdir()
    shutil.copytree(out, changed, dirs_exist_ok=True)
    (changed / name).write_bytes(content)
    with pytest.raises(UserError, match="changed"):
        check_files(changed, read_manifest(changed))
    rewritten(changed, name, bytes(content))
    check_files(changed, read_manifest(changed))
    with pytest.raises(UserError, match=problem):
        check_documents(changed)


def test_a_start_after_its_token_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    out = pack(examples_of([25]), tokenizer, tmp_path / "data", held_out_fraction=0.0)
    starts = np.fromfile(out / "train-00000.starts", dtype="<u2")
    starts[3] = 9
    rewritten(out, "train-00000.starts", starts.tobytes())
    with pytest.raises(UserError, match="not those of packs"):
        all_rows(out, "train")
