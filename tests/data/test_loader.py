"""The loader is a function: every window once an epoch, every token reachable, no state."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.data import shards
from clearseek.data.loader import Loader, Permutation, Stream
from clearseek.data.manifest import read_documents, read_manifest
from clearseek.data.shards import prepare_data
from clearseek.errors import UserError
from tests.data.conftest import CONFIG, VOCABULARY

S = 16


def whole(folder: Path, split: Any = "train") -> np.ndarray:
    stream = Stream(folder, split)
    out = np.empty(len(stream), dtype=np.int64)
    stream.read(0, out)
    return out


# The permutation


@given(st.integers(1, 3000), st.text())
def test_permutation_visits_everything_once(n: int, key: str) -> None:
    values = Permutation(n, key)(np.arange(n))
    assert sorted(values.tolist()) == list(range(n))


@given(st.integers(1, 2**62), st.text(), st.data())
def test_permutation_of_any_size_stays_inside_without_collisions(n: int, key: str, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1, max_size=50))
    values = Permutation(n, key)(np.array(positions)).tolist()
    assert all(0 <= value < n for value in values) and len(set(values)) == len(positions)


def test_permutation_depends_on_the_key_and_not_on_company() -> None:
    order = Permutation(1000, "a")(np.arange(1000))
    assert (Permutation(1000, "a")(np.array([7, 999])) == order[[7, 999]]).all()
    other = Permutation(1000, "b")(np.arange(1000))
    assert np.count_nonzero(order == other) < 10


def test_permutation_mixes() -> None:
    """Neighbours end up apart, and every position is as likely to come early: chi-square over many keys."""
    n, keys = 64, 4000
    firsts = np.array([Permutation(n, str(key))(np.array([0, 1])) for key in range(keys)])
    counts = np.bincount(firsts[:, 0], minlength=n)
    assert ((counts - keys / n) ** 2 / (keys / n)).sum() < 120  # 63 degrees of freedom: 120 is beyond one in 10^5
    steps = np.bincount((firsts[:, 1] - firsts[:, 0]) % n, minlength=n)[1:]
    assert ((steps - keys / (n - 1)) ** 2 / (keys / (n - 1))).sum() < 120


# Batches


@pytest.mark.parametrize("lookahead", [1, 2, 3])
def test_an_epoch_covers_every_token_once(prepared: Path, lookahead: int) -> None:
    tokens = whole(prepared)
    loader = Loader(prepared, "train", S, 1, 3, lookahead)
    n = loader.windows_per_epoch
    assert n == (len(tokens) - lookahead) // S
    seen = {}
    for step in range(n):
        batch = loader.batch(step)
        assert batch.shape == (1, S + lookahead) and batch.dtype == np.int64
        seen[int(loader.windows(step)[0])] = batch[0]
    assert sorted(seen) == list(range(n))
    assert (np.concatenate([seen[window][:S] for window in range(n)]) == tokens[: n * S]).all()
    assert len(tokens) - n * S < S + lookahead  # what an epoch leaves out
    for window, row in seen.items():
        assert (row == tokens[window * S : window * S + S + lookahead]).all()


def test_batch_is_a_pure_function_of_the_step(prepared: Path) -> None:
    loader, other = Loader(prepared, "train", S, 5, 3), Loader(prepared, "train", S, 5, 3)
    forward = [loader.batch(step) for step in range(60)]
    for step in reversed(range(60)):
        assert (other.batch(step) == forward[step]).all()


def test_batch_size_does_not_change_the_order(prepared: Path) -> None:
    one, many = Loader(prepared, "train", S, 1, 3), Loader(prepared, "train", S, 7, 3)
    rows = np.concatenate([one.batch(step) for step in range(70)])
    assert (np.concatenate([many.batch(step) for step in range(10)]) == rows).all()


def test_batches_straddle_epochs_each_with_its_own_order(prepared: Path) -> None:
    n = Loader(prepared, "train", S, 1, 3).windows_per_epoch
    size = n // 2 + 3
    loader = Loader(prepared, "train", S, size, 3)
    windows = np.concatenate([loader.windows(step) for step in range(6)])[: 2 * n]
    assert sorted(windows[:n]) == sorted(windows[n:]) == list(range(n))
    assert (windows[:n] != windows[n:]).any()
    huge = Loader(prepared, "train", S, 3 * n, 3).windows(0)
    assert np.bincount(huge, minlength=n).tolist() == [3] * n


def test_seed_and_fingerprint_choose_the_order(prepared: Path, tmp_path: Path) -> None:
    first = Loader(prepared, "train", S, 32, 3).windows(0)
    assert (Loader(prepared, "train", S, 32, 4).windows(0) != first).any()
    shutil.copytree(prepared, tmp_path / "data")
    manifest = (tmp_path / "data" / "manifest.json").read_text(encoding="utf-8")
    fingerprint = read_manifest(prepared).fingerprint
    (tmp_path / "data" / "manifest.json").write_text(manifest.replace(fingerprint, "0" * 64), encoding="utf-8")
    assert (Loader(tmp_path / "data", "train", S, 32, 3).windows(0) != first).any()


def test_shard_boundaries_do_not_show(corpus: Path, prepared: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 26)  # 13 tokens: fewer than a window
    prepare_data(CONFIG, VOCABULARY, tmp_path / "data", base=corpus)
    one, many = Loader(prepared, "train", S, 8, 3, 2), Loader(tmp_path / "data", "train", S, 8, 3, 2)
    for step in range(20):
        assert (one.batch(step) == many.batch(step)).all()


def test_tokens_of_four_bytes_are_read_as_they_are_written(corpus: Path, tmp_path: Path) -> None:
    manifest = prepare_data(CONFIG, 2**16 + 1, tmp_path / "data", base=corpus)
    written = np.fromfile(tmp_path / "data" / "train-00000.bin", dtype="<u4")
    assert manifest.token_bytes == 4 and len(written) == manifest.train.tokens
    assert (whole(tmp_path / "data") == written).all()


def test_only_the_rows_asked_for_are_read(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader(prepared, "train", S, 8, 3)
    whole_batch, read = loader.batch(4), []
    original = Stream.read
    monkeypatch.setattr(Stream, "read", lambda self, start, out: read.append(start) or original(self, start, out))
    for rows in (range(8), range(2, 6), range(7, 8), range(0)):
        read.clear()
        assert (loader.batch(4, rows) == whole_batch[rows.start : rows.stop]).all()
        assert [start // S for start in read] == loader.windows(4)[rows.start : rows.stop].tolist()


def test_an_id_outside_the_vocabulary_is_refused(prepared: Path, tmp_path: Path) -> None:
    """Shards may be a stranger's, and a table of embeddings is read at any place that an id says."""
    out = Path(shutil.copytree(prepared, tmp_path / "data"))
    loader = Loader(out, "train", S, 4, 3)
    raw = np.fromfile(out / "train-00000.bin", dtype="<u2")
    raw[:] = VOCABULARY
    raw.tofile(out / "train-00000.bin")
    with pytest.raises(UserError, match=rf"the train tokens of step 6 hold the id {VOCABULARY}, .* ends at"):
        loader.batch(5)


def test_documents_name_where_the_tokens_come_from(prepared: Path) -> None:
    bounds = np.fromfile(prepared / "train.offsets", dtype="<i8")
    names = [entry.id for entry in read_documents(prepared) if entry.split == "train"]
    owners = np.repeat(np.arange(len(names)), np.diff(bounds))
    last_of_one = False
    for length in range(5, 40):
        loader = Loader(prepared, "train", length, 4, 3)
        for step in range(10):
            expected: dict[str, None] = {}
            for window in loader.windows(step).tolist():
                end = window * length + length + 1
                last_of_one |= end in bounds[:-1]
                expected |= dict.fromkeys(names[i] for i in owners[window * length : end])
            assert loader.documents(step) == list(expected)
    assert last_of_one  # a window that ends where a document does has nothing of the next


def test_too_little_data_is_refused(prepared: Path) -> None:
    tokens = len(whole(prepared))
    assert Loader(prepared, "train", tokens - 1, 2, 0).windows_per_epoch == 1
    with pytest.raises(UserError, match="fewer than one sequence"):
        Loader(prepared, "train", tokens, 2, 0)


def test_changed_shard_is_named(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    shutil.copytree(prepared, out)
    loader = Loader(out, "train", S, 4, 3)
    loader.check_hashes()
    raw = bytearray((out / "train-00000.bin").read_bytes())
    raw[100] ^= 1
    (out / "train-00000.bin").write_bytes(raw)
    with pytest.raises(UserError, match=r"train-00000\.bin: changed shard"):
        Loader(out, "train", S, 4, 3).check_hashes()
    (out / "train-00000.bin").write_bytes(raw[:-2])
    with pytest.raises(UserError, match=r"train-00000\.bin: changed shard"):
        Loader(out, "train", S, 4, 3)
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        Loader(tmp_path, "train", S, 4, 3)
