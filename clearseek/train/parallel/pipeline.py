"""One copy of a model over the stages of a pipeline, in the bits of one process.

The schedules are PyTorch's (:mod:`torch.distributed.pipelining`): 1F1B (PipeDream, DeepSeek-V2), ZBV (Qi et al., arXiv
2401.10241) and DualPipeV (DeepSeek's DualPipe, V3 report, section 3.2.1, folded in a V). They decide what runs when and
what is sent; what a stage computes, and how its gradients are summed, is decided here:

* A micro-batch's gradients are taken from `.grad` as soon as they are complete, and added in FP32 in the order of the
  micro-batches, as one process does. Left to itself PyTorch would sum in the weights' type.
* In zero-bubble schedules the products of weights are put aside in a backward (:mod:`clearseek.ops.deferred`) and run
  when the schedule says so.
* Balance losses of a stage are roots of its backward, beside the gradient that the next stage sends.
* Embeddings for the MTP module travel along the pipeline, each stage passing them on. In a V the first and the last
  stage lie in one process, and nothing is sent (DeepSeek-V3 report, section 3.2.3).

Shapes: B sequences, S positions, D hidden, L layers with experts of this process, E experts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleDualPipeV, ScheduleZBVZeroBubble

from clearseek.config import ModelConfig
from clearseek.evaluate.bits import target_nats
from clearseek.model.stages import Made, Stage
from clearseek.model.transformer import DeepSeekModel, Held
from clearseek.ops.deferred import WeightGradients, collecting
from clearseek.plan.layout import ParallelLayout
from clearseek.plan.stages import stage_layers, stages_of
from clearseek.train.accumulate import LaneSum
from clearseek.train.task import Batch


class LaneResult(NamedTuple):
    """Sums over the micro-batches of a lane."""

    gradients: list[Tensor]
    """FP32, of the leaves that were asked for."""
    scalars: Tensor | None
    """Next-token loss, and the MTP module's, FP32; None where the last stage is another process's."""
    load_LE: Tensor
    """Tokens per expert in this process's layers with experts, int64."""


class Weights(NamedTuple):
    """Factors in a step's loss."""

    balance: float
    mtp: float


def held_by(config: ModelConfig, layout: ParallelLayout, place: int) -> Held:
    """The part of the model that the process at a place in the pipeline holds."""
    cuts, own = stage_layers(config, layout), stages_of(layout, place)
    last = len(cuts) - 1 in own
    layers = {layer for stage in own for layer in cuts[stage]}
    if last:
        layers |= set(range(config.num_hidden_layers, config.num_hidden_layers + config.num_nextn_predict_layers))
    return Held(layers, embedding=0 in own, head=last)


class Pipeline:
    """The stages of one process, and the schedule that drives them.

    Args:
        model: The part of the model that this process holds (:func:`held_by`).
        leaves: By parameter name, the tensors whose `.grad` is wanted: the parameter, or several in its stead.
        layout: How processes share the work.
        place: This process's place in the pipeline.
        group: The pipeline's processes, in the order of their stages.
        length: Micro-batches of a lane.
        shape: Sequences of a micro-batch, and positions.
    """

    def __init__(
        self, model: DeepSeekModel, leaves: Sequence[tuple[str, Tensor]], layout: ParallelLayout, place: int,
        group: dist.ProcessGroup, length: int, shape: tuple[int, int],
    ) -> None:  # fmt: skip
        self._lane = _Lane(layout.folded)
        self._leaves, self._length = [leaf for _, leaf in leaves], length
        self._model, self._group = model, group
        self._last = dist.get_global_rank(group, 0 if layout.folded else layout.pp - 1)
        cuts = stage_layers(model.config, layout)
        self._stages = []
        for number in stages_of(layout, place):
            stage = Stage(model, cuts[number], number == 0, number == len(cuts) - 1)
            own = stage.own()
            mine = [leaf for name, leaf in leaves if name in own]
            self._stages.append(_Stage(stage, number, len(cuts), group, shape, mine, self._lane))
        # A lost process would make each of the others print its whole schedule.
        logging.getLogger("torch.distributed.pipelining").setLevel(logging.CRITICAL)
        options: dict[str, Any] = {"n_microbatches": length, "loss_fn": _loss, "scale_grads": False}
        self._schedule: Schedule1F1B | ScheduleZBVZeroBubble | ScheduleDualPipeV
        if layout.schedule == "1f1b":
            self._schedule = Schedule1F1B(self._stages[0], **options)
        else:
            which = ScheduleZBVZeroBubble if layout.schedule == "zbv" else ScheduleDualPipeV
            self._schedule = which(list(self._stages), **options)

    def run(self, micros: Sequence[Batch], weights: Weights) -> LaneResult:
        """Forward and backward of a lane's micro-batches; every process of the pipeline calls this alike."""
        assert len(micros) == self._length, (len(micros), self._length)
        self._lane.begin(micros, weights)
        for stage in self._stages:
            stage.begin(len(micros))
        number = torch.arange(len(micros))  # all that the schedule is given: it is cut into single numbers
        last = any(stage.is_last for stage in self._stages)
        self._schedule.step(target=number if last else None, number=number)
        found = {id(leaf): total for stage in self._stages for leaf, total in stage.result()}
        scalars = self._lane.scalars
        return LaneResult(
            [found[id(leaf)] for leaf in self._leaves],
            scalars.result()[0] if last and scalars is not None else None,
            torch.cat([stage.load_LE for stage in self._stages]),
        )

    @torch.no_grad()
    def nats(self, input_BS: Tensor, target_BS: Tensor) -> float:
        """Summed cross-entropy of the targets that are not negative, on every process of the pipeline."""
        nats = torch.zeros((), dtype=torch.float64, device=self._model.device)
        tokens_BS, hidden_BSD = input_BS.to(self._model.device), None
        for stage in self._stages:
            hidden_BSD = stage.predict(tokens_BS, hidden_BSD)
            if stage.is_last:
                nats.fill_(target_nats(self._model, hidden_BSD, target_BS))
        dist.broadcast(nats, self._last, group=self._group)
        return nats.item()


def _loss(output: Tensor, _: Tensor) -> Tensor:
    """The last stage's output is the loss."""
    return output.squeeze(0)


class _Lane:
    """What the stages of a process share while a lane is computed."""

    def __init__(self, folded: bool) -> None:
        self.folded = folded
        self.ahead: dict[int, tuple[Tensor, Tensor]] = {}
        """In a V, embeddings for the MTP module by micro-batch: as the first stage made them, and a leaf of them."""

    def begin(self, micros: Sequence[Batch], weights: Weights) -> None:
        self.micros, self.weights = micros, weights
        self.scalars: LaneSum | None = None


class _Stage(PipelineStage):
    """A stage as PyTorch's schedules drive it: they call the two methods that are overridden, and `dw_builder`."""

    def __init__(
        self, stage: Stage, number: int, count: int, group: dist.ProcessGroup, shape: tuple[int, int],
        leaves: Sequence[Tensor], lane: _Lane,
    ) -> None:  # fmt: skip
        config, dtype = stage.of.config, next(stage.of.parameters()).dtype
        passed = 1 + (config.num_nextn_predict_layers > 0 and not lane.folded)
        hidden = [torch.empty(*shape, config.hidden_size, dtype=dtype, device="meta") for _ in range(passed)]
        sent = tuple(each.requires_grad_() for each in hidden)
        loss = torch.empty(1, dtype=torch.float32, device="meta", requires_grad=True)
        super().__init__(
            stage, number, count, stage.of.device, () if stage.first else sent, loss if stage.last else sent,
            group=group, dw_builder=self._after_backward,
        )  # fmt: skip
        self._stage, self._leaves, self._lane = stage, leaves, lane

    def begin(self, count: int) -> None:
        """Begin a lane of so many micro-batches."""
        stage, experts = self._stage, self._stage.of.config.n_routed_experts
        self.load_LE = torch.zeros(len(stage.expert_layers), experts, dtype=torch.int64, device=stage.of.device)
        self._sum, self._next = LaneSum(count, 1), 0
        self._later: dict[int, WeightGradients | None] = {}
        self._balance: dict[int, Tensor | None] = {}
        self._early: dict[int, list[Tensor | None]] = {}

    def predict(self, tokens_BS: Tensor, hidden_BSD: Tensor | None) -> Tensor:
        """Hidden states behind the stage, from the stage before, and to the next where it is another process's."""
        if not self.is_first and not self._here(self.stage_index - 1):
            shape, like = (*tokens_BS.shape, self._stage.of.config.hidden_size), next(self._stage.of.parameters())
            hidden_BSD = like.new_empty(shape, requires_grad=False)
            dist.recv(hidden_BSD, self._peer(self.stage_index - 1), group=self.group)
        hidden_BSD = self._stage.predict(tokens_BS, None if self.is_first else hidden_BSD)
        if not self.is_last and not self._here(self.stage_index + 1):
            dist.send(hidden_BSD, self._peer(self.stage_index + 1), group=self.group)
        return hidden_BSD

    def _here(self, number: int) -> bool:
        """Whether another stage is this process's too."""
        return self.stage_index_to_group_rank[number] == self.group_rank

    def _peer(self, number: int) -> int:
        """The process of another stage."""
        assert self.group is not None
        return dist.get_global_rank(self.group, self.stage_index_to_group_rank[number])

    def result(self) -> list[tuple[Tensor, Tensor]]:
        """The leaves and their gradients."""
        return list(zip(self._leaves, self._sum.result(), strict=True)) if self._leaves else []

    def forward_maybe_with_nosync(self, *received: Tensor, number: Tensor) -> Any:
        """Run the stage for a micro-batch."""
        k, lane = int(number), self._lane
        hidden_BSD, ahead_BSD = (*received, None, None)[:2]
        if self._stage.last and lane.folded and k in lane.ahead:
            ahead_BSD = lane.ahead[k][1]
        self._later[k] = WeightGradients() if lane.folded else None
        micro = lane.micros[k]
        with collecting(self._later[k]):
            made: Made = self._stage(micro.tokens_BX, micro.weight_BX, hidden_BSD, ahead_BSD, *lane.weights)
        for load_E, routing in zip(self.load_LE, made.routings, strict=True):
            load_E += routing.counted_E
        self._balance[k] = made.balance
        if made.losses is not None:
            scalars = [made.losses.main] + ([] if made.losses.mtp is None else [made.losses.mtp])
            lane.scalars = lane.scalars or LaneSum(len(lane.micros), 1)
            lane.scalars.push([torch.stack(scalars)])
            return made.losses.total.unsqueeze(0)
        if lane.folded:
            if self._stage.first and made.ahead_BSD is not None:
                lane.ahead[k] = made.ahead_BSD, made.ahead_BSD.detach().requires_grad_()
            return made.hidden_BSD
        return made.hidden_BSD if made.ahead_BSD is None else (made.hidden_BSD, made.ahead_BSD)

    def backward_maybe_with_nosync(
        self, backward_type: str, bwd_kwargs: dict[str, Any], last_backward: bool = False
    ) -> tuple[tuple[Tensor | None, ...], None]:
        """Gradients of a micro-batch's inputs, and of its weights but for products that are put aside."""
        assert backward_type == "full", "a stage with dw_builder is always asked for this one"
        *inputs, number = bwd_kwargs["input_values"]
        k, lane = int(number), self._lane
        roots, gradients = bwd_kwargs["stage_output"], bwd_kwargs["output_grads"]
        roots, gradients = ([roots], [None]) if gradients is None else (list(roots), list(gradients))
        if (balance := self._balance.pop(k)) is not None:
            roots, gradients = [*roots, balance], [*gradients, None]
        if self._stage.first and k in lane.ahead:
            ahead_BSD, leaf_BSD = lane.ahead.pop(k)
            roots, gradients = [*roots, ahead_BSD], [*gradients, leaf_BSD.grad]
        torch.autograd.backward(roots, gradients)
        self._early[k] = self._take()
        self._done = k
        of_inputs = tuple(None if each.grad is None else each.grad.contiguous() for each in inputs)
        for each in inputs:
            each.grad = None
        return of_inputs, None

    def _after_backward(self) -> Callable[[], None]:
        """What the schedule runs for the weights of the micro-batch whose backward is done."""
        return partial(self._finish, self._done)

    def _finish(self, k: int) -> None:
        assert k == self._next, "gradients are added in the order of micro-batches"
        self._next += 1
        for leaf, gradient in zip(self._leaves, self._early.pop(k), strict=True):
            leaf.grad = gradient
        if (later := self._later.pop(k)) is not None:
            later.run()
        pairs = zip(self._leaves, self._take(), strict=True)
        zero = partial(torch.zeros_like, dtype=torch.float32, requires_grad=False)
        self._sum.push([zero(leaf) if gradient is None else gradient for leaf, gradient in pairs])

    def _take(self) -> list[Tensor | None]:
        taken = [leaf.grad for leaf in self._leaves]
        for leaf in self._leaves:
            leaf.grad = None
        return taken
