"""How many cores are ours, and that threads sleep only while somebody else uses them; no test waits for a clock."""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearseek import cores
from clearseek.cores import CALM, PERIOD, cpu_quota, default_threads, sharing_cores, spare_threads, usable_cores


def groups(root: Path, own: str, files: dict[str, str]) -> Path:
    """A file system with control groups: the process's own, and files below their mount."""
    for name, text in {"proc/self/cgroup": own, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        pytest.param("0::/\n", {}, math.inf, id="no limit"),
        pytest.param("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5, id="a container's own root"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0, id="nested"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "200000 100000\n"}, 0.5, id="inner"),
        pytest.param(
            "5:cpu,cpuacct:/docker/1a\n1:name=systemd:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            3.0,
            id="version 1, the host's names",
        ),
        pytest.param(
            "5:cpu:/x\n0::/\n",
            {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
            math.inf,
            id="version 1, no limit",
        ),
        pytest.param("3:cpuset:/\n", {"cpuset/cpu.max": "100000 100000\n"}, math.inf, id="not of the processor"),
        pytest.param("nonsense\n::\n", {"cpu.max": "x y z"}, math.inf, id="not understood"),
    ],
)
def test_the_strictest_quota_counts(tmp_path: Path, own: str, files: dict[str, str], expected: float) -> None:
    assert cpu_quota(groups(tmp_path, own, files)) == expected


@given(own=st.text(max_size=60), limit=st.text(max_size=30))
def test_no_text_about_groups_is_an_error(tmp_path_factory: pytest.TempPathFactory, own: str, limit: str) -> None:
    own, limit = (text.encode("utf-8", "replace").decode() for text in (own, limit))
    assert cpu_quota(groups(tmp_path_factory.mktemp("root"), f"{own}\n0::/\n", {"cpu.max": limit})) > 0


@pytest.mark.parametrize(("quota", "expected"), [(math.inf, 8), (1.5, 2), (0.2, 1), (99.0, 8)])
def test_a_part_of_a_core_counts_as_one(monkeypatch: pytest.MonkeyPatch, quota: float, expected: int) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert usable_cores() == expected


def test_default_threads_follow_the_quota_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(cores, "usable_cores", lambda: 3)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert default_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert default_threads() == 8


class Watched:
    """A watcher run through a scripted queue, one look after the other, without a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shares: list[float]) -> None:
        self.sleeping: list[bool] = []
        self._now = False
        waits = itertools.accumulate([0.0, *(share * PERIOD for share in shares)])
        clock = itertools.count(0.0, PERIOD)
        monkeypatch.setattr(cores, "queued_seconds", lambda: next(waits))
        monkeypatch.setattr(cores.time, "monotonic", lambda: next(clock))
        monkeypatch.setattr(cores, "spare_threads", self._spare)
        self._left = len(shares)
        cores._watch(self)  # type: ignore[arg-type]

    @contextmanager
    def _spare(self) -> Iterator[None]:
        self._now = True
        yield
        self._now = False

    def wait(self, _: float) -> bool:
        """As `threading.Event.wait`: whether to stop."""
        self.sleeping.append(self._now)
        self._left -= 1
        return self._left < 0


def test_threads_sleep_while_somebody_takes_a_core_and_spin_again_after(monkeypatch: pytest.MonkeyPatch) -> None:
    calm = int(CALM / PERIOD) + 4
    watched = Watched(monkeypatch, [0.03] * 3 + [0.7] * 4 + [0.03] * calm)
    assert watched.sleeping[:4] == [False] * 4  # nobody else: they spin
    assert all(watched.sleeping[4:8]) and watched.sleeping.count(True) > CALM / PERIOD
    assert not watched.sleeping[-1]
    assert watched._now is False


def test_threads_spin_again_when_the_work_ends_in_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, [0.7] * 3)
    assert watched.sleeping == [False, True, True, True] and watched._now is False


@pytest.mark.parametrize("name", cores.CHOSEN)
def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1000")
    monkeypatch.setattr(cores, "_can_watch", lambda: True)
    monkeypatch.setattr(cores, "_watch", lambda stop: pytest.fail("watched"))
    with sharing_cores():
        assert not any(thread.name == "sharing cores" for thread in threading.enumerate())


def test_sleeping_threads_give_the_same_bits() -> None:
    before, threads = threading.active_count(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x = torch.randn(300, 400, generator=torch.Generator().manual_seed(0))

        def results() -> list[torch.Tensor]:
            return [x @ x.t(), x.softmax(-1), (x @ x.t()).exp().sum(0), x.sum()]

        spinning = results()
        with spare_threads() as added:
            assert added >= 1
            sleeping = results()
            assert torch.get_num_threads() == 2
        assert all(map(torch.equal, spinning, sleeping))
    finally:
        torch.set_num_threads(threads)
    assert threading.active_count() == before


def test_one_thread_has_nobody_to_wait_for() -> None:
    before, threads = threading.active_count(), torch.get_num_threads()
    torch.set_num_threads(1)  # as a recipe does while the command that trains is being watched
    try:
        with spare_threads() as added:
            assert added == 0 and threading.active_count() == before
    finally:
        torch.set_num_threads(threads)


def test_this_process_is_counted_in_the_queue() -> None:
    if cores._text(Path("/proc/self/schedstat")):
        assert 0 <= cores.queued_seconds() < math.inf


def test_no_threads_are_added_where_the_system_lets_us_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    before, threads, start, started = threading.active_count(), torch.get_num_threads(), threading.Thread.start, [0]

    def limited(thread: threading.Thread) -> None:
        started[0] += 1
        if started[0] > 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    torch.set_num_threads(2)
    monkeypatch.setattr(threading.Thread, "start", limited)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    try:
        with spare_threads() as added:
            assert added == 0 and threading.active_count() == before
    finally:
        torch.set_num_threads(threads)
