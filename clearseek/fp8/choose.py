"""Which backends run here, and which one a run takes.

A backend is probed by running it on a small product and comparing with the reference. It is named in the recipe or,
with `auto`, the first that runs in the order of :data:`ORDER`; the choice is printed and stands in the run's record.
Nothing is swapped silently.
"""

from __future__ import annotations

import torch

from clearseek.config import Fp8Config
from clearseek.errors import UserError
from clearseek.fp8.backend import Reference
from clearseek.fp8.comparison import COMPARISONS
from clearseek.fp8.dequantised import Dequantised
from clearseek.fp8.linear import Fp8

BACKENDS: dict[str, type[Reference]] = {"reference": Reference, "dequantised": Dequantised}
ORDER = ("dequantised", "reference")
"""What `auto` tries, fastest first."""


def why_not(name: str, config: Fp8Config, device: torch.device) -> str | None:
    """Why backend `name` cannot run these settings on `device`; None if it can."""
    if name == "dequantised" and config.scales != "power-of-two":
        return f'it needs fp8.scales = "power-of-two" (it is "{config.scales}"): other scales do not fit BF16'
    return BACKENDS[name]().why_not(device)


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
    names = ORDER if config.backend == "auto" else (config.backend,)
    reasons = {name: why_not(name, config, device) for name in names}
    for name, reason in reasons.items():
        if reason is None:
            return Fp8(config, BACKENDS[name]())
    raise UserError("; ".join(f'fp8.backend = "{name}" cannot run here: {reason}' for name, reason in reasons.items()))
