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
from dataclasses import dataclass
from functools import cache
from math import isqrt
from typing import Literal, NamedTuple

from clearseek.config import ModelConfig, Recipe
from clearseek.counts import TrainingMemory, training_memory
from clearseek.errors import UserError
from clearseek.tensors import TensorSpec, memory_tensors

Recompute = Literal["none", "selective", "full"]
"""Work that backward repeats: nothing; norms, MLA's up-projections and SwiGLU, as V3 does; or all but each layer's
input."""
USABLE = 0.9
"""Share of device memory that a plan fills: the rest is for the allocator, communication buffers and the runtime."""


@dataclass(frozen=True, slots=True)
class ParallelLayout:
    """Degrees of parallelism."""

    dp: int = 1
    """Copies of the model, each with its share of a batch."""
    ep: int = 1
    """Copies that a layer's experts are spread over."""
    pp: int = 1
    """Pipeline stages."""

    @property
    def devices(self) -> int:
        """Number of devices."""
        return self.dp * self.pp

    def __str__(self) -> str:
        return f"dp={self.dp},ep={self.ep},pp={self.pp}"


def parse_layout(text: str, devices: int | None) -> ParallelLayout:
    """Read ``dp=128,ep=64,pp=16``. A degree left out is 1, but dp follows from the number of devices where given."""
    degrees: dict[str, int] = {}
    for part in text.split(","):
        name, separator, number = (piece.strip() for piece in part.partition("="))
        if name not in ("dp", "ep", "pp") or not separator:
            raise UserError(f"--layout {text}: write it as dp=128,ep=64,pp=16")
        if not (number.isascii() and number.isdecimal() and int(number) > 0):
            raise UserError(f"--layout {text}: {name} is a number from 1 up")
        if name in degrees:
            raise UserError(f"--layout {text}: {name} appears twice")
        degrees[name] = int(number)
    pp = degrees.get("pp", 1)
    if devices is not None and "dp" not in degrees:
        if devices % pp:
            raise UserError(f"--layout {text}: pp = {pp} does not divide --gpus {devices}")
        degrees["dp"] = devices // pp
    layout = ParallelLayout(**degrees)
    if devices is not None and layout.devices != devices:
        raise UserError(f"--layout {text}: dp x pp = {layout.devices} devices, but --gpus is {devices}")
    return layout


def check_layout(layout: ParallelLayout, recipe: Recipe) -> None:
    """Raise UserError that names every degree that does not divide what it must."""
    dp, ep, pp = layout.dp, layout.ep, layout.pp
    experts, layers, batch = recipe.model.n_routed_experts, recipe.model.num_hidden_layers, recipe.train.batch_size
    checks = (
        (dp % ep, f"ep = {ep} does not divide dp = {dp}"),
        (experts % ep, f"ep = {ep} does not divide the {experts} routed experts"),
        (pp > layers, f"pp = {pp} is more than the {layers} layers"),
        (batch % dp, f"dp = {dp} does not divide train.batch_size = {batch}"),
    )
    if wrong := [message for broken, message in checks if broken]:
        raise UserError(f"--layout {layout}: {'; '.join(wrong)}")


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
        first = _first_layers(model.num_hidden_layers, pp)
        held: list[list[TensorSpec]] = [[] for _ in range(pp)]
        for spec in memory_tensors(model):
            held[_stage(spec, first, model)].append(spec)

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
        layouts = [layout for layout in self._layouts() if layout.devices == devices]
        fits = (layout for layout in layouts if self.memory(layout).total <= budget)
        return next(fits, None) or min(layouts, key=lambda layout: self.memory(layout).total, default=None)

    def least(self, budget: float) -> ParallelLayout | None:
        """The layout with the fewest devices that fits; None where none does."""
        layouts = sorted(self._layouts(), key=lambda layout: layout.devices)
        return next((layout for layout in layouts if self.memory(layout).total <= budget), None)

    def _layouts(self) -> Iterator[ParallelLayout]:
        """Every layout whose degrees divide what they must, the plainest first."""
        model = self.recipe.model
        copies, ways = _divisors(self.recipe.train.batch_size), _divisors(model.n_routed_experts)
        for pp in range(1, model.num_hidden_layers + 1):
            yield from (ParallelLayout(dp, ep, pp) for ep in ways for dp in copies if dp % ep == 0)


def _divisors(number: int) -> list[int]:
    small = [each for each in range(1, isqrt(number) + 1) if number % each == 0]
    return sorted({*small, *(number // each for each in small)})


def _first_layers(layers: int, pp: int) -> list[int]:
    """The first layer of every stage; stages differ by one layer at most, and the earlier ones have more."""
    short, more = divmod(layers, pp)
    return [stage * short + min(stage, more) for stage in range(pp)]


def _stage(spec: TensorSpec, first: list[int], model: ModelConfig) -> int:
    if spec.layer is None:
        return 0 if spec.kind == "embedding" else len(first) - 1
    return sum(start <= spec.layer for start in first) - 1  # the MTP layer comes after the last one


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
