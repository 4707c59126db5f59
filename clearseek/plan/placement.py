"""Memory of each device when a model is spread over many.

Three ways of spreading, as DeepSeek-V3 was trained (report, section 3.2), and no tensor parallelism:

* **pipeline** (pp): consecutive layers lie on consecutive stages; the embedding on the first, head and MTP on the last.
* **data** (dp): every stage exists `dp` times, each copy with its own sequences. Master weights and optimiser state are
  cut into `dp` parts (ZeRO-1); weights and FP32 gradients are not.
* **expert** (ep): the routed experts of a layer are spread over `ep` of those copies.

So there are ``dp x pp`` devices, and ``ep`` divides ``dp``. DeepSeek-V3 had pp=16, ep=64, dp=128: 2,048. The fullest
device decides. Bytes of weights and states are exact (:func:`clearseek.counts.training_memory`); activations are an
estimate: what must be kept from forward to backward for each token, times the micro-batches that are under way.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Literal, NamedTuple

from clearseek.config import ModelConfig, Recipe
from clearseek.counts import TrainingMemory, training_memory
from clearseek.plan.layout import ParallelLayout, layouts
from clearseek.plan.stages import held_tensors
from clearseek.tensors import TensorSpec

Recompute = Literal["none", "selective", "full"]
"""Work that backward repeats: nothing; norms, MLA's up-projections and SwiGLU, as V3 does; or all but each layer's
input."""
USABLE = 0.9
"""Share of device memory that a plan fills: the rest is for the allocator, communication buffers and the runtime."""


class DeviceMemory(NamedTuple):
    """Bytes on the fullest device."""

    weights: int
    master_weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes of all of these."""
        return sum(self)


Precision = Literal["bf16", "fp32", "fp8"]


def precision_of(recipe: Recipe) -> Precision:
    """The type of matrix products to plan with: ``auto`` is BF16 on every device that a plan knows."""
    return "bf16" if recipe.train.precision == "auto" else recipe.train.precision


class Placement:
    """Lays one recipe out over devices."""

    def __init__(self, recipe: Recipe, recompute: Recompute | None = None) -> None:
        self.recipe = recipe
        self._recompute = recompute
        self._stages = cache(self._count_stages)

    def recompute(self, layout: ParallelLayout) -> Recompute:
        """The choice given; else nothing on one device, as ClearSeek trains, and V3's selection on more."""
        return self._recompute or ("none" if layout.devices == 1 else "selective")

    def memory(self, layout: ParallelLayout) -> DeviceMemory:
        """Bytes on the fullest device."""
        return max(self._devices(layout), key=lambda device: device.total)

    def _devices(self, layout: ParallelLayout) -> Iterator[DeviceMemory]:
        train, model = self.recipe.train, self.recipe.model
        sequences = train.batch_size // layout.dp
        together = min(train.micro_batch_size or sequences, sequences)
        tokens = together * self.recipe.data.sequence_length
        precision, recompute = precision_of(self.recipe), self.recompute(layout)
        # Only a single process holds the sums of several lanes.
        sums = train.held_sums if layout.devices == 1 else 0
        for stage, (experts, rest, layers) in enumerate(self._stages(layout.pp, sums)):
            # Forward and backward alternate: the first stage waits longest for its first gradient.
            under_way = min(layout.pp - stage, -(-sequences // together))
            kept = sum(activation_bytes(model, layer, precision, recompute) for layer in layers)
            once = 0
            if recompute == "full":  # the activations of one layer exist while its backward runs
                once = tokens * max((activation_bytes(model, each, precision, "none") for each in layers), default=0)
            yield DeviceMemory(
                weights=experts.weights // layout.ep + rest.weights,
                master_weights=(experts.master_weights + rest.master_weights) // layout.dp,
                gradients=(experts.gradients + experts.partial_sums) // layout.ep + rest.gradients + rest.partial_sums,
                optimizer=(experts.optimizer + rest.optimizer) // layout.dp,
                activations=kept * tokens * under_way + once,
            )

    def _count_stages(self, pp: int, sums: int) -> list[tuple[TrainingMemory, TrainingMemory, tuple[int, ...]]]:
        """For every stage: memory of the experts, memory of all else, and the layers."""
        model, optimizer = self.recipe.model, self.recipe.optimizer
        held = [held_tensors(model, ParallelLayout(pp=pp), stage) for stage in range(pp)]

        def count(specs: list[TensorSpec]) -> TrainingMemory:
            precision = precision_of(self.recipe)
            return training_memory(model, optimizer.name, precision, sums, optimizer.moments, specs)

        return [
            (
                count([spec for spec in specs if spec.kind == "expert"]),
                count([spec for spec in specs if spec.kind != "expert"]),
                tuple(sorted({spec.layer for spec in specs if spec.layer is not None})),
            )
            for specs in held
        ]

    def best(self, devices: int, budget: float) -> ParallelLayout | None:
        """The plainest layout over so many devices that fits, else the one that takes least memory.

        None where no layout divides. Plain means few stages, then few ways of spreading experts.
        """
        found = [layout for layout in layouts(self.recipe) if layout.devices == devices]
        fits = (layout for layout in found if self.memory(layout).total <= budget)
        return next(fits, None) or min(found, key=lambda layout: self.memory(layout).total, default=None)

    def least(self, budget: float) -> ParallelLayout | None:
        """The layout with the fewest devices that fits; None where none does."""
        found = sorted(layouts(self.recipe), key=lambda layout: layout.devices)
        return next((layout for layout in found if self.memory(layout).total <= budget), None)


def activation_bytes(model: ModelConfig, layer: int, precision: Precision, recompute: Recompute) -> int:
    """Bytes kept of one token in one layer: inputs of the matrix products, of attention and of the activation.

    An element takes 2 bytes, 4 in FP32, and 1 as input of an FP8 product. Each of the k chosen experts has its own copy
    of the token and its own row of the middle. Softmax is never kept: attention is computed in blocks.
    """
    H, heads = model.hidden_size, model.num_attention_heads
    wide = 4 if precision == "fp32" else 2
    narrow = 1 if precision == "fp8" else wide
    if recompute == "full":
        return wide * H
    routed = model.num_experts_per_tok if model.is_moe_layer(layer) else 0
    width = model.moe_intermediate_size * (routed + model.n_shared_experts) if routed else model.intermediate_size
    queries = model.q_lora_rank or 0
    latents = queries + model.kv_lora_rank + model.qk_rope_head_dim
    # Residual stream twice; latents; the attention's output; copies for the experts; gate and up.
    kept = wide * (2 * H + latents) + narrow * (heads * model.v_head_dim + routed * H + 2 * width)
    if recompute == "none":
        expanded = heads * (2 * model.qk_head_dim + model.v_head_dim)
        kept += wide * expanded + narrow * (2 * H + queries + model.kv_lora_rank + width)
    return kept
