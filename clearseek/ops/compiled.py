"""Three kinds of kernels for everything but large matrix products, to pass over memory once instead of many times.

Norms, SwiGLU, attention, the loss and Muon read and write the same large tensors several times when each operation is
its own kernel. `train.kernels` chooses the kind (:func:`choose_kernels`):

- ``torch``: hand-ordered passes of PyTorch's own operations; everywhere.
- ``numba``: one loop each, compiled by numba when first used (:mod:`clearseek.kernels`), for FP32 tensors on a CPU.
  Tensors of other types take the passes of ``torch``.
- ``compile``: norms, SwiGLU and the loss's softmax by `torch.compile`, which needs a C++ compiler on a CPU and Triton
  on a GPU, and more time for the first step.

The three round differently, so bits depend on the choice.

The compiler takes sizes as symbols (`dynamic=True`): the experts' row counts change every step, and a shape's kernel
must not depend on the shapes before it.
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
    """The kernels of a run: `auto` is numba where its loops can compute the run, else PyTorch's passes.

    Args:
        choice: The setting `train.kernels`.
        precision: Type of the run's products.
        device: ``cpu`` or ``cuda``.

    Raises:
        UserError: the named kernels cannot run on this machine.
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
    """Use these kernels from now on, in the whole process."""
    assert kernels in get_args(Kernels), kernels
    _state["kernels"] = kernels


def kernels_environment(device: str = "cpu") -> dict[str, str]:
    """Versions that decide the kernels' bits on `device`; empty for PyTorch's own passes."""
    if _state["kernels"] == "numba":
        return {"kernels": f"numba {package_version('numba')}"}
    return _compiler_environment(device) if _state["kernels"] == "compile" else {}


def loops_take(x: torch.Tensor) -> bool:
    """Whether numba's loops are in use and can take this tensor: FP32, on a CPU."""
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
    """The vectors' width in bits as an option, so that the compiler's cache on disk keeps one loop for each width.

    Without the option, a loop cached for AVX2 is found again and built for AVX-512 after ATen's choice has changed
    (``ATEN_CPU_CAPABILITY``, or a cache shared by machines): each store is then twice as wide as its step, and the last
    stores pass the end of the tensor (seen with PyTorch 2.13).
    """
    width = {"AVX512": 512, "AVX2": 256}.get(torch.backends.cpu.get_cpu_capability())
    return {"cpp.simdlen": width} if width else {}


def compiled_from(formula: Callable[P, R], loop: Callable[P, R]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate hand-ordered passes with their replacements: the `formula` to compile, and numba's `loop`.

    All three have the same arguments and results; the formula is plain tensor maths without in-place writes.
    """

    def decorate(passes: Callable[P, R]) -> Callable[P, R]:
        @functools.cache
        def compiled() -> Callable[P, R]:
            # This call sets the compiler's own switch for determinism.
            torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
            # fullgraph: code that the compiler cannot take is an error, never a silent return to the slow way.
            return torch.compile(formula, dynamic=True, fullgraph=True, options=_compiler_options())

        @functools.wraps(passes)
        def choose(*args: P.args, **kwargs: P.kwargs) -> R:
            first = args[0]
            if isinstance(first, torch.Tensor) and loops_take(first):
                return loop(*args, **kwargs)
            return (compiled() if _state["kernels"] == "compile" else passes)(*args, **kwargs)

        return choose

    return decorate
