"""Cost of a recipe: operations, memory of each device, hours, dollars and energy, beside published figures.

A plan is arithmetic on facts that can be looked up one by one: counts from the dimensions
(:mod:`clearseek.counts`), peaks from data sheets (:mod:`~clearseek.plan.hardware`), the share of the peak from
published runs (:mod:`~clearseek.plan.calibration`), bytes from a layout (:mod:`~clearseek.plan.placement`).
For a published model, the makers' figures are shown beside the plan's, with the error; the run itself takes no part in
its own prediction.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Literal

from clearseek.config import Recipe
from clearseek.counts import ParameterCount, count_parameters, flops_per_token
from clearseek.errors import UserError
from clearseek.plan.calibration import Constant, calibrate
from clearseek.plan.formulas import DOLLARS_PER_HOUR, Cost, compute_class, cost, gpu_hours, price, six_nd
from clearseek.plan.hardware import Hardware, find_hardware
from clearseek.plan.layout import ParallelLayout, check_layout, parse_layout
from clearseek.plan.placement import USABLE, DeviceMemory, Placement, Recompute, precision_of
from clearseek.plan.propose import Proposal, cures, describe, others
from clearseek.plan.published import PublishedRun, match

SMALL = 1e9
"""Least activated parameters of the runs that utilisation is fitted on; smaller models keep devices less busy."""
LEFT_OUT = (
    "earlier research, ablations and failed runs",
    "data: collection, cleaning, licences",
    "context extension and post-training",
    "staff, storage, network; buying the devices (only their rent is in)",
)
"""Costs that no line of a plan contains."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a plan; None takes the default that the field's text gives."""

    hardware: str | None = None
    """Name of a device (default: the published run's, else an H100)."""
    devices: int | None = None
    """Number of devices (default: the published run's number, else the least that hold the model)."""
    utilisation: float | None = None
    """Share of the BF16 peak (default: fitted on published runs)."""
    dollars_per_hour: float = DOLLARS_PER_HOUR
    """Rent of a device."""
    tokens: float | None = None
    """Tokens of training (default: the recipe's steps)."""
    layout: str | None = None
    """Degrees of parallelism, such as ``dp=128,ep=64,pp=16`` (default: the plainest that fits)."""
    recompute: Recompute | None = None
    """Work that backward repeats (default: the recipe's)."""
    kg_per_kwh: float | None = None
    """CO2e of a kWh from the grid (default: emissions are not estimated)."""

    def check(self) -> None:
        """Raise UserError that names every number out of range."""
        allowed = (
            ("--gpus", self.devices, 1, inf, "use a number from 1 up"),
            ("--utilisation", self.utilisation, 0.001, 1, "a share from 0.001 to 1, such as 0.4"),
            ("--tokens", self.tokens, 1, 1e18, "use a number from 1 to 1e18, such as 14.8e12"),
            ("--price", self.dollars_per_hour, 0, 1e6, "use a number from 0 to 1e+06"),
            ("--grid", self.kg_per_kwh, 0, 100, "use a number from 0 to 100"),
        )
        wrong = [
            f"{option} {value:g}: {cure}"
            for option, value, least, most, cure in allowed
            if value is not None and not least <= value <= most
        ]
        if wrong:
            raise UserError("; ".join(wrong))


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Layout of a plan, and whether the model fits."""

    layout: ParallelLayout
    recompute: Recompute
    device: DeviceMemory
    """Bytes on the fullest device."""
    usable: int
    """Bytes of a device that a plan fills."""
    least: ParallelLayout | None
    """Layout with the fewest devices that fits, where `layout` does not; None where `layout` fits or nothing does."""
    costs: Proposal
    """What the layout costs beside the arithmetic."""
    others: tuple[Proposal, ...]
    """Other layouts on as many devices that fit."""
    cures: tuple[tuple[str, int], ...]
    """Settings with each of which `layout` would fit, where it does not, and bytes on the fullest device then."""

    @property
    def fits(self) -> bool:
        """Whether the fullest device has room."""
        return self.device.total <= self.usable


@dataclass(frozen=True, slots=True)
class Comparison:
    """A published run of the recipe's model, and the hours predicted for it."""

    run: PublishedRun
    used: float
    """Utilisation that the prediction is made with."""
    hours: float
    """Predicted device hours of pre-training."""
    dollars_per_hour: float

    @property
    def error(self) -> float:
        """Predicted over published hours, less one."""
        return self.hours / self.run.hours - 1

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        run, rate = self.run, self.dollars_per_hour
        stages = [{"stage": s.name, "hours": s.hours, "dollars": price(s.hours, rate)} for s in run.stages]
        return {
            "name": run.name,
            "source": run.source,
            "hardware": run.device,
            "devices": run.devices,
            "stages": stages,
            "total_hours": run.total_hours,
            "total_dollars": run.dollars(rate),
            "derived": run.derived,
            "leaves_out": run.leaves_out,
            "utilisation": run.utilisation,
            "predicted_hours": self.hours,
            "predicted_utilisation": self.used,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe's costs."""

    name: str
    count: ParameterCount
    tokens: float
    six_nd: float
    """Operations by the rule of thumb, with the activated parameters that multiply: no embedding lookup."""
    exact: float
    """Operations with attention and MTP."""
    hardware: Hardware
    precision: Literal["bf16", "fp8"]
    used: float
    """Utilisation that the hours are computed with."""
    constant: Constant | None
    """Fit that the utilisation comes from; None where the user gave it."""
    cost: Cost
    hours_range: tuple[float, float] | None
    """Device hours at the highest and the lowest utilisation behind the constant."""
    dollars_per_hour: float
    memory: MemoryPlan
    published: Comparison | None

    @property
    def cautions(self) -> tuple[str, ...]:
        """Reasons why this plan may be further off than the validation says."""
        said = []
        if self.constant and self.count.activated < SMALL:
            said.append(
                "the runs it was fitted on have 3e9 activated parameters and more; so small a model reaches less"
            )
        if self.constant and self.precision == "fp8":
            said.append("one FP8 run is published, too few to fit: the constant is that of runs in any precision")
        if not self.memory.fits:
            said.append("it does not fit on these devices: hours, rent and energy are those of a run that would")
        if self.dollars_per_hour == DOLLARS_PER_HOUR and self.hardware.name not in ("h800", "h100"):
            said.append(
                f"$2 is DeepSeek's assumption for an H800: give the rent of a {self.hardware.name} with --price"
            )
        return tuple(said)

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        memory = self.memory
        return {
            "recipe": self.name,
            "parameters": asdict(self.count),
            "tokens": self.tokens,
            "flops": {
                "six_nd": self.six_nd,
                "exact": self.exact,
                "ratio": self.exact / self.six_nd,
                "compute_class": compute_class(self.exact),
            },
            "hardware": asdict(self.hardware),
            "precision": self.precision,
            "utilisation": {
                "value": self.used,
                "of": "6ND over the dense BF16 peak",
                "of_fp8_peak": self.used * self.hardware.bf16 / self.hardware.fp8 if self.hardware.fp8 else None,
                "cautions": self.cautions,
                "fitted": None if self.constant is None else asdict(self.constant),
            },
            "cost": {
                **asdict(self.cost),
                "hours_range": self.hours_range,
                "dollars_per_hour": self.dollars_per_hour,
                "leaves_out": LEFT_OUT,
            },
            "memory": {
                "layout": asdict(memory.layout),
                "devices": memory.layout.devices,
                "recompute": memory.recompute,
                "bytes_on_the_fullest_device": {**memory.device._asdict(), "total": memory.device.total},
                "usable_bytes": memory.usable,
                "fits": memory.fits,
                "least": None if memory.least is None else {**asdict(memory.least), "devices": memory.least.devices},
                "fits_with": dict(memory.cures),
            },
            "parallel": {**memory.costs.as_json(), "others": [each.as_json() for each in memory.others]},
            "published": None if self.published is None else self.published.as_json(),
        }


def make_plan(recipe: Recipe, options: Options = Options()) -> Plan:
    """Plan a recipe. Raises UserError that names every option out of range."""
    options.check()
    count = count_parameters(recipe.model)
    run = match(count)
    hardware = find_hardware(options.hardware or (run.device if run else "h100"))
    precision = precision_of(recipe)
    if precision == "fp32":
        raise UserError('a plan knows what devices do in BF16 and FP8, not in FP32: --set train.precision="bf16"')
    hardware.peak(precision)  # refuses a device without the precision; utilisation is of the BF16 peak in either case
    length = recipe.data.sequence_length
    tokens = options.tokens or float(recipe.tokens)
    rough = six_nd(count.activated_without_embedding, tokens)
    constant = None if options.utilisation else calibrate(hardware.architecture, precision, without=run)
    used = options.utilisation or (constant.value if constant else 1.0)
    hours = gpu_hours(rough, hardware.bf16, used)
    memory = _memory(recipe, options, hardware, run, hours * 3600 * recipe.tokens / tokens / recipe.train.steps)
    ends = (constant.highest, constant.lowest) if constant else None
    return Plan(
        name=recipe.name,
        count=count,
        tokens=tokens,
        six_nd=rough,
        exact=flops_per_token(recipe.model, length) * tokens,
        hardware=hardware,
        precision=precision,
        used=used,
        constant=constant,
        cost=cost(hours, hardware.watts, memory.layout.devices, options.dollars_per_hour, options.kg_per_kwh),
        hours_range=ends and (gpu_hours(rough, hardware.bf16, ends[0]), gpu_hours(rough, hardware.bf16, ends[1])),
        dollars_per_hour=options.dollars_per_hour,
        memory=memory,
        published=_compare(run, count, precision, options) if run else None,
    )


def _compare(
    run: PublishedRun, count: ParameterCount, precision: Literal["bf16", "fp8"], options: Options
) -> Comparison:
    """The published run as the planner predicts it, from its tokens and device and the recipe's dimensions."""
    used = options.utilisation or calibrate(run.hardware.architecture, precision, without=run).value
    flops = six_nd(count.activated_without_embedding, run.tokens)
    return Comparison(run, used, gpu_hours(flops, run.hardware.bf16, used), options.dollars_per_hour)


def _memory(recipe: Recipe, options: Options, hardware: Hardware, run: PublishedRun | None, work: float) -> MemoryPlan:
    """The layout, given or found; `work` is the seconds of a step's arithmetic on one device."""
    placement = Placement(recipe, options.recompute)
    usable = int(USABLE * hardware.memory)
    published = run.devices if run and options.layout is None else None
    devices = options.devices if options.devices is not None else published
    layout: ParallelLayout | None
    if options.layout is not None:
        layout = parse_layout(options.layout, devices)
        check_layout(layout, recipe)
    elif devices is not None:
        layout = placement.best(devices, usable)
        if layout is None:
            raise UserError(
                f"--gpus {devices}: no number of pipeline stages up to {recipe.model.num_hidden_layers} splits them "
                f"into copies that train.lanes = {recipe.train.summed_lanes} allows (lanes are copies x 1, 2, 4, ...)"
            )
    else:
        layout = placement.least(usable)
        if layout is None:
            raise UserError(
                f"--hardware {hardware.name}: no number of devices with {hardware.memory / 1e9:.0f} GB holds this "
                "recipe: lower train.micro_batch_size, or add --recompute full"
            )
    memory = placement.memory(layout)
    fits = memory.total <= usable
    least = None if fits else placement.least(usable)
    more = others(placement, layout, usable, work / layout.devices) if layout.devices > 1 else []
    settings = [] if fits else cures(recipe, placement, layout, usable)
    shown = describe(placement, layout)
    return MemoryPlan(layout, placement.recompute, memory, usable, least, shown, tuple(more), tuple(settings))
