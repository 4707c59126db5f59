"""The processor's cores: how many this process may use, and how its threads wait for each other.

A parallel operation ends with its slowest thread, and OpenMP's other threads spin until then: waking up costs tens of
microseconds, and a training step has thousands of operations. Where another program takes a core, spinning threads keep
the slowest one from the cores that are left, and a step takes five to ten times as long. Linux counts how long a thread
queues for a core. While that is long, the threads sleep instead of spinning.

libgomp, PyTorch's OpenMP on Linux, reads how long to spin once, when it is loaded. But while it manages more threads
than there are processors, its threads hardly spin (libgomp manual, `GOMP_SPINCOUNT`). So idle threads are added
meanwhile. The operations stay the same, divided among the same number of threads: no bit changes.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

CROWDED = 0.25
"""Seconds a second that all threads together queue for a core, from which on cores count as shared. On two cores 0.03
was measured alone, and 0.6 to 0.9 beside a busy loop, whether spinning or sleeping."""
PERIOD = 0.2
"""Seconds between two readings of the queue."""
CALM = 2.0
"""Seconds without a queue until threads spin again."""
CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Environment variables by which a user chooses how threads wait; the process then keeps to that choice."""


def usable_cores() -> int:
    """Logical cores that this process may use under taskset and a container's CPU quota, rounded up.

    A quota is processor time: two threads can use one and a half cores' worth, and one thread cannot.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota())))


def default_threads(processes: int = 1) -> int:
    """PyTorch's own number of threads, or fewer where the process may not use as many cores, or shares them.

    A number that the user chose by OMP_NUM_THREADS or MKL_NUM_THREADS stays.

    Args:
        processes: Processes of this kind on the machine.
    """
    import torch

    threads = torch.get_num_threads()
    chosen = any(map(os.environ.get, ("OMP_NUM_THREADS", "MKL_NUM_THREADS")))
    return threads if chosen else max(1, min(threads, usable_cores()) // processes)


def cpu_quota(root: Path = Path("/")) -> float:
    """Cores' worth of processor time that Linux's control groups allow, infinite without a limit.

    The strictest limit of this process's group and of its parents counts, by version 2 (``cpu.max``) or 1
    (``cpu.cfs_quota_us``). Inside a container group names may be the host's, and absent: the mounted root then counts.
    """
    mounts = root / "sys/fs/cgroup"
    limits = [math.inf]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        names = (controllers, "cpu") if controllers else ("", "unified")
        for group in [Path(path.lstrip("/")), *Path(path.lstrip("/")).parents]:
            limits += [_limit(mounts / name / group) for name in names]
    return min(limits)


def _limit(group: Path) -> float:
    """Quota of one group, infinite without one."""
    words = _text(group / "cpu.max").split() or [
        *_text(group / "cpu.cfs_quota_us").split(), *_text(group / "cpu.cfs_period_us").split()
    ]  # fmt: skip
    with suppress(ValueError, ZeroDivisionError):
        quota, period = map(float, words)  # "max" means no quota, and float() refuses it
        return quota / period if quota > 0 else math.inf
    return math.inf


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


@contextmanager
def sharing_cores() -> Iterator[None]:
    """While the block runs, have PyTorch's threads sleep, not spin, whenever other programs use the cores.

    Without effect on other systems than Linux, with another OpenMP than libgomp, and with one thread.
    """
    import torch

    if torch.get_num_threads() < 2 or any(map(os.environ.get, CHOSEN)) or not _can_watch():
        yield
        return
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(stop,), name="sharing cores", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _can_watch() -> bool:
    return bool(_text(Path("/proc/self/schedstat"))) and "libgomp" in _text(Path("/proc/self/maps"))


def _watch(stop: threading.Event) -> None:
    """Read the queue every :data:`PERIOD`, and hold spare threads as long as cores are shared."""
    looked, queued, crowded = time.monotonic(), queued_seconds(), -math.inf
    with ExitStack() as spare:
        sleeping = False
        while not stop.wait(PERIOD):
            now, total = time.monotonic(), queued_seconds()
            if total - queued > CROWDED * (now - looked):
                crowded = now
            looked, queued = now, total
            if not sleeping and crowded == now:
                spare.enter_context(spare_threads())
                sleeping = True
            elif sleeping and now - crowded > CALM:
                spare.close()
                sleeping = False


def queued_seconds() -> float:
    """Seconds that this process's threads have waited for a core so far."""
    waits = (_text(path / "schedstat").split() for path in Path("/proc/self/task").iterdir())
    return sum(int(words[1]) for words in waits if len(words) == 3) / 1e9


@contextmanager
def spare_threads() -> Iterator[int]:
    """Give OpenMP more threads than processors, so that its threads sleep. Yields the number of threads added."""
    import torch

    each = torch.get_num_threads() - 1  # a thread that computes has a team of its own
    missing = len(os.sched_getaffinity(0)) - each
    teams = max(1, -(-missing // each)) if each else 0  # set to one thread since: nobody spins
    if not teams or not _may_start(teams * (each + 1)):
        yield 0
        return
    done, ready = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        torch.ones(100_000).neg_()  # large enough for a team
        ready.release()
        done.wait()

    holders = [threading.Thread(target=hold, daemon=True) for _ in range(teams)]
    for holder in holders:
        holder.start()
    for _ in holders:
        ready.acquire()
    try:
        yield teams * each
    finally:
        done.set()
        for holder in holders:
            holder.join()


def _may_start(count: int) -> bool:
    """Whether the system grants so many more threads; OpenMP does not ask, and ends the process where not."""
    done, waiting = threading.Event(), list[threading.Thread]()
    try:
        for _ in range(count):
            waiting.append(threading.Thread(target=done.wait, daemon=True))
            waiting[-1].start()
    except RuntimeError:
        waiting.pop()
        return False
    finally:
        done.set()
        for thread in waiting:
            thread.join()
    return True
