"""Bytes that each process of a layout holds between and in its steps, without activations: exact, as training has them.

* **weights** in the type of products: all tensors of the process's stages, of the experts its part. Under FP8 the
  operands as well, both ways, with their scales. FSDP holds its rows in FP32.
* **master weights**, FP32, and **optimiser state** of what the process owns (ZeRO-1), dealt out by
  :func:`clearseek.parts.deal`. A single process in FP32 needs no weights beside its masters.
* **gradients** of what the process holds: a micro-batch's, in FP32 or in a pipeline in the type that products give
  them in, and partial sums by the lanes of the process (:func:`partial_sums`). In the exact mode of expert parallelism
  an expert has a set for every source of its tokens, as many as `ep`. With few lanes their exchange may take more: one
  set, and what moves at a time (:func:`clearseek.parts.exchange_room`).

``clearseek train RECIPE --dry-run --layout ...`` counts the same in a model without memory; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from clearseek.config import Recipe, TrainConfig
from clearseek.counts import MUON_KINDS
from clearseek.parts import Part, deal, exchange_room, unit
from clearseek.plan.layout import ParallelLayout
from clearseek.plan.stages import held_tensors
from clearseek.tensors import FP8_KINDS, TensorSpec, scale_shape

NODE = 8
"""Devices of a machine."""


class States(NamedTuple):
    """Bytes on one process."""

    weights: int
    master_weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """Bytes of all of these."""
        return sum(self)


def lanes_each(train: TrainConfig, layout: ParallelLayout) -> int:
    """Lanes that a process computes."""
    return train.summed_lanes // layout.copies


def partial_sums(train: TrainConfig, layout: ParallelLayout) -> int:
    """FP32 sets of gradients that a process holds at once beside those of a micro-batch.

    In the tree of ``n`` lanes there are ``log2(n)``, and one more where a lane has several micro-batches.
    """
    return lanes_each(train, layout).bit_length() - 1 + (train.micro_batches > train.summed_lanes)


def expert_sources(recipe: Recipe, layout: ParallelLayout) -> int:
    """Sets of sums that a process keeps apart for its experts: one for each source of tokens in the exact mode."""
    return layout.ep if recipe.train.expert_gradients == "exact" else 1


class Stage:
    """The tensors of the process at a place in the pipeline, as a recipe trains them."""

    def __init__(self, recipe: Recipe, layout: ParallelLayout, process: int) -> None:
        self.recipe = recipe
        specs = held_tensors(recipe.model, layout, process)
        self.trained = [spec for spec in specs if spec.kind != "router_bias"]
        muon = recipe.optimizer.name == "muon"
        self._muon = {spec.name for spec in self.trained if muon and spec.kind in MUON_KINDS}
        self._biases = sum(spec.size for spec in specs if spec.kind == "router_bias")
        dense, experts = ([spec for spec in self.trained if (spec.kind == "expert") == each] for each in (False, True))
        self.dense, self.experts = (sum(spec.size for spec in some) for some in (dense, experts))
        """Elements."""
        eight, fp32 = recipe.train.precision == "fp8", recipe.train.precision == "fp32"
        self._wide = [
            sum(spec.size for spec in some if fp32 or (eight and spec.kind in FP8_KINDS)) for some in (dense, experts)
        ]
        """Elements whose gradients come in FP32."""
        self._operands = [sum(_operands(spec) for spec in some if eight) for some in (dense, experts)]

        self._all = self._owned([Part.of(spec.name, spec.shape) for spec in self.trained])

    def states(self, layout: ParallelLayout) -> list[States]:
        """Bytes on each copy."""
        weights, summed = self._weights(layout), self._gradients(layout)
        dealt = shares(self.trained, layout, self.recipe.optimizer.name == "muon")
        found = []
        for parts, exchanged in zip(dealt, self._exchanged(layout, dealt), strict=True):
            masters, kept = self._owned(parts)
            found.append(States(weights, masters, max(summed, exchanged), kept))
        return found

    def even(self, layout: ParallelLayout) -> States:
        """Bytes on each copy, or a little less, if what is owned could be dealt out evenly."""
        masters, kept = (size // layout.copies for size in self._all)
        return States(self._weights(layout), masters, self._gradients(layout), kept)

    def _owned(self, parts: Sequence[Part]) -> tuple[int, int]:
        """Bytes of the masters of some parts, and of their optimiser state."""
        moments = 8 if self.recipe.optimizer.moments == "fp32" else 4
        kept = (4 * part.size if part.name in self._muon else moments * part.size + 4 for part in parts)  # + step count
        return 4 * (sum(part.size for part in parts) + self._biases), sum(kept)

    def _weights(self, layout: ParallelLayout) -> int:
        if layout.fsdp > 1:
            return 4 * self.rows(layout.fsdp)
        wide = self.recipe.train.precision == "fp32"
        if wide and layout.devices == 1:
            return 0
        both = (
            (4 if wide else 2) * self.dense + self._operands[0],
            (4 if wide else 2) * self.experts + self._operands[1],
        )
        return both[0] + both[1] // layout.ep

    def _gradients(self, layout: ParallelLayout) -> int:
        train = self.recipe.train
        sums, several = partial_sums(train, layout), train.micro_batches > train.summed_lanes
        if layout.fsdp > 1:  # within a lane of several micro-batches FSDP keeps whole gradients
            return 4 * (self.rows(layout.fsdp) * (sums + 1 - several) + (self.dense + self.experts) * several)
        spread = expert_sources(self.recipe, layout), layout.ep
        wide = self._wide if layout.pp > 1 else (self.dense, self.experts)  # a pipeline adds gradients as they come
        found = 0
        for elements, fp32, (sources, ways) in zip((self.dense, self.experts), wide, ((1, 1), spread), strict=True):
            bytes_ = fp32 * 4 * (sums + 1) + (elements - fp32) * (4 * max(1, sums) + 2)
            found += bytes_ // ways * sources
        return found

    def _exchanged(self, layout: ParallelLayout, dealt: Sequence[Sequence[Part]]) -> list[int]:
        """Bytes of gradients on each copy while these go to their owners."""
        if layout.devices == 1:
            return [0]
        total = self.dense + self.experts
        if layout.fsdp > 1:
            rows = self.rows(layout.fsdp)
            rooms = [
                exchange_room(_held(self.trained, layout, copy), [parts], layout.copies, total, in_place=False)[0]
                for copy, parts in enumerate(dealt)
            ]
            return [4 * (rows + room) for room in rooms]
        elements, found = self.dense + self.experts // layout.ep, [0] * layout.copies
        if adds_by_machine(layout):  # first, each for all alike
            added = [[part for each in dealt[place::NODE] for part in each] for place in range(NODE)]
            rooms = exchange_room(_held(self.trained, layout, 0), added, NODE, total)
            return [4 * (elements + rooms[copy % NODE]) for copy in range(layout.copies)]
        for number in range(layout.ep):
            rooms = exchange_room(_held(self.trained, layout, number), dealt[number :: layout.ep], layout.copies, total)
            found[number :: layout.ep] = [4 * (elements + room) for room in rooms]
        return found

    def rows(self, ways: int) -> int:
        """Elements of the rows that FSDP gives each process, padded to as many for all."""
        return sum(-(-spec.shape[0] // ways) * prod(spec.shape[1:]) for spec in self.trained)


def shares(specs: Sequence[TensorSpec], layout: ParallelLayout, muon: bool = False) -> list[list[Part]]:
    """What each copy of a stage owns of its tensors: masters and optimiser state."""
    apart = layout.ep > 1

    def parts(kinds: bool, number: int = 0, ways: int = 1) -> list[tuple[Part, int]]:
        some = [spec for spec in specs if (apart and spec.kind == "expert") == kinds]
        rows = [(spec.shape[0] // ways * number, spec.shape[0] // ways * (number + 1)) for spec in some]
        return [
            (Part.of(spec.name, spec.shape).rows(*each), _unit(spec, muon))
            for spec, each in zip(some, rows, strict=True)
        ]

    dealt = deal(parts(False), layout.copies)
    for number in range(layout.ep if apart else 0):
        for owner, more in enumerate(deal(parts(True, number, layout.ep), layout.copies // layout.ep)):
            dealt[owner * layout.ep + number] += more
    return dealt


def adds_by_machine(layout: ParallelLayout) -> bool:
    """Whether the processes of a machine add their gradients first, and only then those of several machines."""
    return layout.fsdp == layout.ep == 1 and layout.copies > NODE and layout.copies % NODE == 0


def _held(specs: Sequence[TensorSpec], layout: ParallelLayout, number: int) -> list[Part]:
    """What a copy with one part of the experts, or under FSDP a copy, computes gradients of."""
    found = []
    for spec in specs:
        ways = layout.fsdp * (layout.ep if spec.kind == "expert" else 1)
        height = -(-spec.shape[0] // ways)
        first, last = (min(spec.shape[0], place * height) for place in ((number, number + 1) if ways > 1 else (0, 1)))
        found.append(Part.of(spec.name, spec.shape).rows(first, last))
    return found


def _operands(spec: TensorSpec) -> int:
    """Bytes of a matrix's, or a stack's, FP8 operands, as it is and transposed: elements and scales."""
    if spec.kind not in FP8_KINDS:
        return 0
    blocks = prod(spec.shape[:-2]) * prod(scale_shape(spec.shape[-2:]))
    return 2 * (spec.size + 4 * blocks)


def _unit(spec: TensorSpec, muon: bool) -> int:
    halves = 2 if spec.name.endswith("gate_up_proj") else 1  # gate and up are a matrix each
    return unit(spec.shape, prod(spec.shape[-2:]) // halves if muon and spec.kind in MUON_KINDS else None)
