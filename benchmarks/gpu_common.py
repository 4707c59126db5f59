"""What every section of ``benchmarks/gpu.py`` uses: the clock, the record, and how a piece of work is timed.

A GPU is lent for minutes, so nothing that was measured may be lost and nothing may hang: the record is written after
every piece of work, pieces that the remaining time would not hold are left out and said to be, and what raises an
error becomes a line of the record. Times are GPU events around one call, after the cache was overwritten; pieces that
are compared take turns, so that a GPU which slows down as it warms does so for all.
"""

from __future__ import annotations

import gc
import re
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from record import write_result
from torch import Tensor

FLUSH_BYTES = 512 << 20
"""Written before each timed call: ten times a Hopper's second cache, and long enough for the host to queue the call."""
WARM_UP = 3
"""Calls of each piece before it is timed: kernels are built in the first one."""


_FOLDERS = re.compile(r"(?:/[\w.+-]+)+/")
"""Where things lie is nobody's business."""


class BrokenDeviceError(Exception):
    """The GPU answers nothing any more."""


@dataclass
class Run:
    """One piece of work to be timed."""

    call: Callable[[], Any]
    before: Callable[[], Any] = lambda: None
    """Done before each call and not timed."""


@dataclass
class Bench:
    """One run of the benchmark.

    Args:
        device: Where everything runs.
        seed: Of all random numbers.
        smoke: Tiny sizes on a CPU, for testing the benchmark itself.
        seconds: Time for everything.
        out: The record's file.
        report: The record.
    """

    device: torch.device
    seed: int
    smoke: bool
    seconds: float
    out: Path
    report: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    backends: dict[str, Any] = field(default_factory=dict)
    """Those that run here, by name."""
    section: str = ""
    until: float = float("inf")
    """When the present section should be over, in seconds since the start."""

    def __post_init__(self) -> None:
        self._flush = torch.empty(1024 if self.smoke else FLUSH_BYTES, dtype=torch.uint8, device=self.device)

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def pick(self, full: Any, smoke: Any) -> Any:
        """The size to use."""
        return smoke if self.smoke else full

    def generator(self, *names: Any) -> torch.Generator:
        """A generator on the CPU, seeded by the run's seed and by `names`: each piece has its own numbers."""
        return torch.Generator().manual_seed(self._seed(names))

    def device_generator(self, *names: Any) -> torch.Generator:
        """The same on the device, for large tensors."""
        return torch.Generator(self.device).manual_seed(self._seed(names))

    def _seed(self, names: tuple[Any, ...]) -> int:
        total = self.seed
        for byte in repr(names).encode():
            total = (total * 131 + byte) % (2**61 - 1)
        return total

    def normal(self, *shape: int, dtype: torch.dtype = torch.bfloat16, name: str = "") -> Tensor:
        """Normal numbers on the device."""
        return torch.randn(*shape, generator=self.device_generator(name, shape), device=self.device).to(dtype)

    def record(self, kind: str, entry: dict[str, Any], save: bool = True) -> None:
        """Append to a list of the section's record, and write the file."""
        self.report.setdefault(self.section, {}).setdefault(kind, []).append(entry)
        if save:
            self.save()

    def save(self) -> None:
        """Write what is known so far."""
        self.report["seconds"] = round(self.elapsed, 1)
        write_result(self.out, self.report)

    def has(self, seconds: float, what: str) -> bool:
        """Whether the section's time holds a piece of work; if not, that is printed and recorded."""
        seconds = 0.0 if self.smoke else seconds
        left = self.until - self.elapsed
        if left >= seconds:
            return True
        self.leave_out(what, f"{max(left, 0):.0f} s are left to this section, and it needs about {seconds:.0f} s")
        return False

    def leave_out(self, what: str, why: str) -> None:
        """Print and record that something is not done."""
        print(f"  left out: {what}: {why}")
        self.report.setdefault("skipped", []).append({"section": self.section, "what": what, "why": why})
        self.save()

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Turn an error into a line of the record, give back the memory that was held, and go on.

        Raises BrokenDeviceError where the GPU answers nothing after it.
        """
        try:
            yield
        except (BrokenDeviceError, KeyboardInterrupt):
            raise
        except Exception as error:
            lines = _FOLDERS.sub("", str(error).strip()).splitlines()
            message = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
            frames = traceback.extract_tb(error.__traceback__)[-4:]
            where = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
            print(f"  failed: {what}: {message} ({' > '.join(where)})")
            entry = {"section": self.section, "what": what, "error": message, "where": where, "rest": lines[1:12]}
            self.report.setdefault("errors", []).append(entry)
            self.save()
            traceback.clear_frames(error.__traceback__)  # they hold tensors
            self.free()

    def free(self) -> None:
        """Give back memory, and find out whether the GPU still answers."""
        gc.collect()
        if not self.cuda:
            return
        try:
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise BrokenDeviceError(str(error).splitlines()[0]) from error

    def synchronise(self) -> None:
        """Wait for the GPU."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def time(self, runs: dict[str, Run], rounds: int | None = None) -> dict[str, list[float]]:
        """Seconds of each call of each piece, in turns. Pieces that raise an error are recorded and left out."""
        rounds = rounds or self.pick(15, 1)
        working: dict[str, Run] = {}
        for name, run in runs.items():
            with self.attempt(f"warming up {name}"):
                for _ in range(self.pick(WARM_UP, 1)):
                    run.before()
                    run.call()
                self.synchronise()
                working[name] = run
        return self._in_turns(working, rounds)

    def _in_turns(self, runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                run.before()
                self._flush.zero_()
                if self.cuda:
                    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                    start.record()
                    run.call()
                    end.record()
                    end.synchronize()
                    times[name].append(start.elapsed_time(end) / 1e3)
                else:
                    began = time.perf_counter()
                    run.call()
                    times[name].append(time.perf_counter() - began)
        return times


def summary(seconds: list[float]) -> dict[str, Any]:
    """Median and spread of timed calls, in microseconds."""
    ordered = sorted(seconds)
    return {
        "microseconds": round(statistics.median(ordered) * 1e6, 2),
        "fastest": round(ordered[0] * 1e6, 2),
        "slowest": round(ordered[-1] * 1e6, 2),
        "calls": len(ordered),
    }


def rate(seconds: list[float], amount: float) -> float:
    """Amount (floating-point operations, bytes) per second, by the median."""
    return amount / statistics.median(seconds)


def multiples_of(total: int, shares: Tensor, unit: int) -> list[int]:
    """`total` split by `shares`, each part a multiple of `unit`; `total` is one."""
    units = (shares.double() / shares.sum() * (total // unit)).floor().long()
    rest = total // unit - int(units.sum())
    units[shares.argsort(descending=True)[:rest]] += 1
    return [int(each) * unit for each in units]
