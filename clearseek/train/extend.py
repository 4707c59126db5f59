"""Train a finished run for longer: a new run that begins where the other one ended.

The new run takes over weights, balance biases and optimiser, and its first batch is the one after the parent's last.
Its recipe is the parent's with more steps, and what is a share of the run (the learning rate's phases, the switches of
the MTP loss and of the biases) is a share of the new length: at step 201 of 400 a schedule is where it is at half of
any run, so the rate rises again. The transcript's header names the parent by the hash of its last line, which stands
for all of its history, and the state that the new run began with stays in its folder.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from clearseek.config import Recipe
from clearseek.errors import UserError
from clearseek.files import atomic_folder, write_atomic
from clearseek.program import command
from clearseek.recipe import parse_recipe
from clearseek.train.run import PARENT, Run, is_imported
from clearseek.train.transcript import Line, hasher, last_line


def longer_recipe(parent: Run, more: int) -> Recipe:
    """The recipe of a finished run with so many steps more. Raises UserError for a run that cannot be gone on from."""
    if more < 1:
        raise UserError(f"--more-steps {more}: use a number from 1 up")
    recipe = parent.read_recipe()
    _end_of(parent, recipe)
    raw = recipe.model_dump(mode="json")
    raw["train"]["steps"] += more
    return parse_recipe(raw, str(parent.recipe))


def adopt(parent: Run, run: Run, with_data: bool) -> None:
    """Put the end of a finished run into a new run's folder: its last checkpoint, transcript and, if asked for, data.

    Files are hard links where the file system has them: nothing changes a checkpoint or a shard in place.
    """
    from clearseek.train.checkpoints import checkpoint
    from clearseek.train.checkpoints.consolidate import consolidate
    from clearseek.train.chunks import hash_tensors

    if with_data and not parent.data.is_dir():
        raise UserError(f"{parent.data}: the run's data are not in its folder: say where they are with --data FOLDER")
    end = _end_of(parent, parent.read_recipe())
    assert end.record is not None
    path = checkpoint.find(parent.checkpoints, end.step)
    saved = checkpoint.load(path)
    weights = [pair for group in checkpoint.MODEL for pair in saved.tensors[group].items()]
    if hasher(end.version)(weights) != end.record.weights_sha256:
        raise UserError(f"{path}: not the weights that {parent.transcript} ends with: restore it from a copy")
    record = {
        "step": end.step,
        "tokens": end.record.tokens,
        "weights_sha256": hash_tensors(weights),
        "optimizer_sha256": hash_tensors(saved.tensors["optimizer"].items()),
        "transcript_head": end.head,
        "data_fingerprint": end.header["data_fingerprint"],
    }
    with atomic_folder(run.parent, replace=True) as folder:
        if checkpoint.open_stored(path).of_many:
            consolidate(path, folder / path.name)
        else:
            _link(path, folder / path.name)
        shutil.copyfile(parent.transcript, folder / parent.transcript.name)
        write_atomic(folder / PARENT, json.dumps(record, indent=1) + "\n")
    if with_data and not run.data.exists():
        with atomic_folder(run.data) as folder:
            _link(parent.data, folder)


def _end_of(parent: Run, recipe: Recipe) -> Line:
    """The last line of a finished run."""
    if is_imported(parent):
        raise UserError(
            f"{parent.root}: an imported model: its training (optimiser, order of the data) is not here to go on from"
        )
    if not parent.begun:
        raise UserError(f"{parent.root}: no training to go on from: it has no {parent.transcript.name}")
    end = last_line(parent.transcript)
    if end.step < recipe.train.steps:
        raise UserError(
            f"{parent.root}: stopped after step {end.step} of {recipe.train.steps}: finish it first, with: "
            f"{command('train', '--resume', parent.root)}"
        )
    return end


def _link(source: Path, target: Path) -> None:
    """A folder's plain files again: linked, or copied where links cannot be made."""
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        if not path.is_file():
            continue
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copyfile(path, target / path.name)
