"""Checkpoints of many processes: read in any layout, by one process too, and refused when anything is amiss."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load

from clearseek.errors import UserError
from clearseek.files import sha256_bytes, sha256_file
from clearseek.parts import Part
from clearseek.train.checkpoints import checkpoint
from clearseek.train.checkpoints.consolidate import consolidate
from clearseek.train.checkpoints.record import canonical
from clearseek.train.checkpoints.stored import cut
from clearseek.train.chunks import hash_tensors
from tests.train.checkpoints.cuts import GROUPS, Tensors, anyhow, dealt, layouts, some_tensors, write
from tests.train.checkpoints.harm import flip_a_bit


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same checkpoint, by every layout."""
    tensors, folder = some_tensors(), tmp_path_factory.mktemp("sets")
    return {name: write(folder / name, 7, tensors, table) for name, table in layouts(tensors).items()}


def hash_of(tensors: Tensors) -> str:
    return hash_tensors((f"{group} {name}", each) for group, named in tensors.items() for name, each in named.items())


NAMES = [*layouts(some_tensors())]


@pytest.mark.parametrize("source", NAMES)
def test_every_layout_goes_on_in_every_other(sets: dict[str, Path], source: str) -> None:
    tensors = some_tensors()
    for table in layouts(tensors).values():
        found: Tensors = {g: {n: torch.full_like(t, -1) for n, t in tensors[g].items()} for g in GROUPS}
        for parts in table:
            stored = checkpoint.open_stored(sets[source])  # each process for itself
            assert (stored.step, stored.state) == (7, {"step": 7})
            for group, some in parts.items():
                for part in some:
                    here = found[group][part.name].view(-1)[part.start : part.stop]
                    here.copy_(cut(stored[group][part.name], part).view(-1))
        assert hash_of(found) == hash_of(tensors)


@pytest.mark.parametrize("source", NAMES)
def test_one_process_reads_whole_tensors(sets: dict[str, Path], source: str) -> None:
    loaded = checkpoint.load(sets[source])
    assert hash_of(loaded.tensors) == hash_of(some_tensors())
    assert (loaded.step, loaded.state) == (7, {"step": 7})
    assert checkpoint.load(sets[source], checkpoint.MODEL).tensors.keys() == {"weights", "buffers"}
    assert checkpoint.unexpected_files(sets[source].parent) == []
    assert checkpoint.find_problems(sets[source]) == []


@pytest.mark.parametrize("source", NAMES)
def test_a_release_has_the_bytes_of_one_process(sets: dict[str, Path], source: str, tmp_path: Path) -> None:
    path, alone = sets[source], checkpoint.save(tmp_path / "alone", 7, some_tensors(), {"step": 7}, keep=1)
    again = tmp_path / "again" / path.name
    consolidate(path, again)
    for file in again.iterdir():
        assert file.read_bytes() == (alone / file.name).read_bytes()
    assert len([*path.iterdir()]) >= len([*alone.iterdir()]) == 4


def test_a_process_reads_no_file_but_those_of_its_parts(tmp_path: Path) -> None:
    tensors = some_tensors()
    path = write(tmp_path, 1, tensors, dealt(4, tensors))
    table = dealt(2, tensors)
    for rank in (2, 3):
        for group in GROUPS:
            (path / f"{group}-{rank:05d}.safetensors").unlink(missing_ok=True)
    stored = checkpoint.open_stored(path)
    for part in table[0]["weights"]:
        expected = tensors["weights"][part.name].view(-1)[part.start : part.stop]
        assert torch.equal(cut(stored["weights"][part.name], part), expected)
    with pytest.raises(UserError, match=r"weights-0000[23]\.safetensors: cannot read it"):
        cut(stored["weights"][table[1]["weights"][-1].name], table[1]["weights"][-1])


def test_rows_of_a_stack_are_read_by_themselves(sets: dict[str, Path]) -> None:
    name = "layers.1.mlp.experts.up"
    for path in sets.values():
        lazy, whole = checkpoint.open_stored(path)["weights"][name], some_tensors()["weights"][name]
        assert torch.equal(lazy[(5, slice(3, 9))], whole[5, 3:9])
        assert torch.equal(lazy[(slice(2, 4),)], whole[2:4])
        assert lazy.shape == tuple(whole.shape)


@pytest.mark.filterwarnings("ignore")
def test_pytorchs_own_reader_reads_the_files(tmp_path: Path) -> None:
    tensors = some_tensors()
    path = write(tmp_path, 1, tensors, dealt(4, tensors))
    found = {name: torch.zeros(each.numel()) for name, each in tensors["weights"].items()}
    found |= {name: torch.zeros(each.numel(), dtype=each.dtype) for name, each in tensors["optimizer"].items()}
    load(found, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    for group in ("weights", "optimizer"):
        assert all(torch.equal(found[name], each.view(-1)) for name, each in tensors[group].items())


@pytest.mark.parametrize("name", ["weights-00001.safetensors", "optimizer-00003.safetensors", "checkpoint.json"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: os.truncate(file, file.stat().st_size - 5), "cut short"),
        (flip_a_bit, "altered"),
        (lambda file: file.unlink(), "cannot read"),
        (lambda file: file.write_bytes(file.read_bytes() + b"x"), "altered"),
    ],
)
@pytest.mark.parametrize("parts", [True, False])
def test_damage_is_named_with_the_way_out(
    tmp_path: Path, name: str, damage: Callable[[Path], None], says: str, parts: bool
) -> None:
    tensors = some_tensors()
    for step in (1, 2):
        path = write(tmp_path, step, tensors, dealt(4, tensors))
    damage(path / name)
    with pytest.raises(UserError, match=says) as caught:
        if parts:
            stored = checkpoint.open_stored(path)
            for group in GROUPS:
                for tensor in stored[group].values():
                    tensor.whole()
        else:
            checkpoint.load(path)
    assert str(path / name) in str(caught.value)
    assert str(caught.value).endswith("--from-step 1")


def test_files_of_another_layout_are_refused(tmp_path: Path) -> None:
    tensors = some_tensors()
    path = write(tmp_path / "four", 1, tensors, dealt(4, tensors))
    other = write(tmp_path / "two", 1, tensors, dealt(2, tensors))
    shutil.copy(other / "weights-00001.safetensors", path)
    with pytest.raises(UserError, match=r"weights-00001\.safetensors: (cut short|altered)"):
        checkpoint.load(path)
    shutil.copy(other / "weights-00001.safetensors", path / "weights-00007.safetensors")
    assert checkpoint.unexpected_files(path.parent) == ["step-00000001/weights-00007.safetensors"]


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Another record, under a hash that fits."""
    record = json.loads((path / "checkpoint.json").read_text())["checkpoint"]
    change(record)
    document = {"checkpoint": record, "sha256": sha256_bytes(canonical(record))}
    (path / "checkpoint.json").write_text(json.dumps(document))


def pieces(record: dict[str, Any], rank: int) -> dict[str, Any]:
    found: dict[str, Any] = record["files"][f"weights-{rank:05d}.safetensors"]["pieces"]
    return found


def embedding(record: dict[str, Any]) -> list[Any]:
    """The entry of the embedding's first piece."""
    found: list[Any] = pieces(record, 0)["embed"]
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: embedding(r).__setitem__(3, 801), "the pieces of embed"),
        (lambda r: embedding(r).__setitem__(3, 1), "the pieces of embed"),
        (lambda r: embedding(r).__setitem__(2, 5), "leave a gap at element 0"),
        (lambda r: embedding(r).__setitem__(1, [10**9, 10**9]), "the pieces of embed|two types"),
        (lambda r: embedding(r).__setitem__(1, [2**61]), "not the record"),
        (lambda r: embedding(r).__setitem__(1, [-1, -800]), "not the record"),
        (lambda r: embedding(r).__setitem__(0, "F17"), "not the record"),
        (lambda r: embedding(r).__setitem__(0, "F16"), "two types|holds other tensors"),
        (lambda r: embedding(r).__setitem__(3, True), "not the record"),
        (lambda r: embedding(r).append(1), "not the record"),
        (lambda r: pieces(r, 0).pop("embed"), "the pieces of embed leave a gap|holds other tensors"),
        (lambda r: pieces(r, 0).update(more=["F32", [2], 0, 2]), "holds other tensors than checkpoint.json says"),
        (lambda r: r["files"].pop("weights-00001.safetensors"), "the pieces of .* (end at|leave a gap)"),
        (lambda r: r["files"].update({"../weights-00009.safetensors": {}}), "names other files than its own"),
        (lambda r: r["files"].update({"weights.safetensors": {}}), "names other files than its own"),
        (lambda r: r.update(format="clearseek-checkpoint-2"), "names other files than its own"),
        (lambda r: r["files"]["weights-00000.safetensors"].pop("pieces"), "not the record"),
        (lambda r: r["files"]["weights-00000.safetensors"].update(pieces=[]), "not the record"),
    ],
)
def test_a_forged_record_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    tensors = some_tensors()
    path = write(tmp_path, 1, tensors, dealt(2, tensors))
    forge(path, change)
    with pytest.raises(UserError, match=said):
        checkpoint.load(path)


def test_a_file_with_other_tensors_under_a_fitting_hash_is_refused(tmp_path: Path) -> None:
    tensors = some_tensors()
    path = write(tmp_path / "one", 1, tensors, dealt(2, tensors))
    other = write(tmp_path / "two", 1, tensors, anyhow(2, tensors, 5))
    name = "weights-00000.safetensors"
    shutil.copy(other / name, path)
    entry = {"size": (path / name).stat().st_size, "sha256": sha256_file(path / name)}
    forge(path, lambda record: record["files"][name].update(entry))
    with pytest.raises(UserError, match=f"{name}: holds other tensors than checkpoint.json says"):
        checkpoint.load(path)


_VALUES: st.SearchStrategy[Any] = st.one_of(
    st.integers(-3, 900), st.sampled_from(["F32", "BF16", "I8", "embed", "", None, True, 0.5, 2**62, 10**30, [], {}]),
    st.lists(st.integers(-1, 60), max_size=3),
)  # fmt: skip


@st.composite
def _edits(draw: st.DrawFn) -> list[tuple[int, str, int, Any]]:
    """Some changes: file, tensor, place in its entry, value."""
    names = [*some_tensors()["weights"]]
    one = st.tuples(st.integers(0, 3), st.sampled_from(names), st.integers(0, 4), _VALUES)
    return draw(st.lists(one, min_size=1, max_size=3))


@settings(max_examples=150, deadline=None)
@given(edits=_edits())
def test_any_forged_record_is_one_error_or_the_same_tensors(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, str, int, Any]]
) -> None:
    tensors = some_tensors()
    path = write(tmp_path_factory.mktemp("forged"), 1, tensors, anyhow(4, tensors, 1))

    def change(record: dict[str, Any]) -> None:
        for rank, name, place, value in edits:
            of_rank = record["files"].get(f"weights-{rank:05d}.safetensors", {}).get("pieces", {})
            if place == 4:
                of_rank[name] = value
            elif isinstance(of_rank.get(name), list) and len(of_rank[name]) > place:
                of_rank[name][place] = value

    forge(path, change)
    try:
        loaded = checkpoint.load(path)
    except UserError as error:
        assert str(path) in str(error)
        return
    assert hash_of(loaded.tensors) == hash_of(tensors)


def test_a_tensor_of_another_shape_is_no_part(sets: dict[str, Path]) -> None:
    """Else the memory behind it would be trained on."""
    weights = checkpoint.open_stored(sets["dp=1"])["weights"]
    name, tensor = next(iter(weights.items()))
    longer = Part.of(name, (2 * tensor.shape[0], *tensor.shape[1:]))
    for each in (tensor, tensor.whole()):
        with pytest.raises(RuntimeError, match="has the shape"):
            cut(each, longer)
