"""``clearseek data``: tokenizer, token shards and manifest from a recipe's text, or packed conversations."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from clearseek.cli.options import RECIPE, add_overrides
from clearseek.errors import UserError

if TYPE_CHECKING:
    from clearseek.cli.progress import DataProgress
    from clearseek.config import Recipe
    from clearseek.data.manifest import Manifest


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  clearseek data shakespeare --out data/bard"
    parser.add_argument("recipe", help=RECIPE)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from clearseek.cli.progress import DataProgress
    from clearseek.cli.report import output, print_json, print_rows
    from clearseek.posttrain.parent import dimensions
    from clearseek.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides, dimensions)
    with closing(DataProgress(Console(stderr=True), quiet=arguments.json)) as progress:
        manifest = _prepare(recipe, arguments.out, progress)
    if arguments.json:
        print_json(manifest.model_dump(mode="json", exclude={"config"}))
        return 0
    licences = ", ".join(f"{_documents(count)} {licence}" for licence, count in manifest.licences.items())
    rows = [("data", str(arguments.out)), ("source", f"{manifest.source}, {licences}")]
    for name, split in {"training": manifest.train, "held out": manifest.heldout}.items():
        rows.append((name, f"{_documents(split.documents)}, {split.bytes:,} bytes, {split.tokens:,} tokens"))
    if manifest.packs is None:
        rows.append(("left out", f"{manifest.duplicates} duplicates, {manifest.left_out} unusable"))
    rows += [("packs", line) for line in manifest.pack_lines()]
    rows += [("note", line) for line in manifest.remarks.lines()]
    rows.append(("fingerprint", manifest.fingerprint))
    print_rows(output(), rows)
    return 0


def _prepare(recipe: Recipe, out: Path, progress: DataProgress) -> Manifest:
    """What the recipe's method trains on. Raises UserError for a method that prepares nothing."""
    from clearseek.data.shards import prepare_data
    from clearseek.posttrain.parent import tokenizer_of

    if recipe.parent is None:
        return prepare_data(recipe.data, recipe.model.vocab_size, out, progress)
    if recipe.sft is None:
        raise UserError(f"{recipe.name}: nothing to prepare: only pre-training and [sft] read data beforehand")
    from clearseek.posttrain.conversations import prepare

    return prepare(recipe, tokenizer_of(Path(recipe.parent.path), recipe.model), out, progress)


def _documents(count: int) -> str:
    return f"{count:,} document{'s' * (count != 1)}"
