"""Memory of each device when a model is spread over many, and the layouts for which it suffices.

The fullest device decides. Bytes of weights and states are exact (:mod:`clearseek.plan.states`); activations are an
estimate: what must be kept from forward to backward for each token, times the micro-batches that are under way, and
under FSDP the layers that are whole while they are computed.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Literal, NamedTuple

from clearseek.config import ModelConfig, Recipe
from clearseek.plan.layout import ParallelLayout, Schedule, layouts
from clearseek.plan.stages import layers_of, stages_of
from clearseek.plan.states import Stage
from clearseek.tensors import memory_tensors

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
        self.recompute: Recompute = recompute or recipe.train.recompute
        """The choice given, else the recipe's."""
        self._stages = cache(self._make_stages)
        self._kept = cache(self._activations)
        self._processes = cache(self._count)

    def process(self, layout: ParallelLayout, rank: int) -> DeviceMemory:
        """Bytes on one process."""
        return self._processes(layout)[layout.stage(rank)][layout.copy(rank)]

    def fullest(self, layout: ParallelLayout) -> int:
        """The first of the processes that hold most."""
        return max(range(layout.devices), key=lambda rank: self.process(layout, rank).total)

    def memory(self, layout: ParallelLayout) -> DeviceMemory:
        """Bytes on the fullest device."""
        return self.process(layout, self.fullest(layout))

    def _count(self, layout: ParallelLayout) -> list[list[DeviceMemory]]:
        """Bytes on every process: on each copy of each stage."""
        return [
            [DeviceMemory(*states, kept) for states in stage.states(layout)] for stage, kept in self._places(layout)
        ]

    def _places(self, layout: ParallelLayout) -> list[tuple[Stage, int]]:
        """The tensors at each place in the pipeline, and the bytes of activations."""
        gathered = self._gathered() if layout.fsdp > 1 else 0
        kept = self._kept(layout.pp, layout.schedule, self.recompute)
        stages = self._stages(layout.pp, layout.schedule)
        return [(stage, each + gathered) for stage, each in zip(stages, kept, strict=True)]

    def _make_stages(self, pp: int, schedule: Schedule) -> list[Stage]:
        return [Stage(self.recipe, ParallelLayout(pp=pp, schedule=schedule), place) for place in range(pp)]

    def _activations(self, pp: int, schedule: Schedule, recompute: Recompute) -> list[int]:
        """Bytes at each place of a pipeline, an estimate."""
        train, model, precision = self.recipe.train, self.recipe.model, precision_of(self.recipe)
        tokens = (train.micro_batch_size or train.batch_size) * self.recipe.data.sequence_length
        length, layout = train.micro_batches // train.summed_lanes, ParallelLayout(pp=pp, schedule=schedule)
        found = []
        for place in range(pp):
            layers = [layer for stage in stages_of(layout, place) for layer in layers_of(model, layout, stage)]
            # Forward and backward alternate: the first stage waits longest for its first gradient.
            waiting = {"1f1b": pp - place, "zbv": pp, "dualpipev": pp + 1}[schedule]
            kept = sum(activation_bytes(model, layer, precision, recompute) for layer in layers) * min(waiting, length)
            if recompute == "full":  # the activations of one layer exist while its backward runs
                kept += max((activation_bytes(model, each, precision, "none") for each in layers), default=0)
            found.append(tokens * kept)
        return found

    def _gathered(self) -> int:
        """Bytes of the weights that FSDP makes whole: those outside the layers, and two layers at a time."""
        sizes: dict[int | None, int] = defaultdict(int)
        for spec in memory_tensors(self.recipe.model):
            sizes[spec.layer] += spec.size * (4 if self.recipe.train.precision == "fp32" else 2)
        return sizes.pop(None) + sum(sorted(sizes.values())[-2:])

    def best(self, devices: int, budget: float) -> ParallelLayout | None:
        """The plainest layout over so many devices that fits, else the one that takes least memory.

        None where no layout divides. Plain means few stages, then few ways of spreading experts.
        """
        found = [layout for layout in layouts(self.recipe) if layout.devices == devices]
        return self._first(found, budget) or min(found, key=self._at_least, default=None)

    def least(self, budget: float) -> ParallelLayout | None:
        """The layout with the fewest devices that fits; None where none does."""
        return self._first(sorted(layouts(self.recipe), key=lambda layout: layout.devices), budget)

    def _first(self, found: list[ParallelLayout], budget: float) -> ParallelLayout | None:
        fits = (layout for layout in found if self.may_fit(layout, budget))
        return next((layout for layout in fits if self.memory(layout).total <= budget), None)

    def may_fit(self, layout: ParallelLayout, budget: float) -> bool:
        """Whether a layout would fit if masters and optimiser state could be dealt out evenly: quick to tell."""
        return all(stage.even(layout).total + kept <= budget for stage, kept in self._places(layout))

    def _at_least(self, layout: ParallelLayout) -> int:
        """Bytes on the fullest device if masters and optimiser state could be dealt out evenly."""
        return max(stage.even(layout).total + kept for stage, kept in self._places(layout))


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
