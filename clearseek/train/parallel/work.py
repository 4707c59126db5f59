"""A step's work on many processes, in the bits of one: data parallel with a sharded optimiser (ZeRO-1).

Every copy computes the gradients of its own lanes; the sums go to the owners of their elements, which update the
masters and send the new weights back (:mod:`clearseek.train.parallel.exchange`). That is DeepSeek-V3's way of data
parallelism (report, section 3.2). What is taken over all weights, norm and hashes, is taken chunk by chunk by the
owners, and put together in the order that one process has.

Shapes: L layers with experts, E experts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from clearseek.config import Recipe
from clearseek.errors import UserError
from clearseek.evaluate.bits import nats_of
from clearseek.model.transformer import DeepSeekModel
from clearseek.parts import CHUNK, Part, deal, unit
from clearseek.plan.layout import ParallelLayout
from clearseek.train.accumulate import LaneSum, TreeSum, block
from clearseek.train.checkpoints.stored import LazyTensor, cut
from clearseek.train.chunks import chunk_norms, total_norm
from clearseek.train.optimizer import Updates, matrix_of
from clearseek.train.parallel.evaluation import Shared
from clearseek.train.parallel.exchange import Exchange, TwoLevels, machines
from clearseek.train.parallel.experts import Sources, is_spread, part_of_experts, share_out_experts, whole_shape
from clearseek.train.parallel.group import Group
from clearseek.train.parallel.hashes import hash_parts
from clearseek.train.preflight import Setup
from clearseek.train.pretrain import PreTraining
from clearseek.train.task import Batch, Task
from clearseek.train.work import ADAPTED, State, Sums, Trainable, Work


class LaneSums(NamedTuple):
    """What the micro-batches of this process give, summed in the order of its lanes."""

    gradients: list[Tensor]
    """FP32, of the parts that are held."""
    scalars: Tensor | None
    """FP32 [N]; None where the loss is computed by other processes."""
    names: list[str]
    """Names of the scalars."""
    load_LE: Tensor
    """Tokens per expert of all layers, int64; zero in those of other processes."""


class SharedWork(Work):
    """The work of one of several processes; see :class:`clearseek.train.work.Work`.

    Raises UserError: the layout does not divide what it must.
    """

    def __init__(
        self, recipe: Recipe, setup: Setup, trainable: Trainable, group: Group, layout: ParallelLayout
    ) -> None:
        self.group, self.layout, self.rank = group, layout, group.rank
        self.lanes = self._own_lanes(recipe.train.summed_lanes)
        super().__init__(recipe, setup, trainable)
        self.sources = Sources(self.model, self.trained)

    def _share_out(self, model: DeepSeekModel) -> None:
        if self.layout.ep > 1:
            share_out_experts(model, self.layout, self.rank, self.recipe.train.expert_gradients == "exact")

    def _own_lanes(self, lanes: int) -> range:
        """The lanes of a step that this process computes."""
        return block(lanes, self.layout.copy(self.rank), self.layout.copies)

    def _optimizer(self) -> Updates:
        if any(each.rows is not None for each in self.trained):
            raise UserError(f"{self.recipe.name}: chosen experts are trained by one process: leave out --processes")
        held = {rank: self._parts(rank) for rank in self.layout.copies_of_stage(self.rank)}
        self.exchange = self._exchange_of(held)
        self._chunks, self._number = self._order()
        owned, muon = self.exchange.owned, self.setup.muon or self.setup.precision.dtype
        masters = [each.float() for each in self.exchange.fetch(self._weights())]
        names, shapes = [part.name for part in owned], [part.shape for part in owned]
        return Updates(names, shapes, masters, self.recipe.optimizer, muon)

    def _exchange_of(self, held: Mapping[int, Sequence[Part]]) -> Exchange | TwoLevels:
        owned, each = self._dealt(held), machines([self.group.hosts[rank] for rank in held])
        if each is not None and self.layout.ep == 1 and self.layout.fsdp == 1:
            return TwoLevels(self.rank, held, owned, each)
        return Exchange(self.rank, held, owned, self._leaf)

    # --- Who has what -------------------------------------------------------------------------------------------------

    def _parts(self, rank: int) -> list[Part]:
        """What a process of this one's stage holds of the trained tensors."""
        shapes = [whole_shape(each.name, each.parameter.shape, self.layout) for each in self.trained]
        wholes = [Part.of(each.name, shape) for each, shape in zip(self.trained, shapes, strict=True)]
        return [part_of_experts(whole, self.layout, rank) for whole in wholes]

    def _weights(self) -> list[Tensor]:
        """The tensors of this process's parts, in the model's type; written to after each step."""
        return [each.parameter.detach() for each in self.trained]

    def _dealt(self, held: Mapping[int, Sequence[Part]]) -> dict[int, list[Part]]:
        """What each process of this one's stage updates, of what each holds."""
        copies, layout = list(held), self.layout

        def parts(rank: int, experts: bool) -> list[tuple[Part, int]]:
            some = [part for part in held[rank] if is_spread(part.name, layout) == experts]
            return [(part, self._unit(part)) for part in some]

        owned = dict(zip(copies, deal(parts(copies[0], False), len(copies)), strict=True))
        for rank in copies[: layout.ep if layout.ep > 1 else 0]:
            alike = layout.expert_copies(rank)
            for owner, more in zip(alike, deal(parts(rank, True), len(alike)), strict=True):
                owned[owner] += more
        return owned

    def _unit(self, part: Part) -> int:
        matrix = matrix_of(part.name, part.shape, self.recipe.optimizer)
        return unit(part.shape, None if matrix is None else matrix[0] * matrix[1])

    def _leaf(self, rank: int, part: Part) -> int:
        """Place of a process's sum of a part among those that are added."""
        copy = self.layout.copy(rank)
        return copy // self.layout.ep if is_spread(part.name, self.layout) else copy

    def _order(self) -> tuple[list[int], NDArray[np.int64]]:
        """Chunks that each process owns, and the order of all in one process, by their places one process after the
        other."""
        owned = [(part.name, part.start, part.stop) for part in self.exchange.owned]
        place = {name: number for number, name in enumerate(self._names())}
        counts, runs, first = list[int](), list[tuple[int, int, int, int]](), 0
        for theirs in self.group.gather(owned):
            before = first
            for name, start, stop in theirs:
                count = -(-(stop - start) // CHUNK)
                runs.append((place[name], start, first, count))
                first += count
            counts.append(first - before)
        order = [np.arange(first, first + count) for _, _, first, count in sorted(runs)]
        return counts, np.concatenate([np.arange(0), *order])

    def _names(self) -> list[str]:
        """All trained parameters in the order of one process."""
        return [each.name for each in self.trained]

    # --- A step -------------------------------------------------------------------------------------------------------

    def rows(self) -> list[int]:
        """Rows of a step's batch that this process computes."""
        train = self.recipe.train
        each = train.batch_size // train.summed_lanes
        return [row for lane in self.lanes for row in range(lane * each, (lane + 1) * each)]

    def batch(self, task: Task, step: int) -> Batch:
        """This process's rows of a step's batch."""
        if isinstance(task, PreTraining):
            return task.batch(step, self.model, self.rows())
        return task.batch(step, self.model).select(self.rows())

    def sums(self, task: Task, batch: Batch) -> Sums:
        """This process's own share of the gradients of a step; the scalars and loads of the whole step."""
        began = time.perf_counter()
        found = self._lane_sums(task, batch)
        self.computed = time.perf_counter() - began
        gradients = self.exchange.reduce(found.gradients, self.setup.device)
        load_LE = found.load_LE.to(self.setup.device)
        dist.all_reduce(load_LE)
        return Sums(gradients, self._scalars(found), load_LE.cpu())

    def _lane_sums(self, task: Task, batch: Batch) -> LaneSums:
        if self.layout.ep > 1 and not isinstance(task, PreTraining):
            raise UserError(
                f"{self.recipe.name}: {task.name} needs all experts on each process: leave ep out of --layout"
            )
        train = self.recipe.train
        count = train.micro_batches // self.layout.copies
        sums, names = LaneSum(count, len(self.lanes)), list[str]()
        load_LE = torch.zeros((), dtype=torch.int64, device=self.setup.device)
        for micro in batch.split(count):
            loss = task.loss(self.model, micro)
            loss.total.backward()
            names = list(loss.scalars)
            values = torch.stack(list(loss.scalars.values()))
            sums.push([*self._taken(), values])
            load_LE = load_LE + loss.load_LE
        *gradients, values = sums.result()
        return LaneSums(self.sources.add(gradients), values, names, load_LE)

    def _taken(self) -> list[Tensor]:
        """The FP32 gradients of a micro-batch, which the model no longer has: of experts in exact mode by source."""
        return self.sources.take()

    def _scalars(self, found: LaneSums) -> dict[str, float]:
        mine = {} if found.scalars is None else dict(zip(found.names, found.scalars.tolist(), strict=True))
        tree = TreeSum()
        everyone = [each for each in self.group.gather(mine) if each]  # stages one after the other, copies in order
        for each in everyone:
            tree.push([torch.tensor(list(each.values()), dtype=torch.float32)])
        return dict(zip(everyone[0], tree.result()[0].tolist(), strict=True))

    def norm(self, gradients: list[Tensor]) -> float:
        """Global L2 norm of all processes' gradients."""
        mine = chunk_norms(gradients)
        everyone = _gather_vectors(mine, self._chunks, self.setup.device)
        return total_norm(everyone[self._number])

    def update(self, gradients: list[Tensor], norm: float, multiplier: float) -> None:
        """Clip, update the masters, round them into the weights of all processes."""
        self.optimizer.step(gradients, norm, multiplier)
        self._round()

    def _round(self) -> None:
        dtype = self.setup.precision.dtype
        self.exchange.spread([master.to(dtype) for master in self.optimizer.masters], self._weights())

    def evaluate(self, task: Task, step: int, progress: Callable[[int, int], None] | None = None) -> dict[str, float]:
        """As one process measures; copies share held-out windows, and compute all of what other tasks measure by."""
        if not isinstance(task, PreTraining):
            return super().evaluate(task, step, progress)
        exact = self.recipe.train.expert_gradients == "exact"
        return task.evaluate(Shared(self._nats, self.group, self.layout, exact), step, progress)

    def _nats(self, input_BS: Tensor, target_BS: Tensor) -> float:
        """What a batch of an evaluation costs, computed by this process's copy of the model."""
        return nats_of(self.model, input_BS, target_BS)

    # --- The state between two steps ----------------------------------------------------------------------------------

    def state(self) -> dict[str, dict[str, Tensor]]:
        raise NotImplementedError("no process has the whole state")

    def held(self) -> dict[str, list[tuple[Part, Tensor]]]:
        """What this process has of the state, by group, and writes into checkpoints; nothing is held twice."""
        owned, first = self.exchange.owned, self.layout.copy(self.rank) == 0
        optimizer = []
        state = self.optimizer.state()
        for part in owned:
            for slot in self.optimizer.slots(self.optimizer.names.index(part.name)) if state else ():
                name, value = f"{part.name}.{slot}", state[f"{part.name}.{slot}"]
                if value.ndim:
                    optimizer.append((part._replace(name=name), value))
                elif part.start == 0:
                    optimizer.append((Part.of(name, ()), value))
        weights = list(zip(owned, self.optimizer.masters, strict=True))
        whole = {"weights": self.frozen(), "buffers": dict(self.model.named_buffers())} if first else {}
        alone = {group: [(Part.of(n, t.shape), t) for n, t in named.items()] for group, named in whole.items()}
        return {
            "weights": weights + alone.get("weights", []), "buffers": alone.get("buffers", []), "optimizer": optimizer,
        }  # fmt: skip

    def hash(self, *groups: str) -> str:
        """SHA-256 of all tensors of some groups of the state, with the bits of one process."""
        held = self.held()
        return hash_parts(self.group, [pair for group in groups for pair in held[group]])

    def load(self, state: State) -> None:
        """Go to a state. Raises UserError, KeyError or RuntimeError where it is of another model or optimiser."""
        with self.group.together():
            self._read(state)
        self._round()

    def _read(self, state: State) -> None:
        weights, slots = state["weights"], state["optimizer"]
        for number, (part, master) in enumerate(zip(self.exchange.owned, self.optimizer.masters, strict=True)):
            keys = [f"{part.name}.{slot}" for slot in self.optimizer.slots(number)]
            missing = [key for key in keys if key not in slots] + [part.name] * (part.name not in weights)
            if missing or tuple(weights[part.name].shape) != part.shape:
                wrong = (missing or [part.name])[0]
                raise UserError(f"the checkpoint does not fit the recipe: {wrong} is missing or misshapen")
            master.copy_(cut(weights[part.name], part))
            values = {key.rpartition(".")[2]: _slot(slots[key], key, part) for key in keys}
            self.optimizer.load_state(number, values)
        for name, tensor in self.frozen().items():
            tensor.copy_(cut(weights[name], Part.of(name, tensor.shape)).view(tensor.shape))
        self._load_buffers(state["buffers"])

    def adopt(self, state: State) -> None:
        """Take over another model's weights and balance biases; what the other does not have (adapters) stays."""
        with self.group.together():
            self._take(state)
        self._round()

    def _take(self, state: State) -> None:
        theirs, frozen = state["weights"], self.frozen()
        for part, master in zip(self.exchange.owned, self.optimizer.masters, strict=True):
            if part.name in theirs or not part.name.endswith(ADAPTED):
                master.copy_(cut(theirs[part.name], part))
        for name, tensor in frozen.items():
            if name in theirs or not name.endswith(ADAPTED):
                tensor.copy_(cut(theirs[name], Part.of(name, tensor.shape)).view(tensor.shape))
        self._load_buffers(state["buffers"])


def _gather_vectors(mine: Tensor, lengths: list[int], device: torch.device) -> NDArray[np.float32]:
    """Every process's FP32 vector, of known lengths, one after the other."""
    padded = torch.zeros(max(lengths), dtype=torch.float32, device=device)
    padded[: len(mine)] = mine
    vectors = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(vectors, padded)
    return torch.cat([vector[:length] for vector, length in zip(vectors, lengths, strict=True)]).cpu().numpy()


def _slot(tensor: Tensor | LazyTensor, key: str, part: Part) -> Tensor:
    """A part of an optimiser's tensor; AdamW's count of steps is a scalar for all of a parameter."""
    if key.endswith(".step"):
        return cut(tensor, Part.of(key, ())).view(()).clone()
    return cut(tensor, part).clone()
