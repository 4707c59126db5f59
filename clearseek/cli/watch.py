"""Training with a display: progress of the data, remarks on the machine, then the steps."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from clearseek.cli.progress import DataProgress, Display
from clearseek.config import Recipe
from clearseek.plan.layout import SINGLE, ParallelLayout
from clearseek.train.parallel.group import ALONE, Group
from clearseek.train.record import HELD_OUT, MEASURED
from clearseek.train.run import Run


def run_training(
    recipe: Recipe, run: Run, data: Path | None = None, device: str = "cpu", resume: bool = False,
    from_step: int | None = None, quiet: bool = False, parent: Run | None = None, go_on: bool = False,
    group: Group = ALONE, layout: ParallelLayout = SINGLE,
) -> dict[str, Any]:  # fmt: skip
    """Train with a display (on standard error if `quiet`); the outcome, as JSON values.

    `asked` is in it where the run is not finished: whether this machine was asked to stop, and not only another one.
    What was measured on held-out data is in it by name: `held_out_bpb` of pre-training, None where nothing was held
    out.
    """
    from clearseek.posttrain.methods import method_of
    from clearseek.train.session import train_recipe

    console = Console(stderr=True) if quiet else Console(highlight=False)
    if not group.main:  # its output is its log; the main process draws for all
        quiet = True
    with (
        closing(DataProgress(Console(stderr=True), quiet)) as on_data,
        Display(recipe.train.steps, recipe.name, console=console) as display,
    ):

        def say(line: str) -> None:
            on_data.close()
            console.print(line, markup=False, soft_wrap=True)

        outcome = train_recipe(
            recipe, run, data, device, resume, from_step, parent,
            on_step=display.update, on_evaluation=display.evaluating, on_data=on_data, say=say,
            method=method_of(recipe), go_on=go_on, group=group, layout=layout,
        )  # fmt: skip
    measured = {name: value for name, value in outcome.scalars.items() if name.startswith(MEASURED)}
    return {
        "steps": outcome.steps,
        "finished": outcome.finished,
        "weights_sha256": outcome.weights_sha256,
        "seconds": outcome.seconds,
        **({} if outcome.finished else {"asked": outcome.asked}),
        **({HELD_OUT: None} if recipe.parent is None else {}),
        **measured,
    }
