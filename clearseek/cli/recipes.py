"""``clearseek recipes``: the shipped recipes, a line each."""

from __future__ import annotations

import argparse


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  clearseek recipes"
    parser.add_argument("--json", action="store_true", help="print them as JSON")


def run(arguments: argparse.Namespace) -> int:
    from clearseek.cli.report import output, print_columns, print_json, si
    from clearseek.counts import count_parameters
    from clearseek.recipe import load_recipe, shipped_recipes

    loaded = {name: load_recipe(file) for name, file in shipped_recipes().items()}
    if arguments.json:
        print_json({name: recipe.model_dump(mode="json") for name, recipe in loaded.items()})
        return 0
    rows = [("recipe", "parameters", "activated", "what it is")]
    for name, recipe in loaded.items():
        count = count_parameters(recipe.model)
        rows.append((name, si(count.total), si(count.activated_without_embedding), recipe.description))
    print_columns(output(), rows)
    return 0
