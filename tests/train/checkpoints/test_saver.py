"""Saving while training goes on, by a process that is alone; tests/train/parallel/test_saving.py has many."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from clearseek.errors import UserError
from clearseek.train.checkpoints import checkpoint, files, saver
from clearseek.train.checkpoints.files import Held, whole
from clearseek.train.checkpoints.saver import Saver
from clearseek.train.parallel.group import Group
from tests.train.checkpoints.harm import steps_left


def held(value: float, size: int = 8) -> dict[str, Held]:
    return {"weights": whole({"w": torch.full((size,), value)}), "buffers": []}


def value_of(folder: Path, step: int) -> float:
    return float(checkpoint.load(checkpoint.find(folder, step)).tensors["weights"]["w"][0])


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """A disk on which nothing can be written until the event is set."""
    event, write = Event(), files.write_whole

    def slow(*arguments: Any) -> Any:
        assert event.wait(30)
        return write(*arguments)

    monkeypatch.setattr(saver, "write_whole", slow)
    yield event
    event.set()


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(folder: Path, *arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(saver, "write_whole", refuse)
        yield


def test_want_of_memory_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saver, "free_memory", lambda: 10)
    ours = Saver(tmp_path, keep=2)
    ours.begin(1, held(1.0), {})
    assert ours.remarks() == ["no room in memory for a copy of 32 bytes: training waits while a checkpoint is written"]
    ours.begin(2, held(2.0), {})
    ours.finish()
    assert not ours.remarks() and value_of(tmp_path, 2) == 2.0


def test_the_state_when_saving_began_is_saved(tmp_path: Path, gate: Event) -> None:
    ours, state = Saver(tmp_path, keep=2), held(1.0)
    ours.begin(1, state, {"tokens": 5})
    state["weights"][0][1].zero_()
    gate.set()
    ours.finish()
    assert value_of(tmp_path, 1) == 1.0
    assert checkpoint.load(checkpoint.find(tmp_path, 1)).state == {"tokens": 5}


def test_training_goes_on_while_it_is_written(tmp_path: Path, gate: Event) -> None:
    ours = Saver(tmp_path, keep=1)
    ours.begin(1, held(1.0), {})
    ours.poll()  # returns at once
    assert checkpoint.steps(tmp_path) == []
    gate.set()
    until = time.monotonic() + 30
    while not checkpoint.steps(tmp_path) and time.monotonic() < until:
        time.sleep(0.01)
    assert checkpoint.steps(tmp_path) == [1]  # alone, no call is needed
    ours.finish()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-00000001"]


def test_older_ones_go_when_the_new_one_is_there(tmp_path: Path, gate: Event) -> None:
    gate.set()
    ours = Saver(tmp_path, keep=2)
    for step in (1, 2):
        ours.begin(step, held(step), {})
    ours.finish()
    gate.clear()
    ours.begin(3, held(3.0), {})
    assert checkpoint.steps(tmp_path) == [1, 2]
    gate.set()
    ours.finish()
    assert checkpoint.steps(tmp_path) == [2, 3]


def test_a_full_disk_is_one_error_and_costs_one_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Saver(tmp_path, keep=2)
    ours.begin(1, held(1.0), {})
    ours.finish()
    with full_disk(monkeypatch):
        ours.begin(2, held(2.0), {})
        with pytest.raises(UserError, match="step-00000002: cannot write: the disk is full"):
            ours.finish()
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]
    ours.begin(3, held(3.0), {})
    ours.finish()
    assert [value_of(tmp_path, step) for step in checkpoint.steps(tmp_path)] == [1.0, 3.0]


def test_the_error_comes_between_steps_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Saver(tmp_path, keep=2)
    with full_disk(monkeypatch):
        ours.begin(2, held(2.0), {})
        with pytest.raises(UserError, match="the disk is full"):
            for _ in range(3000):
                ours.poll()
                time.sleep(0.01)


def test_a_run_that_fails_keeps_what_it_had_begun_to_save(tmp_path: Path) -> None:
    ours = Saver(tmp_path, keep=1)
    ours.begin(1, held(1.0), {})
    ours.close()
    assert value_of(tmp_path, 1) == 1.0


@pytest.mark.parametrize(("processes", "copies"), [(1, 1), (2, 0)])
def test_a_copy_is_made_where_memory_has_room_for_those_of_all_processes_here(
    processes: int, copies: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, made = Group(), list[Any]()
    group.size, group.hosts = processes, ["here"] * processes
    monkeypatch.setattr(saver, "free_memory", lambda: 50.0)  # a state has 32 bytes
    monkeypatch.setattr(saver, "stage", lambda held: made.append(held) or held)
    monkeypatch.setattr(saver, "write_pieces", files.write_whole)
    ours = Saver(tmp_path, keep=1, group=group)
    ours.begin(1, held(1.0), {})
    assert len(made) == copies


def test_a_folder_that_cannot_be_made_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Saver(tmp_path / "checkpoints", keep=1).begin(1, held(1.0), {})


def _save_until_killed(folder: str) -> None:
    ours = Saver(Path(folder), keep=2)
    for step in range(1, 1_000_000):
        ours.begin(step, held(step, 100_000), {"step": step})
        for _ in range(step % 3):
            ours.poll()


def test_a_kill_at_any_moment_leaves_only_whole_checkpoints(tmp_path: Path, processes: ForkServerContext) -> None:
    for steps in steps_left(_save_until_killed, tmp_path, processes):
        for step in steps:
            loaded = checkpoint.load(checkpoint.find(tmp_path, step))
            assert loaded.state == {"step": step} and loaded.tensors["weights"]["w"].eq(step).all()
