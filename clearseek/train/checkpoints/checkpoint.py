"""Everything a run needs to go on, as one folder that is whole or not there.

``checkpoints/step-00000100/`` holds the tensors as safetensors, a file per group (``weights``, ``buffers``,
``optimizer``) and, where many processes wrote, per process; and ``checkpoint.json``: the step, the small state as JSON,
and the size and SHA-256 of every file. It is built under a temporary name and renamed when it is complete, so a kill at
any moment leaves the old set or the new one. Loading checks every byte before anything is used; nothing is ever
unpickled. Whoever wrote a checkpoint, one process reads it whole, and any process any part of it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clearseek.errors import OtherVersionError, UserError
from clearseek.files import atomic_folder, remove_folder, remove_leftovers
from clearseek.train.checkpoints.files import find_damage, whole, write_whole
from clearseek.train.checkpoints.record import RECORD, File, Record, folder_name, read_record
from clearseek.train.checkpoints.stored import Stored
from clearseek.train.parallel.group import ALONE, Group

_FOLDER = re.compile(r"step-([0-9]{8,18})")
MODEL = ("weights", "buffers")
"""Groups of tensors that make the model; the others are for training."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    step: int
    """Steps taken when it was written."""
    tensors: dict[str, dict[str, torch.Tensor]]
    """Group -> name -> tensor, on the CPU."""
    state: dict[str, Any]
    """State beside the tensors, as JSON values."""


def save(
    folder: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any], keep: int
) -> Path:
    """Write the checkpoint of a step, then delete all but the newest `keep`.

    Args:
        folder: The run's checkpoint folder; made where it is missing.
        step: Steps taken. Checkpoints of later steps belong to a continuation that was given up; they are deleted.
        tensors: Group -> name -> tensor, of any device and layout. Tensors that share memory are stored apart.
        state: Values that JSON can hold; NaN and infinity are not among them.
        keep: Checkpoints to keep, this one included.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: the disk is full or the folder not writable; the older checkpoints are then untouched.
    """
    assert keep >= 1
    path = folder / folder_name(step)
    remove_leftovers(folder)
    size = sum(tensor.numel() * tensor.element_size() for group in tensors.values() for tensor in group.values())
    with atomic_folder(path, replace=True, size=size) as temporary:
        files: dict[str, File] = {}
        for group, named in tensors.items():
            files |= write_whole(temporary, group, whole(named))
        Record(step, files, state).write(temporary)
    prune(folder, step, keep)
    return path


def prune(folder: Path, step: int, keep: int) -> None:
    """After the checkpoint of a step was saved: delete later ones, of a continuation given up, and all but `keep`."""
    discard_after(folder, step)
    for old in steps(folder)[:-keep]:
        remove_folder(find(folder, old))


def load(path: Path, groups: Collection[str] | None = None) -> Checkpoint:
    """Read a checkpoint, after checking the size and the SHA-256 of each file that is read.

    Tensors are mapped from the files, not copied: they take memory as they are touched.

    Args:
        path: The checkpoint's folder.
        groups: Groups to read, such as :data:`MODEL`; all by default.

    Raises:
        UserError: a file is missing, cut short or altered. The message names it, and the newest other checkpoint of
            the run that is intact.
        OtherVersionError: the checkpoint is of a format that this version does not know.
    """
    problems = find_problems(path, groups)
    if problems:
        raise UserError("\n".join([*problems, _alternative(path)]))
    record, tensors = read_record(path), dict[str, dict[str, torch.Tensor]]()
    try:
        if record.of_many:
            stored = Stored(path, record, partial(_alternative, path), checked=True)
            for group in stored if groups is None else [group for group in stored if group in groups]:
                tensors[group] = {name: tensor.whole() for name, tensor in stored[group].items()}
        else:
            tensors = {Path(name).stem: load_file(path / name) for name in record.chosen(groups)}
    except SafetensorError as error:
        raise UserError(f"{path}: no sound safetensors file: {error}\n{_alternative(path)}") from None
    return Checkpoint(record.step, tensors, record.state)


def open_stored(path: Path, checked: bool = False) -> Stored:
    """A checkpoint of which any part can be read, in any layout.

    Args:
        path: The checkpoint's folder.
        checked: Whether its contents are checked otherwise; else each file is when it is first read from.

    Raises:
        UserError: the record is missing or damaged.
        OtherVersionError: the checkpoint is of a format that this version does not know.
    """
    try:
        return Stored(path, read_record(path), partial(_alternative, path), checked)
    except OtherVersionError:
        raise
    except UserError as error:
        raise UserError(f"{error}\n{_alternative(path)}") from None


def newest(folder: Path, group: Group = ALONE, step: int | None = None) -> Path | None:
    """The newest checkpoint, or that of a step, as the main process sees it: on a shared disk others may see another.

    Raises UserError on all processes where `step` has none.
    """
    found = None
    with group.together():
        if group.main:
            found = latest(folder) if step is None else find(folder, step)
    name = group.share(found and found.name)
    return None if name is None else folder / name


def find_problems(path: Path, groups: Collection[str] | None = None) -> list[str]:
    """What is wrong with a checkpoint folder, or with these of its groups, one sentence per file; empty when intact."""
    try:
        record = read_record(path)
    except OtherVersionError:
        raise
    except UserError as error:
        return [str(error)]
    return find_damage(path, record, record.chosen(groups))


def steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint in the run's checkpoint folder, rising."""
    if not folder.is_dir():
        return []
    found = (int(match[1]) for entry in folder.iterdir() if (match := _FOLDER.fullmatch(entry.name)))
    return sorted(step for step in set(found) if (folder / folder_name(step)).is_dir())


def unexpected_files(folder: Path) -> list[str]:
    """Names in a run's checkpoint folder, and in each checkpoint, that no checkpoint has."""
    whole = {folder_name(step) for step in steps(folder)}
    out = sorted(entry.name for entry in folder.iterdir() if entry.name not in whole) if folder.is_dir() else []
    for name in sorted(whole):
        try:
            known = {RECORD, *read_record(folder / name).files}
        except UserError:
            continue  # `find_problems` says what is wrong with it
        out += sorted(f"{name}/{entry.name}" for entry in (folder / name).iterdir() if entry.name not in known)
    return out


def latest(folder: Path) -> Path | None:
    """Folder of the newest checkpoint, or None. Unfinished ones have temporary names and are not seen."""
    found = steps(folder)
    return find(folder, found[-1]) if found else None


def find(folder: Path, step: int) -> Path:
    """Folder of the checkpoint of a step. Raises UserError, which lists the steps that have one, if missing."""
    found = steps(folder)
    if step not in found:
        have = f"there are those of steps {', '.join(map(str, found))}" if found else "the run has no checkpoint"
        raise UserError(f"{folder}: no checkpoint of step {step}: {have}")
    return folder / folder_name(step)


def discard_after(folder: Path, step: int) -> list[int]:
    """Delete the checkpoints later than `step`, as a run does that goes back to it. Returns their steps."""
    later = [other for other in steps(folder) if other > step]
    for other in later:
        remove_folder(find(folder, other))
    return later


def _alternative(path: Path) -> str:
    """Where to resume from instead of `path`: the newest intact checkpoint beside it."""
    for step in reversed(steps(path.parent)):
        other = find(path.parent, step)
        if other != path and not find_problems(other):
            return f"the checkpoint of step {step} is intact: resume from it with --from-step {step}"
    return "no other checkpoint of this run is intact: restore the folder from a copy, or start the run again"
