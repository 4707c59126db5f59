"""A run in a process of its own, to be killed; a module that loads little."""

from __future__ import annotations

import signal

from clearseek.posttrain.methods import method_of
from clearseek.posttrain.parent import dimensions
from clearseek.recipe import load_recipe
from clearseek.train.record import StepRecord
from clearseek.train.run import Run
from clearseek.train.session import train_recipe


def train_until(recipe_file: str, folder: str, last: int) -> None:
    """In a process of its own: begin or resume a run that pauses in step `last` for ever."""

    def pause(record: StepRecord) -> None:
        if record.step == last:
            signal.pause()

    run = Run(folder)
    recipe = run.read_recipe() if run.begun else load_recipe(recipe_file, (), dimensions)
    train_recipe(recipe, run, resume=run.begun, on_step=pause, method=method_of(recipe))
