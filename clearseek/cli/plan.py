"""What ``plan`` does on the command line: arithmetic over a recipe, in a second. Nothing here needs PyTorch."""

from __future__ import annotations

import argparse
import json
from typing import Final

from rich.console import Console

from clearseek.cli.plan_tables import print_plan, print_validation
from clearseek.errors import UserError
from clearseek.plan.calibration import validate
from clearseek.plan.plan import Options, make_plan
from clearseek.recipe import load_recipe

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
