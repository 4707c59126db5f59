"""Where a run begins: values drawn from its seed, the end of another run, or another model's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearseek.errors import UserError
from clearseek.train.checkpoints import checkpoint
from clearseek.train.checkpoints.stored import Stored
from clearseek.train.chunks import hash_tensors
from clearseek.train.parallel.group import Group
from clearseek.train.run import Run
from clearseek.train.step import Training
from clearseek.train.transcript import hasher
from clearseek.train.work import State


@dataclass(frozen=True)
class Seed:
    """A run that begins from values drawn with the recipe's seed."""

    step: int = 0
    """Step that the run begins after."""

    def header(self) -> dict[str, Any]:
        """Entries of the transcript's header: none, as the recipe there holds the seed."""
        return {}

    def begin(self, training: Training) -> None:
        """Go to the state before the first step."""
        training.begin()


@dataclass(frozen=True)
class Parent:
    """A run that begins at the end of another one, with its weights, optimiser and step."""

    run: Run
    """The new run, in whose folder they are."""
    record: dict[str, Any]
    """Its `parent.json`."""

    @property
    def step(self) -> int:
        """The parent's last step."""
        return int(self.record["step"])

    def header(self) -> dict[str, Any]:
        """Entries of the transcript's header."""
        return {"parent": self.record}

    def begin(self, training: Training) -> None:
        """Go to the parent's last state. Raises UserError where its data were others, or its checkpoint was changed."""
        if self.record["data_fingerprint"] != training.task.fingerprint:
            raise UserError(f"{self.run.root}: it goes on from a run of other data: give their folder with --data")
        path = checkpoint.find(self.run.parent, self.step)
        recipe = training.recipe
        before = self.step * recipe.train.batch_size * recipe.data.sequence_length  # ClearSeek 0.1 recorded no tokens
        alone = training.group.size == 1
        saved = checkpoint.load(path) if alone else checkpoint.open_stored(path)
        restore(training, path, saved, self.record.get("tokens", before))
        if "tokens" in self.record:
            found = training.weights_hash()
        elif alone:
            state = training.state()
            found = hasher(1)([*state["weights"].items(), *state["buffers"].items()])
        else:
            raise UserError(f"{self.run.root}: it goes on from a run of ClearSeek 0.1: leave out --processes")
        if found != self.record["weights_sha256"]:
            raise UserError(f"{path}: not the weights that the run began with: restore it from a copy")


@dataclass(frozen=True)
class Child:
    """A run that begins with another model's weights and balance biases, at its own step 0 and with a new optimiser."""

    run: Run
    """The new run, in whose folder they are."""
    record: dict[str, Any]
    """Its `parent.json`."""
    step: int = 0
    """Step that the run begins after."""

    def header(self) -> dict[str, Any]:
        """Entries of the transcript's header: the parent, and the teacher where it learns from one."""
        teacher = self.run.read_teacher()
        return {"parent": self.record} | ({} if teacher is None else {"teacher": teacher})

    def begin(self, training: Training) -> None:
        """Go to the parent's weights. Raises UserError where they were changed, or are of other dimensions."""
        training.begin()
        path = checkpoint.find(self.run.parent, 0)
        saved, found = _read(path, training.group)
        if found != self.record["weights_sha256"]:
            raise UserError(f"{path}: not the weights that the run began with: restore it from a copy")
        try:
            training.adopt(saved)
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{path}: does not fit the recipe: {error!r:.200}") from None


def _read(path: Path, group: Group) -> tuple[State, str]:
    """A model on the disk, and its hash. Of several processes each hashes its share, and reads what it holds later."""
    if group.size == 1:
        saved = checkpoint.load(path, checkpoint.MODEL).tensors
        return saved, hash_tensors(pair for name in checkpoint.MODEL for pair in saved.get(name, {}).items())
    from clearseek.train.parallel.hashes import hash_stored

    stored = checkpoint.open_stored(path, checked=True)
    return stored, hash_stored(
        group, {n: t for name in checkpoint.MODEL if name in stored for n, t in stored[name].items()}
    )


def origin_of(run: Run) -> Seed | Parent | Child:
    """Origin of the run in a folder. Raises UserError where the record of its parent is damaged."""
    record = run.read_parent()
    if record is None:
        return Seed()
    return Parent(run, record) if "optimizer_sha256" in record else Child(run, record)


def restore(training: Training, path: Path, saved: checkpoint.Checkpoint | Stored, tokens: int) -> None:
    """Go to a checkpoint's state. Raises UserError where it is of another model or optimiser."""
    try:
        training.load(saved.step, tokens, saved.tensors)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{path}: does not fit the recipe: {error!r:.200}") from None
