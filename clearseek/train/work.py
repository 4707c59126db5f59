"""The work of a step: the model in memory, its gradients, its optimiser. Here one process does all of it.

:class:`clearseek.train.parallel.work.SharedWork` is the same for several processes: its gradients, norm and hashes have
the bits of these.

Shapes: L layers with experts, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from clearseek.config import Recipe
from clearseek.model.transformer import DeepSeekModel, Held
from clearseek.parts import Part
from clearseek.train.accumulate import LaneSum
from clearseek.train.checkpoints.stored import LazyTensor, Stored, cut, in_memory
from clearseek.train.chunks import gradient_norm, hash_tensors
from clearseek.train.optimizer import MasterOptimizer, Trained, Updates
from clearseek.train.preflight import Setup
from clearseek.train.task import Batch, Task

ADAPTED = (".lora_A", ".lora_B")
"""Ends of the names of parameters that are added to a model, and that its parent does not have."""

State = Mapping[str, Mapping[str, Tensor]] | Stored
"""Group (weights, buffers, optimizer) -> name -> whole tensor, in memory or (for one of many processes) on the disk."""
Trainable = Callable[[DeepSeekModel], list[Trained]]
"""Which parameters of a model, or rows of them, the optimiser has; the others stay as they are."""


def everything(model: DeepSeekModel) -> list[Trained]:
    """All parameters."""
    return [Trained(name, parameter) for name, parameter in model.named_parameters()]


class Sums(NamedTuple):
    """What a step's micro-batches give, summed in the order of lanes."""

    gradients: list[Tensor]
    """FP32, of the optimiser's masters."""
    scalars: dict[str, float]
    load_LE: Tensor
    """Tokens per expert, int64, on the CPU."""


class Work:
    """One process's model and optimiser, in the state before the first step, which follows from the recipe's seed."""

    def __init__(self, recipe: Recipe, setup: Setup, trainable: Trainable) -> None:
        self.recipe, self.setup = recipe, setup
        self.model = self._build()
        self.trained = trainable(self.model)
        self.model.requires_grad_(False)
        for each in self.trained:
            each.parameter.requires_grad_(True)
        self.optimizer = self._optimizer()

    computed: float = 0.0
    """Seconds of the last step in which this process, one of several, computed its gradients."""

    def _optimizer(self) -> Updates:
        return MasterOptimizer(self.trained, self.recipe.optimizer, self.setup.muon)

    @property
    def masters(self) -> MasterOptimizer:
        """The optimiser of one process."""
        assert isinstance(self.optimizer, MasterOptimizer)
        return self.optimizer

    def _held(self) -> Held | None:
        """The part of the model that is built; None for all of it."""
        return None

    def _build(self) -> DeepSeekModel:
        model = DeepSeekModel(self.recipe.model, self._held())
        self._share_out(model)
        model.initialise(self.recipe.train.seed, self.recipe.train.initial_weights == "scaled")
        model.to(self.setup.device).set_dtype(self.setup.precision.dtype).use_fp8(self.setup.fp8)
        model.use_recompute(self.recipe.train.recompute == "selective")
        return model

    def _share_out(self, model: DeepSeekModel) -> None:
        """Take from a new model what other processes hold."""

    # --- A step -------------------------------------------------------------------------------------------------------

    def batch(self, task: Task, step: int) -> Batch:
        """What this process computes of a step's batch."""
        return task.batch(step, self.model)

    def sums(self, task: Task, batch: Batch) -> Sums:
        """Gradients of a step, its scalars, and the experts' loads."""
        train = self.recipe.train
        sums, names = LaneSum(train.micro_batches, train.summed_lanes), list[str]()
        load_LE = torch.zeros((), dtype=torch.int64, device=self.setup.device)
        for micro in batch.split(train.micro_batches):
            loss = task.loss(self.model, micro)
            loss.total.backward()
            names = list(loss.scalars)
            sums.push([*self.masters.take_gradients(), torch.stack(list(loss.scalars.values()))])
            load_LE = load_LE + loss.load_LE
        *gradients, values = sums.result()
        return Sums(gradients, dict(zip(names, values.tolist(), strict=True)), load_LE.cpu())

    def norm(self, gradients: list[Tensor]) -> float:
        """Global L2 norm of all gradients."""
        return gradient_norm(gradients)

    def update(self, gradients: list[Tensor], norm: float, multiplier: float) -> None:
        """Clip, update the masters, round them into the model."""
        self.masters.step(gradients, norm, multiplier)

    def update_biases(self, load_LE: Tensor, speed: float) -> None:
        """Move the routers' biases against the loads of the whole step."""
        self.model.update_biases(load_LE, speed)

    def evaluate(self, task: Task, step: int, progress: Callable[[int, int], None] | None = None) -> dict[str, float]:
        """What the task measures of the model after a step."""
        return task.evaluate(self.model, step, progress)

    # --- The state between two steps ----------------------------------------------------------------------------------

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Group -> name -> tensor: FP32 weights (of what is not trained, as they are), balance biases, optimiser."""
        return {
            "weights": self.masters.weights() | self.frozen(),
            "buffers": dict(self.model.named_buffers()),
            "optimizer": self.optimizer.state(),
        }

    def held(self) -> dict[str, list[tuple[Part, Tensor]]]:
        """What this process has of the state, by group, and writes into checkpoints."""
        groups = self.state().items()
        return {group: [(Part.of(name, each.shape), each) for name, each in named.items()] for group, named in groups}

    def hash(self, *groups: str) -> str:
        """SHA-256 of all tensors of some groups of the state."""
        state = self.state()
        return hash_tensors([pair for group in groups for pair in state[group].items()])

    def load(self, state: State) -> None:
        """Go to a state. Raises UserError, KeyError or RuntimeError where it is of another model or optimiser."""
        weights = in_memory(state["weights"])
        self.masters.load(weights, in_memory(state["optimizer"]))
        for name, tensor in self.frozen().items():
            tensor.copy_(weights[name])
        self._load_buffers(state["buffers"])

    def adopt(self, state: State) -> None:
        """Take over another model's weights and balance biases; what the other does not have (adapters) stays.

        Raises KeyError or RuntimeError where the other has other dimensions.
        """
        theirs, frozen = in_memory(state["weights"]), self.frozen()
        own = {name for name in (*self.optimizer.names, *frozen) if name not in theirs and name.endswith(ADAPTED)}
        self.masters.adopt(theirs, own)
        for name in frozen.keys() - own:
            frozen[name].copy_(theirs[name])
        self._load_buffers(state["buffers"])

    def frozen(self) -> dict[str, Tensor]:
        """Parameters that are not trained."""
        trained = {each.name for each in self.trained}
        return {name: p.detach() for name, p in self.model.named_parameters() if name not in trained}

    def _load_buffers(self, buffers: Mapping[str, Tensor] | Mapping[str, LazyTensor]) -> None:
        for name, buffer in self.model.named_buffers():
            buffer.copy_(cut(buffers[name], Part.of(name, buffer.shape)).view(buffer.shape))
