"""Which backends run here, and which one a run takes.

A backend is probed by running it on small operands and comparing with the reference. It is named in the recipe or, with
`auto`, the first that runs in the order of :data:`ORDER`. That order is fixed rather than timed, because backends round
differently: the same machine must give the same bits tomorrow. The choice is printed and stands in the run's record.
Nothing is swapped silently.
"""

from __future__ import annotations

from importlib import import_module

import torch

from clearseek.config import Fp8Config
from clearseek.errors import UserError
from clearseek.fp8.backend import Reference
from clearseek.fp8.comparison import COMPARISONS
from clearseek.fp8.linear import Fp8

BACKENDS = {
    "triton": "clearseek.fp8.triton.backend:Triton",
    "cublas": "clearseek.fp8.cublas:Cublas",
    "deepgemm": "clearseek.fp8.deepgemm:DeepGemm",
    "dequantised": "clearseek.fp8.dequantised:Dequantised",
    "reference": "clearseek.fp8.backend:Reference",
}
"""Where each backend is defined; imported only when asked for, because some need packages that not everybody has."""
ORDER = {"cuda": tuple(BACKENDS)}
"""What `auto` tries, by type of device. Triton comes first because it needs no waiting for the GPU between experts."""
ORDER_ELSEWHERE = ("dequantised", "reference")
PACKAGES = {
    "triton": "Triton is not installed: pip install -e '.[triton]'",
    "deep_gemm": "DeepGEMM is not installed: see github.com/deepseek-ai/DeepGEMM",
}


def make(name: str) -> Reference:
    """The backend of that name. Raises ImportError where a package is missing."""
    module, kind = BACKENDS[name].split(":")
    backend: Reference = getattr(import_module(module), kind)()
    return backend


def why_not(name: str, config: Fp8Config, device: torch.device) -> str | None:
    """Why backend `name` cannot run these settings on `device`; None if it can."""
    if name == "dequantised" and config.scales != "power-of-two":
        return f'it needs fp8.scales = "power-of-two" (it is "{config.scales}"): other scales do not fit BF16'
    if name in ("cublas", "deepgemm") and config.gradient_format != "e4m3":
        return f'it needs fp8.gradient_format = "e4m3" (it is "{config.gradient_format}"): it takes no other'
    try:
        return make(name).why_not(device)
    except ImportError as error:
        return PACKAGES.get(str(error.name), f"a package could not be imported ({error})")


def choose(config: Fp8Config, device: torch.device) -> Fp8:
    """The settings with the backend that runs them.

    Raises UserError where the backend asked for cannot run, or settings contradict each other.
    """
    compared = (config.gradient_tile, config.accumulate)
    if compared != ("1x128", "fp32"):
        if compared not in COMPARISONS or config.scales != "power-of-two" or config.backend != "auto":
            raise UserError(
                f'fp8.gradient_tile = "{compared[0]}" with fp8.accumulate = "{compared[1]}" is for comparisons, one '
                'at a time: with fp8.scales = "power-of-two" and fp8.backend = "auto"'
            )
        return Fp8(config, COMPARISONS[compared]())
    names = ORDER.get(device.type, ORDER_ELSEWHERE) if config.backend == "auto" else (config.backend,)
    reasons: dict[str, str] = {}
    for name in names:
        reason = why_not(name, config, device)
        if reason is None:
            return Fp8(config, make(name))
        reasons[name] = reason
    raise UserError("; ".join(f'fp8.backend = "{name}" cannot run here: {reason}' for name, reason in reasons.items()))
