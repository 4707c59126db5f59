"""How much of the held-out half stands in the training half, counted against a plain count."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.audit.evidence import Row
from clearseek.reading.source import Folder
from clearseek.reading.subject import Subject
from clearseek.verify.overlap import RUN, rows


def row(
    release: Path, train: list[list[int]], held_out: list[list[int]], width: int = 2,
    changes: dict[str, object] | None = None,
) -> Row:  # fmt: skip
    data = release / "data"
    data.mkdir(exist_ok=True)
    for number, shard in enumerate(train):
        (data / f"train-{number}.bin").write_bytes(np.array(shard, f"<u{width}").tobytes())
    (data / "heldout-0.bin").write_bytes(np.array(list(chain(*held_out)), f"<u{width}").tobytes())
    offsets = np.cumsum([0, *map(len, held_out)])
    (data / "heldout.offsets").write_bytes(offsets.astype("<i8").tobytes())
    shards = [f"train-{number}.bin" for number in range(len(train))]
    manifest = {"token_bytes": width, "train": {"shards": shards}, "heldout": {"shards": ["heldout-0.bin"]}}
    (data / "manifest.json").write_text(json.dumps(manifest | (changes or {})))
    return next(rows(Subject(Folder(release))))


def fresh(seed: int, count: int) -> list[int]:
    return [int(each) for each in np.random.default_rng(seed).integers(0, 60_000, count)]


def test_nothing_in_common(release: Path) -> None:
    found = row(release, [fresh(0, 500), fresh(1, 500)], [fresh(2, 100), fresh(3, 100)])
    assert found.answer == "yes"
    assert "0 of 188 runs" in found.reason


def test_a_document_that_was_trained_on_is_named(release: Path) -> None:
    leaked = fresh(2, 100)
    found = row(release, [fresh(0, 500), fresh(1, 50) + leaked], [fresh(3, 100), leaked, fresh(4, 100)], width=4)
    assert found.answer == "partly"
    assert "1 of 3 held-out documents are mostly known: number 2" in found.reason
    assert row(release, [leaked], [leaked]).answer == "no"


@given(st.data())
def test_it_counts_what_a_plain_search_counts(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    tokens = st.lists(st.integers(0, 1), max_size=60)
    train, held_out = data.draw(tokens), data.draw(tokens)
    folder = tmp_path_factory.mktemp("release")
    found = row(folder, [train], [held_out])
    runs = [tuple(held_out[at : at + RUN]) for at in range(len(held_out) - RUN + 1)]
    known = {tuple(train[at : at + RUN]) for at in range(len(train) - RUN + 1)}
    assert f"{sum(run in known for run in runs)} of {len(runs)} runs" in found.reason


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"train": None}, "names no shards under train"),
        ({"train": {"shards": [1]}}, "names no shards under train"),
        ({"train": {"shards": ["../../secret"]}}, "not here"),
        ({"heldout": {"shards": []}}, "names no shards under heldout"),
    ],
)
def test_a_manifest_of_another_kind_is_no_answer(release: Path, changes: dict[str, object], what: str) -> None:
    found = row(release, [fresh(0, 50)], [fresh(1, 50)], changes=changes)
    assert found.answer == "unknown"
    assert what in found.reason


def test_offsets_that_are_none_are_no_answer(release: Path) -> None:
    row(release, [fresh(0, 50)], [fresh(1, 50)])
    (release / "data/heldout.offsets").write_bytes(np.array([5, 3], "<i8").tobytes())
    assert next(rows(Subject(Folder(release)))).answer == "unknown"


def test_nothing_held_out_and_nothing_trained_on_show_nothing(release: Path) -> None:
    for train, held_out in ((fresh(0, 500), []), ([1], fresh(0, 500)), (fresh(0, 500), [1])):
        found = row(release, [train], [held_out])
        assert found.answer == "unknown"
        assert "none is" in found.reason


def test_offsets_must_cover_what_was_held_out(release: Path) -> None:
    leaked = fresh(2, 100)
    assert row(release, [leaked], [leaked]).answer == "no"
    (release / "data/heldout.offsets").write_bytes(np.array([0, 0], "<i8").tobytes())
    assert next(rows(Subject(Folder(release)))).answer == "unknown"
