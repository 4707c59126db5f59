"""Four real processes save while they go on: kills, a full disk on one of them, a disk that they do not share."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from clearseek.errors import UserError
from clearseek.parts import Part
from clearseek.train.checkpoints import checkpoint, files
from clearseek.train.checkpoints.files import Held
from clearseek.train.checkpoints.saver import Saver
from clearseek.train.parallel.group import Group
from clearseek.train.parallel.world import World, join_world

SIZE, ELEMENTS = 4, 60_000


def held(group: Group, value: float) -> dict[str, Held]:
    """A quarter of a tensor, and on one process another one."""
    each = ELEMENTS // group.size
    part = Part("w", (ELEMENTS // 10, 10), group.rank * each, (group.rank + 1) * each)
    own: Held = [(Part.of("own", (3,)), torch.full((3,), value))] if group.rank == 2 else []
    return {"weights": [(part, torch.full((each,), value))], "buffers": own}


def check(folder: Path, step: int) -> None:
    loaded = checkpoint.load(checkpoint.find(folder, step))
    assert loaded.state == {"step": step}
    assert loaded.tensors["weights"]["w"].shape == (ELEMENTS // 10, 10)
    assert all(tensor.eq(step).all() for group in loaded.tensors.values() for tensor in group.values())
    assert loaded.tensors["buffers"].keys() == {"own"}


def _join(rank: int, port: int) -> World:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(SIZE), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    group = join_world()
    assert isinstance(group, World)
    return group


def _save_until_killed(rank: int, port: int, folder: Path, out: Path) -> None:
    with (out / f"{rank}.err").open("w") as err:
        os.dup2(err.fileno(), 2)
    group = _join(rank, port)
    ours, newest = Saver(folder, 2, group), checkpoint.newest(folder, group)
    first = 1 if newest is None else checkpoint.open_stored(newest).step + 1
    (out / f"{rank}.ready").touch()
    for step in range(first, 1_000_000):
        ours.begin(step, held(group, step), {"step": step} if group.main else {})
        for _ in range(step % 5):
            ours.poll()


def _fail_on_one(rank: int, port: int, folder: Path, out: Path) -> None:
    group = _join(rank, port)
    ours, said = Saver(folder, 2, group), list[str]()
    for step in (1, 2, 3):
        if rank == 2:  # room for its part of the first and the last
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            soft = 1000 if step == 2 else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))
        try:
            ours.begin(step, held(group, step), {"step": step} if group.main else {})
            ours.finish()
        except UserError as error:
            said.append(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (out / f"{rank}.json").write_text(json.dumps(said))
    ours.close()
    group.close()


def _see_other_disks(rank: int, port: int, folder: Path, out: Path) -> None:
    group = _join(rank, port)
    from clearseek.train.checkpoints import saver

    saver._PATIENCE = 0.2
    ours = Saver(folder / str(rank) if rank == 3 else folder, 2, group)
    said = ""
    try:
        ours.begin(1, held(group, 1), {"step": 1} if group.main else {})
        ours.finish()
    except UserError as error:
        said = str(error)
    (out / f"{rank}.json").write_text(json.dumps(said))
    ours.close()
    group.close()


def _go_on_beside_a_slow_disk(rank: int, port: int, folder: Path, out: Path) -> None:
    group = _join(rank, port)
    from clearseek.train.checkpoints import saver

    write, steps = files.write_pieces, list[int]()

    def slow(*arguments: Any) -> Any:
        time.sleep(1.0 if rank == 2 else 0.0)
        return write(*arguments)

    saver.write_pieces = slow  # type: ignore[attr-defined]
    ours = Saver(folder, 2, group)
    ours.begin(1, held(group, 1), {"step": 1} if group.main else {})
    for step in range(20):
        steps.append(sum(group.gather(step)))  # as steps of training, before the disk is done
        ours.poll()
    ours.finish()
    (out / f"{rank}.json").write_text(json.dumps(steps))
    ours.close()
    group.close()


@contextmanager
def started(
    processes: ForkServerContext, work: Callable[[int, int, Path, Path], Any], *folders: Path
) -> Iterator[Sequence[BaseProcess]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = [processes.Process(target=work, args=(rank, port, *folders)) for rank in range(SIZE)]
    for each in group:
        each.start()
    try:
        yield group
    finally:
        for each in group:
            each.kill()
            each.join()


def test_twenty_kills_leave_only_whole_checkpoints(tmp_path: Path, processes: ForkServerContext) -> None:
    chance, folder = random.Random(0), tmp_path / "checkpoints"
    before, during = 0, 0
    for number in range(20):
        out = tmp_path / str(number)
        out.mkdir()
        with started(processes, _save_until_killed, folder, out) as group:
            until = time.monotonic() + 120
            while len([*out.glob("*.ready")]) < SIZE or (number % 2 == 0 and _newest(folder) <= before):
                assert all(each.is_alive() for each in group) and time.monotonic() < until
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.1))
            os.kill(group[chance.randrange(SIZE)].pid or 0, signal.SIGKILL)
            time.sleep(chance.choice((0, 0.02, 0.2)))  # the others go on, until they are ended too
        during += bool([*folder.glob(".*.new")])
        for step in checkpoint.steps(folder):
            check(folder, step)
        assert _newest(folder) >= before
        before = _newest(folder)
    assert before >= 10
    assert during >= 5  # kills in the middle of a save


def _newest(folder: Path) -> int:
    return max(checkpoint.steps(folder), default=0)


def end_well(group: list[Any]) -> None:
    for each in group:
        each.join(60)
    assert [each.exitcode for each in group] == [0] * SIZE


def test_steps_go_on_beside_a_slow_disk(tmp_path: Path, processes: ForkServerContext) -> None:
    folder = tmp_path / "checkpoints"
    with started(processes, _go_on_beside_a_slow_disk, folder, tmp_path) as group:
        end_well(group)
    assert json.loads((tmp_path / "0.json").read_text()) == [4 * step for step in range(20)]
    check(folder, 1)


def test_one_full_disk_is_one_error_that_names_the_process(tmp_path: Path, processes: ForkServerContext) -> None:
    folder = tmp_path / "checkpoints"
    with started(processes, _fail_on_one, folder, tmp_path) as group:
        end_well(group)
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(SIZE)]
    assert all(len(one) == 1 and "exceed the largest file" in one[0] for one in said)
    assert all(f"process 2 ({socket.gethostname()})" in one[0] for one in said[:2] + said[3:])
    assert "weights-00002.safetensors" in said[0][0] or "step-00000002" in said[0][0]
    assert sorted(entry.name for entry in folder.iterdir()) == ["step-00000001", "step-00000003"]
    check(folder, 1)
    check(folder, 3)
    assert sorted(file.name for file in (folder / "step-00000003").iterdir()) == [
        "buffers-00000.safetensors", "buffers-00002.safetensors", "checkpoint.json",
        *(f"weights-0000{rank}.safetensors" for rank in range(SIZE)),
    ]  # fmt: skip


def test_a_disk_that_is_not_shared_is_one_error(tmp_path: Path, processes: ForkServerContext) -> None:
    folder = tmp_path / "checkpoints"
    with started(processes, _see_other_disks, folder, tmp_path) as group:
        for each in group:
            each.join(60)
    for rank in range(SIZE):
        assert "must lie on a disk that all machines share" in json.loads((tmp_path / f"{rank}.json").read_text())
    assert checkpoint.steps(folder) == []
