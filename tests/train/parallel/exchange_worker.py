"""One of the processes of test_exchange.py: ``python -m tests.train.parallel.exchange_worker FOLDER CASE...``.

Each has random gradients of a few tensors, exchanges them in small buckets, and says what it got and what that took.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from clearseek import parts
from clearseek.parts import Part, deal, exchange_room
from clearseek.train.accumulate import TreeSum
from clearseek.train.parallel.exchange import Exchange, TwoLevels
from clearseek.train.parallel.world import join_world

SHAPES = [(300, 100), (7,), (90, 1000), (5, 11), (30_000,), (20, 30, 100), (1000,), (61_003,)]
BUCKETS = (10_000, 1 << 22)
"""Small enough for many rounds, and all at once."""
CASES = ("one level", "two levels", "rows")


def gradients(rank: int) -> list[Tensor]:
    """What a process has of all tensors."""
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def most(run: Callable[[], Any]) -> int:
    """Bytes at their most of the tensors that are made while something runs."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        run()
    found = watched.profiler.kineto_results.events()
    memory = sorted((each.start_ns(), each.nbytes()) for each in found if each.name() == "[memory]")
    now = highest = 0
    for _, size in memory:
        now += size
        highest = max(highest, now)
    return highest


def exchange(case: str, rank: int, size: int) -> dict[str, Any]:
    """What a process got of sums and new weights, and what memory the sums took."""
    rows = case == "rows"  # as FSDP holds them: summed already
    wholes = [Part.of(f"w{number}", shape) for number, shape in enumerate(SHAPES)]
    owned = dict(enumerate(deal([(whole, 1000) for whole in wholes], size)))
    held = {process: [_rows(whole, process, size) if rows else whole for whole in wholes] for process in owned}
    ours: Exchange | TwoLevels = Exchange(rank, held, owned, lambda other, _: 0 if rows else other)
    if case == "two levels":
        ours = TwoLevels(rank, held, owned, 2)
    tree = TreeSum()
    for process in range(1 if rows else size):
        tree.push(gradients(process))
    sums = {whole.name: each for whole, each in zip(wholes, tree.result(), strict=True)}
    own = dict(zip(sums, gradients(0 if rows else rank), strict=True))
    mine, got = list[Tensor](), list[Tensor]()

    def run() -> None:
        mine.extend(_cut(own[part.name], part).clone() for part in held[rank])
        got.extend(ours.reduce(mine, torch.device("cpu")))

    taken = most(run) - 4 * sum(part.size for part in held[rank])
    first = ours.within if isinstance(ours, TwoLevels) else ours
    [room] = exchange_room(first.held, [first.owned], first.owners, first.total, in_place=not rows)
    weights = [torch.zeros(part.size, dtype=torch.bfloat16) for part in held[rank]]
    ours.spread([each.bfloat16() for each in got], weights)
    return {
        "sums": all(
            torch.equal(each, _cut(sums[part.name], part)) for each, part in zip(got, owned[rank], strict=True)
        ),
        "weights": all(
            torch.equal(each, _cut(sums[part.name], part).bfloat16())
            for each, part in zip(weights, held[rank], strict=True)
        ),
        "emptied": not mine, "aligned": not any(each.data_ptr() % 16 for each in got),
        "taken": taken, "room": 4 * room, "sent": ours.sent, "rounds": len(first._rounds),
    }  # fmt: skip


def _rows(whole: Part, process: int, size: int) -> Part:
    height = -(-whole.shape[0] // size)
    first, last = (min(whole.shape[0], place * height) for place in (process, process + 1))
    return whole.rows(first, last)


def _cut(tensor: Tensor, part: Part) -> Tensor:
    return tensor.reshape(-1)[part.start : part.stop]


if __name__ == "__main__":
    world = join_world()
    for wanted in sys.argv[2:]:
        for parts.BUCKET in BUCKETS:
            reports = world.gather(exchange(wanted, world.rank, world.size))
            if world.main:
                print(json.dumps([f"{wanted} {parts.BUCKET}", reports]), flush=True)
    world.close()
    os._exit(0)
