"""Weights dealt out among all copies (FSDP2), for models that fit no device, with the bits of one process.

PyTorch's ``fully_shard`` keeps rows of every matrix on each process, gathers a layer's for its forward and again for
its backward, and adds the gradients of all copies while it deals them out. Three things about it change here:

* Gradients are added by an exchange and the tree of :mod:`clearseek.train.accumulate`, in FP32. A library's
  reduce-scatter adds in an order of its own.
* The copies take turns with the lanes: copy r of W computes lanes r, r + W, r + 2W, ... So each turn's sum over the
  copies is a subtree, and a process holds its own rows of it only.
* Rows are held in FP32 with the values that the optimiser rounded, and gathered in the type of the products: widening
  and narrowing them again is exact, and their gradients stay FP32.

Embedding, final norm and output head belong to the model itself, and are whole from a micro-batch's forward to the end
of its backward; of the layers, one and the next are.

Shapes: W copies, N numbers of a group of parameters, C numbers of a copy's rows of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from clearseek.config import ModelConfig
from clearseek.errors import UserError
from clearseek.fp8.linear import Fp8, QuantisedWeight
from clearseek.model.transformer import DeepSeekModel, deviation, drawn
from clearseek.parts import Part, deal
from clearseek.train.accumulate import TreeSum
from clearseek.train.parallel.work import LaneSums, SharedWork
from clearseek.train.task import Batch, Task


class TreeReduceScatter:
    """Reduce-scatter in the tree's order: every copy's piece to the copy that owns it, and explicit adds there."""

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory for what goes in or comes out."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> None:
        """Write the sum over all copies of a copy's own C numbers; every copy gives W * C."""
        assert output_tensor.dtype == torch.float32 and not async_op
        received_N = torch.empty_like(input_tensor)
        dist.all_to_all_single(received_N, input_tensor, group=group)
        tree = TreeSum()
        for sent_C in received_N.view(group.size(), -1):
            tree.push([sent_C])
        output_tensor.copy_(tree.result()[0])


class FsdpWork(SharedWork):
    """The work of one of several processes that share the weights out, too."""

    def _own_lanes(self, lanes: int) -> range:
        copies = self.layout.copies
        if lanes % copies or copies & (copies - 1):
            raise UserError(
                f"train.lanes = {lanes} on {copies} processes that share the weights out: give a power of two of "
                "processes, and a multiple of it as lanes"
            )
        return range(self.layout.copy(self.rank), lanes, copies)

    def _build(self) -> DeepSeekModel:
        setup, group = self.setup, dist.group.WORLD
        assert group is not None
        self._sharded = Sharded(self.recipe.model, group, setup.device, setup.precision.dtype, setup.fp8)
        self._sharded.initialise(self.recipe.train.seed, self.recipe.train.initial_weights == "scaled")
        return self._sharded.model.use_recompute(self.recipe.train.recompute == "selective")

    def _parts(self, rank: int) -> list[Part]:
        return self._sharded.parts(self.layout.copy(rank))

    def _dealt(self, held: Mapping[int, Sequence[Part]]) -> dict[int, list[Part]]:
        whole = [Part.of(each.name, each.parameter.shape) for each in self.trained]
        return dict(zip(held, deal([(part, self._unit(part)) for part in whole], len(held)), strict=True))

    def _weights(self) -> list[Tensor]:
        return self._sharded.rows()

    def _leaf(self, rank: int, part: Part) -> int:
        return 0  # rows of several processes are joined, not added

    def _lane_sums(self, task: Task, batch: Batch) -> LaneSums:
        train, sums, turns, names = self.recipe.train, TreeSum(), list[Tensor](), list[str]()
        run = train.micro_batches // train.summed_lanes
        load_LE = torch.zeros((), dtype=torch.int64, device=self.setup.device)
        for number, micro in enumerate(batch.split(run * len(self.lanes))):
            self._sharded.last_of_lane((number + 1) % run == 0)
            loss = task.loss(self.model, micro)
            loss.total.backward()
            names, values = list(loss.scalars), torch.stack(list(loss.scalars.values()))
            load_LE = load_LE + loss.load_LE
            if number % run:
                turns[-1].add_(values)
            else:
                turns.append(values)
            if (number + 1) % run == 0:
                sums.push(self._taken())
        return LaneSums(sums.result(), torch.stack(turns), names, load_LE)

    def _taken(self) -> list[Tensor]:
        return self._sharded.take_gradients()

    def _scalars(self, found: LaneSums) -> dict[str, float]:
        assert found.scalars is not None
        tree = TreeSum()
        for turn in zip(*self.group.gather(found.scalars.tolist()), strict=True):
            for values in turn:
                tree.push([torch.tensor(values, dtype=torch.float32)])
        return dict(zip(found.names, tree.result()[0].tolist(), strict=True))

    def _round(self) -> None:
        rounded = [master.to(self.setup.precision.dtype).float() for master in self.optimizer.masters]
        self.exchange.spread(rounded, self._weights())


class Sharded:
    """A model whose rows are dealt out among the processes of a group.

    Args:
        config: Dimensions of the model.
        group: The processes, in the order of their copies.
        device: Where the weights are.
        dtype: Type of the products and activations.
        fp8: How to compute in FP8, if so.
    """

    def __init__(
        self, config: ModelConfig, group: dist.ProcessGroup, device: torch.device, dtype: torch.dtype, fp8: Fp8 | None
    ) -> None:
        self.dtype, self.rank, self.size = dtype, group.rank(), group.size()
        with torch.device("meta"):
            self.model = DeepSeekModel(config).use_fp8(fp8)
        meta = device.type == "meta"
        _shard(self.model, DeviceMesh.from_group(group, "cpu" if meta else device.type), dtype)
        self.model.to_empty(device=device)
        with torch.no_grad():
            for buffer in self.model.buffers():
                buffer.zero_()
        _keep_no_operands(self.model)
        if not meta:  # which nothing can be gathered on
            _widen_gradients(self.model)
        self.parameters: dict[str, nn.Parameter] = dict(self.model.named_parameters())
        """Parameters by name, as :class:`DTensor`: a process has its rows of each."""

    def parts(self, copy: int) -> list[Part]:
        """The rows that a copy holds, in the order of the parameters."""
        found = []
        for name, parameter in self.parameters.items():
            rows = self._rows(parameter, copy)
            found.append(Part.of(name, parameter.shape).rows(rows.start, rows.stop))
        return found

    def _rows(self, parameter: nn.Parameter, copy: int) -> range:
        """Rows of a parameter on a copy: equally many on all, fewer or none on the last ones."""
        total = len(parameter)
        height = -(-total // self.size)
        return range(min(copy * height, total), min((copy + 1) * height, total))

    @torch.no_grad()
    def rows(self) -> list[Tensor]:
        """This process's rows of each parameter, FP32, to read or to write in place.

        What was gathered of them is forgotten: the next forward gathers anew.
        """
        self._module.reshard()
        return [_local(parameter) for parameter in self.parameters.values()]

    @torch.no_grad()
    def initialise(self, seed: int, scaled: bool = False) -> None:
        """Give the rows their initial values, rounded (:meth:`DeepSeekModel.initialise`).

        One whole matrix is drawn at a time; of stacked experts, the own ones. Nothing is drawn on the meta device.
        """
        for (name, parameter), local in zip(self.parameters.items(), self.rows(), strict=True):
            rows = self._rows(parameter, self.rank)
            if local.is_meta:
                continue
            if parameter.ndim == 1:
                local.fill_(1.0)
                continue
            shape = parameter.shape[-2:]
            width = deviation(self.model.config, name, shape, scaled)
            if parameter.ndim == 2 and rows:
                local.copy_(drawn(seed, name, 0, shape, width)[rows.start : rows.stop].to(self.dtype))
            elif parameter.ndim == 3:
                for number, matrix in zip(rows, local, strict=True):
                    matrix.copy_(drawn(seed, name, number, shape, width).to(self.dtype))

    def last_of_lane(self, last: bool) -> None:
        """Say whether the next backward ends a lane, and deals its gradients out; else they wait on this process."""
        self._module.set_requires_gradient_sync(last)

    @torch.no_grad()
    def take_gradients(self) -> list[Tensor]:
        """FP32 gradients of this process's rows, summed over a turn of all copies; zero where no copy used them."""
        found = list[Tensor]()
        for parameter in self.parameters.values():
            gradient, parameter.grad = parameter.grad, None
            found.append(torch.zeros_like(_local(parameter)) if gradient is None else _local(gradient))
        return found

    @property
    def _module(self) -> FSDPModule:
        assert isinstance(self.model, FSDPModule)
        return self.model


def _local(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    local: Tensor = tensor.to_local()
    return local


def _shard(model: DeepSeekModel, mesh: DeviceMesh, dtype: torch.dtype) -> None:
    """Make each layer a unit that is gathered by itself, and the model one of all that is in no layer."""
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)  # nothing writes to it
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in (*model.model.layers, model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "loss")
    for module in _units(model):
        module.set_custom_reduce_scatter(TreeReduceScatter())  # type: ignore[arg-type]
        module.set_gradient_divide_factor(1.0)  # the loss is a sum over tokens already
        module.set_force_sum_reduction_for_comms(True)


def _units(model: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in model.modules() if isinstance(module, FSDPModule))


def _keep_no_operands(model: nn.Module) -> None:
    """FP8 operands are made anew from what was gathered: kept, they would be stale, and a whole model."""
    for module in model.modules():
        for value in vars(module).values():
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, QuantisedWeight):
                    each.kept = False


def _widen_gradients(model: DeepSeekModel) -> None:
    """Let the layers' gradients be FP32 from their functions on: those of FP8 products are, and a unit's are alike.

    A layer uses each parameter once, so that a gradient in BF16 is widened exactly. Embedding and head may be used
    twice: their two gradients are added in the type of the products, as on one process.
    """
    for module in _units(model):
        module.unshard()  # what autograd sees exists from the first time on
        if not isinstance(module, DeepSeekModel):
            for parameter in module.parameters():  # type: ignore[attr-defined]
                parameter.grad_dtype = torch.float32
        module.reshard()
