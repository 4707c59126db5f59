"""What each process of a layout holds, counted in a model without memory.

The processes' own classes are built on the device "meta", whose tensors have shapes and types but no numbers, in a fake
process group as large as the layout, whose messages go nowhere. So what :mod:`clearseek.plan.states` says by
arithmetic is compared with what training makes, before any machine is rented. What a forward keeps is not counted: on
"meta" there are no numbers to route tokens by.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from clearseek.config import Recipe
from clearseek.fp8.backend import Weight
from clearseek.fp8.backends.reference import reference
from clearseek.fp8.linear import Fp8, Linear
from clearseek.machine import Precision
from clearseek.model.attention import MultiHeadLatentAttention
from clearseek.model.experts import Experts
from clearseek.model.layers import MLP
from clearseek.ops.compiled import use_kernels
from clearseek.parts import exchange_room
from clearseek.plan.layout import ParallelLayout
from clearseek.plan.placement import Placement, precision_of
from clearseek.plan.states import NODE, States
from clearseek.train.accumulate import LaneSum, TreeSum
from clearseek.train.parallel.exchange import TwoLevels
from clearseek.train.parallel.fsdp import FsdpWork
from clearseek.train.parallel.group import ALONE, Group
from clearseek.train.parallel.staged import StagedWork
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
        self.hosts = [f"machine {number // NODE}" for number in range(size)]

    def process_group(self, ranks: Sequence[int]) -> dist.ProcessGroup:
        """A fake group of some of the processes."""
        return cast(dist.ProcessGroup, dist.new_group(list(ranks)))


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
    same = {_memory(master) for master in masters}  # in FP32 a single process has one set of both
    weights = _bytes(each for each in model.parameters() if _memory(each) not in same)
    if not isinstance(work, FsdpWork):  # it keeps none
        weights += _operand_bytes(model)
    gradients = _gradients(work)
    optimizer.step([torch.zeros_like(master) for master in optimizer.masters], 1.0, 1.0)
    return States(weights, _bytes(masters), gradients, _bytes(optimizer.state().values()))


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' memory on this process."""
    return sum(_local(tensor).untyped_storage().nbytes() for tensor in tensors)


def _memory(tensor: Tensor) -> int:
    """Which memory a tensor is in."""
    return int(_local(tensor).untyped_storage()._cdata)


def _local(tensor: Tensor) -> Tensor:
    local: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local


def _operand_bytes(model: nn.Module) -> int:
    """Bytes of the FP8 operands that the first forward makes, where a backend stores both ways."""
    operands: list[Weight] = []
    for module in model.modules():
        fp8: Fp8 | None = getattr(module, "fp8", None)
        if fp8 is None:
            continue
        if isinstance(module, MLP):
            gate_up, down = module.quantised
            operands.append(gate_up.get(fp8, module.gate_proj.weight, module.up_proj.weight, stacked=True))
            operands.append(down.get(fp8, module.down_proj.weight, stacked=True))
        elif isinstance(module, Experts):
            pairs = zip(module.quantised, (module.gate_up_proj, module.down_proj), strict=True)
            operands += [keeper.get(fp8, stack) for keeper, stack in pairs]
    for module in model.modules():
        if isinstance(module, MultiHeadLatentAttention):
            projections = [child for child in module.children() if isinstance(child, Linear)]
            operands += [each.quantised.get(each.fp8, each.weight) for each in projections if each.fp8 is not None]
    return sum(side.data.nbytes + side.scale.nbytes for weight in operands for side in weight)


def _gradients(work: Work) -> int:
    """Most bytes of gradients at a time while the micro-batches of a step are summed, two of each lane."""
    train = work.recipe.train
    several = train.micro_batches > train.summed_lanes
    lanes = len(work.lanes) if isinstance(work, SharedWork) else train.summed_lanes
    if isinstance(work, FsdpWork):
        sizes = [torch.Size([_bytes([row]) // 4]) for row in work._weights()]
        types = [torch.float32] * len(sizes)
        sums: LaneSum | TreeSum = TreeSum()
        count, whole = lanes, 4 * several * sum(each.parameter.numel() for each in work.trained)
    else:
        trained = {each.name: each.parameter for each in work.trained}
        # In exact mode the experts of a process have an alias for each source.
        names = [name for name, _ in work.sources.leaves()] if isinstance(work, SharedWork) else [*trained]
        sizes = [trained[name].shape for name in names]
        types = [torch.float32] * len(sizes)
        if isinstance(work, StagedWork):  # elsewhere they are widened one by one while they are taken from the model
            types = [trained[name].grad_dtype or trained[name].dtype for name in names]
        count, whole = lanes * (1 + several), 0
        sums = LaneSum(count, lanes)
    with _Live() as live:
        for _ in range(count):
            sums.push([torch.empty(size, dtype=dtype) for size, dtype in zip(sizes, types, strict=True)])
        sums.result()
    most: int = live.most
    return max(most + whole, _exchanged(work))


def _exchanged(work: Work) -> int:
    """Bytes of gradients while these go to their owners."""
    if not isinstance(work, SharedWork):
        return 0
    first = work.exchange.within if isinstance(work.exchange, TwoLevels) else work.exchange
    rows = work._weights() if isinstance(work, FsdpWork) else []
    elements = sum(_bytes([row]) // 4 for row in rows) or sum(part.size for part in first.held)
    [room] = exchange_room(first.held, [first.owned], first.owners, first.total, in_place=not rows)
    return 4 * (elements + room)


class _Live(TorchDispatchMode):
    """Bytes of the tensors that operations make, as long as these live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most: int = 0
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
