"""``clearseek recipes``: the shipped recipes, a line each."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  clearseek recipes"
    parser.add_argument("--json", action="store_true", help="print them as JSON")


def run(arguments: argparse.Namespace) -> int:
    from clearseek.cli.report import output, print_columns, print_json, si
    from clearseek.counts import count_parameters
    from clearseek.recipe import load_recipe, shipped_recipes

    loaded = {name: load_recipe(file, model_of=_any_model) for name, file in shipped_recipes().items()}
    if arguments.json:
        shown = {name: recipe.model_dump(mode="json") for name, recipe in loaded.items()}
        for tables in shown.values():
            if "parent" in tables:
                del tables["model"]
        print_json(shown)
        return 0
    rows = [("recipe", "parameters", "activated", "what it is")]
    for name, recipe in loaded.items():
        if recipe.parent is not None:
            rows.append((name, "of", recipe.parent.path, recipe.description))
            continue
        count = count_parameters(recipe.model)
        rows.append((name, si(count.total), si(count.activated_without_embedding), recipe.description))
    print_columns(output(), rows)
    return 0


def _any_model(parent: Mapping[str, Any]) -> dict[str, Any]:
    """Dimensions in place of a parent's, which need not be here: they are not shown, and refuse no setting."""
    sizes = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "kv_lora_rank", "qk_nope_head_dim",
        "qk_rope_head_dim", "v_head_dim", "intermediate_size", "moe_intermediate_size", "n_routed_experts",
    )  # fmt: skip
    other = {"num_experts_per_tok": 1, "vocab_size": 2**17, "max_position_embeddings": 2**30}
    return dict.fromkeys(sizes, 128) | other
