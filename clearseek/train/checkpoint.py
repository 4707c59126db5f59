"""Everything a run needs to go on, as one folder that is whole or not there.

``checkpoints/step-00000100/`` holds one safetensors file per group of tensors (``weights``, ``buffers``,
``optimizer``) and ``checkpoint.json``: the step, the small state as JSON, and the size and SHA-256 of every file. It
is built under a temporary name and renamed when it is complete, so a kill at any moment leaves the old set or the new
one. Loading checks every byte before anything is used; nothing is ever unpickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import clearseek
from clearseek.errors import OtherVersionError, UserError
from clearseek.files import atomic_folder, remove_folder, remove_leftovers, sha256_bytes, sha256_file, write_atomic
from clearseek.jsontext import is_later

_FOLDER = re.compile(r"step-([0-9]{8,18})")
_FILE = re.compile(r"[a-z]+\.safetensors")
_RECORD = "checkpoint.json"
FORMAT = "clearseek-checkpoint-2"
"""Format 1, of ClearSeek 0.1, had no name and the same tensors; its state says nothing of the tokens so far."""
MODEL = ("weights", "buffers")
"""Groups of tensors that make the model; the others are for training."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    step: int
    """Steps taken when it was written."""
    tensors: dict[str, dict[str, torch.Tensor]]
    """File stem -> name -> tensor, on the CPU."""
    state: dict[str, Any]
    """State beside the tensors, as JSON values."""


def save(
    folder: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any], keep: int
) -> Path:
    """Write the checkpoint of a step, then delete all but the newest `keep`.

    Args:
        folder: The run's checkpoint folder; made where it is missing.
        step: Steps taken. Checkpoints of later steps belong to a continuation that was given up; they are deleted.
        tensors: File stem -> name -> tensor, of any device and layout. Tensors that share memory are stored apart.
        state: Values that JSON can hold; NaN and infinity are not among them.
        keep: Checkpoints to keep, this one included.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: the disk is full or the folder not writable; the older checkpoints are then untouched.
    """
    assert keep >= 1
    path = folder / _name(step)
    remove_leftovers(folder)
    size = sum(tensor.numel() * tensor.element_size() for group in tensors.values() for tensor in group.values())
    with atomic_folder(path, replace=True, size=size) as temporary:
        files = {}
        for stem, group in tensors.items():
            file = temporary / f"{stem}.safetensors"
            _save_tensors(file, group)
            files[file.name] = {"size": file.stat().st_size, "sha256": sha256_file(file)}
        record = {"format": FORMAT, "step": step, "files": files, "state": state}
        document = {"checkpoint": record, "sha256": sha256_bytes(_canonical(record))}
        write_atomic(temporary / _RECORD, json.dumps(document, indent=1, allow_nan=False) + "\n")
    discard_after(folder, step)
    for old in steps(folder)[:-keep]:
        remove_folder(find(folder, old))
    return path


def load(path: Path, groups: Collection[str] | None = None) -> Checkpoint:
    """Read a checkpoint, after checking the size and the SHA-256 of each file that is read.

    Tensors are mapped from the files, not copied: they take memory as they are touched.

    Args:
        path: The checkpoint's folder.
        groups: File stems to read, such as :data:`MODEL`; all by default.

    Raises:
        UserError: a file is missing, cut short or altered. The message names it, and the newest other checkpoint of
            the run that is intact.
        OtherVersionError: the checkpoint is of a format that this version does not know.
    """
    problems = find_problems(path, groups)
    if problems:
        raise UserError("\n".join([*problems, _alternative(path)]))
    record = json.loads((path / _RECORD).read_bytes())["checkpoint"]
    try:
        tensors = {Path(name).stem: load_file(path / name) for name in _chosen(record["files"], groups)}
    except SafetensorError as error:
        raise UserError(f"{path}: no sound safetensors file: {error}\n{_alternative(path)}") from None
    return Checkpoint(record["step"], tensors, record["state"])


def find_problems(path: Path, groups: Collection[str] | None = None) -> list[str]:
    """What is wrong with a checkpoint folder, or with these of its groups, one sentence per file; empty when intact."""
    file = path / _RECORD
    try:
        document = json.loads(file.read_bytes())
        record, digest = document["checkpoint"], document["sha256"]
        if sha256_bytes(_canonical(record)) != digest:
            return [f"{file}: altered since it was written: its SHA-256 does not match"]
        expected = {path / name: (entry["size"], entry["sha256"]) for name, entry in record["files"].items()}
        if any(type(size) is not int or type(digest) is not str for size, digest in expected.values()):
            raise TypeError("files")
        if not all(map(_FILE.fullmatch, record["files"])) or not isinstance(record["state"], dict):
            return [f"{file}: not the record of a checkpoint: it names other files than its own, or has no state"]
        if is_later(found := record.get("format", FORMAT), FORMAT):
            raise OtherVersionError(
                f"{file}: format {found}: of another version of ClearSeek; {clearseek.__version__} reads "
                f"{FORMAT} and what came before"
            )
        if found != FORMAT:
            return [f"{file}: altered: its format, {found!r:.60}, is none of ClearSeek's"]
        if type(record["step"]) is not int:
            raise TypeError("step")
        if path.name != _name(record["step"]):
            return [f"{file}: the record of step {record['step']}, and not of {path.name}"]
    except OSError as error:
        return [f"{file}: cannot read the checkpoint: {error.strerror}"]
    except OtherVersionError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [f"{file}: cut short or altered: not the record of a checkpoint"]
    problems = (_compare(path / name, *expected[path / name]) for name in _chosen(record["files"], groups))
    return [problem for problem in problems if problem]


def _chosen(names: Iterable[str], groups: Collection[str] | None) -> list[str]:
    return [name for name in names if groups is None or Path(name).stem in groups]


def steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint in the run's checkpoint folder, rising."""
    if not folder.is_dir():
        return []
    found = (int(match[1]) for entry in folder.iterdir() if (match := _FOLDER.fullmatch(entry.name)))
    return sorted(step for step in set(found) if (folder / _name(step)).is_dir())


def unexpected_files(folder: Path) -> list[str]:
    """Names in a run's checkpoint folder, and in each checkpoint, that no checkpoint has."""
    whole = {_name(step) for step in steps(folder)}
    out = sorted(entry.name for entry in folder.iterdir() if entry.name not in whole) if folder.is_dir() else []
    for name in sorted(whole):
        try:
            known = {_RECORD, *json.loads((folder / name / _RECORD).read_bytes())["checkpoint"]["files"]}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # `find_problems` says what is wrong with it
        out += sorted(f"{name}/{entry.name}" for entry in (folder / name).iterdir() if entry.name not in known)
    return out


def _name(step: int) -> str:
    """Of a step's folder: the one way to write it."""
    return f"step-{step:08d}"


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
    return folder / _name(step)


def discard_after(folder: Path, step: int) -> list[int]:
    """Delete the checkpoints later than `step`, as a run does that goes back to it. Returns their steps."""
    later = [other for other in steps(folder) if other > step]
    for other in later:
        remove_folder(find(folder, other))
    return later


def _save_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """safetensors refuses tensors that are not contiguous or share memory: both are copied, the others are not."""
    ready: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        ready[name] = tensor
    try:
        save_file(ready, file)
    except SafetensorError as error:
        if code := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(code[1]), str(error)) from error
        raise
    # safetensors makes files that only their owner can read; give them the folder's reach.
    file.chmod(file.parent.stat().st_mode & 0o666)


def _compare(file: Path, size: int, digest: str) -> str | None:
    try:
        actual = file.stat().st_size
        if actual < size:
            return f"{file}: cut short: it has {actual:,} of {size:,} bytes"
        if actual > size or sha256_file(file) != digest:
            return f"{file}: altered since it was written: its size or SHA-256 does not match {_RECORD}"
    except OSError as error:
        return f"{file}: cannot read it: {error.strerror}"
    return None


def _alternative(path: Path) -> str:
    """Where to resume from instead of `path`: the newest intact checkpoint beside it."""
    for step in reversed(steps(path.parent)):
        other = find(path.parent, step)
        if other != path and not find_problems(other):
            return f"The checkpoint of step {step} is intact: resume from it with --from-step {step}"
    return "No other checkpoint of this run is intact: restore the folder from a copy, or start the run again"


def _canonical(record: Any) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
