"""The tasks by name, and their options."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import clearseek
from clearseek.errors import OtherVersionError, UserError, nearest
from clearseek.evaluate.records import Head
from clearseek.evaluate.tasks.code import human_eval, python
from clearseek.evaluate.tasks.copying import copying, induction
from clearseek.evaluate.tasks.problems import addition, countdown, gym, sums
from clearseek.evaluate.tasks.task import Asking, Task
from clearseek.evaluate.tasks.text import bits_per_byte

BUILDERS: dict[str, Callable[..., Task]] = {
    "bits-per-byte": bits_per_byte,
    "addition": addition,
    "sums": sums,
    "countdown": countdown,
    "copying": copying,
    "induction": induction,
    "python": python,
    "human-eval": human_eval,
    "reasoning-gym": gym,
}
"""How each task is made, from what is asked and from its own options."""
DEFAULT = ("bits-per-byte", "addition", "sums", "countdown", "copying", "induction", "python")
"""Tasks that need nothing that is not here."""
HARNESS = "harness:"
"""Begins the names of the tasks of lm-evaluation-harness."""


def build(wanted: str, asking: Asking) -> Task:
    """A task by its name, with its options after a colon: ``addition:digits=3,max_tokens=8``.

    Raises UserError for an unknown task or option, for a value that does not fit, and for questions that are not here.
    """
    name, colon, options = wanted.partition(":")
    if name not in BUILDERS:
        if "," in name and all(each in BUILDERS for each in name.split(",")):
            raise UserError(f"{name}: give tasks apart, by spaces: {' '.join(name.split(','))}")
        raise UserError(f"no task {name!r}{nearest(name, BUILDERS)}; tasks: {', '.join(BUILDERS)}, harness:NAME")
    given = [_option(each, name) for each in options.split(",")] if colon else []
    own = dict(given)
    if len(own) < len(given):
        raise UserError(f"{name}: an option twice: {options}")
    return _made(name, own, asking)


def rebuild(head: Head, asking: Asking) -> Task:
    """The task that a file of records is of, from its settings; `asking` gives texts, and whether code may be run.

    Raises:
        OtherVersionError: another ClearSeek asked, and has another task of this name, or one that is not here.
        NotHereError: the task needs what is not on this machine, or not allowed.
        UserError: the settings are not those of this task.
    """
    other = head.environment.get("clearseek") != clearseek.__version__
    refusal = OtherVersionError if other else UserError
    if head.task not in BUILDERS:
        raise refusal(f"no task {head.task!r} in this ClearSeek{nearest(head.task, BUILDERS)}")
    task = _made(head.task, head.settings.get("own"), asking)
    if task.version != head.version:
        raise refusal(f"{head.task}: version {head.version} was asked, and this ClearSeek has {task.version}")
    return task


def _made(name: str, own: Any, asking: Asking) -> Task:
    if not isinstance(own, Mapping):
        raise UserError(f"{name}: its own settings are not a JSON object")
    try:
        return BUILDERS[name](asking, **own)
    except TypeError as error:
        raise UserError(f"{name}: {_unknown(name, own, error)}") from None


def _unknown(name: str, own: Mapping[str, Any], error: TypeError) -> str:
    import inspect

    known = [each for each in inspect.signature(BUILDERS[name]).parameters if each != "asking"]
    _, named, given = str(error).rpartition("argument ")
    if not named:
        texts = ", ".join(f"{key}={value}" for key, value in own.items() if not isinstance(value, int))
        return f"{texts or own}: a value is of another kind than the option: use a number"
    given = given.strip("'\"")
    return f"no option {given!r}{nearest(given, known)}; its options: {', '.join(known) or 'none'}"


def _option(text: str, task: str) -> tuple[str, Any]:
    """Name and value of an option; a value is JSON, or else a text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"{task}: {text!r}: write options as {task}:NAME=VALUE,NAME=VALUE")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value
