"""One of the processes of test_work.py: ``python -m tests.train.parallel.data_worker FOLDER CASE...``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.layouts import recipe_of
from clearseek import parts
from clearseek.plan.layout import ParallelLayout
from clearseek.recipe import parse_recipe
from clearseek.train.checkpoints import checkpoint
from clearseek.train.checkpoints.saver import Saver
from clearseek.train.parallel import hashes
from clearseek.train.parallel.exchange import Exchange, TwoLevels, own
from clearseek.train.parallel.group import Group
from clearseek.train.parallel.work import SharedWork
from clearseek.train.parallel.world import join_world
from clearseek.train.preflight import preflight
from clearseek.train.pretrain import PreTraining
from clearseek.train.step import Training
from clearseek.train.work import Work

STEPS = 2
CASES = ("plain", "muon", "two machines", "gone on", "all_reduce", "off a chunk", "lanes swapped")


def recipe(case: str) -> Any:
    raw = recipe_of("muon/fp32" if case == "muon" else "adamw/fp32", "lanes").model_dump(mode="json")
    raw["model"] |= {"num_hidden_layers": 2, "hidden_size": 192}
    raw["train"] |= {"steps": STEPS}
    return parse_recipe(raw, "layouts")


def all_reduced(exchange: Exchange, held: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """What the library's own sum gives, whose order depends on the number of processes."""
    for each in held:
        dist.all_reduce(each)
    return own(exchange.held, exchange.owned, held)


def begun(folder: Path, case: str, layout: ParallelLayout, group: Group) -> Training:
    """A run before its first step."""
    asked = recipe(case)
    return Training(asked, PreTraining(asked, folder / "data"), preflight(asked), group=group, layout=layout)


def gone_on(folder: Path, group: Group) -> Training:
    """A run whose first step was taken with experts shared out, in a process that now shares out all weights."""
    first = begun(folder, "gone on", ParallelLayout(dp=group.size, ep=2), group)
    first.advance()
    saver = Saver(folder / "checkpoints", 1, group)
    saver.begin(1, first.work.held(), {"step": 1} if group.main else {})
    saver.finish()
    saver.close()
    training = begun(folder, "gone on", ParallelLayout(fsdp=group.size), group)
    stored = checkpoint.open_stored(checkpoint.find(folder / "checkpoints", 1)).tensors
    training.adopt(stored)
    assert training.weights_hash() == first.weights_hash()
    training.load(1, first.tokens, stored)
    return training


def train(folder: Path, case: str, group: Any) -> dict[str, Any]:
    """Hashes after the last step, its norm, and bytes that this process sent."""
    real = Exchange.reduce, SharedWork._unit, SharedWork._own_lanes, group.hosts
    if case == "two machines":
        group.hosts = ["a", "a", "b", "b"]
    if case == "all_reduce":
        Exchange.reduce = all_reduced  # type: ignore[assignment]
    if case == "off a chunk":
        SharedWork._unit = lambda self, part: 1000  # type: ignore[method-assign]
    if case == "lanes swapped":
        order = {0: 0, 1: 2, 2: 1, 3: 3}
        SharedWork._own_lanes = lambda self, lanes: range(2 * order[self.rank], 2 * order[self.rank] + 2)  # type: ignore
    try:
        alike = ParallelLayout(dp=group.size)
        training = gone_on(folder, group) if case == "gone on" else begun(folder, case, alike, group)
        for _ in range(STEPS - training.step):
            record, _ = training.advance()
        work, sent = training.work, {}
        if isinstance(work, SharedWork):
            sent = {"sent": work.exchange.sent}
            if isinstance(work.exchange, TwoLevels):
                sent["across"] = work.exchange.across.sent
        return {
            "hashes": [training.weights_hash(), work.hash("optimizer"), record.grad_norm.hex(),
                       *(value.hex() for value in record.scalars.values())],
            "parameters": sum(each.numel() for each in training.model.parameters()),
            "alone": type(work) is Work, **sent,
        }  # fmt: skip
    finally:
        Exchange.reduce, SharedWork._unit, SharedWork._own_lanes, group.hosts = real  # type: ignore[method-assign]


if __name__ == "__main__":
    world = join_world()
    parts.BUCKET = 40_000  # elements: several rounds
    hashes.PIECE = 64  # of a few chunks: several messages for each part
    for wanted in sys.argv[2:]:
        found = train(Path(sys.argv[1]), wanted, world)
        reports = world.gather(found)
        if world.main:
            print(json.dumps([wanted, reports]), flush=True)
    world.close()
    os._exit(0)
