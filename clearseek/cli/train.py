"""``clearseek train``: train a recipe, resume a run, or print the cost of either."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clearseek.cli.exits import INTERRUPTED, LOST, USER_ERROR
from clearseek.cli.options import RECIPE, add_overrides
from clearseek.errors import UserError, one_line
from clearseek.program import command
from clearseek.train.parallel import worker
from clearseek.train.parallel.group import ALONE, Group

if TYPE_CHECKING:
    from clearseek.config import Recipe
    from clearseek.plan.layout import ParallelLayout
    from clearseek.train.run import Run


LEAST_PATIENCE = 5.0
"""Seconds: shorter than that, a process that waits for its disk would count as lost."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n  clearseek train quickstart --set train.steps=50\n"
        "  clearseek train quickstart --size 8\n"
        "  clearseek train quickstart --processes 2\n"
        "  torchrun --nproc-per-node 2 --max-restarts 3 -m -- clearseek train quickstart"
    )
    parser.add_argument("recipe", nargs="?", help=RECIPE)
    parser.add_argument("--size", dest="overrides", action="append", default=[], type="size={}".format,
                        metavar="N", help="a model of N layers, with all that follows from it, instead of the recipe's "
                        "(--set size=N)")  # fmt: skip
    parser.add_argument("--run", type=Path, help="run folder to make (default: runs/NAME)")
    parser.add_argument("--data", type=Path, help="data folder made by 'clearseek data' (default: RUN/data)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run, exactly where it stopped")
    parser.add_argument("--from-step", type=int, metavar="N", help="with --resume: go on from the checkpoint of step N")
    parser.add_argument("--more-steps", type=int, metavar="N",
                        help="with --resume: train a finished run N steps longer, as a new run (--run; default: "
                        "RUN-STEPS)")  # fmt: skip
    parser.add_argument(
        "--continue",
        dest="go_on",
        action="store_true",
        help="go on with the run where it has begun: for jobs that are started again",
    )
    parser.add_argument("--processes", type=int, metavar="N", help="train in N processes on this machine")
    parser.add_argument(
        "--layout",
        metavar="DEGREES",
        help="how the processes share the work, such as dp=4 or dp=16,ep=8,pp=2 (default: dp)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="without a sign of life for so long, a process counts as lost (default: 20)",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and its costs, and stop; "
                        "with --layout also what each process would hold")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> int:
    _refuse_combinations(arguments)
    if arguments.dry_run:
        return _dry_run(arguments)
    if arguments.processes is not None and worker.STARTED_BY not in os.environ:
        return _launch(arguments)  # which starts this command again
    worker.refuse_half()
    if not worker.in_job():
        return _train(arguments, ALONE)
    if (code := worker.begin()) is not None:
        return code
    return _train_together(arguments)


def _dry_run(arguments: argparse.Namespace) -> int:
    """Print what the recipe would cost, and with a layout what each process would hold."""
    from clearseek.cli.costs import costs, print_costs
    from clearseek.cli.report import print_json

    recipe, _, _ = _asked(arguments)
    layout = None
    if arguments.layout is not None or arguments.processes is not None:
        layout = _layout(arguments, arguments.processes, recipe)
    if arguments.json:
        print_json(costs(recipe, layout))
    else:
        print_costs(recipe, layout)
    return 0


def _launch(arguments: argparse.Namespace) -> int:
    """Start the same command in several processes."""
    from clearseek.train.parallel.launch import crowd_warning, launch, refuse_inside

    refuse_inside()
    recipe, _, _ = _asked(arguments)  # what is wrong is said before processes are started
    _layout(arguments, arguments.processes, recipe)
    if warning := crowd_warning(arguments.processes):
        print(f"clearseek: {warning}", file=sys.stderr)
    return launch(arguments.processes, "clearseek.cli.worker", arguments.words)


def _train_together(arguments: argparse.Namespace) -> int:
    """Train as one of several processes."""
    from clearseek.train.parallel.launch import crowd_warning, grace_warning
    from clearseek.train.parallel.world import join_world

    try:
        group = join_world(arguments.device, arguments.patience)
    except UserError as error:
        if not worker.heard():  # and process 0 may not run at all
            worker.say_here(one_line(str(error)))
        raise
    crowd = None if worker.STARTED_BY in os.environ else crowd_warning(worker.local_processes())
    for warning in filter(None, (crowd, grace_warning())) if group.main and worker.restarts() == 0 else ():
        print(f"clearseek: {warning}", file=sys.stderr)
    try:
        with group.together():
            code = _train(arguments, group)
    except BaseException as error:
        group.close(error)
        if isinstance(error, UserError | OSError | SystemExit):
            worker.record_end(USER_ERROR)
        elif isinstance(error, KeyboardInterrupt):
            worker.record_end(INTERRUPTED)
        raise
    group.close()
    if code not in (0, LOST):
        worker.record_end(code)
    return code


def _layout(arguments: argparse.Namespace, processes: int | None, recipe: Recipe) -> ParallelLayout:
    """How the processes share the work. Raises UserError where they cannot."""
    from clearseek.plan.layout import ParallelLayout, check_layout, parse_layout

    layout = ParallelLayout(dp=processes or 1)
    if arguments.layout is not None:
        layout = parse_layout(arguments.layout, processes, "WORLD_SIZE" if worker.in_job() else "--processes")
    if layout.devices > 1:
        check_layout(layout, recipe)
    return layout


def _asked(arguments: argparse.Namespace) -> tuple[Recipe, Run, Run | None]:
    """The recipe to train, the run folder, and the finished run that it begins from, where it does."""
    from clearseek.posttrain.parent import dimensions
    from clearseek.recipe import load_recipe
    from clearseek.train.run import Run

    parent = None
    if arguments.resume is None:
        recipe = load_recipe(arguments.recipe, arguments.overrides, dimensions)
        folder = Run(arguments.run or Path("runs") / recipe.name)
    elif arguments.more_steps is None:
        folder = Run(arguments.resume)
        recipe = folder.read_recipe()
    else:
        from clearseek.train.extend import longer_recipe

        parent = Run(arguments.resume)
        recipe = longer_recipe(parent, arguments.more_steps)
        folder = Run(arguments.run or Path(f"{parent.root}-{recipe.train.steps}"))
    return recipe, folder, parent


def _train(arguments: argparse.Namespace, group: Group) -> int:
    """Train, and say how it ended."""
    from clearseek.cli.report import print_json
    from clearseek.cli.watch import run_training

    with group.together():
        recipe, folder, parent = _asked(arguments)
        layout = _layout(arguments, group.size, recipe)
    resume = arguments.resume is not None and parent is None
    restarted = group.largest(worker.restarts()) > 0
    from_step = None if restarted else arguments.from_step  # the first start has gone back to it
    ended = run_training(
        recipe, folder, arguments.data, arguments.device, resume, from_step, arguments.json, parent,
        arguments.go_on or restarted, group, layout,
    )  # fmt: skip
    if not group.main:
        pass
    elif arguments.json:
        print_json(ended)
    elif ended["finished"]:
        talk = "chat" if recipe.conversational else "generate"
        print(f"a page for it, with clearseek[serve]: {command('serve', folder.root)}")
        print(f"done: {folder.root}  weights {ended['weights_sha256'][:16]}  next: {command(talk, folder.root)}")
    elif not ended["asked"]:
        print(f"stopped after step {ended['steps']}, saved: another machine was told to; all go on when it is back")
    else:
        elsewhere = ("--data", arguments.data) if arguments.data else ()
        where = " in the final evaluation" if ended["steps"] == recipe.train.steps else ""
        many = ("--processes", str(group.size)) if group.size > 1 else ()
        shared = ("--layout", str(layout)) if str(layout) != str(type(layout)(dp=group.size)) else ()
        again = command("train", "--resume", folder.root, *elsewhere, *many, *shared)
        print(f"stopped after step {ended['steps']}{where}, saved; go on with: {again}")
    if ended["finished"]:
        return 0
    return INTERRUPTED if ended["asked"] else LOST  # after which a launcher waits for the machine that was asked


def _refuse_combinations(arguments: argparse.Namespace) -> None:
    """Raise UserError for options that contradict each other."""
    resume, more = arguments.resume is not None, arguments.more_steps is not None
    if resume == (arguments.recipe is not None):
        raise UserError("give either a recipe to train or --resume RUN (see clearseek train --help)")
    if arguments.processes is not None and arguments.processes < 1:
        raise UserError(f"--processes {arguments.processes}: give a number from 1")
    if not LEAST_PATIENCE <= arguments.patience < float("inf"):
        raise UserError(f"--patience {arguments.patience:g}: give a number of seconds from {LEAST_PATIENCE:g} up")
    if resume and arguments.go_on:
        raise UserError("--continue goes with a recipe: --resume RUN goes on anyway")
    if not resume and (more or arguments.from_step is not None):
        raise UserError(f"{'--more-steps' if more else '--from-step'} goes with --resume RUN")
    if more and (arguments.from_step is not None or arguments.overrides):
        raise UserError(
            "--more-steps goes on from the run's end with its recipe: leave out --from-step, --set and --size"
        )
    if resume and not more and (arguments.overrides or arguments.run):
        longer = command("train", "--resume", arguments.resume, "--more-steps", "N")
        raise UserError(
            "--resume goes on with the run's own recipe and folder: leave out --set, --size and --run; to train a "
            f"finished run longer: {longer}"
        )
