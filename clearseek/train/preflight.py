"""What is asked before the first step: can this recipe run here, and how will it compute?

Every question is asked once and answered by one object. `auto` is decided by measuring, and timings vary: a run that is
resumed or trained again takes what its record says that it began with. Of several processes the main one decides.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from clearseek.config import Recipe
from clearseek.cores import default_threads
from clearseek.counts import training_memory
from clearseek.errors import UserError
from clearseek.files import amount
from clearseek.fp8.backends.choose import choose
from clearseek.fp8.linear import Fp8
from clearseek.machine import Precision, bit_environment, describe, find_device, keep_heap, pick_precision
from clearseek.ops.compiled import Kernels, choose_kernels, kernels_environment, use_kernels
from clearseek.plan.layout import SINGLE, ParallelLayout, check_layout
from clearseek.plan.states import Stage
from clearseek.train.parallel.group import ALONE, Group
from clearseek.train.parallel.worker import local_processes

MOST_THREADS = 1024
"""Most threads that a record may ask for, as of a recipe."""


@dataclass(frozen=True)
class Setup:
    """How a run computes on this machine."""

    device: torch.device
    precision: Precision
    """Type of weights and activations, and the measured rates of products."""
    kernels: Kernels
    fp8: Fp8 | None
    """How to compute in FP8, where the recipe asks for it."""
    muon: torch.dtype | None = None
    """Type of Muon's products where it is not the model's."""

    def environment(self) -> dict[str, Any]:
        """What about machine and set-up decides the bits of the run, for the header of its transcript."""
        found = bit_environment(self.precision.dtype, str(self.device)) | kernels_environment(str(self.device))
        if self.fp8 is not None:
            found |= {"fp8_backend": self.fp8.backend.name} | self.fp8.backend.versions()
        if self.muon is not None:
            found["muon"] = str(self.muon).removeprefix("torch.")
        return found


def preflight(
    recipe: Recipe, device: str = "cpu", recorded: Mapping[str, Any] | None = None, group: Group = ALONE,
    layout: ParallelLayout = SINGLE,
) -> Setup:  # fmt: skip
    """Settle how a recipe runs here, for the whole process.

    Args:
        recipe: What to do.
        device: ``cpu`` or ``cuda``.
        recorded: The environment that the run began with, where it goes on or is done again.
        group: Processes that train together.
        layout: How they share the work.

    Raises:
        UserError: the device is not there, what a process has of the model does not fit in it, or it cannot do what
            the recipe asks for.
    """
    found: list[Setup] = []
    with group.together():
        refuse_device(recipe, device, group, layout)
    with group.together():
        if group.main:
            found.append(_preflight(recipe, device, recorded))
    decided = group.share(found[0].environment() if group.main else None)
    with group.together():
        if not group.main:
            found.append(_preflight(recipe, device, decided))
    return found[0]


def _preflight(recipe: Recipe, device: str, recorded: Mapping[str, Any] | None) -> Setup:
    """Settle how a recipe runs in this process."""
    began = recorded or {}
    settle_numerics(recipe.train.threads or _threads(began.get("threads")), device)
    choice = recipe.train.precision
    if recorded is not None and choice in ("auto", "fp8"):
        choice = "bf16" if began.get("precision") == "bfloat16" else "fp32"
    precision = pick_precision(choice, device)
    kernels = recipe.train.kernels
    if recorded is not None and kernels == "auto" and "kernels" not in began:
        kernels = "torch"
    chosen = choose_kernels(kernels, precision.dtype, device)
    use_kernels(chosen)
    place = torch.device(device)
    eight_bit = recipe.train.precision == "fp8"
    fp8 = choose(recipe.fp8, place, precision.dtype, began.get("fp8_backend")) if eight_bit else None
    return Setup(place, precision, chosen, fp8, _muon(recipe, precision, recorded))


def _muon(recipe: Recipe, precision: Precision, recorded: Mapping[str, Any] | None) -> torch.dtype | None:
    """FP32 for Muon's products where the model computes in a BF16 that this machine emulates, or where a record says
    so; None for the model's type."""
    if recipe.optimizer.name != "muon":
        return None
    if recorded is None:
        wide = precision.dtype == torch.bfloat16 and bool(precision.emulated)
    else:
        wide = recorded.get("muon") == "float32"
    return torch.float32 if wide else None


def settle_numerics(threads: int | None, device: str) -> None:
    """Everything global that changes bits or speed: threads, kernels, determinism, the heap.

    Kernels are PyTorch's own until a run chooses others: an evaluation means the same whatever ran before it.
    """
    use_kernels("torch")
    threads = threads or default_threads(local_processes())
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    if device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    torch.set_deterministic_debug_mode("error")  # what use_deterministic_algorithms does, without loading the compiler
    # On a CPU every kernel we use is deterministic; filling fresh memory with NaN would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    keep_heap()


def _threads(recorded: Any) -> int | None:
    """A number of threads from a record; None where it has none that can be."""
    return recorded if type(recorded) is int and 0 < recorded <= MOST_THREADS else None


def refuse_device(recipe: Recipe, device: str, group: Group = ALONE, layout: ParallelLayout = SINGLE) -> None:
    """Refuse a device that is not there, or that what this process has of the model cannot fit in.

    Processes of one machine share its memory, where they do not compute on a GPU each.
    """
    kind = find_device(device)
    machine = describe()
    on_gpu = kind.type == "cuda"
    have = machine["gpus"][kind.index or 0]["memory"] if on_gpu else machine["memory"]
    if group.size == 1:
        need, what = _alone(recipe), "weights"
        cure = "train a smaller model (see clearseek recipes), or on a larger one"
    else:
        check_layout(layout, recipe)
        here = [rank for rank in range(group.size) if group.hosts[rank] == group.hosts[group.rank]]
        need = _shared(recipe, layout, [group.rank] if on_gpu else here)
        several = len(here) > 1 and not on_gpu
        what = f"the weights of {len(here)} processes" if several else f"process {group.rank}'s weights"
        cure = "share the model out among more machines (clearseek plan proposes how), or train a smaller one"
    if need > have:
        raise UserError(
            f"{recipe.name}: {what}, gradients, their sums and optimiser state alone take {amount(need)}, "
            f"and {'this GPU' if on_gpu else 'this machine'} has {amount(have)}: {cure}"
        )


def _alone(recipe: Recipe) -> int:
    """Bytes of one process that has the whole model."""
    optimizer, sums = recipe.optimizer, recipe.train.held_sums
    precision = "fp32" if recipe.train.precision == "auto" else recipe.train.precision
    memory = training_memory(recipe.model, optimizer.name, precision, sums, optimizer.moments)
    return memory.total + memory.partial_sums


def _shared(recipe: Recipe, layout: ParallelLayout, ranks: Sequence[int]) -> int:
    """Bytes of some processes together."""
    stages: dict[int, list[int]] = {}
    for rank in ranks:
        stages.setdefault(rank // layout.copies, []).append(rank % layout.copies)
    return sum(
        sum(states[copy].total for copy in copies)
        for stage, copies in stages.items()
        for states in [Stage(recipe, layout, stage).states(layout)]
    )
