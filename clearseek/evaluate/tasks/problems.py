"""The generators and strict rewards of post-training as tasks, held-out problems only (:mod:`clearseek.problems`)."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError

from clearseek.config import ProblemsConfig
from clearseek.errors import UserError
from clearseek.evaluate.tasks.task import Asking, NotHereError, Question, Task
from clearseek.problems.problems import GENERATOR, Problem, Problems
from clearseek.problems.prompts import score
from clearseek.problems.rewards import Scored


def addition(asking: Asking, digits: int = 2, working: bool = False, max_tokens: int = 0) -> Task:
    """Two numbers of so many digits are added."""
    longest = max_tokens or (16 * digits + 16 if working else digits + 4)
    return _task("addition", asking, {"digits": digits, "working": working}, longest)


def sums(asking: Asking, digits: int = 2, numbers: int = 3, max_tokens: int = 0) -> Task:
    """Several numbers of so many digits are added."""
    return _task("sums", asking, {"digits": digits, "numbers": numbers}, max_tokens or digits + 5)


def countdown(
    asking: Asking, numbers: int = 3, largest: int = 25, largest_target: int = 100, max_tokens: int = 0
) -> Task:
    """A target is made from numbers, each used once."""
    own = {"numbers": numbers, "largest": largest, "largest_target": largest_target}
    return _task("countdown", asking, own, max_tokens or 8 * numbers)


def gym(asking: Asking, dataset: str = "", max_tokens: int = 32, generator: str = "", **options: Any) -> Task:
    """A data set of reasoning-gym whose answers are integers; its generator makes them, and our scorer scores them.

    `generator` is not chosen: it says which version made the questions, and must be the one that is here.
    """
    if not dataset:
        raise UserError("reasoning-gym: say which data set: reasoning-gym:dataset=basic_arithmetic")
    if find_spec("reasoning_gym") is None:
        raise NotHereError("reasoning-gym: its generators are not here: pip install 'clearseek[gym]'")
    here = version("reasoning-gym")
    if generator and generator != here:
        raise NotHereError(f"reasoning-gym: asked by its version {generator!s:.20}, and this is {here}")
    task = _task("reasoning-gym", asking, {"dataset": dataset, "options": options or None}, max_tokens)
    return replace(task, own={**task.own, "generator": here})


def _task(kind: str, asking: Asking, own: dict[str, Any], max_tokens: int) -> Task:
    try:
        config = ProblemsConfig.model_validate({"kind": kind, "seed": asking.seed, "template": asking.template, **own})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"])) or "options"
        raise UserError(f"{kind}: {place} = {fault['input']!r:.60}: {fault['msg']}") from None
    _refuse_tokens(kind, max_tokens)
    problems = _first(Problems(config), asking.questions)
    questions = tuple(Question(f"{kind} {each.prompt}", each.prompt, each.question, each.answer) for each in problems)
    by_name = dict(zip(questions, problems, strict=True))

    def scored(question: Question, output: str, ended: bool) -> Scored:
        return score(by_name[question], output, ended, config.template)

    options = own.pop("options", None) or {}
    return Task(kind, GENERATOR, {**own, **options, "max_tokens": max_tokens}, questions, scored, max_tokens)


def _first(problems: Problems, count: int) -> list[Problem]:
    """The first held-out problems with different prompts: as many as are wanted, or as there are."""
    found = dict[str, Problem]()
    index = 0
    while len(found) < count and index - len(found) <= 1000 + 10 * len(found):
        problem = problems.held_out(index)
        found.setdefault(problem.prompt, problem)
        index += 1
    return list(found.values())


def _refuse_tokens(task: str, max_tokens: int) -> None:
    if type(max_tokens) is not int or not 1 <= max_tokens <= 1 << 20:
        raise UserError(f"{task}: max_tokens = {max_tokens!r}: use a whole number from 1 up")
