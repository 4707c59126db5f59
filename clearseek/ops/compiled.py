"""One pass over memory instead of many, for what is not a large matrix product: three ways to work.

Norms, SwiGLU, attention, the loss and Muon read and write the same large tensors several times when each operation is a
kernel of its own. `train.kernels` says how they are worked (:func:`choose_kernels`):

- ``torch``: hand-ordered passes of PyTorch's own operations; everywhere.
- ``numba``: one loop each, compiled by numba when first used (:mod:`clearseek.kernels`), for FP32 tensors on a CPU.
  Tensors of other types go the way of ``torch``.
- ``compile``: norms, SwiGLU and the loss's softmax by `torch.compile`, which needs a C++ compiler on a CPU and Triton
  on a GPU, and a while at the first step.

They round differently, so the choice is part of what the bits depend on.

For the compiler sizes are symbols (`dynamic=True`): the experts' row counts change every step, and the kernel that a
shape gets must not depend on which shapes came before.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from typing import Any, Literal, ParamSpec, TypeVar, get_args

import torch

from clearseek.errors import UserError
from clearseek.kernels import launch

P = ParamSpec("P")
R = TypeVar("R")

Kernels = Literal["torch", "numba", "compile"]
_state: dict[str, Kernels] = {"kernels": "torch"}


def choose_kernels(choice: Literal["auto"] | Kernels, precision: torch.dtype, device: str) -> Kernels:
    """What `train.kernels` means here: `auto` is numba where its loops serve the run, else PyTorch's passes.

    Args:
        choice: The setting.
        precision: Type that the run computes in.
        device: ``cpu`` or ``cuda``.

    Raises:
        UserError: what was asked for by name cannot work here.
    """
    served = precision == torch.float32 and torch.device(device).type == "cpu"
    if choice == "auto":
        return "numba" if served and launch.unavailable() is None else "torch"
    if choice == "numba":
        why = launch.unavailable() if served else "its loops are for FP32 on a CPU, and this run is not"
        if why is not None:
            raise UserError(f'train.kernels = "numba": {why}: use "torch" or "auto"')
    if choice == "compile" and _compiler() is None:
        raise UserError(
            'train.kernels = "compile": no C++ compiler was found ($CXX, g++ or clang++): install one, or use "torch"'
        )
    return choice


def use_kernels(kernels: Kernels) -> None:
    """Work in this way from now on, in the whole process."""
    assert kernels in get_args(Kernels), kernels
    _state["kernels"] = kernels


def kernels_environment(device: str = "cpu") -> dict[str, str]:
    """What about the kernels decides bits on `device`; empty for PyTorch's own passes."""
    if _state["kernels"] == "numba":
        return {"kernels": f"numba {package_version('numba')}"}
    return _compiler_environment(device) if _state["kernels"] == "compile" else {}


def loops_take(x: torch.Tensor) -> bool:
    """Whether numba's loops are in use and made for this tensor: FP32, on a CPU."""
    return _state["kernels"] == "numba" and x.dtype == torch.float32 and x.device.type == "cpu"


def _compiler_environment(device: str) -> dict[str, str]:
    path = _compiler()
    if path is None:
        return {}
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=20).stdout
    version = re.search(r"\d+(?:\.\d+)+", text)
    found = {"compiler": f"{'clang' if 'clang' in text else 'gcc'} {version[0] if version else 'unknown'}"}
    with suppress(PackageNotFoundError):
        found |= {} if device == "cpu" else {"triton": package_version("triton")}
    return found


def _compiler() -> str | None:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


def _compiler_options() -> dict[str, Any]:
    """The vectors' width in bits, said to the compiler so that its cache on disk tells one width from another.

    A loop cached for the vectors of AVX2 is otherwise found again, and built for those of AVX-512, when ATen's choice
    has changed (``ATEN_CPU_CAPABILITY``, or a cache shared by machines): each store is then twice as wide as its step,
    and the last ones of a tensor go beyond it (seen with PyTorch 2.13).
    """
    width = {"AVX512": 512, "AVX2": 256}.get(torch.backends.cpu.get_cpu_capability())
    return {"cpp.simdlen": width} if width else {}


def compiled_from(formula: Callable[P, R], loop: Callable[P, R]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate hand-ordered passes with what stands in for them: the `formula` when compiling, and numba's `loop`.

    All take and return the same; the formula is plain tensor maths without in-place writes.
    """

    def decorate(passes: Callable[P, R]) -> Callable[P, R]:
        @functools.cache
        def compiled() -> Callable[P, R]:
            # The compiler has a switch of its own for determinism, which this call sets.
            torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
            # fullgraph: what the compiler cannot take is an error, never a silent return to the slow way.
            return torch.compile(formula, dynamic=True, fullgraph=True, options=_compiler_options())

        @functools.wraps(passes)
        def choose(*args: P.args, **kwargs: P.kwargs) -> R:
            first = args[0]
            if isinstance(first, torch.Tensor) and loops_take(first):
                return loop(*args, **kwargs)
            return (compiled() if _state["kernels"] == "compile" else passes)(*args, **kwargs)

        return choose

    return decorate
