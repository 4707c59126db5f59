"""Children: what re-execution needs of a model that was made from another one.

A task of post-training reads its run's folder (the parent's weights, what a teacher said) and writes into it (what the
model wrote). Nothing is ever written into a release, so it works in a folder of its own, whose entries are links into
``training/``. Completions of a run are in ``training/rollouts/``, a file a round, whose hash the round's lines state.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Grade, Row
from clearseek.config import Recipe
from clearseek.errors import UserError
from clearseek.files import sha256_file
from clearseek.posttrain.distil import student
from clearseek.posttrain.methods import method_of
from clearseek.posttrain.parent import weights_of
from clearseek.posttrain.rollouts import ROUNDS, Rollouts, round_file
from clearseek.reading.evidence import Evidence
from clearseek.train.checkpoints import checkpoint
from clearseek.train.chunks import hash_tensors
from clearseek.train.run import Run
from clearseek.train.task import Task
from clearseek.verify.rows import MachineError

_PLACE: Final = Evidence("training/parent/parent.json")


def working_run(training: Run, folder: Path, parent: Path | None) -> Run:
    """A run folder to train in again, with all of a release's ``training/`` but the completions.

    Args:
        training: The release's.
        folder: An empty folder.
        parent: Where the parent's weights are, for a release that only names them; they are copied.

    Raises:
        UserError: `parent` holds other weights than the release names.
    """
    for path in sorted(training.root.iterdir()):
        if path.name not in (ROUNDS, training.parent.name):
            (folder / path.name).symlink_to(path.resolve())
    run = Run(folder)
    run.parent.mkdir()
    for path in sorted(training.parent.iterdir()) if training.parent.is_dir() else ():
        (run.parent / path.name).symlink_to(path.resolve())
    if parent is not None and not checkpoint.steps(run.parent):
        stated = (run.read_parent() or {}).get("weights_sha256")
        _, tensors, _ = weights_of(parent)
        found = hash_tensors(pair for group in tensors.values() for pair in group.items())
        if found != stated:
            raise MachineError(f"{parent}: its weights are {found}, and the run began with {stated}: give its parent")
        checkpoint.save(run.parent, 0, tensors, {}, keep=1)
    return run


def refuse_absent_parent(run: Run) -> None:
    """Raise MachineError where the weights that a run began with are not at hand."""
    if not checkpoint.steps(run.parent):
        record = run.read_parent() or {}
        raise MachineError(
            f"the release names the weights that it began with ({record.get('name', 'no name')}, SHA-256 "
            f"{record.get('weights_sha256')}) and does not hold them: say where they are with --parent"
        )


def refuse_absent_teacher(recipe: Recipe, read_sources: bool) -> None:
    """Raise MachineError where steps need a teacher that has to be run, and must not be read."""
    distil = recipe.distil
    if distil is not None and not read_sources and (writes(recipe) or (distil.form == "logits" and not distil.top_k)):
        raise MachineError(
            f"the teacher ({distil.teacher}) is elsewhere; --read-sources reads files here that the recipe names"
        )


def task_of(recipe: Recipe, run: Run, data: Path, steps: bool, read_sources: bool) -> Task:
    """The task of a release's recipe, from its folders.

    Raises MachineError where it needs what no release holds: a teacher, or the generators of another package. Without
    `steps`, a task that writes its own texts has no teacher.
    """
    distil, problems = recipe.distil, recipe.problems
    if distil is not None and writes(recipe) and not steps:
        return student(recipe, run, data)
    refuse_absent_teacher(recipe, read_sources)
    try:
        return method_of(recipe).task(recipe, run, run.parent if recipe.grpo is not None else data)
    except UserError as error:
        teacher = distil is not None and (writes(recipe) or distil.form == "logits")
        if teacher or (problems is not None and problems.kind in ("reasoning-gym", "code")):
            raise MachineError(str(error)) from None
        raise


# -- completions ------------------------------------------------------------------------------------------------------


def writes(recipe: Recipe) -> bool:
    """Whether a run learns from what the model itself writes."""
    return recipe.grpo is not None or (recipe.distil is not None and recipe.distil.form == "on-policy")


def round_of(recipe: Recipe, step: int) -> tuple[int, int]:
    """Number of the round that a step learns from, and how many updates came before it."""
    return divmod(step - 1, recipe.grpo.updates if recipe.grpo is not None else 1)


def published_round(training: Run, number: int, stated: str | None) -> Rollouts:
    """The completions of a round, whose file must have the hash that the transcript states.

    Raises MachineError where they are not in the release, UserError where they are others.
    """
    file = round_file(training.root, number)
    if not file.is_file():
        raise MachineError(f"{file.name}: the completions of round {number} are not in the release")
    if sha256_file(file) != stated:
        raise UserError(f"{file.name}: not the completions whose hash the transcript has")
    rollouts = Rollouts.read(file)
    if rollouts.sha256() != stated:
        raise UserError(f"{file.name}: holds more than completions")
    return rollouts


# -- the parent -------------------------------------------------------------------------------------------------------


def parent_row(training: Run, header: Mapping[str, Any], recipe: Recipe) -> Row:
    """Row of a model that was made from another: which one, whether its weights are here, and what stays unproven."""
    question, stated = ask.VERIFY_PARENT, header.get("parent")
    if not isinstance(stated, dict) or training.read_parent() != stated:
        reason = "training/parent/parent.json is not what the transcript says of the parent"
        return question.no(Grade.CLAIMED, reason, _PLACE)
    digest, name = str(stated.get("weights_sha256")), str(stated.get("name", "a model without a name"))
    asked = recipe.parent.sha256 if recipe.parent is not None else None
    if asked not in (None, digest):
        reason = f"the recipe asks for weights {asked}, and the transcript names {digest}"
        return question.no(Grade.CLAIMED, reason, _PLACE)
    tokenizer = training.parent / "tokenizer.json"
    if tokenizer.is_file() and sha256_file(tokenizer) != stated.get("tokenizer_sha256"):
        reason = "training/parent/tokenizer.json is not the tokenizer that the transcript names"
        return question.no(Grade.CLAIMED, reason, _PLACE)
    held = "which are not here"
    if checkpoint.steps(training.parent):
        saved = checkpoint.load(checkpoint.find(training.parent, 0), checkpoint.MODEL)
        found = hash_tensors(pair for group in checkpoint.MODEL for pair in saved.tensors.get(group, {}).items())
        if found != digest:
            reason = f"the weights in training/parent have the SHA-256 {found}, and the transcript names {digest}"
            return question.no(Grade.CLAIMED, reason, _PLACE)
        held = "which are here and have that hash"
    reason = f"it was made from {name}, whose weights have the SHA-256 {digest}, {held}: "
    reason += "only a release of that model could prove how they were made"
    if head := stated.get("transcript_head"):
        reason += f"; the last line of its transcript is {head}"
    return question.unknown(Grade.PRESENT if held.startswith("which are here") else Grade.CLAIMED, reason, _PLACE)
