"""Hours, dollars and kilowatt-hours from operations: five formulas, each the inverse of a check.

A run costs what its operations cost. The number of operations follows from the dimensions, the peak rate from the data
sheet; only the *utilisation*, the share of the peak that a run reaches, is known from experience:

    GPU-hours = FLOP / (3600 x peak x utilisation)

Read backwards, the formula checks a claim: a utilisation outside `PLAUSIBLE` says that one of the published numbers is
wrong. DeepSeek-V3: 6 x 37e9 x 14.8e12 = 3.29e24 FLOP in 2.664 million H800 hours are 34.6 % of the BF16 peak.

Utilisation always means ``6ND`` over the dense **BF16** peak here, whatever the precision: the only figure that every
published run allows. Publishers who count attention too, as DeepSeek and Meta do, print more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SECONDS_PER_HOUR = 3600
PLAUSIBLE = (0.1, 0.6)
"""Range of the utilisations of large runs; a figure outside means an error somewhere."""
DOLLARS_PER_HOUR = 2.0
"""Rent of one H800 for an hour, as DeepSeek assumes (DeepSeek-V3 report, table 1)."""
PUE = 1.1
"""Energy that a data centre draws for each unit of its devices, as Meta assumes for LLaMA (arXiv 2302.13971)."""


def six_nd(activated: float, tokens: float) -> float:
    """Training operations by the rule of thumb: 2 forward and 4 backward for each parameter a token visits."""
    return 6 * activated * tokens


def gpu_hours(flops: float, peak: float, used: float) -> float:
    """Device hours that `flops` take at a share `used` of the rate `peak` (FLOP/s)."""
    return flops / (SECONDS_PER_HOUR * peak * used)


def utilisation(flops: float, hours: float, peak: float) -> float:
    """The share of the rate `peak` (FLOP/s) at which `flops` take this many device hours."""
    return flops / (SECONDS_PER_HOUR * peak * hours)


def is_plausible(used: float) -> bool:
    """Whether large runs reach this utilisation."""
    return PLAUSIBLE[0] <= used <= PLAUSIBLE[1]


def price(hours: float, dollars_per_hour: float = DOLLARS_PER_HOUR) -> float:
    """Dollars of rent."""
    return hours * dollars_per_hour


def energy_kwh(hours: float, watts: float, pue: float = PUE) -> float:
    """Kilowatt-hours at the board's design power, an upper estimate of the average draw."""
    return hours * watts * pue / 1000


def emissions_tonnes(kwh: float, kg_per_kwh: float) -> float:
    """Tonnes of CO2 equivalent at a grid's intensity in kg/kWh."""
    return kwh * kg_per_kwh / 1000


@dataclass(frozen=True, slots=True)
class Cost:
    """Hours, rent, energy and emissions of a run."""

    hours: float
    """Device hours."""
    days: float | None
    """Days on the clock; None where the number of devices is unknown."""
    dollars: float
    """Rent of the devices."""
    kwh: float
    """Energy, the data centre's overhead included."""
    tonnes_co2e: float | None
    """Emissions; None without a grid intensity."""


def cost(
    hours: float,
    watts: float,
    devices: int | None = None,
    dollars_per_hour: float = DOLLARS_PER_HOUR,
    kg_per_kwh: float | None = None,
    pue: float = PUE,
) -> Cost:
    """Costs that follow from device hours."""
    kwh = energy_kwh(hours, watts, pue)
    return Cost(
        hours=hours,
        days=hours / devices / 24 if devices else None,
        dollars=price(hours, dollars_per_hour),
        kwh=kwh,
        tonnes_co2e=None if kg_per_kwh is None else emissions_tonnes(kwh, kg_per_kwh),
    )


ComputeClass = Literal["below 1e23", "1e23 or more", "1e25 or more"]


def compute_class(flops: float) -> ComputeClass:
    """Class of a run by the EU AI Act's thresholds: 1e23 general-purpose, 1e25 presumed systemic risk."""
    if flops >= 1e25:
        return "1e25 or more"
    return "1e23 or more" if flops >= 1e23 else "below 1e23"
