"""What ``plan`` does on the command line: arithmetic over a recipe, in a second. Nothing here needs PyTorch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from math import floor, log10
from typing import Final

from rich.console import Console

from clearseek.cli.report import print_rows, si
from clearseek.counts import ParameterCount
from clearseek.errors import UserError
from clearseek.plan.calibration import Prediction, typical_error, validate
from clearseek.plan.formulas import PUE, compute_class, price
from clearseek.plan.plan import LEFT_OUT, Comparison, Options, Plan, make_plan
from clearseek.recipe import load_recipe

Rows = list[tuple[str, str]]
_PLANNED: Final = ("hardware", "gpus", "layout", "recompute", "utilisation", "tokens", "grid")
"""Options of a plan that mean nothing without a recipe."""


def plan(arguments: argparse.Namespace) -> int:
    """``clearseek plan``."""
    if arguments.published == (arguments.recipe is not None):
        raise UserError("give either a recipe to plan or --published (see clearseek plan --help)")
    console = Console(highlight=False)
    if arguments.published:
        given = [f"--{name}" for name in _PLANNED if getattr(arguments, name) is not None]
        if given:
            raise UserError(f"{', '.join(given)}: --published shows all runs as they were; plan a recipe for that")
        predictions = validate()
        if arguments.json:
            print(json.dumps([each.as_json() for each in predictions], indent=1))
        else:
            print_validation(console, predictions)
        return 0
    options = Options(
        arguments.hardware, arguments.gpus, arguments.utilisation, arguments.price, arguments.tokens,
        arguments.layout, arguments.recompute, arguments.grid,
    )  # fmt: skip
    made = make_plan(load_recipe(arguments.recipe, arguments.overrides), options)
    if arguments.json:
        print(json.dumps(made.as_json(), indent=1))
    else:
        print_plan(console, made)
    return 0


def print_plan(console: Console, plan: Plan) -> None:
    """What a recipe costs, and what its makers say it cost."""
    rows = [*_parameters(plan.count), *_operations(plan), *_hardware(plan), *_cost(plan), *_memory(plan)]
    rows += [("leaves out" if not number else "", text) for number, text in enumerate(LEFT_OUT)]
    print_rows(console, rows)
    if plan.published:
        console.print()
        _print_published(console, plan.published)


def _parameters(count: ParameterCount) -> Rows:
    return [
        ("parameters", f"{count.total:,}" + f" + {count.mtp:,} MTP" * bool(count.mtp)),
        ("activated", f"{count.activated:,} with input embedding and output head"),
        ("", f"{count.activated_without_embedding:,} without the embedding lookup"),
        ("", f"{count.activated_without_embedding_and_head:,} without embedding and head"),
    ]


def _operations(plan: Plan) -> Rows:
    return [
        ("tokens", f"{plan.tokens:,.0f}"),
        ("operations", f"{plan.six_nd:.4g} FLOP by 6ND, N without the embedding lookup"),
        ("", f"{plan.exact:.4g} FLOP with attention{' and MTP' if plan.count.mtp else ''}: "
             f"{plan.exact / plan.six_nd:.3f} times that; EU AI Act: {compute_class(plan.exact)}"),
    ]  # fmt: skip


def _hardware(plan: Plan) -> Rows:
    device, constant = plan.hardware, plan.constant
    peaks = f"{device.bf16 / 1e12:,.1f} TFLOP/s BF16"
    peaks += f", {device.fp8 / 1e12:,.1f} FP8" if device.fp8 else ""
    rows = [("hardware", f"{plan.memory.layout.devices:,} x {device.title}: {peaks}, {device.memory / 1e9:.0f} GB, "
                         f"{device.watts:.0f} W")]  # fmt: skip
    if constant is None:
        return [*rows, ("utilisation", f"{plan.used:.1%} of the BF16 peak, as given")]
    ends = f"{constant.lowest:.1%} to {constant.highest:.1%}"
    rows.append(("utilisation", f"{plan.used:.1%} of the BF16 peak: fitted on {constant.basis} ({ends})"))
    rows += [("", caution) for caution in plan.cautions]
    return rows


def _cost(plan: Plan) -> Rows:
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
    memory, device = plan.memory, plan.memory.device
    where = f"the fullest of {_count(memory.layout.devices)} ({memory.layout})"
    head = f"{device.total / 1e9:,.1f} GB on {where}"
    parts = {
        "weights": device.weights,
        "master weights": device.master_weights,
        "gradients": device.gradients,
        "optimiser": device.optimizer,
        "activations": device.activations,
    }
    rows = [
        ("memory", f"{head}, {memory.usable / 1e9:,.1f} GB usable"),
        ("", ", ".join(f"{name} {size / 1e9:,.1f}" for name, size in parts.items())),
        ("", f"recomputed in the backward pass: {memory.recompute} (activations are an estimate)"),
    ]
    if not memory.fits:
        least = "no number of devices does: lower train.micro_batch_size, or add --recompute full"
        if memory.least:
            least = f"the least that does: {memory.least.devices:,} devices ({memory.least})"
        rows.append(("", f"does not fit; {least}"))
    return rows


def _print_published(console: Console, published: Comparison) -> None:
    run, rate = published.run, published.dollars_per_hour
    console.print(f"published: {run.name}, {run.source}", markup=False, soft_wrap=True, style="bold")
    rows: Rows = [
        (stage.name, f"{hours(stage.hours):>13}  {dollars(price(stage.hours, rate))}") for stage in run.stages
    ]
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


def print_validation(console: Console, predictions: Sequence[Prediction]) -> None:
    """Every published run beside what is predicted without it."""
    rows = [("run", "tokens", "hardware", "published", "predicted", "error", "reached", "fitted")]
    rows += [
        (each.run.name, si(each.run.tokens), each.run.device, hours(each.run.hours), hours(each.hours),
         f"{each.error:+.0%}", f"{each.run.utilisation:.1%}", f"{each.constant.value:.1%}")
        for each in predictions
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) if column in (0, 2) else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        console.print("  ".join(cells), markup=False, soft_wrap=True)
    typical, largest = typical_error(predictions)
    console.print(f"\nEach is predicted by a utilisation fitted without it. Off by a factor of {typical:.2f} in the "
                  f"median, {largest:.2f} at most.", markup=False, soft_wrap=True)  # fmt: skip


def hours(value: float) -> str:
    """Device hours: 2,664,000 -> ``2,664 K h``."""
    if value >= 100_000:
        return f"{value / 1e3:,.0f} K h"
    if value >= 1_000:
        return f"{value / 1e3:,.1f} K h"
    return f"{_number(value)} h"


def dollars(value: float) -> str:
    """Dollars: 5,576,000 -> ``$5.576 M``."""
    if value >= 1e6:
        return f"${value / 1e6:,.3f} M"
    return f"${value:,.0f}" if value >= 100 else f"${value:,.2f}"


def _number(value: float) -> str:
    """Three figures, all those before the point: ``2,702,968``, ``5.43``, ``0.0000491``."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.{2 - floor(log10(value))}f}"


def _count(devices: int) -> str:
    return f"{devices:,} device{'s' * (devices != 1)}"


def _days(days: float) -> str:
    if days >= 1:
        return f"{days:,.1f} days"
    seconds = days * 86400
    for unit, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} seconds"
