"""A training run from outside: prepare the data if need be, train under a display, draw the pictures."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from clearseek.config import Recipe
from clearseek.data.manifest import read_manifest
from clearseek.data.shards import prepare
from clearseek.errors import UserError
from clearseek.files import write_atomic
from clearseek.train.display import Display
from clearseek.train.pictures import expert_load, loss_curve
from clearseek.train.run import RunFolder, read_metrics
from clearseek.train.trainer import Outcome, Trainer
from clearseek.train.transcript import verify


def run_training(
    recipe: Recipe,
    run: RunFolder,
    data: Path | None = None,
    device: str = "cpu",
    resume: bool = False,
    from_step: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train, and draw the pictures when the run is complete.

    Args:
        recipe: What to do.
        run: The run folder; with `resume` an existing one.
        data: Data folder; by default the run's own, which is prepared where it is missing.
        device: ``cpu`` or ``cuda``.
        resume: Go on with the run.
        from_step: With `resume`, from this checkpoint.
        quiet: Print nothing on standard output; progress goes to standard error.

    Returns:
        The fields of :class:`Outcome` and the final `held_out_bpb`, as JSON values.
    """
    from clearseek.report import data_progress

    console = Console(stderr=True) if quiet else Console(highlight=False)
    if not resume and run.transcript.exists():
        raise UserError(f"{run.root}: holds a run already: --resume it, or choose another folder with --run")
    folder = data or run.data
    if data is not None and not data.is_dir():
        raise UserError(f"{data}: no such data folder: make it with: clearseek data RECIPE --out {data}")
    if data is None and not resume:
        with data_progress(Console(stderr=True), quiet) as progress:
            prepare(recipe.data, recipe.model.vocab_size, folder, progress)
    elif data is None and not folder.is_dir():
        raise UserError(f"{folder}: the run's data are gone: say where they are with --data")
    trainer = Trainer(recipe, run, folder, device, resume, from_step)
    write_atomic(run.tokenizer, (folder / "tokenizer.json").read_bytes())
    name = str(trainer.precision.dtype).removeprefix("torch.")
    peak = max(trainer.precision.rates.values()) / 1e9
    console.print(f"precision {name}; measured matmul peak {peak:,.0f} GFLOP/s", markup=False)
    if trainer.step:
        console.print(f"going on after step {trainer.step} of {recipe.train.steps}", markup=False)
    with Display(recipe.train.steps, recipe.name, console=console) as display:
        outcome: Outcome = trainer.train(display)
    if outcome.finished:
        draw_pictures(run, folder, recipe.name)
    last = verify(run.transcript).steps[-1] if outcome.steps else None
    return asdict(outcome) | {"held_out_bpb": last.held_out_bpb if last else None}


def draw_pictures(run: RunFolder, data: Path, title: str) -> None:
    """Write the loss curve and the expert-load heat map."""
    manifest = read_manifest(data)
    run.pictures.mkdir(parents=True, exist_ok=True)
    loss_curve(
        verify(run.transcript).steps,
        run.pictures / "loss.png",
        manifest.train.bytes / manifest.train.tokens,
        title,
    )
    loads = np.array([line["load"] for line in read_metrics(run.metrics)], dtype=np.float64)
    if loads.size:
        expert_load(loads, run.pictures / "experts.png")


def free_run_folder(runs: Path, name: str) -> tuple[RunFolder, bool]:
    """The folder for a new run of `name`, or that of an unfinished one: (folder, whether to resume it)."""
    number = 1
    while True:
        run = RunFolder(runs / (name if number == 1 else f"{name}-{number}"))
        if not run.transcript.exists():
            if run.root.exists():
                shutil.rmtree(run.data, ignore_errors=True)
            return run, False
        done = verify(run.transcript).steps
        if len(done) < run.read_recipe().train.steps:
            return run, True
        number += 1
