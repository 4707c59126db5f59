"""What processes send each other in a step, and how long a pipeline idles.

* **Gradients** (reduce-scatter): a process sends every owner its sums of what that one owns, FP32, once a step. Without
  `ep` the processes of a machine add theirs first.
* **Weights** (all-gather): an owner sends the rounded weights to all that hold them; FSDP gathers a layer for each
  forward and backward instead.
* **Experts**: each token's row goes to its experts' processes and comes back, in the forward and in the backward
  (DeepSeek-V3 report, section 3.2.2). Under FP8 the way out is in eight bits, with scales.
* **Pipeline**: hidden states to the next stage and their gradients back; with multi-token prediction and without a V
  the embeddings as well.

Bytes are those of even shares and even routing. The links are of two kinds: inside a machine of eight devices
and between machines. At the rates that DeepSeek measured, 160 GB/s and 50 GB/s of each device (report, section 3.2.2),
they take the seconds shown, if nothing hides them behind work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from clearseek.config import Recipe
from clearseek.plan.layout import ParallelLayout, Schedule
from clearseek.plan.stages import layers_of, stages_of
from clearseek.plan.states import NODE, Stage, adds_by_machine

INSIDE, ACROSS = 160e9, 50e9
"""Bytes a second that a device sends inside a machine (NVLink) and between machines (InfiniBand)."""
IDLE: dict[Schedule, int] = {"1f1b": 6, "zbv": 1, "dualpipev": 2}
"""Idle time of a schedule for each stage but one, in sixths of a micro-batch's work on a process: forward, gradients of
inputs and gradients of weights of half of its layers each take one. Counted in PyTorch's own schedules."""


class Bytes(NamedTuple):
    """What one process sends in a step."""

    inside: int = 0
    """To devices of the same machine."""
    across: int = 0
    """To other machines."""

    def plus(self, other: Bytes, times: int = 1) -> Bytes:
        """Both together, the other `times` over."""
        return Bytes(self.inside + times * other.inside, self.across + times * other.across)

    @property
    def seconds(self) -> float:
        """At DeepSeek's rates, one kind of link after the other."""
        return self.inside / INSIDE + self.across / ACROSS


class Traffic(NamedTuple):
    """What the process of a rank sends in a step."""

    gradients: Bytes
    weights: Bytes
    experts: Bytes
    pipeline: Bytes

    @property
    def seconds(self) -> float:
        """At DeepSeek's rates, one after the other."""
        return sum(each.seconds for each in self)


def bubble(recipe: Recipe, layout: ParallelLayout) -> float:
    """Share of a step that a pipeline's processes idle; a lane is one filling and draining of it.

    Of ``n`` micro-batches on ``p`` processes it is (p - 1) / (n + p - 1) with 1F1B, a sixth of the idle time with ZBV
    and a third with DualPipeV, where ``n`` is at least ``2 p``.
    """
    length = recipe.train.micro_batches // recipe.train.summed_lanes
    idle = IDLE[layout.schedule] * (layout.pp - 1)
    return idle / (6 * length + idle)


def traffic(recipe: Recipe, layout: ParallelLayout, rank: int) -> Traffic:
    """What a process sends in a step."""
    stage = Stage(recipe, layout, layout.stage(rank))
    return Traffic(
        *_states(recipe, layout, rank, stage), _experts(recipe, layout, rank), _pipeline(recipe, layout, rank)
    )


def _link(rank: int, peers: Iterable[int], size: float) -> Bytes:
    """As many bytes to each of some processes."""
    there = [peer // NODE == rank // NODE for peer in peers if peer != rank]
    return Bytes(round(size * sum(there)), round(size * (len(there) - sum(there))))


def _wide(recipe: Recipe) -> int:
    return 4 if recipe.train.precision == "fp32" else 2


def _states(recipe: Recipe, layout: ParallelLayout, rank: int, stage: Stage) -> tuple[Bytes, Bytes]:
    """Gradients to their owners, and weights from there, if all own equally much."""
    copies, wide = layout.copies_of_stage(rank), _wide(recipe)
    if layout.fsdp > 1:  # a lane's gradients are dealt out; its micro-batches gather in the forward and the backward
        rows, train = stage.rows(layout.fsdp), recipe.train
        turns, each = train.summed_lanes // layout.copies, train.micro_batches // train.summed_lanes
        return _link(rank, copies, 4 * rows * turns), _link(rank, copies, wide * rows * 2 * turns * each)
    if adds_by_machine(layout):
        machines, size = layout.copies // NODE, (stage.dense + stage.experts) / NODE
        one = Bytes(round(size * (NODE - 1)), round(size / machines * (machines - 1)))
        return Bytes().plus(one, 4), Bytes().plus(one, wide)
    alike = layout.expert_copies(rank)
    held = (copies, stage.dense), (alike, stage.experts // layout.ep)
    both = [_link(rank, peers, size / len(peers)) for peers, size in held]
    return Bytes().plus(both[0], 4).plus(both[1], 4), Bytes().plus(both[0], wide).plus(both[1], wide)


def _experts(recipe: Recipe, layout: ParallelLayout, rank: int) -> Bytes:
    """Rows of tokens to their experts and back, twice."""
    model, train = recipe.model, recipe.train
    group, H, wide = layout.expert_group(rank), model.hidden_size, _wide(recipe)
    tokens = train.batch_size // layout.copies * recipe.data.sequence_length
    layers = sum(
        model.is_moe_layer(layer)
        for stage in stages_of(layout, layout.stage(rank))
        for layer in layers_of(model, layout, stage)
    )
    out = H + 4 * -(-H // 128) if train.precision == "fp8" else wide * H
    rows = tokens * model.num_experts_per_tok * layers // len(group)  # to each process of the group
    return _link(rank, group, rows * 2 * (out + wide * H))


def _pipeline(recipe: Recipe, layout: ParallelLayout, rank: int) -> Bytes:
    """Hidden states to the next stages, and gradients to the ones before."""
    model, tokens = recipe.model, recipe.train.batch_size // layout.copies * recipe.data.sequence_length
    line, count = layout.pipeline(rank), layout.pp * (1 + layout.folded)
    holder = {stage: process for place, process in enumerate(line) for stage in stages_of(layout, place)}
    carried = 1 + (model.num_nextn_predict_layers > 0 and not layout.folded)
    size, sent = tokens * model.hidden_size * _wide(recipe) * carried, Bytes()
    for stage in stages_of(layout, layout.stage(rank)):
        sent = sent.plus(_link(rank, [holder[peer] for peer in (stage - 1, stage + 1) if 0 <= peer < count], size))
    return sent
