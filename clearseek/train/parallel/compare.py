"""What all processes must have in common before the first step, and whether they keep in step after it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_low
from typing import Any

from clearseek.errors import UserError
from clearseek.files import sha256_bytes
from clearseek.train.header import differences
from clearseek.train.parallel.group import Group
from clearseek.train.transcript import canonical

SLOW, STEPS = 2.0, 3
"""A process that takes so many times the median for so many steps in a row is named."""
_SHOWN = 5


def refuse_differences(group: Group, what: dict[str, Any]) -> None:
    """Raise UserError where a process has other code, data, software or settings than the main one.

    The message names the process, its host and every key that differs, with both values.
    """
    if len(set(group.gather(sha256_bytes(canonical(what))))) == 1:
        return
    first, *others = group.gather(what)
    lines = [
        f"process {rank} ({group.hosts[rank]}): {difference}"
        for rank, other in enumerate(others, 1)
        for difference in differences(first, other)
    ]
    more = f"\n  and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    raise UserError(
        f"the processes would not give the bits of one run. What differs, process 0 ({group.hosts[0]}) -> other:\n  "
        + "\n  ".join(lines[:_SHOWN])
        + more
        + "\ninstall the same ClearSeek and PyTorch everywhere, on processors of one kind, with the same data"
    )


class Pace:
    """Which process is slow: a step is as slow as the slowest.

    Args:
        group: The processes.
        peers: Groups of processes with equal work; all, where it is not given.
    """

    def __init__(self, group: Group, peers: Sequence[Sequence[int]] | None = None) -> None:
        self._group = group
        self._peers = [list(each) for each in peers] if peers is not None else [list(range(group.size))]
        self._slow = [0] * group.size
        self._named: set[int] = set()

    def note(self, seconds: Sequence[float]) -> str | None:
        """Note the seconds that each process computed in a step; what to say of a slow one, once for each."""
        said = []
        for ranks in self._peers:
            middle = median_low(seconds[rank] for rank in ranks)  # of two, the quick one
            for rank in ranks:
                self._slow[rank] = self._slow[rank] + 1 if seconds[rank] > SLOW * middle else 0
                if self._slow[rank] == STEPS and rank not in self._named:
                    self._named.add(rank)
                    times = f"{seconds[rank] / middle:.1f}" if middle else "many"
                    said.append(f"process {rank} ({self._group.hosts[rank]}) takes {times} times as long as the others")
        return "; ".join(said) + ": every step waits for it" if said else None
