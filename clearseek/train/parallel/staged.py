"""A step's work on the stages of pipelines, in the bits of one process.

Every process holds some layers, computes them for the lanes of its copy (:mod:`clearseek.train.parallel.pipeline`), and
shares masters and optimiser state with the other copies of its stage, as without pipelines. Loss, norm and hashes are
over all stages.

Shapes: L layers with experts, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clearseek.config import Recipe
from clearseek.errors import UserError
from clearseek.model.transformer import Held
from clearseek.plan.layout import ParallelLayout
from clearseek.plan.stages import parameters
from clearseek.train.accumulate import TreeSum
from clearseek.train.parallel.group import Group
from clearseek.train.parallel.pipeline import Pipeline, Weights, held_by
from clearseek.train.parallel.work import LaneSums, SharedWork
from clearseek.train.preflight import Setup
from clearseek.train.pretrain import PreTraining, loss_weights
from clearseek.train.record import LOSS, MTP_LOSS
from clearseek.train.task import Batch, Task
from clearseek.train.work import Trainable


class StagedWork(SharedWork):
    """The work of a process that holds stages of a pipeline; see :class:`clearseek.train.parallel.work.SharedWork`."""

    def __init__(
        self, recipe: Recipe, setup: Setup, trainable: Trainable, group: Group, layout: ParallelLayout
    ) -> None:
        super().__init__(recipe, setup, trainable, group, layout)
        train, model = recipe.train, recipe.model
        self.pipeline = Pipeline(
            self.model, self.sources.leaves(), layout, layout.stage(self.rank),
            group.process_group(layout.pipeline(self.rank)),
            train.micro_batches // train.summed_lanes,
            (train.batch_size // train.micro_batches, recipe.data.sequence_length),
        )  # fmt: skip
        layers = range(model.num_hidden_layers + model.num_nextn_predict_layers)
        self._experts_in = [layer for layer in layers if model.is_moe_layer(layer)]

    def _held(self) -> Held:
        return held_by(self.recipe.model, self.layout, self.layout.stage(self.rank))

    def _names(self) -> list[str]:
        return [spec.name for spec in parameters(self.recipe.model) if spec.kind != "router_bias"]

    def _lane_sums(self, task: Task, batch: Batch) -> LaneSums:
        if not isinstance(task, PreTraining):
            raise UserError(f"{self.recipe.name}: {task.name} runs in no pipeline: leave pp out of --layout")
        weights, lanes = Weights(*loss_weights(self.recipe, batch.step)), TreeSum()
        load_LE = torch.zeros(len(self._experts_in), self.recipe.model.n_routed_experts, dtype=torch.int64)
        for lane in batch.split(len(self.lanes)):
            count = self.recipe.train.micro_batches // self.recipe.train.summed_lanes
            found = self.pipeline.run(list(lane.split(count)), weights)
            lanes.push([*found.gradients, *([] if found.scalars is None else [found.scalars])])
            load_LE[self._own_loads()] += found.load_LE.cpu()
        sums = lanes.result()
        scalars = sums.pop() if found.scalars is not None else None
        names = [LOSS, MTP_LOSS][: 0 if scalars is None else len(scalars)]
        return LaneSums(self.sources.add(sums), scalars, names, load_LE)

    def _own_loads(self) -> list[int]:
        """Places of this process's layers with experts among those of the whole model."""
        held = self._held().layers
        return [place for place, layer in enumerate(self._experts_in) if layer in held]

    def update_biases(self, load_LE: Tensor, speed: float) -> None:
        super().update_biases(load_LE[self._own_loads()], speed)

    def _nats(self, input_BS: Tensor, target_BS: Tensor) -> float:
        return self.pipeline.nats(input_BS, target_BS)
