"""One pass over memory instead of many: `torch.compile` for the pieces that are not matrix products.

Norms, SwiGLU and the loss read and write the same large tensors several times when each operation is a kernel of its
own. With `train.compile` on, PyTorch's compiler makes one loop of each; it needs a C++ compiler on a CPU and Triton on
a GPU, and its first step takes a while longer. Off, hand-ordered passes do the same work. The two round differently, so
the setting is part of what the bits depend on.

PyTorch's compiler is loaded at the first call of a formula with the setting on: to load it takes twice as long as
PyTorch itself, which a run without it should not wait for.

Sizes are symbols (`dynamic=True`): the experts' row counts change every step, and the kernel that a shape gets must not
depend on which shapes came before.
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
from typing import ParamSpec, TypeVar

import torch

from clearseek.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")

_state = {"on": False}


def use_compiler(on: bool) -> None:
    """Choose, for the whole process, between compiled formulas and hand-ordered passes.

    Raises UserError where `on` is asked for and there is no C++ compiler (PyTorch's takes one on every device).
    """
    if on and _compiler() is None:
        raise UserError(
            "train.compile = true: no C++ compiler was found ($CXX, g++ or clang++): install one, or set it to false"
        )
    _state["on"] = on


def compiler_environment(device: str = "cpu") -> dict[str, str]:
    """What about the compiler decides bits on `device`; empty while it is off."""
    path = _compiler()
    if not _state["on"] or path is None:
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


def compiled_from(formula: Callable[P, R]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate hand-ordered passes with the `formula` that stands in for them when compiling.

    Both take and return the same; the formula is plain tensor maths without in-place writes.
    """

    def decorate(passes: Callable[P, R]) -> Callable[P, R]:
        @functools.cache
        def compiled() -> Callable[P, R]:
            # The compiler has a switch of its own for determinism, which this call sets.
            torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
            # fullgraph: what the compiler cannot take is an error, never a silent return to the slow way.
            return torch.compile(formula, dynamic=True, fullgraph=True)

        @functools.wraps(passes)
        def choose(*args: P.args, **kwargs: P.kwargs) -> R:
            return (compiled() if _state["on"] else passes)(*args, **kwargs)

        return choose

    return decorate
