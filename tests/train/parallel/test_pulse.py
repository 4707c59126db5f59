"""Signs of life in one process: a table in memory for the store, and threads for the processes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from torch._C._distributed_c10d import HashStore, Store

from clearseek.errors import LostError
from clearseek.train.parallel import pulse
from clearseek.train.parallel.pulse import Pulse

HOSTS = ["a", "b", "c"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "PERIOD", 0.02)
    monkeypatch.setattr(pulse, "GRACE", 0.4)


def begin(
    store: Store, rank: int, patience: float, ended: list[str], fault: Callable[[], str | None] = lambda: None
) -> Pulse:
    """A process; it writes down that it ended, instead."""
    return Pulse(lambda: store, rank, HOSTS, patience, lambda _: fault(), lambda text, _: ended.append(text))


def wait_until(true: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert true()


def test_who_lives_or_left_in_peace_is_not_lost() -> None:
    store, ended = HashStore(), list[str]()
    processes = [begin(store, rank, 1.0, ended) for rank in range(3)]
    time.sleep(0.2)
    processes[1].close()
    time.sleep(1.5)
    assert [each.lost for each in processes] == [None] * 3
    for each in processes:
        each.refuse_lost()
        each.close()
    assert not ended


def test_a_loss_is_seen_by_the_process_before_and_told_to_all() -> None:
    store, ended = HashStore(), list[str]()
    first, last = begin(store, 0, 0.5, ended), begin(store, 2, 0.5, ended)  # process 1 gives no sign
    wait_until(lambda: first.lost and last.lost)
    assert first.lost == last.lost == "process 1 (b) gave no sign of life for 0 s"
    with pytest.raises(LostError, match="process 1"):
        last.refuse_lost()
    wait_until(lambda: len(ended) == 2)  # whose main threads did not end them
    assert ended == [first.lost] * 2


def test_a_fault_ends_who_does_not_come_to_hear_of_it() -> None:
    store, ended = HashStore(), list[str]()
    faults, began = list[str](), time.monotonic()
    others = [begin(store, rank, 60.0, []) for rank in (1, 2)]
    waits = begin(store, 0, 60.0, ended, lambda: faults[0] if faults else None)
    faults.append("a full disk")
    wait_until(lambda: ended)
    assert ended[0] == "a full disk" and time.monotonic() - began > 0.4
    waits.close()
    ended.clear()
    hears = begin(store, 0, 60.0, ended, lambda: faults[0])
    hears.heeded = True
    time.sleep(0.6)
    assert not ended
    for each in (hears, *others):
        each.close()
