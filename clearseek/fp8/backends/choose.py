"""Which backends run on this machine, and which one a run takes.

A backend is probed by running it on small operands and comparing with the reference. The recipe names a backend, or
`auto` measures those that run and takes the first in the order of :data:`ORDER`, unless another is :data:`GAIN` times
as fast. Backends round differently, so the choice must not vary from day to day, and a gain that large does not. The
choice and the rates are printed, the choice is in the run's record, and a resumed run keeps its backend. Nothing is
swapped silently.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

from clearseek.config import Fp8Config
from clearseek.errors import UserError
from clearseek.fp8.backend import Backend
from clearseek.fp8.backends.cublas import cublas
from clearseek.fp8.backends.dequantised import dequantised
from clearseek.fp8.backends.reference import reference
from clearseek.fp8.linear import Fp8


def _triton(dtype: torch.dtype) -> Backend:
    from clearseek.fp8.backends.triton.backend import triton

    return triton(dtype)


def _deepgemm(dtype: torch.dtype) -> Backend:
    from clearseek.fp8.backends.deepgemm import deepgemm

    return deepgemm(dtype)


BACKENDS: dict[str, Callable[[torch.dtype], Backend]] = {
    "triton": _triton,
    "cublas": cublas,
    "deepgemm": _deepgemm,
    "dequantised": dequantised,
    "reference": reference,
}
"""Makers of the backends; a backend that needs an optional package is imported only when it is made."""
ORDER = {"cuda": tuple(BACKENDS)}
"""Order in which `auto` prefers backends, by type of device; Triton first, because the host never waits for the GPU."""
ORDER_ELSEWHERE = ("dequantised", "reference")
GAIN = 2.0
"""Factor in speed from which `auto` takes a backend instead of a preferred one."""
TURNS = 5
"""Number of timings of each backend."""
MEASURED = {"cuda": 4096}
MEASURED_ELSEWHERE = 512
"""Rows, inner size and outputs of the timed product, by type of device."""
PACKAGES = {
    "triton": "Triton is not installed: pip install -e '.[triton]'",
    "deep_gemm": "DeepGEMM is not installed: see github.com/deepseek-ai/DeepGEMM",
}


def make(name: str, dtype: torch.dtype = torch.bfloat16) -> Backend:
    """The backend `name` with products in `dtype`. Raises ImportError where a package is missing."""
    return BACKENDS[name](dtype)


def why_not(name: str, config: Fp8Config, device: torch.device) -> str | None:
    """Why backend `name` cannot run these settings on `device`; None if it can."""
    try:
        backend = make(name)
        if not backend.free_scales and config.scales != "power-of-two":
            return f'it needs fp8.scales = "power-of-two" (it is "{config.scales}"): other scales do not fit BF16'
        return backend.why_not(device)
    except ImportError as error:
        return PACKAGES.get(str(error.name), f"a package could not be imported ({error})")


def choose(
    config: Fp8Config, device: torch.device, dtype: torch.dtype = torch.bfloat16, began_with: str | None = None
) -> Fp8:
    """The settings with the backend that runs them.

    Args:
        config: The settings.
        device: The run's device.
        dtype: Type of the model outside FP8.
        began_with: The backend that `auto` chose when the run began.

    Raises:
        UserError: the requested backend cannot run, or does not support these settings.
    """
    names = ORDER.get(device.type, ORDER_ELSEWHERE) if config.backend == "auto" else (config.backend,)
    if config.backend == "auto" and began_with in BACKENDS:
        names = (began_with,)
    reasons = {name: why_not(name, config, device) for name in names}
    able = [name for name in names if reasons[name] is None]
    if not able:
        words = (f'fp8.backend = "{name}" cannot run here: {reason}' for name, reason in reasons.items())
        raise UserError("; ".join(words))
    if len(able) == 1:
        return Fp8(config, make(able[0], dtype))
    rates = _rates(tuple(able), device, dtype)
    fastest = max(rates.values())
    taken = next(name for name in able if GAIN * rates[name] > fastest)
    return Fp8(config, make(taken, dtype), rates)


@functools.cache
def _rates(names: tuple[str, ...], device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of one product and the quantising of its left operand, in the fastest of several turns.

    Other work on the machine only slows a product down, so the fastest turn counts; taking turns spreads the slowing
    evenly over the backends.
    """
    size = MEASURED.get(device.type, MEASURED_ELSEWHERE)
    x = torch.ones(size, size, dtype=dtype, device=device)
    backends = {name: make(name, dtype) for name in names}
    weights = {name: backend.products.weight(x, True).forward for name, backend in backends.items()}
    seconds = dict.fromkeys(names, float("inf"))
    for number in range(1 + TURNS):
        for name, backend in backends.items():
            start = time.perf_counter()
            backend.products.mm(backend.quantiser.tiles(x, True), weights[name])
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:  # the first builds kernels
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    return {name: 2 * size**3 / best for name, best in seconds.items()}
