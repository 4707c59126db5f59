"""``clearseek ladder``: DeepSeek-R1's recipe in miniature, from a random model to one that solves what it is asked.

What the rungs are, and what follows what, is in :mod:`clearseek.posttrain.ladder`. When the command is run again, a
finished rung is kept, and one that was stopped goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from clearseek.cli.exits import INTERRUPTED


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  clearseek ladder --set grpo.train.steps=100"
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"),
                        help="folder of the rungs' run folders (default: runs/ladder)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="RUNG.KEY=VALUE",
                        help="change a setting of a rung's recipe (base, start, grpo, student), such as "
                        "grpo.train.steps=100; may be repeated")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from clearseek.cli.report import output, print_columns, print_json
    from clearseek.cli.watch import run_training
    from clearseek.posttrain import ladder
    from clearseek.train.run import Run

    out, quiet = arguments.out, arguments.json
    console = Console(stderr=True) if quiet else output()
    recipes, log = ladder.recipes_of(out, arguments.overrides), ladder.read_log(out)
    for rung in ladder.RUNGS:
        recipe, folder = recipes[rung.name], Run(out / rung.name)
        console.print(f"{rung.name}: {recipe.description}", markup=False, soft_wrap=True)
        state = ladder.state_of(out, rung, recipes, log)
        if state == "done":
            console.print(f"{folder.root}: finished, kept", markup=False, soft_wrap=True)
            continue
        if state == "resume":
            recipe = folder.read_recipe()  # the same, with paths as they were when it began
        ended = run_training(recipe, folder, resume=state == "resume", quiet=quiet)
        seconds = log.get(rung.name, {}).get("seconds", 0.0) + ended["seconds"]
        if not ended["finished"]:
            ladder.write_log(out, log | {rung.name: {"seconds": seconds}})
            console.print(
                f"stopped in rung {rung.name} after step {ended['steps']}, saved; run the same command to go on",
                markup=False, soft_wrap=True,
            )  # fmt: skip
            return INTERRUPTED
        measured = ladder.measure_rung(out, rung, recipes)
        log[rung.name] = {"weights_sha256": ended["weights_sha256"], "steps": ended["steps"], "seconds": seconds}
        log[rung.name] |= measured
        ladder.write_log(out, log)
        once, often = ladder.shares_of(log[rung.name])
        console.print(
            f"{rung.name}: held-out problems solved: {once} with one completion, {often} with one of {ladder.SAMPLES}",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    ladder.write_report(out, recipes, log)
    if quiet:
        print_json({"out": str(out), "rungs": log, "report": str(out / ladder.REPORT)})
        return 0
    console.print()
    print_columns(console, ladder.rows(log), right=(1, 2))
    console.print(f"\n{out / ladder.REPORT}: the same with curves and completions", markup=False, soft_wrap=True)
    return 0
