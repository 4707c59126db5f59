"""``clearseek plan``: the cost of a recipe, by arithmetic that takes a second."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import floor, log10
from typing import TYPE_CHECKING, Final

from clearseek.cli.options import RECIPE, add_overrides, number
from clearseek.errors import UserError

if TYPE_CHECKING:
    from clearseek.cli.report import Rows
    from clearseek.plan.calibration import Prediction
    from clearseek.plan.plan import Plan

_PLANNED: Final = ("hardware", "gpus", "layout", "recompute", "utilisation", "tokens", "grid")
"""Options of the plan of a recipe, which ``--published`` refuses."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  clearseek plan v3-671b --gpus 2048"
    parser.add_argument("recipe", nargs="?", help=RECIPE)
    parser.add_argument("--published", action="store_true", help="instead: published runs beside what is predicted")
    parser.add_argument("--hardware", help="device, such as h100 (default: that of the model's published run, or h100)")
    parser.add_argument("--gpus", type=int, metavar="N", help="devices (default: as published, or the least that fit)")
    parser.add_argument("--layout", metavar="DEGREES",
                        help="how devices share the work: dp=128,ep=64,pp=16, pp=4,schedule=zbv, fsdp=8")  # fmt: skip
    parser.add_argument("--recompute", choices=("none", "selective", "full"),
                        help="what backward computes anew (default: the recipe's)")  # fmt: skip
    parser.add_argument("--utilisation", type=number, help="share of the BF16 peak (default: fitted on published runs)")
    parser.add_argument("--tokens", type=number, help="tokens, such as 14.8e12 (default: the recipe's steps)")
    parser.add_argument("--price", type=number, default=2.0, help="dollars a device hour (default: 2)")
    parser.add_argument("--grid", type=number, metavar="KG", help="kg of CO2e a kWh, to estimate emissions")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> int:
    from clearseek.cli.report import print_json
    from clearseek.plan.calibration import validate
    from clearseek.plan.plan import Options, make_plan
    from clearseek.recipe import load_recipe

    if arguments.published == (arguments.recipe is not None):
        raise UserError("give either a recipe to plan or --published (see clearseek plan --help)")
    if arguments.published:
        given = [f"--{name}" for name in _PLANNED if getattr(arguments, name) is not None]
        if given:
            raise UserError(f"{', '.join(given)}: --published shows all runs as they were; plan a recipe for that")
        predictions = validate()
        if arguments.json:
            print_json([each.as_json() for each in predictions])
        else:
            print_validation(predictions)
        return 0
    options = Options(
        arguments.hardware, arguments.gpus, arguments.utilisation, arguments.price, arguments.tokens,
        arguments.layout, arguments.recompute, arguments.grid,
    )  # fmt: skip
    made = make_plan(load_recipe(arguments.recipe, arguments.overrides), options)
    if arguments.json:
        print_json(made.as_json())
    else:
        print_plan(made, memory_first=arguments.layout is not None)
    return 0


def print_plan(plan: Plan, memory_first: bool = False) -> None:
    """Print the cost of a recipe, memory first where that was asked for, and the cost that its makers published."""
    from clearseek.cli.report import output, parameter_rows, print_rows
    from clearseek.plan.formulas import price
    from clearseek.plan.plan import LEFT_OUT

    console, parts = output(), [[*_work(plan), *_cost(plan)], _memory(plan)]
    rows = [*parameter_rows(plan.count), *(row for part in (parts[::-1] if memory_first else parts) for row in part)]
    rows += [("" if line else "leaves out", text) for line, text in enumerate(LEFT_OUT)]
    print_rows(console, rows)
    if plan.published is None:
        return
    published, run, rate = plan.published, plan.published.run, plan.published.dollars_per_hour
    console.print()
    console.print(f"published: {run.name}, {run.source}", markup=False, soft_wrap=True, style="bold")
    rows = [(stage.name, f"{hours(stage.hours):>13}  {dollars(price(stage.hours, rate))}") for stage in run.stages]
    rows.append(("total", f"{hours(run.total_hours):>13}  {dollars(run.dollars(rate))}"))
    if run.derived:
        rows.append(("pre-training is", run.derived))
    if run.devices:
        days = run.hours / (run.tokens / 1e12) / run.devices / 24
        rows.append(("time", f"{days:.1f} days a trillion tokens on {run.devices:,} devices"))
    if run.leaves_out:
        rows.append(("leaves out", f"{run.leaves_out} (as its makers say), staff, buying the devices"))
    rows.append(("predicted here", f"{hours(published.hours)} of its pre-training at {published.used:.1%} "
                                   f"(published: {run.utilisation:.1%}), {published.error:+.0%}"))  # fmt: skip
    print_rows(console, rows)


def _work(plan: Plan) -> Rows:
    """Rows of a run's operations, and of the devices' speed."""
    from clearseek.plan.formulas import compute_class

    device, constant = plan.hardware, plan.constant
    peaks = f"{device.bf16 / 1e12:,.1f} TFLOP/s BF16" + (f", {device.fp8 / 1e12:,.1f} FP8" if device.fp8 else "")
    rows = [
        ("tokens", f"{plan.tokens:,.0f}"),
        ("operations", f"{plan.six_nd:.4g} FLOP by 6ND, N without the embedding lookup"),
        ("", f"{plan.exact:.4g} FLOP with attention{' and MTP' if plan.count.mtp else ''}: "
             f"{plan.exact / plan.six_nd:.3f} times that; EU AI Act: {compute_class(plan.exact)}"),
        ("hardware", f"{plan.memory.layout.devices:,} x {device.title}: {peaks}, {device.memory / 1e9:.0f} GB, "
                     f"{device.watts:.0f} W"),
    ]  # fmt: skip
    if constant is None:
        return [*rows, ("utilisation", f"{plan.used:.1%} of the BF16 peak, as given")]
    ends = f"{constant.lowest:.1%} to {constant.highest:.1%}"
    rows.append(("utilisation", f"{plan.used:.1%} of the BF16 peak: fitted on {constant.basis} ({ends})"))
    return [*rows, *(("", caution) for caution in plan.cautions)]


def _cost(plan: Plan) -> Rows:
    from clearseek.plan.formulas import PUE

    spent = plan.cost
    between = ""
    if plan.hours_range:
        between = f" ({hours(plan.hours_range[0])} to {hours(plan.hours_range[1])} at those utilisations)"
    rows = [("device hours", hours(spent.hours) + between)]
    if spent.days is not None:
        rows.append(("time", f"{_days(spent.days)} on {_count(plan.memory.layout.devices)}"))
    rows.append(("rent", f"{dollars(spent.dollars)} at ${plan.dollars_per_hour:g} an hour"))
    energy = f"{_number(spent.kwh)} kWh at {plan.hardware.watts:.0f} W and a PUE of {PUE}"
    if spent.tonnes_co2e is not None:
        energy += f", {_number(spent.tonnes_co2e)} t CO2e"
    return [*rows, ("energy", energy)]


def _memory(plan: Plan) -> Rows:
    from clearseek.cli.report import unit

    memory, device = plan.memory, plan.memory.device
    scale, unit_name = unit(device.total)
    where = f"the fullest of {_count(memory.layout.devices)} ({memory.layout})"
    head = f"{device.total / scale:,.1f} {unit_name} on {where}"
    names = ("weights", "master weights", "gradients", "optimiser", "activations")
    rows = [
        ("memory", f"{head}, {memory.usable / 1e9:,.1f} GB usable"),
        ("", ", ".join(f"{name} {size / scale:,.1f}" for name, size in zip(names, device, strict=True))),
        ("", f"recomputed in the backward pass: {memory.recompute} (activations are an estimate)"),
    ]
    if not memory.fits:
        least = "no number of devices does: lower train.micro_batch_size, or add --recompute full"
        if memory.least:
            least = f"the least that does: {memory.least.devices:,} devices ({memory.least})"
        rows.append(("", f"does not fit; {least}"))
        rows += [("", f"it would with {setting}: {size / 1e9:,.1f} GB") for setting, size in memory.cures]
    return [*rows, *_sharing(plan)]


def _sharing(plan: Plan) -> Rows:
    """Rows of what sharing the work out costs, where there is anything to share."""
    from clearseek.cli.report import unit
    from clearseek.plan.states import NODE
    from clearseek.plan.traffic import ACROSS, INSIDE

    memory, costs = plan.memory, plan.memory.costs
    if memory.layout.devices == 1:
        return []
    lanes = f"{costs.lanes:,} lane{'s' * (costs.lanes != 1)} of {costs.micro_batches:,} "
    lanes += f"micro-batch{'es' * (costs.micro_batches != 1)}"
    sums = f"{costs.partial_sums} FP32 set{'s' * (costs.partial_sums != 1)} of sums beside a micro-batch's gradients"
    traffic = {name: each for name, each in costs.traffic._asdict().items() if sum(each)}
    scale, unit_name = unit(max(max(each) for each in traffic.values()))
    sent = [f"{name} {each.inside / scale:,.1f} + {each.across / scale:,.1f}" for name, each in traffic.items()]
    rows = [
        ("each process", f"{lanes}: {sums}"),
        ("sends a step", f"{unit_name} inside a machine of {NODE} and across: {', '.join(sent)}"),
        ("", f"{_seconds(costs.traffic.seconds)} at {INSIDE / 1e9:.0f} and {ACROSS / 1e9:.0f} GB/s, DeepSeek's rates, "
             "if nothing is hidden behind work"),
    ]  # fmt: skip
    if memory.layout.pp > 1:
        rows.append(("idles", f"{costs.bubble:.1%} of a step, while the pipeline fills and drains "
                              f"({memory.layout.schedule})"))  # fmt: skip
    for place, each in enumerate(memory.others):
        scale, unit_name = unit(each.memory)
        takes = f"{each.layout}: {each.memory / scale:,.1f} {unit_name}, idles {each.bubble:.1%}"
        rows.append(("" if place else "or", f"{takes}, {_seconds(each.traffic.seconds)} of sending"))
    return rows


def print_validation(predictions: Sequence[Prediction]) -> None:
    """Print every published run beside its prediction by the others."""
    from clearseek.cli.report import output, print_columns, si
    from clearseek.plan.calibration import typical_error

    rows = [("run", "tokens", "hardware", "published", "predicted", "error", "reached", "fitted")]
    rows += [
        (each.run.name, si(each.run.tokens), each.run.device, hours(each.run.hours), hours(each.hours),
         f"{each.error:+.0%}", f"{each.run.utilisation:.1%}", f"{each.constant.value:.1%}")
        for each in predictions
    ]  # fmt: skip
    console = output()
    print_columns(console, rows, right=(1, 3, 4, 5, 6, 7))
    typical, largest = typical_error(predictions)
    console.print(f"\nEach is predicted by a utilisation fitted without it. Off by a factor of {typical:.2f} in the "
                  f"median, {largest:.2f} at most.", markup=False, soft_wrap=True)  # fmt: skip


def hours(value: float) -> str:
    """Device hours: 2,664,000 -> ``2,664 K h``."""
    if value >= 1_000:
        return f"{value / 1e3:,.{0 if value >= 100_000 else 1}f} K h"
    return f"{_number(value)} h"


def dollars(value: float) -> str:
    """Dollars: 5,576,000 -> ``$5.576 M``."""
    if value >= 1e6:
        return f"${value / 1e6:,.3f} M"
    return f"${value:,.0f}" if value >= 100 else f"${value:,.2f}"


def _number(value: float) -> str:
    """A number to three figures, or all before the point: ``2,702,968``, ``5.43``, ``0.0000491``."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.{2 - floor(log10(value))}f}"


def _count(devices: int) -> str:
    return f"{devices:,} device{'s' * (devices != 1)}"


def _days(days: float) -> str:
    for unit, name in ((1, "days"), (24, "hours"), (1440, "minutes")):
        if days * unit >= 1:
            return f"{days * unit:,.1f} {name}"
    return f"{days * 86400:.1f} seconds" if days * 86400 >= 0.1 else "less than 0.1 seconds"


def _seconds(value: float) -> str:
    return f"{value:,.2f} s" if value >= 0.01 else "less than 0.01 s"
