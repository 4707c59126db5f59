"""One training step: batch, gradients, optimiser, balance biases, record.

The batch follows from the task and the step's number; its micro-batches go forward and backward one after the other,
and their gradients are summed in a fixed order; what is not finite stops the run before a weight is touched; then clip,
optimiser, balance biases. The state between two steps is in the tensors of :meth:`Training.state`, and nowhere else.

Shapes: L layers with experts, E experts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from torch import Tensor

from clearseek.config import Recipe
from clearseek.counts import flops_per_token
from clearseek.errors import UserError
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.compiled import use_kernels
from clearseek.plan.layout import SINGLE, ParallelLayout
from clearseek.train.optimizer import Updates
from clearseek.train.parallel.group import ALONE, Group
from clearseek.train.preflight import Setup
from clearseek.train.record import StepRecord
from clearseek.train.schedule import multiplier, value_at
from clearseek.train.task import Task
from clearseek.train.work import State, Trainable, Work, everything


class NotFiniteError(UserError):
    """Loss or gradients are infinite, or no numbers."""


class Training:
    """A model in training: weights, balance biases, optimiser, and the number of the last step.

    Args:
        recipe: What to do.
        task: What to train on.
        setup: How to compute here.
        trainable: What is trained.
        group: The processes that train.
        layout: How they share the work.
    """

    def __init__(
        self, recipe: Recipe, task: Task, setup: Setup, trainable: Trainable = everything, group: Group = ALONE,
        layout: ParallelLayout = SINGLE,
    ) -> None:  # fmt: skip
        self.recipe, self.task, self.setup, self._trainable = recipe, task, setup, trainable
        self.group, self._layout = group, layout
        self._flops_per_token = flops_per_token(recipe.model, recipe.data.sequence_length)
        self._fresh = False
        self.begin()

    def begin(self) -> None:
        """Go to the state before the first step, which follows from the recipe's seed.

        A model that has not left that state is not built again.
        """
        use_kernels(self.setup.kernels)
        if not self._fresh:
            self.work = self._work()
            self.step, self.tokens, self._fresh = 0, 0, True

    def _work(self) -> Work:
        if self.group.size == 1:
            return Work(self.recipe, self.setup, self._trainable)
        from clearseek.train.parallel.fsdp import FsdpWork
        from clearseek.train.parallel.staged import StagedWork
        from clearseek.train.parallel.work import SharedWork

        which = FsdpWork if self._layout.fsdp > 1 else StagedWork if self._layout.pp > 1 else SharedWork
        return which(self.recipe, self.setup, self._trainable, self.group, self._layout)

    @property
    def model(self) -> DeepSeekModel:
        """The model, or what this process has of it."""
        return self.work.model

    @property
    def optimizer(self) -> Updates:
        """The optimiser, of what this process has."""
        return self.work.optimizer

    def adopt(self, state: State) -> None:
        """Take over another model's weights and balance biases; what the other does not have (adapters) stays.

        Raises KeyError or RuntimeError where the other has other dimensions.
        """
        self._fresh = False
        self.work.adopt(state)

    def load(self, step: int, tokens: int, state: State) -> None:
        """Go to the state after a step, as :meth:`state` gave it.

        Raises UserError, KeyError or RuntimeError where it is of another model or optimiser.
        """
        use_kernels(self.setup.kernels)
        self._fresh = False
        self.work.load(state)
        self.step, self.tokens = step, tokens

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Group -> name -> tensor: FP32 weights (of what is not trained, as they are), balance biases, optimiser."""
        return self.work.state()

    def weights_hash(self) -> str:
        """SHA-256 of weights and balance biases."""
        return self.work.hash("weights", "buffers")

    def advance(self) -> tuple[StepRecord, Tensor]:
        """Take the next step; its record, and tokens per expert [L, E].

        Raises NotFiniteError, and changes nothing, where loss or gradients are not finite.
        """
        train, started, step = self.recipe.train, time.perf_counter(), self.step + 1
        use_kernels(self.setup.kernels)  # a callback may have chosen others for a model of its own
        batch = self.work.batch(self.task, step)
        gradients, scalars, load_LE = self.work.sums(self.task, batch)
        scalars |= batch.scalars
        norm = self.work.norm(gradients)
        self._refuse_non_finite(step, scalars, norm)
        factor = multiplier(self.recipe.optimizer.schedule, step, train.steps)
        self._fresh = False
        self.work.update(gradients, norm, factor)
        if self.recipe.model.topk_method == "noaux_tc":
            speed = value_at(step, train.steps, train.bias_update_until, train.bias_update_speed, 0.0)
            self.work.update_biases(load_LE, speed)
        seconds = time.perf_counter() - started
        self.step, self.tokens = step, self.tokens + batch.counted
        hashed = step % train.hash_every == 0 or step == train.steps
        record = StepRecord(
            step=step,
            scalars=scalars if step == train.steps else scalars | self.work.evaluate(self.task, step),
            grad_norm=norm,
            tokens=self.tokens,
            balance=_balance(load_LE),
            weights_sha256=self.weights_hash() if hashed else None,
            optimizer_sha256=self.work.hash("optimizer") if hashed else None,
            rollouts_sha256=batch.rollouts_sha256,
            learning_rate=self.recipe.optimizer.learning_rate * factor,
            tokens_per_second=batch.counted / seconds,
            mfu=self._utilisation(batch.counted / seconds),
        )
        return record, load_LE

    def _utilisation(self, tokens_per_second: float) -> float | None:
        """Share of the measured peak, where every token that is read is trained on."""
        if self.recipe.parent is not None:
            return None
        peak = max(self.setup.precision.rates.values()) * self.group.size
        return tokens_per_second * self._flops_per_token / peak

    def _refuse_non_finite(self, step: int, scalars: Mapping[str, float], norm: float) -> None:
        if all(map(math.isfinite, [*scalars.values(), norm])):
            return
        contents = self.task.contents(step)
        shown = ", ".join(contents[:20]) + (f" and {len(contents) - 20} more" if len(contents) > 20 else "")
        found = ", ".join(f"{name} {value}" for name, value in [*scalars.items(), ("gradient norm", norm)])
        raise NotFiniteError(
            f"step {step}: {found}: not finite, so training stopped before the weights were touched. The batch held "
            f"{shown}."
        )


def _balance(load_LE: Tensor) -> tuple[float, ...]:
    """Load of the busiest expert over the mean load in each layer with experts; 0 in a layer that saw no token."""
    if not load_LE.numel():
        return ()
    return tuple((load_LE.amax(1) / load_LE.double().mean(1).clamp(min=1 / load_LE.shape[1])).tolist())
