"""A training run from outside: prepare the data if need be, train under a display, draw the pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from clearseek.cli.progress import Display
from clearseek.config import Recipe
from clearseek.counts import count_parameters, training_memory
from clearseek.data.manifest import read_manifest
from clearseek.data.progress import data_progress
from clearseek.data.shards import prepare
from clearseek.errors import UserError
from clearseek.files import amount, remove_folder, remove_leftovers, write_atomic, writing
from clearseek.fp8.backends.choose import choose
from clearseek.locks import exclusive
from clearseek.machine import describe
from clearseek.program import command
from clearseek.sysfiles import system_file
from clearseek.train import checkpoint
from clearseek.train.extend import adopt
from clearseek.train.numerics import settle_numerics
from clearseek.train.pictures import expert_load, loss_curve
from clearseek.train.run import Loads, RunFolder, is_imported
from clearseek.train.trainer import Outcome, Trainer
from clearseek.train.transcript import last_line, read_lines


def run_training(
    recipe: Recipe,
    run: RunFolder,
    data: Path | None = None,
    device: str = "cpu",
    resume: bool = False,
    from_step: int | None = None,
    quiet: bool = False,
    parent: RunFolder | None = None,
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
        parent: A finished run to begin from, with the recipe of `longer_recipe`.

    Returns:
        The fields of :class:`Outcome` and the final `held_out_bpb`, as JSON values.

    Raises:
        UserError: the run folder holds something else, the data do not fit the model, the model does not fit the
            machine, or what :class:`Trainer` refuses.
    """
    console = Console(stderr=True) if quiet else Console(highlight=False)
    refuse_device(recipe, device)
    _refuse_full_disk(recipe, run)
    settle_numerics(recipe.train.threads, device)  # before anything is computed: cuBLAS reads its settings once
    if recipe.train.precision == "fp8":
        choose(recipe.fp8, torch.device(device))  # refuse what cannot run before any data are made
    if data is not None and not data.is_dir():
        raise UserError(f"{data}: no such data folder: make it with: {command('data', 'RECIPE', '--out', data)}")
    _refuse_foreign(run, resume)
    with exclusively(run):
        resume = _clear(run, resume, console)
        if parent is not None:
            adopt(parent, run, with_data=data is None)
        return _train(recipe, run, data, device, resume, from_step, console, quiet)


@contextmanager
def exclusively(run: RunFolder) -> Iterator[None]:
    """Keep every other process from writing the run. Raises UserError where one does, or may.

    Folders that had to be made for the lock are gone again if nothing else came into them.
    """
    new = [folder for folder in (run.root, *run.root.parents) if not os.path.lexists(folder)]
    try:
        with ExitStack() as stack:
            with writing(run.root):
                run.root.mkdir(parents=True, exist_ok=True)
                stack.enter_context(exclusive(run.root / ".lock", str(run.root)))
            yield
    finally:
        with suppress(OSError):
            for folder in new:
                folder.rmdir()


def _train(
    recipe: Recipe, run: RunFolder, data: Path | None, device: str, resume: bool, from_step: int | None,
    console: Console, quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    """`run_training` in a folder that is ours."""
    folder = data or run.data
    if data is None and not resume and run.read_parent() is None:
        with data_progress(Console(stderr=True), quiet) as progress:
            made = prepare(recipe.data, recipe.model.vocab_size, folder, progress)
        for line in made.remarks.lines():
            console.print(f"data: {line}", markup=False, soft_wrap=True)
    elif data is None and not folder.is_dir():
        raise UserError(
            f"{folder}: the run's data are not in its folder: say where they are, as when it began, with --data FOLDER"
        )
    _refuse_vocabulary(recipe, folder)
    if data is not None and not resume:
        _refuse_other_data(recipe, folder)
    if from_step is not None:
        checkpoint.find(run.checkpoints, from_step)
    steps, batch, length = recipe.train.steps, recipe.train.batch_size, recipe.data.sequence_length
    size = f"{count_parameters(recipe.model).total:,} parameters, {steps:,} steps of {batch:,} x {length:,} tokens"
    console.print(f"{recipe.name}: {size}", markup=False, soft_wrap=True)  # at once: to measure and load takes a while
    trainer = Trainer(recipe, run, folder, device, resume, from_step)
    write_atomic(run.tokenizer, (folder / "tokenizer.json").read_bytes())
    name = str(trainer.precision.dtype).removeprefix("torch.")
    if trainer.fp8 is not None:
        rates = ", ".join(f"{each} {rate / 1e9:,.0f} GFLOP/s" for each, rate in trainer.fp8.rates.items())
        name = f"fp8 ({trainer.fp8.backend.name}{f': measured {rates}' * bool(rates)}), otherwise {name}"
    peak = max(trainer.precision.rates.values()) / 1e9
    how = f"precision {name}; kernels {trainer.kernels}; measured matmul peak {peak:,.0f} GFLOP/s"
    console.print(how, markup=False, soft_wrap=True)
    if trainer.precision.dtype == torch.bfloat16 and trainer.precision.emulated:
        console.print(
            f"this machine has no instructions for BF16: its products take {trainer.precision.emulated:,.0f} times as "
            'long as in FP32, which train.precision = "auto" or "fp32" would take',
            markup=False, soft_wrap=True,
        )  # fmt: skip
    if trainer.step:
        console.print(f"going on after step {trainer.step} of {recipe.train.steps}", markup=False)
    with Display(recipe.train.steps, recipe.name, console=console) as display:
        outcome: Outcome = trainer.train(display)
    if outcome.finished:
        draw_pictures(run, folder, recipe.name)
    last = last_line(run.transcript).record
    return asdict(outcome) | {"held_out_bpb": last.held_out_bpb if last else None}


def _refuse_other_data(recipe: Recipe, folder: Path) -> None:
    """The recipe goes into the record of the run, so it must say what the data are: refuse any that it does not."""
    made = read_manifest(folder).config
    fields = ("source", "paths", "exclude", "unusable", "held_out_fraction", "include_tests", "fim_rate")
    wrong = [
        f"data.{name} = {getattr(recipe.data, name)!r}, but the folder has {getattr(made, name)!r}"
        for name in fields
        if getattr(recipe.data, name) != getattr(made, name)
    ]
    if wrong:
        raise UserError(f"{folder}: not the data of the recipe: {'; '.join(wrong)}: change the recipe, or prepare anew")


def draw_pictures(run: RunFolder, data: Path, title: str) -> None:
    """Write the loss curve and the expert-load heat map."""
    manifest = read_manifest(data)
    run.pictures.mkdir(parents=True, exist_ok=True)
    loss_curve(
        (line.record for line in read_lines(run.transcript) if line.record is not None),
        run.pictures / "loss.png",
        manifest.train.bytes / manifest.train.tokens,
        title,
    )
    model = run.read_recipe().model
    depth = model.num_hidden_layers + model.num_nextn_predict_layers
    layers = [
        f"layer {layer}" if layer < model.num_hidden_layers else "MTP layer"
        for layer in range(depth)
        if model.is_moe_layer(layer)
    ]
    loads = Loads(run.metrics)
    if layers and len(loads):
        expert_load(loads, run.pictures / "experts.png", layers)


def free_run_folder(runs: Path, name: str, recipe: Recipe) -> tuple[RunFolder, bool]:
    """The folder of an unfinished run of `recipe`, or one for a new run: (folder, whether to resume it).

    Folders are called `name`, or have a number behind it.

    A run is finished once its model is exported. Raises UserError beside a half-trained run with other settings.
    """
    number = 1
    while True:
        run = RunFolder(runs / (name if number == 1 else f"{name}-{number}"))
        if not run.begun:
            return run, False
        there = run.read_recipe()
        trained = last_line(run.transcript).step >= there.train.steps
        if there == recipe and not (trained and run.export.exists()):
            return run, True
        if not trained:
            raise UserError(
                f"{run.root}: an unfinished run with other settings: finish it with: "
                f"{command('train', '--resume', run.root)}, or delete it"
            )
        number += 1


def _refuse_full_disk(recipe: Recipe, run: RunFolder) -> None:
    """A checkpoint that does not fit would be found out after hours: refuse before the first step."""
    memory = training_memory(recipe.model, recipe.optimizer.name, "fp32", moments=recipe.optimizer.moments)
    needed = memory.master_weights + memory.optimizer
    place = next(folder for folder in [run.root.absolute(), *run.root.absolute().parents] if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"{run.root}: a checkpoint of this model takes {needed:,.0f} bytes ({amount(needed)}), and {free:,} "
            f"({amount(free)}) are free: make room, or choose a folder on another disk with --run"
        )


def _refuse_foreign(run: RunFolder, resume: bool) -> None:
    """Refuse a folder that may not be written, touching nothing in it."""
    try:
        os.fsencode(run.root).decode()
    except UnicodeDecodeError:  # safetensors opens no such path
        raise UserError(f"{run.root}: the name is not UTF-8: choose another folder with --run") from None
    if resume:
        if not run.transcript.exists():
            why = "an imported model has none" if is_imported(run) else f"it has no {run.transcript.name}"
            raise UserError(f"{run.root}: no training to go on with: {why}")
        return
    if run.begun:
        raise UserError(f"{run.root}: holds a run already: --resume it, or choose another folder with --run")
    # what a kill before the first step leaves
    expected = {run.data.name, run.recipe.name, run.metrics.name, run.transcript.name}
    expected |= {run.parent.name} if run.extends else set()
    names = sorted(path.name for path in run.root.iterdir()) if run.root.exists() else []
    foreign = [name for name in names if name not in expected and not name.startswith(".") and not system_file(name)]
    if foreign:
        raise UserError(f"{run.root}: not empty (it holds {', '.join(foreign[:3])}): choose a new folder for the run")


def _clear(run: RunFolder, resume: bool, console: Console) -> bool:
    """Clear what killed processes left, in a folder that is ours; whether there is anything to resume."""
    if run.begun and not resume:  # since we looked
        raise UserError(f"{run.root}: holds a run already: --resume it, or choose another folder with --run")

    def left(path: Path) -> None:
        console.print(
            f"{path}: left by another process, and nothing here says whether it still runs: delete it if it does not",
            markup=False,
            soft_wrap=True,
        )

    remove_leftovers(run.root, left)
    if not run.begun:  # killed before its first line was written
        run.transcript.unlink(missing_ok=True)
        if run.extends and not resume:
            remove_folder(run.parent)
    return run.begun


def refuse_device(recipe: Recipe, device: str) -> None:
    """Refuse a device that is not there, or that the model cannot fit in."""
    try:
        kind = torch.device(device)
    except RuntimeError:
        raise UserError(f"--device {device}: use cpu or cuda") from None
    if kind.type not in ("cpu", "cuda"):
        raise UserError(f"--device {device}: use cpu or cuda")
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: PyTorch finds {torch.cuda.device_count()} CUDA devices here: use cpu")
    machine = describe()
    have = machine["memory"] if kind.type == "cpu" else machine["gpus"][kind.index or 0]["memory"]
    precision = recipe.train.precision
    memory = training_memory(
        recipe.model,
        recipe.optimizer.name,
        "fp32" if precision == "auto" else precision,
        recipe.train.micro_batches,
        recipe.optimizer.moments,
    )
    need = memory.total + memory.partial_sums
    if need > have:
        raise UserError(
            f"{recipe.name}: weights, gradients and optimiser state alone take {amount(need)}, and this machine has "
            f"{amount(have)}: train a smaller model (see clearseek recipes), or use a larger machine"
        )


def _refuse_vocabulary(recipe: Recipe, data: Path) -> None:
    vocab_size = read_manifest(data).vocab_size
    if vocab_size > recipe.model.vocab_size:
        raise UserError(
            f"{data}: made for model.vocab_size = {vocab_size}, and this model has {recipe.model.vocab_size}: prepare "
            "the data again for it, or raise the setting"
        )
