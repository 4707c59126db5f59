"""What each process of a layout holds, counted in a model without memory.

The processes' own classes are built on the device "meta", whose tensors have shapes and types but no numbers, in a fake
process group as large as the layout, whose messages go nowhere. So what :mod:`clearseek.plan.states` says by
arithmetic is compared with what training makes, before any machine is rented. What a forward keeps is not counted: on
"meta" there are no numbers to route tokens by.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from clearseek.config import Recipe
from clearseek.fp8.backends.reference import reference
from clearseek.fp8.formats import Quantised
from clearseek.fp8.linear import Fp8, Linear
from clearseek.machine import Precision
from clearseek.model.experts import Experts
from clearseek.model.transformer import MLP
from clearseek.ops.compiled import use_kernels
from clearseek.plan.layout import ParallelLayout
from clearseek.plan.placement import Placement, precision_of
from clearseek.plan.states import States
from clearseek.train.accumulate import LaneSum
from clearseek.train.parallel.group import ALONE, Group
from clearseek.train.parallel.work import SharedWork
from clearseek.train.preflight import Setup
from clearseek.train.step import Training
from clearseek.train.task import Task
from clearseek.train.work import Work


class Process(NamedTuple):
    """Bytes on one process."""

    rank: int
    planned: States
    """By arithmetic."""
    built: States
    """In the model that was built."""


def distinct(placement: Placement, layout: ParallelLayout) -> list[int]:
    """Of every stage the processes with most and with least memory, by the plan: copies differ in what they own."""
    found = set[int]()
    for stage in range(layout.pp):
        ranks = range(stage * layout.copies, (stage + 1) * layout.copies)
        order = sorted(ranks, key=lambda rank: placement.process(layout, rank).total)
        found |= {order[0], order[-1]}
    return sorted(found)


def dry_run(placement: Placement, layout: ParallelLayout, ranks: Iterable[int]) -> Iterator[Process]:
    """Build some processes of a layout, one after the other, and count what they hold."""
    for rank in ranks:
        planned = States(*placement.process(layout, rank)[:4])
        with _fake_group(rank, layout.devices) as group, torch.device("meta"):
            yield Process(rank, planned, _count(_work(placement.recipe, layout, group)))


class _FakeGroup(Group):
    """One of many processes, of which the others never answer."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@contextmanager
def _fake_group(rank: int, size: int) -> Iterator[Group]:
    if size == 1:
        yield ALONE
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    hook = sys.excepthook
    dist.init_process_group("cpu:fake,meta:fake", store=FakeStore(), rank=rank, world_size=size)
    sys.excepthook = hook  # torch's names the rank in every traceback from then on
    try:
        world = dist.group.WORLD
        assert world is not None
        world._set_default_backend(dist.ProcessGroup.BackendType.CUSTOM)  # which of several is asked for its hooks
        yield _FakeGroup(rank, size)
    finally:
        dist.destroy_process_group()


def _work(recipe: Recipe, layout: ParallelLayout, group: Group) -> Work:
    precision = precision_of(recipe)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    fp8 = Fp8(recipe.fp8, reference(dtype)) if precision == "fp8" else None
    setup = Setup(torch.device("meta"), Precision(dtype, {}), "torch", fp8)
    try:
        return Training(recipe, cast(Task, None), setup, group=group, layout=layout).work
    finally:
        use_kernels("torch")


def _count(work: Work) -> States:
    model, optimizer = work.model, work.optimizer
    masters = [*optimizer.masters, *model.buffers()]
    weights = _bytes({*model.parameters()} - {*masters}) + _operand_bytes(model)
    gradients = _gradients(work)
    optimizer.step([torch.zeros_like(master) for master in optimizer.masters], 1.0, 1.0)
    return States(weights, _bytes(masters), gradients, _bytes(optimizer.state().values()))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _operand_bytes(model: nn.Module) -> int:
    """Bytes of the FP8 operands that the first forward makes, where a backend stores both ways."""
    total = 0
    for module in model.modules():
        fp8: Fp8 | None = getattr(module, "fp8", None)
        if fp8 is None:
            continue
        if isinstance(module, Linear):
            operands = [module.quantised.get(fp8, module.weight)]
        elif isinstance(module, MLP):
            halves = module.gate_proj.weight, module.up_proj.weight
            pairs = zip(module.quantised, (halves, (module.down_proj.weight,)), strict=True)
            operands = [keeper.get(fp8, *matrices, stacked=True) for keeper, matrices in pairs]
        elif isinstance(module, Experts):
            stacks = zip(module.quantised, (module.gate_up_proj, module.down_proj), strict=True)
            operands = [keeper.get(fp8, stack) for keeper, stack in stacks]
        else:
            operands = []
        sides: list[Quantised] = [side for weight in operands for side in weight]
        total += sum(side.data.nbytes + side.scale.nbytes for side in sides)
    return total


def _gradients(work: Work) -> int:
    """Most bytes of gradients at a time while the micro-batches of a step are summed, two of each lane."""
    train = work.recipe.train
    shared = isinstance(work, SharedWork)
    lanes = len(work.lanes) if shared else train.summed_lanes
    taken = work._taken if shared else work.masters.take_gradients
    count = lanes * min(2, train.micro_batches // train.summed_lanes)
    with _Live() as live:
        sums = LaneSum(count, lanes)
        for _ in range(count):
            sums.push(taken())
        sums.result()
    return live.most


class _Live(TorchDispatchMode):
    """Bytes of the tensors that operations make, as long as these live."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._now, self._known = 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (list, tuple)) else (made,):
            if isinstance(each, Tensor) and id(each) not in self._known:
                self._known.add(id(each))
                self._now += each.nbytes
                self.most = max(self.most, self._now)
                weakref.finalize(each, self._forget, id(each), each.nbytes)
        return made

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size
