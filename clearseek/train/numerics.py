"""How a run computes on this machine: what is settled for the whole process, and what a recipe leaves to the machine.

`auto` is decided by measuring, and timings vary: a run that is resumed takes what its record says that it began with.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from clearseek.config import Recipe
from clearseek.cores import default_threads
from clearseek.fp8.backends.choose import choose
from clearseek.fp8.linear import Fp8
from clearseek.machine import Precision, keep_heap, pick_precision
from clearseek.ops.compiled import Kernels, choose_kernels, use_kernels
from clearseek.train.run import RunFolder
from clearseek.train.transcript import read_header


def settle_numerics(threads: int | None, device: str) -> None:
    """Everything global that changes bits or speed: threads, kernels, determinism, the heap.

    Kernels are PyTorch's own until a trainer chooses others: an evaluation means the same whatever ran before it.
    """
    use_kernels("torch")
    threads = threads or default_threads()
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    if device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    torch.set_deterministic_debug_mode("error")  # what use_deterministic_algorithms does, without loading the compiler
    # On a CPU every kernel we use is deterministic; filling fresh memory with NaN would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    keep_heap()


def precision_of(recipe: Recipe, run: RunFolder, device: str, resume: bool) -> Precision:
    """Probe, or with `resume` take the type that the run began with."""
    choice = recipe.train.precision
    if resume and choice in ("auto", "fp8") and run.transcript.exists():
        choice = "bf16" if _environment(run).get("precision") == "bfloat16" else "fp32"
    return pick_precision(choice, device)


def kernels_of(recipe: Recipe, run: RunFolder, device: str, dtype: torch.dtype, resume: bool) -> Kernels:
    """What the recipe's choice means here; for `auto` with `resume` what the run began with, where it is installed."""
    choice = recipe.train.kernels
    if resume and choice == "auto" and run.transcript.exists() and "kernels" not in _environment(run):
        choice = "torch"
    return choose_kernels(choice, dtype, device)


def fp8_of(recipe: Recipe, run: RunFolder, device: torch.device, dtype: torch.dtype, resume: bool) -> Fp8 | None:
    """How to compute in FP8, where the recipe asks for it; with `resume` by the backend that the run began with."""
    if recipe.train.precision != "fp8":
        return None
    began_with = _environment(run).get("fp8_backend") if resume and run.transcript.exists() else None
    return choose(recipe.fp8, device, dtype, began_with)


def _environment(run: RunFolder) -> dict[str, Any]:
    """What the run's record says about where it began."""
    found: dict[str, Any] = read_header(run.transcript).get("environment", {})
    return found
