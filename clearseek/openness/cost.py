"""What training costs: operations, hours, dollars and energy, and whether stated figures fit each other.

Two ways to count operations are in use. *6ND* multiplies six by parameters and tokens: simple, and without attention.
The exact count follows the shapes (:func:`clearseek.hub.layout.flops_per_token`). Hours then follow from the share of a
device's peak that a run reaches, the *model-FLOPs utilisation* (PaLM, arXiv 2204.02311, appendix B): published runs
reach 0.1 to 0.6 of it, so hours that imply more or less are a slip, or count something else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Final

from clearseek.openness.hardware import device
from clearseek.openness.published import RUNS, Published

PLAUSIBLE: Final = (0.1, 0.6)
"""Utilisation of published runs; outside of it something was counted otherwise."""
POWER_SHARE: Final = 0.8
"""Average draw of a busy accelerator over its limit."""
OVERHEAD: Final = 1.5
"""Energy of a whole data centre over that of its accelerators: hosts and network (1.3) and cooling (1.15)."""


def six_n_d(parameters: float, tokens: float) -> float:
    """Operations of a training run by the rule of thumb: six for each parameter and token."""
    return 6.0 * parameters * tokens


def utilisation(flops: float, device_hours: float, peak: float) -> float:
    """Share of the peak (FLOP/s of one device) that `flops` in so many device-hours are."""
    return flops / (device_hours * 3600.0 * peak)


def device_hours(flops: float, share: float, peak: float) -> float:
    """Hours of one device for `flops` at this share of its peak."""
    return flops / (share * peak * 3600.0)


def energy_kwh(hours: float, watts: float) -> float:
    """Energy of a data centre for so many device-hours, in kWh; an estimate from `POWER_SHARE` and `OVERHEAD`."""
    return hours * watts * POWER_SHARE * OVERHEAD / 1000.0


def published_utilisation(run: Published) -> float:
    """Share of the BF16 peak that a published run's figures imply, by 6ND."""
    return utilisation(six_n_d(run.activated, run.tokens), run.gpu_hours, device(run.device).bf16)


def expected_utilisation(runs: Iterable[Published] = RUNS, leave_out: str = "") -> float:
    """Share of the BF16 peak to expect of a run by 6ND: the geometric mean over published runs.

    One number for all devices and sizes, because a dozen runs do not support more; `leave_out` names a run not to use.
    """
    return geometric_mean([published_utilisation(run) for run in runs if run.name != leave_out])


@dataclass(frozen=True, slots=True)
class Check:
    """A published run against the estimate made without it."""

    run: Published
    utilisation: float
    """What its own figures imply."""
    estimated_hours: float
    """With the utilisation of all other runs."""

    @property
    def error(self) -> float:
        """Estimated over published hours, less one."""
        return self.estimated_hours / self.run.gpu_hours - 1.0


def validate(runs: tuple[Published, ...] = RUNS) -> tuple[Check, ...]:
    """Estimate every published run from the others."""
    return tuple(
        Check(
            run,
            published_utilisation(run),
            device_hours(
                six_n_d(run.activated, run.tokens), expected_utilisation(runs, run.name), device(run.device).bf16
            ),
        )
        for run in runs
    )
