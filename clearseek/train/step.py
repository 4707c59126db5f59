"""One training step: batch, gradients, optimiser, balance biases, record.

The batch follows from the task and the step's number; its micro-batches go forward and backward one after the other,
and their gradients are summed in a fixed order; what is not finite stops the run before a weight is touched; then clip,
optimiser, balance biases. The state between two steps is in the tensors of :meth:`Training.state`, and nowhere else.

Shapes: L layers with experts, E experts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from clearseek.config import Recipe
from clearseek.counts import flops_per_token
from clearseek.errors import UserError
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.compiled import use_kernels
from clearseek.train.accumulate import LaneSum
from clearseek.train.chunks import gradient_norm, hash_tensors
from clearseek.train.optimizer import MasterOptimizer, Trained
from clearseek.train.preflight import Setup
from clearseek.train.record import StepRecord
from clearseek.train.schedule import multiplier, value_at
from clearseek.train.task import Batch, Task


class NotFiniteError(UserError):
    """Loss or gradients are infinite, or no numbers."""


ADAPTED = (".lora_A", ".lora_B")
"""Ends of the names of parameters that are added to a model, and that its parent does not have."""

Trainable = Callable[[DeepSeekModel], list[Trained]]
"""Which parameters of a model, or rows of them, the optimiser has; the others stay as they are."""


def everything(model: DeepSeekModel) -> list[Trained]:
    """All parameters."""
    return [Trained(name, parameter) for name, parameter in model.named_parameters()]


class Training:
    """A model in training: weights, balance biases, optimiser, and the number of the last step.

    Args:
        recipe: What to do.
        task: What to train on.
        setup: How to compute here.
        trainable: What is trained.
    """

    def __init__(self, recipe: Recipe, task: Task, setup: Setup, trainable: Trainable = everything) -> None:
        self.recipe, self.task, self.setup, self._trainable = recipe, task, setup, trainable
        self._flops_per_token = flops_per_token(recipe.model, recipe.data.sequence_length)
        self.begin()

    def begin(self) -> None:
        """Go to the state before the first step, which follows from the recipe's seed."""
        use_kernels(self.setup.kernels)
        self.model = DeepSeekModel(self.recipe.model)
        self.model.initialise(self.recipe.train.seed)
        self.model.to(self.setup.device).set_dtype(self.setup.precision.dtype).use_fp8(self.setup.fp8)
        trained = self._trainable(self.model)
        self.model.requires_grad_(False)
        for each in trained:
            each.parameter.requires_grad_(True)
        self.optimizer = MasterOptimizer(trained, self.recipe.optimizer)
        self.step, self.tokens = 0, 0

    def adopt(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over another model's weights and balance biases; what the other does not have (adapters) stays.

        Raises KeyError or RuntimeError where the other has other dimensions.
        """
        theirs = state["weights"]
        frozen = self._frozen()
        own = {name for name in (*self.optimizer.names, *frozen) if name not in theirs and name.endswith(ADAPTED)}
        self.optimizer.adopt(theirs, own)
        for name in frozen.keys() - own:
            frozen[name].copy_(theirs[name])
        for name, buffer in self.model.named_buffers():
            buffer.copy_(state["buffers"][name])

    def load(self, step: int, tokens: int, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go to the state after a step, as :meth:`state` gave it.

        Raises UserError, KeyError or RuntimeError where it is of another model or optimiser.
        """
        use_kernels(self.setup.kernels)
        self.optimizer.load(state["weights"], state["optimizer"])
        for name, tensor in self._frozen().items():
            tensor.copy_(state["weights"][name])
        for name, buffer in self.model.named_buffers():
            buffer.copy_(state["buffers"][name])
        self.step, self.tokens = step, tokens

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Group -> name -> tensor: FP32 weights (of what is not trained, as they are), balance biases, optimiser."""
        return {
            "weights": self.optimizer.weights() | self._frozen(),
            "buffers": dict(self.model.named_buffers()),
            "optimizer": self.optimizer.state(),
        }

    def weights_hash(self) -> str:
        """SHA-256 of weights and balance biases."""
        state = self.state()
        return hash_tensors([*state["weights"].items(), *state["buffers"].items()])

    def advance(self) -> tuple[StepRecord, Tensor]:
        """Take the next step; its record, and tokens per expert [L, E].

        Raises NotFiniteError, and changes nothing, where loss or gradients are not finite.
        """
        train, started, step = self.recipe.train, time.perf_counter(), self.step + 1
        use_kernels(self.setup.kernels)  # a callback may have chosen others for a model of its own
        batch = self.task.batch(step, self.model)
        gradients, scalars, load_LE = self._gradients(batch)
        scalars |= batch.scalars
        norm = gradient_norm(gradients)
        self._refuse_non_finite(step, scalars, norm)
        factor = multiplier(self.recipe.optimizer.schedule, step, train.steps)
        self.optimizer.step(gradients, norm, factor)
        if self.recipe.model.topk_method == "noaux_tc":
            speed = value_at(step, train.steps, train.bias_update_until, train.bias_update_speed, 0.0)
            self.model.update_biases(load_LE, speed)
        seconds = time.perf_counter() - started
        self.step, self.tokens = step, self.tokens + batch.counted
        hashed = step % train.hash_every == 0 or step == train.steps
        record = StepRecord(
            step=step,
            scalars=scalars if step == train.steps else scalars | self.task.evaluate(self.model, step),
            grad_norm=norm,
            tokens=self.tokens,
            balance=_balance(load_LE),
            weights_sha256=self.weights_hash() if hashed else None,
            optimizer_sha256=hash_tensors(self.optimizer.state().items()) if hashed else None,
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
        return tokens_per_second * self._flops_per_token / max(self.setup.precision.rates.values())

    def _gradients(self, batch: Batch) -> tuple[list[Tensor], dict[str, float], Tensor]:
        """FP32 gradients of a batch, its scalars, and tokens per expert."""
        train = self.recipe.train
        sums, names = LaneSum(train.micro_batches, train.summed_lanes), list[str]()
        load_LE = torch.zeros((), dtype=torch.int64, device=self.setup.device)
        for micro in batch.split(train.micro_batches):
            loss = self.task.loss(self.model, micro)
            loss.total.backward()
            names = list(loss.scalars)
            sums.push([*self.optimizer.take_gradients(), torch.stack(list(loss.scalars.values()))])
            load_LE = load_LE + loss.load_LE
        *gradients, values = sums.result()
        return gradients, dict(zip(names, values.tolist(), strict=True)), load_LE.cpu()

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

    def _frozen(self) -> dict[str, Tensor]:
        trained = set(self.optimizer.names)
        return {name: p.detach() for name, p in self.model.named_parameters() if name not in trained}


def _balance(load_LE: Tensor) -> tuple[float, ...]:
    """Load of the busiest expert over the mean load in each layer with experts; 0 in a layer that saw no token."""
    if not load_LE.numel():
        return ()
    return tuple((load_LE.amax(1) / load_LE.double().mean(1).clamp(min=1 / load_LE.shape[1])).tolist())
