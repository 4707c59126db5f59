"""Checkpoints: whole or not there, checked byte by byte, and helpful when they are broken."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import signal
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch

from clearseek.errors import OtherVersionError, UserError
from clearseek.files import sha256_bytes
from clearseek.train.checkpoints import checkpoint
from clearseek.train.checkpoints.record import canonical
from tests.train.checkpoints.harm import flip_a_bit, steps_left

STATE = {"tokens": 123, "loss": 0.1 + 0.2, "rng": [1, 2, 3], "nested": {"a": None}}


def some_tensors(step: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "model": {"w": torch.full((8, 4), float(step), dtype=torch.bfloat16), "empty": torch.empty(0, 3)},
        "optimizer": {"step": torch.tensor(float(step)), "moment": torch.arange(12.0).view(3, 4)},
    }


def saved(folder: Path, *steps: int, keep: int = 10) -> Path:
    for step in steps:
        path = checkpoint.save(folder, step, some_tensors(step), {"step": step}, keep)
    return path


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "checkpoints", 100, some_tensors(7), STATE, keep=1)
    assert path == tmp_path / "checkpoints" / "step-00000100"
    assert sorted(file.name for file in path.iterdir()) == [
        "checkpoint.json",
        "model.safetensors",
        "optimizer.safetensors",
    ]
    loaded = checkpoint.load(path)
    assert (loaded.step, loaded.state) == (100, STATE)
    for stem, group in some_tensors(7).items():
        assert loaded.tensors[stem].keys() == group.keys()
        for name, tensor in group.items():
            assert loaded.tensors[stem][name].dtype == tensor.dtype
            assert torch.equal(loaded.tensors[stem][name], tensor)


def test_one_group_is_read_and_checked_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    (path / "optimizer.safetensors").write_bytes(b"spoilt")
    assert checkpoint.load(path, ["model"]).tensors.keys() == {"model"}
    assert checkpoint.find_problems(path, ["model"]) == []
    with pytest.raises(UserError, match=r"optimizer\.safetensors"):
        checkpoint.load(path)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    first, second = (checkpoint.save(tmp_path / name, 1, some_tensors(), STATE, keep=1) for name in "ab")
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_shared_and_strided_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    parameter = torch.nn.Parameter(base)
    group = {"base": base, "tied": parameter, "row": base[1], "transposed": base.T, "strided": base[:, ::2]}
    loaded = checkpoint.load(checkpoint.save(tmp_path, 1, {"model": group}, {}, keep=1)).tensors["model"]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in group.items())


def test_loaded_tensors_outlive_their_files(tmp_path: Path) -> None:
    path = saved(tmp_path, 3)
    loaded = checkpoint.load(path)
    saved(tmp_path, 4, keep=1)
    assert not path.exists()
    weights = loaded.tensors["model"]["w"]
    weights.add_(1)
    assert weights.eq(4).all()


def test_files_can_be_read_as_far_as_their_folder(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        path = saved(tmp_path, 1)
    finally:
        os.umask(old)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o644}


def test_keeps_the_newest(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3, 4, keep=2)
    assert checkpoint.steps(tmp_path) == [3, 4]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-00000004"


def test_going_back_drops_what_came_later(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20, 30)
    assert checkpoint.discard_after(tmp_path, 20) == [30]
    saved(tmp_path, 15)
    assert checkpoint.steps(tmp_path) == [10, 15]


def test_same_step_again_replaces(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    path = checkpoint.save(tmp_path, 5, {"model": {"w": torch.ones(1)}}, {"new": True}, keep=1)
    assert checkpoint.load(path).state == {"new": True}
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000005"]


def test_latest_ignores_what_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "absent") is None
    assert checkpoint.latest(tmp_path) is None
    saved(tmp_path, 1)
    (tmp_path / ".step-00000009.0123456789abcdef.new").mkdir()
    (tmp_path / "step-old").mkdir()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-00000001"


def test_find_names_the_steps_there_are(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    assert checkpoint.find(tmp_path, 2) == tmp_path / "step-00000002"
    with pytest.raises(UserError, match=r"no checkpoint of step 3: there are those of steps 1, 2"):
        checkpoint.find(tmp_path, 3)
    with pytest.raises(UserError, match="the run has no checkpoint"):
        checkpoint.find(tmp_path / "absent", 3)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "checkpoint.json"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: os.truncate(file, file.stat().st_size - 5), "cut short"),
        (lambda file: os.truncate(file, 0), "cut short"),
        (flip_a_bit, "altered"),
        (lambda file: file.unlink(), "cannot read"),
        (lambda file: file.write_bytes(file.read_bytes() + b"x"), "altered"),
    ],
)
def test_damage_is_named_with_the_way_out(tmp_path: Path, name: str, damage: object, says: str) -> None:
    path = saved(tmp_path, 100, 200, 300)
    damage(path / name)  # type: ignore[operator]
    flip_a_bit(tmp_path / "step-00000200" / "model.safetensors")
    with pytest.raises(UserError, match=says) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert str(path / name) in message
    assert message.endswith("--from-step 100")


def test_altered_state_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    document = json.loads((path / "checkpoint.json").read_text())
    document["checkpoint"]["state"]["step"] = 2
    (path / "checkpoint.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="its SHA-256 does not match"):
        checkpoint.load(path)


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"checkpoint": [], "sha256": "x"}', "\x00" * 50, "\xff"])
def test_a_record_of_any_other_kind(tmp_path: Path, text: str) -> None:
    path = saved(tmp_path, 1)
    (path / "checkpoint.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="no other checkpoint of this run is intact"):
        checkpoint.load(path)


def _save_until_killed(folder: str) -> None:
    for step in range(1, 1_000_000):
        tensors = {
            "model": {"w": torch.full((100_000,), float(step))},
            "optimizer": {"m": torch.full((50_000,), float(step))},
        }
        checkpoint.save(Path(folder), step, tensors, {"step": step}, keep=2)


def _save_with_limit(folder: str, result: multiprocessing.SimpleQueue[str]) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        checkpoint.save(Path(folder), 2, {"model": {"w": torch.ones(100_000)}}, {}, keep=2)
    except UserError as error:
        result.put(str(error))
    else:
        result.put("no error")


def test_a_kill_at_any_moment_leaves_only_whole_checkpoints(tmp_path: Path, processes: ForkServerContext) -> None:
    done = 0
    for steps in steps_left(_save_until_killed, tmp_path, processes):
        for step in steps:
            loaded = checkpoint.load(checkpoint.find(tmp_path, step))
            assert loaded.state == {"step": step}
            assert loaded.tensors["model"]["w"].eq(step).all()
        done += len(steps)
    assert done >= 10
    saved(tmp_path, 10_000_000, keep=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-10000000"]  # leftovers are gone too


def test_a_write_that_the_system_refuses(tmp_path: Path, processes: ForkServerContext) -> None:
    saved(tmp_path, 1)
    result = processes.SimpleQueue()
    writer = processes.Process(target=_save_with_limit, args=(str(tmp_path), result))
    writer.start()
    message = result.get()
    writer.join()
    assert "step-00000002" in message
    assert "ulimit -f" in message
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]
    checkpoint.load(tmp_path / "step-00000001")


def forge(path: Path, change: dict[str, object]) -> None:
    """Other content of a record, under a hash that fits."""
    record = json.loads((path / "checkpoint.json").read_text())["checkpoint"] | change
    record = {key: value for key, value in record.items() if value is not None}
    document = {"checkpoint": record, "sha256": sha256_bytes(canonical(record))}
    (path / "checkpoint.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"files": {"../outside.safetensors": {"size": 1, "sha256": "0"}}}, "not the record of a checkpoint"),
        ({"files": {"model.safetensors": {"size": {}, "sha256": "0"}}}, "not the record of a checkpoint"),
        ({"files": {"model.safetensors": {"size": 1, "sha256": 7}}}, "not the record of a checkpoint"),
        ({"state": None}, "not the record of a checkpoint"),
        ({"state": 0.5}, "not the record of a checkpoint"),
        ({"step": "1"}, "not the record of a checkpoint"),
        ({"step": 2}, "the record of step 2, and not of step-00000001"),
    ],
)
def test_a_forged_record_is_refused(tmp_path: Path, change: dict[str, object], what: str) -> None:
    path = saved(tmp_path, 1)
    forge(path, change)
    with pytest.raises(UserError, match=what):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("clearseek-checkpoint-4", OtherVersionError, "format clearseek-checkpoint-4: .* reads clearseek-checkpoint-3"),
        ("clearseek-checkpoint-1", UserError, "altered: its format"),
        ("x", UserError, "altered: its format, 'x', is none of ClearSeek's"),
        (7, UserError, "altered: its format"),
    ],
)
def test_a_later_format_names_itself_and_another_is_altered(
    tmp_path: Path, name: object, kind: type[UserError], said: str
) -> None:
    path = saved(tmp_path, 1)
    file = path / "checkpoint.json"
    record = json.loads(file.read_text())["checkpoint"] | {"format": name}
    digest = hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    file.write_text(json.dumps({"checkpoint": record, "sha256": digest}))
    with pytest.raises(kind, match=said) as caught:
        checkpoint.load(path)
    assert type(caught.value) is kind


def test_a_file_that_is_no_safetensors_is_one_error(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    (path / "model.safetensors").write_bytes(b"no tensors")
    entry = {"size": 10, "sha256": sha256_bytes(b"no tensors")}
    forge(path, {"files": {"model.safetensors": entry}})
    with pytest.raises(UserError, match="no sound safetensors file"):
        checkpoint.load(path)
