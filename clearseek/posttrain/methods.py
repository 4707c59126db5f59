"""Which method a recipe asks for, with the parts that all methods of post-training share."""

from __future__ import annotations

from pathlib import Path

from clearseek.config import Recipe
from clearseek.errors import UserError
from clearseek.train.run import Run
from clearseek.train.session import Method, PreTrain, draw_loads
from clearseek.train.step import Trainable, everything


def method_of(recipe: Recipe) -> Method:
    """What is done around the steps of a recipe's run."""
    if recipe.parent is None:
        return PreTrain()
    if recipe.distil is not None:
        from clearseek.posttrain.distil import Distil

        return Distil()
    raise UserError(f"{recipe.name}: no method yet")


class Child:
    """What the methods of post-training have in common."""

    def trainable(self, recipe: Recipe, run: Run) -> Trainable:
        """What the recipe trains: adapters, some experts, or all parameters."""
        return everything

    def draw(self, run: Run, folder: Path, title: str) -> None:
        """Draw the expert-load heat map."""
        run.pictures.mkdir(parents=True, exist_ok=True)
        draw_loads(run)
