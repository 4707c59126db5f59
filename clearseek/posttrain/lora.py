"""LoRA from settings to merged weights: which matrices get adapters, how those begin, and how they end.

All else is frozen. The matrices come from :mod:`clearseek.tensors`, so a target is a name that the model really has:
``gate_proj``, ``up_proj`` and ``down_proj`` are those of dense MLPs and shared experts, and the routed experts, which
are stacked, are ``experts.gate_up_proj`` and ``experts.down_proj``. A starts as PEFT's does (uniform within
1 / sqrt(inputs), Kaiming's bound for a = sqrt(5)), but each matrix is drawn by a generator of its own, addressed by
seed, name and expert, as the model's own weights are.
"""

from __future__ import annotations

from math import prod
from typing import Final

import torch
from torch import Tensor, nn

from clearseek.config import LoraConfig, ModelConfig
from clearseek.errors import UserError, nearest
from clearseek.model.lora import adapters_of, attach
from clearseek.model.transformer import DeepSeekModel, generator_of
from clearseek.tensors import TensorKind, TensorSpec, memory_tensors

GROUPS: Final[dict[str, frozenset[TensorKind]]] = {
    "attention": frozenset({"attention"}),
    "dense": frozenset({"dense_mlp"}),
    "shared": frozenset({"shared_expert"}),
    "experts": frozenset({"expert"}),
    "all": frozenset({"attention", "dense_mlp", "shared_expert", "expert"}),
}
"""Groups of targets, by the kinds of :mod:`clearseek.tensors`."""


def targets_of(config: ModelConfig, targets: tuple[str, ...]) -> list[TensorSpec]:
    """The matrices that `targets` name, in the model's order, the MTP layer's among them.

    Raises UserError for a target that this model does not have.
    """
    specs = [spec for spec in memory_tensors(config) if spec.kind in GROUPS["all"]]
    known = {name: {spec.name for spec in specs if spec.kind in kinds} for name, kinds in GROUPS.items()}
    for spec in specs:
        known.setdefault(short_name(spec), set()).add(spec.name)
    known = {name: matrices for name, matrices in known.items() if matrices}
    for target in targets:
        if target not in known:
            raise UserError(
                f"lora.targets: this model has no {target!r}{nearest(target, known)}: choose from {', '.join(known)}"
            )
    chosen = set[str]().union(*(known[target] for target in targets))
    return [spec for spec in specs if spec.name in chosen]


def short_name(spec: TensorSpec) -> str:
    """Name of a matrix as a target: ``o_proj`` or ``experts.down_proj``."""
    parts = spec.name.removesuffix(".weight").split(".")
    return ".".join(parts[-2:] if spec.kind == "expert" else parts[-1:])


@torch.no_grad()
def add_lora(model: DeepSeekModel, settings: LoraConfig, seed: int) -> list[tuple[str, nn.Parameter]]:
    """Give a model adapters, and freeze all else.

    Args:
        model: The model, with the weights, on the device and in the types that it is to be tuned with.
        settings: Which matrices, and how.
        seed: Seed of the first values of A; B begins at zero.

    Returns:
        Names and parameters of the adapters, in the model's order: what the optimiser trains.

    Raises:
        UserError: the model lacks a target, has adapters already, or has a matrix smaller than the rank.
    """
    if any(True for _ in adapters_of(model)):
        raise UserError("this model has adapters already: merge them first")
    specs = targets_of(model.config, settings.targets)
    for spec in specs:
        if settings.rank > min(spec.shape[-2:]):
            shape = " x ".join(map(str, spec.shape[-2:]))
            raise UserError(f"lora.rank = {settings.rank}: {spec.name} is {shape}: use a rank up to its smaller side")
    model.requires_grad_(False)
    for spec in specs:
        attach(model, spec.name, settings.rank, settings.alpha)
    trained = adapter_parameters(model)
    for name, parameter in trained:
        if name.endswith(".lora_A"):
            for number, matrix in enumerate(parameter if parameter.ndim == 3 else parameter.unsqueeze(0)):
                bound = matrix.shape[1] ** -0.5
                drawn = torch.empty(matrix.shape, dtype=torch.float32)
                matrix.copy_(drawn.uniform_(-bound, bound, generator=generator_of(seed, name, number)))
    return trained


def adapter_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters of a model's adapters, in the model's order."""
    mine = {id(parameter) for _, adapter in adapters_of(model) for parameter in adapter.parameters()}
    return [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) in mine]


@torch.no_grad()
def merged_tensors(model: DeepSeekModel) -> dict[str, Tensor]:
    """Weights and biases under the names of :func:`~clearseek.tensors.memory_tensors`, adapters folded in.

    The model keeps its adapters. What is not adapted is not copied.
    """
    adapters = dict(adapters_of(model))
    ours = {spec.name for spec in memory_tensors(model.config)}
    return {
        name: adapters[name].folded(tensor) if name in adapters else tensor
        for name, tensor in model.state_dict().items()
        if name in ours
    }


def count_lora(config: ModelConfig, settings: LoraConfig) -> dict[str, int]:
    """Parameters of the adapters by target name, in the model's order. Raises UserError as :func:`targets_of`."""
    counts: dict[str, int] = {}
    for spec in targets_of(config, settings.targets):
        size = prod(spec.shape[:-2]) * settings.rank * sum(spec.shape[-2:])
        counts[short_name(spec)] = counts.get(short_name(spec), 0) + size
    return counts
