"""What is asked before the first step: can this recipe run here, and how will it compute?

Every question is asked once and answered by one object. `auto` is decided by measuring, and timings vary: a run that is
resumed or trained again takes what its record says that it began with. Of several processes the main one decides.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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

    def environment(self) -> dict[str, Any]:
        """What about machine and set-up decides the bits of the run, for the header of its transcript."""
        found = bit_environment(self.precision.dtype, str(self.device)) | kernels_environment(str(self.device))
        if self.fp8 is not None:
            found |= {"fp8_backend": self.fp8.backend.name} | self.fp8.backend.versions()
        return found


def preflight(
    recipe: Recipe, device: str = "cpu", recorded: Mapping[str, Any] | None = None, group: Group = ALONE
) -> Setup:
    """Settle how a recipe runs here, for the whole process.

    Args:
        recipe: What to do.
        device: ``cpu`` or ``cuda``.
        recorded: The environment that the run began with, where it goes on or is done again.
        group: Processes that train together.

    Raises:
        UserError: the device is not there, the model does not fit in it, or it cannot do what the recipe asks for.
    """
    found: list[Setup] = []
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
    refuse_device(recipe, device)
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
    return Setup(place, precision, chosen, fp8)


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


def refuse_device(recipe: Recipe, device: str) -> None:
    """Refuse a device that is not there, or that the model cannot fit in."""
    kind = find_device(device)
    machine = describe()
    have = machine["memory"] if kind.type == "cpu" else machine["gpus"][kind.index or 0]["memory"]
    optimizer, sums = recipe.optimizer, recipe.train.held_sums
    precision = "fp32" if recipe.train.precision == "auto" else recipe.train.precision
    memory = training_memory(recipe.model, optimizer.name, precision, sums, optimizer.moments)
    need = memory.total + memory.partial_sums
    if need > have:
        raise UserError(
            f"{recipe.name}: weights, gradients, their sums and optimiser state alone take {amount(need)}, "
            f"and this machine has {amount(have)}: train a smaller model (see clearseek recipes), or on a larger one"
        )
