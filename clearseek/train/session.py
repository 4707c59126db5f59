"""A training run from outside: prepare the data if need be, train, draw the pictures."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from clearseek.config import Recipe
from clearseek.counts import count_parameters, training_memory
from clearseek.data.manifest import read_manifest
from clearseek.data.shards import prepare_data
from clearseek.errors import UserError
from clearseek.files import amount, remove_folder, remove_leftovers, write_atomic, writing
from clearseek.locks import exclusive
from clearseek.plan.layout import SINGLE, ParallelLayout
from clearseek.program import command
from clearseek.sysfiles import system_file
from clearseek.train.checkpoints import checkpoint
from clearseek.train.extend import adopt
from clearseek.train.parallel.compare import refuse_differences
from clearseek.train.parallel.group import ALONE, Group
from clearseek.train.parallel.promise import promise, record_session
from clearseek.train.parallel.worker import LOGS, keep_log, restarts
from clearseek.train.pictures import expert_load, loss_curve
from clearseek.train.preflight import Setup, preflight
from clearseek.train.pretrain import PreTraining
from clearseek.train.run import TEACHER, Loads, Run, is_imported
from clearseek.train.step import Training
from clearseek.train.task import Progress, Task
from clearseek.train.trainer import OnStep, Outcome, Trainer
from clearseek.train.transcript import last_line, read_header, read_lines
from clearseek.train.work import Trainable, everything
from clearseek.training_code import code_here

OnData = Callable[[str, int, int], None]
"""Called with a stage of the preparation of data, what is done of it, and its size."""
Say = Callable[[str], None]
ENDING = 60.0
"""Seconds that a job that is started again waits for its processes of before, which may not have noticed yet."""


class Method(Protocol):
    """What a kind of training does around the steps; pre-training's is :class:`PreTrain`."""

    def data(self, recipe: Recipe, run: Run, data: Path | None, resume: bool, on_data: OnData | None, say: Say) -> Path:
        """Folder of what the run trains on, made where it is missing; its ``tokenizer.json`` is the model's."""

    def task(self, recipe: Recipe, run: Run, folder: Path, checked: bool = False) -> Task:
        """What the run trains on. Where its files are not `checked` already, they are compared with their hashes."""

    def resolved(self, recipe: Recipe, run: Run, task: Task) -> Recipe:
        """The recipe with what is settled before the first step, as it is recorded."""

    def trainable(self, recipe: Recipe, run: Run) -> Trainable:
        """What is trained."""

    def draw(self, run: Run, folder: Path, title: str) -> None:
        """Draw the pictures of a complete run."""


def train_recipe(
    recipe: Recipe, run: Run | str | Path, data: str | Path | None = None, device: str = "cpu", resume: bool = False,
    from_step: int | None = None, parent: Run | None = None, *, on_step: OnStep | None = None,
    on_evaluation: Progress | None = None, on_data: OnData | None = None, say: Say = lambda _: None,
    method: Method | None = None, go_on: bool = False, group: Group = ALONE, layout: ParallelLayout = SINGLE,
) -> Outcome:  # fmt: skip
    """Train: prepare the data if need be, take the steps, and draw the pictures when the run is complete.

    Args:
        recipe: What to do.
        run: The run folder; with `resume` an existing one.
        data: Data folder; by default the run's own, which is prepared where it is missing.
        device: ``cpu`` or ``cuda``.
        resume: Go on with the run.
        from_step: With `resume`, from this checkpoint.
        parent: A finished run to begin from, with the recipe of `longer_recipe`.
        on_step: Called with the record of every step (:meth:`Trainer.train`).
        on_evaluation: Called with the windows evaluated so far, and with their number.
        on_data: Called with a stage of the preparation of data, what is done of it, and its size.
        say: Called with each line that people want to read before the first step.
        method: What is done around the steps; pre-training by default.
        go_on: Go on with the run where it has begun, as with `resume`, and begin it where not.
        group: Processes that train together; the main one writes.
        layout: How they share the work.

    Raises:
        UserError: the run folder holds something else, the data do not fit the model, the model does not fit the
            machine, or what :class:`Trainer` refuses.
    """
    run, data = run if isinstance(run, Run) else Run(run), None if data is None else Path(data)
    method, device = method or PreTrain(), group.place(device)
    resume, recorded = _looked(recipe, run, data, resume, go_on, group)
    setup = preflight(recipe, device, recorded, group, layout)  # what cannot run is refused before any data are made
    with ExitStack() as stack:
        with group.together():
            if group.main:
                _refuse_full_disk(recipe, run)
                stack.enter_context(exclusively(run, ENDING if go_on else 0.0))
                resume = _clear(run, resume, say)
                if parent is not None:
                    adopt(parent, run, with_data=data is None)
        resume = group.share(resume)
        folder = group.after_main(lambda: method.data(recipe, run, data, resume or not group.main, on_data, say))
        with group.together():
            if from_step is not None:
                checkpoint.find(run.checkpoints, from_step)
            _say_how(recipe, setup, say)
            task = method.task(recipe, run, folder, checked=not group.first_here)
        with group.together():
            recipe = method.resolved(recipe, run, task)
            trained = method.trainable(recipe, run)
            trainer = Trainer(recipe, run, task, setup, resume, from_step, trained, group, layout)
            _say_what(recipe, trainer.training, say)
            _promise(recipe, run, trainer.training.step, group, layout, say)
            if group.main:
                write_atomic(run.tokenizer, (folder / "tokenizer.json").read_bytes())
        keep_log(run.root, group.rank)
        outcome = trainer.train(on_step, on_evaluation, say)
        with group.together():
            if outcome.finished and group.main:
                method.draw(run, folder, recipe.name)
    last = last_line(run.transcript).record if group.main else None
    return outcome if last is None else replace(outcome, scalars=last.scalars)


def _promise(recipe: Recipe, run: Run, after: int, group: Group, layout: ParallelLayout, say: Say) -> None:
    """Tell what is promised of the bits, and record who trains from here on."""
    promised = promise(recipe, layout)
    if group.size > 1:
        say(f"{group.size} processes, {layout}: promised: {promised}")
    record_session(run, after, group, layout, promised)


def _looked(
    recipe: Recipe, run: Run, data: Path | None, resume: bool, go_on: bool, group: Group
) -> tuple[bool, dict[str, Any] | None]:
    """Refuse what can be seen to be wrong, touching nothing; whether to resume, and the environment of the run then."""
    with group.together():
        code = code_here(recipe.parent is not None)  # before the data, which may take long: what was imported trains
        recorded = None
        if group.main:
            resume = resume or (go_on and run.begun)
            _refuse_foreign(run, resume)
            recorded = read_header(run.transcript).get("environment", {}) if resume and run.begun else None
        if data is not None and not data.is_dir():
            raise UserError(f"{data}: no such data folder: make it with: {command('data', 'RECIPE', '--out', data)}")
    refuse_differences(
        group, {"code_sha256": code, "torch": torch.__version__, "recipe": recipe.model_dump(mode="json")}
    )
    resume, recorded = group.share([resume, recorded])
    return resume, recorded


@contextmanager
def exclusively(run: Run, patience: float = 0.0) -> Iterator[None]:
    """Keep every other process from writing the run. Raises UserError where one does, or may, for `patience` seconds.

    Folders that had to be made for the lock are gone again if nothing else came into them.
    """
    new = [folder for folder in (run.root, *run.root.parents) if not os.path.lexists(folder)]
    try:
        with ExitStack() as stack:
            with writing(run.root):
                deadline = time.monotonic() + patience
                while not _entered(stack, run, last=time.monotonic() >= deadline):
                    time.sleep(1)
            yield
    finally:
        with suppress(OSError):
            for folder in new:
                folder.rmdir()


def _entered(stack: ExitStack, run: Run, last: bool) -> bool:
    """Whether the run's lock is ours now. Raises UserError where it is not, at the `last` attempt."""
    run.root.mkdir(parents=True, exist_ok=True)
    try:
        stack.enter_context(exclusive(run.root / ".lock", str(run.root)))
    except UserError:
        if last:
            raise
        return False
    return True


class PreTrain:
    """Pre-training: documents become tokens, and a model begins from its seed or goes on from a run's end."""

    def data(self, recipe: Recipe, run: Run, data: Path | None, resume: bool, on_data: OnData | None, say: Say) -> Path:
        """The folder of data to train on, made where it is missing."""
        folder = data or run.data
        if data is None and not resume and run.read_parent() is None:
            made = prepare_data(recipe.data, recipe.model.vocab_size, folder, on_data)
            for line in made.remarks.lines():
                say(f"data: {line}")
        elif data is None and not folder.is_dir():
            raise UserError(
                f"{folder}: the run's data are not in its folder: say where they are, as when it began, with "
                "--data FOLDER"
            )
        refuse_other_data(recipe, folder, given=data is not None and not resume)
        return folder

    def task(self, recipe: Recipe, run: Run, folder: Path, checked: bool = False) -> Task:
        """Next-token prediction of the folder's stream of tokens."""
        return PreTraining(recipe, folder, checked)

    def resolved(self, recipe: Recipe, run: Run, task: Task) -> Recipe:
        """The recipe as it is."""
        return recipe

    def trainable(self, recipe: Recipe, run: Run) -> Trainable:
        """All parameters."""
        return everything

    def draw(self, run: Run, folder: Path, title: str) -> None:
        """Write the loss curve and the expert-load heat map."""
        draw_pictures(run, folder, title)


def _say_what(recipe: Recipe, training: Training, say: Say) -> None:
    """Tell what is trained, where that is not all, and after which step."""
    if recipe.lora is not None or recipe.experts is not None:
        count = sum(each.of(each.parameter).numel() for each in training.work.trained)
        where = "adapters" if recipe.experts is None else "the chosen experts"
        say(f"trained: {count:,} parameters of {where}; the others are frozen")
    count = restarts()
    if training.step or count:
        lost = f"restart {count} after a process was lost: " if count else ""
        where = f"after step {training.step} of {recipe.train.steps}" if training.step else "from the beginning"
        say(f"{lost}going on {where}")


def _say_how(recipe: Recipe, setup: Setup, say: Callable[[str], None]) -> None:
    """Tell the size of the run, and how this machine computes it."""
    steps, batch, length = recipe.train.steps, recipe.train.batch_size, recipe.data.sequence_length
    parameters = count_parameters(recipe.model).total
    size = f"{batch:,} x {length:,} tokens" if recipe.grpo is None else f"{batch:,} completions"
    say(f"{recipe.name}: {parameters:,} parameters, {steps:,} steps of {size}")
    precision = setup.precision
    name = str(precision.dtype).removeprefix("torch.")
    if setup.fp8 is not None:
        rates = ", ".join(f"{each} {rate / 1e9:,.0f} GFLOP/s" for each, rate in setup.fp8.rates.items())
        name = f"fp8 ({setup.fp8.backend.name}{f': measured {rates}' * bool(rates)}), otherwise {name}"
    peak = max(precision.rates.values()) / 1e9
    say(f"precision {name}; kernels {setup.kernels}; measured matmul peak {peak:,.0f} GFLOP/s")
    if precision.dtype == torch.bfloat16 and precision.emulated:
        say(
            f"this machine has no instructions for BF16: its products take {precision.emulated:,.0f} times as long as "
            'in FP32, which train.precision = "auto" or "fp32" would take'
            f"{'; those of Muon are taken in FP32' * (setup.muon is not None)}"
        )


def refuse_other_data(recipe: Recipe, folder: Path, given: bool) -> None:
    """Refuse data of more tokens than the model has, and data given by hand that are not those of the recipe.

    The recipe goes into the record of the run, so it must say what the data are.
    """
    manifest = read_manifest(folder)
    if manifest.vocab_size > recipe.model.vocab_size:
        raise UserError(
            f"{folder}: made for model.vocab_size = {manifest.vocab_size}, and this model has "
            f"{recipe.model.vocab_size}: prepare the data again for it, or raise the setting"
        )
    made = manifest.config
    fields = ("source", "paths", "exclude", "unusable", "held_out_fraction", "include_tests", "fim_rate")
    wrong = [
        f"data.{name} = {getattr(recipe.data, name)!r}, but the folder has {getattr(made, name)!r}"
        for name in fields
        if getattr(recipe.data, name) != getattr(made, name)
    ]
    if given and wrong:
        raise UserError(f"{folder}: not the data of the recipe: {'; '.join(wrong)}: change the recipe, or prepare anew")


def draw_pictures(run: Run, data: Path, title: str) -> None:
    """Write the loss curve and the expert-load heat map."""
    manifest = read_manifest(data)
    run.pictures.mkdir(parents=True, exist_ok=True)
    loss_curve(
        (line.record for line in read_lines(run.transcript) if line.record is not None),
        run.pictures / "loss.png",
        manifest.train.bytes / manifest.train.tokens,
        title,
    )
    draw_loads(run)


def draw_loads(run: Run) -> None:
    """Write the expert-load heat map of a run's metrics."""
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


def free_run_folder(runs: Path, name: str, recipe: Recipe) -> tuple[Run, bool]:
    """The folder of an unfinished run of `recipe`, or one for a new run: (folder, whether to resume it).

    Folders are called `name`, or have a number behind it.

    A run is finished once its model is exported. Raises UserError beside a half-trained run with other settings.
    """
    number = 1
    while True:
        run = Run(runs / (name if number == 1 else f"{name}-{number}"))
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


def _refuse_full_disk(recipe: Recipe, run: Run) -> None:
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


def _refuse_foreign(run: Run, resume: bool) -> None:
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
    expected = {run.data.name, run.recipe.name, run.metrics.name, run.transcript.name, LOGS}
    expected |= {run.parent.name} if run.extends else set()
    expected |= {run.teacher.name} if (run.teacher / TEACHER).is_file() else set()
    names = sorted(path.name for path in run.root.iterdir()) if run.root.exists() else []
    foreign = [name for name in names if name not in expected and not name.startswith(".") and not system_file(name)]
    if foreign:
        raise UserError(f"{run.root}: not empty (it holds {', '.join(foreign[:3])}): choose a new folder for the run")


def _clear(run: Run, resume: bool, say: Callable[[str], None]) -> bool:
    """Clear what killed processes left, in a folder that is ours; whether there is anything to resume."""
    if run.begun and not resume:  # since we looked
        raise UserError(f"{run.root}: holds a run already: --resume it, or choose another folder with --run")

    def left(path: Path) -> None:
        say(f"{path}: left by another process, and nothing here says whether it still runs: delete it if it does not")

    remove_leftovers(run.root, left)
    if not run.begun:  # killed before its first line was written
        run.transcript.unlink(missing_ok=True)
        if run.extends and not resume:
            remove_folder(run.parent)
    return run.begun
