"""What a recipe costs: its parameters, operations and memory, alone or on the processes of a layout."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from clearseek.cli.report import output, parameter_rows, print_columns, print_findings, print_rows, si, unit
from clearseek.counts import count_parameters, flops_per_token, training_memory
from clearseek.files import amount
from clearseek.hub.portability import check_portability

if TYPE_CHECKING:
    from rich.console import Console

    from clearseek.config import Recipe
    from clearseek.plan.layout import ParallelLayout


def costs(recipe: Recipe, layout: ParallelLayout | None = None) -> dict[str, Any]:
    """Costs of a recipe, and what each process of a layout would hold, as JSON values."""
    parameters = asdict(count_parameters(recipe.model))
    precision = "bf16" if recipe.train.precision == "auto" else recipe.train.precision
    memory = training_memory(
        recipe.model, recipe.optimizer.name, precision, recipe.train.held_sums, recipe.optimizer.moments
    )
    flops = flops_per_token(recipe.model, recipe.data.sequence_length)
    known = recipe.parent is None  # a child's work depends on its packs, prompts and completions
    findings = check_portability(recipe.model, recipe.data.tokenizer is None)
    return {
        "recipe": recipe.model_dump(mode="json"),
        "parameters": {name: parameters[name] for name in parameters if name not in ("checkpoint", "head")},
        "memory_bytes": {
            **{name: size for name, size in asdict(memory).items() if name != "partial_sums"},
            "total_without_activations": memory.total,
            "partial_sums_in_one_process": memory.partial_sums,
        },
        **({"flops_per_token": flops, "tokens": recipe.tokens, "total_flops": flops * recipe.tokens} if known else {}),
        "portability": [f"{each.severity}: {each.tool}: {each.message}" for each in findings],
        **({} if layout is None else {"processes": processes(recipe, layout)}),
    }


def processes(recipe: Recipe, layout: ParallelLayout) -> dict[str, Any]:
    """What the processes of a layout hold by the plan and as they are built without memory, as JSON values."""
    from clearseek.plan.placement import Placement
    from clearseek.train.parallel.dry import distinct, dry_run

    placement = Placement(recipe)
    made = list(dry_run(placement, layout, distinct(placement, layout)))
    fullest = placement.memory(layout)
    return {
        "layout": str(layout),
        "count": layout.devices,
        "built": [
            {
                "process": each.rank,
                "stage": layout.stage(each.rank),
                "copy": layout.copy(each.rank),
                "planned_bytes": {**each.planned._asdict(), "total": each.planned.total},
                "built_bytes": {**each.built._asdict(), "total": each.built.total},
            }
            for each in made
        ],
        "equal": all(each.planned == each.built for each in made),
        "fullest_bytes": {**fullest._asdict(), "total": fullest.total},
    }


def print_costs(recipe: Recipe, layout: ParallelLayout | None = None) -> None:
    """Print the costs of a recipe, what each process of a layout would hold, and the recipe with every setting."""
    console, found, count = output(), costs(recipe, layout), count_parameters(recipe.model)
    memory = found["memory_bytes"]
    most = "" if recipe.lora is None and recipe.experts is None else "less than "
    work = "depends on the lengths of what is read and written"
    if recipe.parent is None:
        work = (f"{si(found['flops_per_token'], 'FLOP')} a token, {found['tokens']:,} tokens, "
                f"{si(found['total_flops'], 'FLOP')}")  # fmt: skip
    if layout is not None:
        _print_processes(console, found["processes"])
        console.print()
    rows = [
        *parameter_rows(count),
        ("embedding", f"{count.embedding:,}"),
        ("memory", f"{most}{amount(memory['total_without_activations'])} for weights, gradients and "
                   "optimiser state; activations come on top"),
        ("", f"{amount(memory['partial_sums_in_one_process'])} more while one process sums all its micro-batches"),
        ("training", work),
    ]  # fmt: skip
    print_rows(console, rows)
    print_findings(console, check_portability(recipe.model, recipe.data.tokenizer is None))
    console.print("\nThe recipe, resolved:", style="bold")
    for table, settings in found["recipe"].items():
        if not isinstance(settings, dict):
            console.print(f"{table} = {json.dumps(settings)}", markup=False, soft_wrap=True)
            continue
        console.print(f"\n[{table}]", markup=False, style="bold")
        for key, value in settings.items():
            text = f"{key} = {json.dumps(value)}" if value is not None else f"# {key} is not set"
            console.print(text, markup=False, soft_wrap=True)


def _print_processes(console: Console, found: dict[str, Any]) -> None:
    """Print what processes hold by the plan, and as they were built."""
    count, made = found["count"], found["built"]
    title = f"{found['layout']}: of {count:,} process{'es' * (count != 1)}, the fullest and the emptiest of each stage"
    console.print(f"{title}, built without memory:", style="bold", markup=False, soft_wrap=True)
    parts, fullest = ("weights", "master_weights", "gradients", "optimizer"), found["fullest_bytes"]
    scale, name = unit(fullest["total"])
    rows: list[tuple[str, ...]] = [
        ("process", "stage", f"weights {name}", "masters", "gradients", "optimiser", "planned bytes", "built bytes")
    ]
    for each in made:
        planned, built = each["planned_bytes"], each["built_bytes"]
        differs = "" if planned == built else "  differs"
        rows.append((
            f"{each['process']}", f"{each['stage']}", *(f"{planned[part] / scale:,.2f}" for part in parts),
            f"{planned['total']:,}", f"{built['total']:,}{differs}",
        ))  # fmt: skip
    print_columns(console, rows, right=range(len(rows[0])))
    said = "equal to the byte" if found["equal"] else "not equal, which is a fault of ClearSeek: please report it"
    console.print(f"plan and processes are {said}; with activations, an estimate of "
                  f"{fullest['activations'] / scale:,.1f} {name}, the fullest takes "
                  f"{fullest['total'] / scale:,.1f} {name}", markup=False, soft_wrap=True)  # fmt: skip
