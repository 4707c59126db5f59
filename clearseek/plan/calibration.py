"""Utilisation, the share of its peak that a device reaches: fitted on published runs, tested leave-one-out.

Utilisation is the planner's one free constant: the geometric mean over the published runs most like the plan, which
makes the typical *factor* of error smallest. "Most like" means the same generation of device and the same precision;
with fewer than three such runs, the same generation; without any, all runs.

A fit looks better on its own runs than it is. So every published run is predicted *leave-one-out*, by a constant that
is fitted without that run. A recipe that is itself a published run is treated the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean, median
from typing import Any, Literal

from clearseek.plan.formulas import gpu_hours
from clearseek.plan.hardware import Architecture
from clearseek.plan.published import RUNS, PublishedRun

ENOUGH = 3
"""Fewest runs of the same precision that a constant is fitted on."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A fitted utilisation, of ``6ND`` and the BF16 peak."""

    value: float
    """Geometric mean of the runs' utilisations."""
    lowest: float
    """Utilisation of the slowest run."""
    highest: float
    """Utilisation of the fastest run."""
    basis: str
    """The runs in words, such as ``7 Hopper runs in BF16``."""
    runs: tuple[str, ...]
    """Names of the runs."""


def calibrate(
    architecture: Architecture, precision: Literal["bf16", "fp8", "unstated"], without: PublishedRun | None = None
) -> Constant:
    """The constant for a generation of device and a precision, fitted on the runs most like these but `without`."""
    rest = [run for run in RUNS if run is not without]
    alike = [run for run in rest if run.hardware.architecture == architecture]
    exact = [run for run in alike if run.precision == precision]
    if precision != "unstated" and len(exact) >= ENOUGH:
        return _fit(exact, f"{architecture} runs in {precision.upper()}")
    if alike:
        return _fit(alike, f"{architecture} runs of any precision")
    return _fit(rest, f"runs on other devices, as none on {architecture} is published")


def _fit(runs: Sequence[PublishedRun], basis: str) -> Constant:
    used = [run.utilisation for run in runs]
    mean = exp(fmean(map(log, used)))
    return Constant(mean, min(used), max(used), f"{len(runs)} {basis}", tuple(run.name for run in runs))


@dataclass(frozen=True, slots=True)
class Prediction:
    """A published run, and the hours predicted for it by a constant fitted without it."""

    run: PublishedRun
    constant: Constant
    hours: float
    """Predicted device hours."""

    @property
    def error(self) -> float:
        """Predicted over published hours, less one."""
        return self.hours / self.run.hours - 1

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "run": self.run.name,
            "activated": self.run.activated,
            "tokens": self.run.tokens,
            "hardware": self.run.device,
            "precision": self.run.precision,
            "published_hours": self.run.hours,
            "published_utilisation": self.run.utilisation,
            "fitted_utilisation": self.constant.value,
            "fitted_on": self.constant.basis,
            "predicted_hours": self.hours,
            "error": self.error,
            "source": self.run.source,
            "derived": self.run.derived,
        }


def predict(run: PublishedRun) -> Prediction:
    """Predict the run's hours from its parameters, tokens and device and from the other runs."""
    constant = calibrate(run.hardware.architecture, run.precision, without=run)
    return Prediction(run, constant, gpu_hours(run.flops, run.hardware.bf16, constant.value))


def validate() -> tuple[Prediction, ...]:
    """Every published run, predicted leave-one-out."""
    return tuple(predict(run) for run in RUNS)


def typical_error(predictions: Sequence[Prediction]) -> tuple[float, float]:
    """Median and largest factor by which predictions miss, upwards or downwards."""
    factors = [exp(abs(log(1 + each.error))) for each in predictions]
    return median(factors), max(factors)
