"""What the methods of post-training have in common."""

from __future__ import annotations

from pathlib import Path

from clearseek.config import Recipe
from clearseek.train.run import Run
from clearseek.train.session import draw_loads
from clearseek.train.step import Trainable, everything


class Child:
    """What the methods of post-training have in common."""

    def trainable(self, recipe: Recipe, run: Run) -> Trainable:
        """What the recipe trains: adapters, some experts, or all parameters."""
        return everything

    def draw(self, run: Run, folder: Path, title: str) -> None:
        """Draw the expert-load heat map."""
        run.pictures.mkdir(parents=True, exist_ok=True)
        draw_loads(run)
