"""An evaluation: tasks are asked, answers scored and kept, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import clearseek
from clearseek.cores import default_threads
from clearseek.errors import UserError
from clearseek.evaluate.answerers import Answered, Answerer, Asked, seed_of
from clearseek.evaluate.records import (
    Head,
    Index,
    Log,
    Record,
    file_name,
    identity_of,
    known_of,
    refuse_other_model,
    served_in,
    write_index,
)
from clearseek.evaluate.records import Task as Listed
from clearseek.evaluate.scores import summary
from clearseek.evaluate.tasks import MOST_QUESTIONS, MOST_SAMPLES, Asking, Task
from clearseek.files import sha256_file, writing
from clearseek.locks import exclusive

Progress = Callable[[str, int, int], None]
"""Called with a task's name, and with answers that came and that are wanted."""


class StoppedError(Exception):
    """The evaluation was told to stop; what came is kept, and it goes on from there."""


def evaluate(
    answerer: Answerer, tasks: Sequence[Task], asking: Asking, folder: Path, progress: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Index:  # fmt: skip
    """Ask all tasks, and keep the records in `folder`; what is there already is not asked again.

    Args:
        answerer: Who answers.
        tasks: The tasks, of different names.
        asking: What is asked of all of them.
        folder: The evaluation's folder, new, or one of the same evaluation that goes on.
        progress: Called after every few answers.
        stopped: Whether to stop; looked at after every few answers.

    Raises:
        UserError: the folder holds another evaluation, or no answers come any more.
        StoppedError: `stopped` said so.

    Returns the index of these tasks; the folder's has those of earlier evaluations of the same model as well.
    """
    index = Index(model=answerer.model, tasks={})
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / ".evaluating", str(folder)):
        refuse_other_model(folder, index)
        served = _Served(folder)
        for task in tasks:
            log = Log(folder / file_name(task.name), head_of(answerer, task, asking))
            served.refuse_other(log.records)
            _ask(answerer, task, asking, log, served, progress or (lambda task, done, total: None), stopped)
            index.tasks[task.name] = listed(log.path, log.head, log.records, log.chain)
            index = index.model_copy(update={"model": known_of(log.head.model, index.model)})
            write_index(folder, index)
    return index


def listed(path: Path, head: Head, records: Sequence[Record], chain: str) -> Listed:
    """A task's file as the index lists it."""
    return Listed(file=path.name, sha256=sha256_file(path), chain=chain, scores=summary(head, records))


def head_of(answerer: Answerer, task: Task, asking: Asking) -> Head:
    """First line of a task's file."""
    if asking.template == "chat" and not task.in_chat:
        raise UserError(f"{task.name} cannot be asked in a chat: leave it out, or say --template plain")
    if asking.samples > 1 and asking.temperature == 0:
        raise UserError(f"--samples {asking.samples}: at temperature 0 all are alike: say --temperature 1")
    return Head(
        task=task.name, version=task.version, settings=settings_of(task, asking),
        model=identity_of(answerer.model),
        environment={"clearseek": clearseek.__version__, **answerer.environment}, questions=len(task.questions),
        samples=1 if task.reads else asking.samples,
    )  # fmt: skip


def settings_of(task: Task, asking: Asking) -> dict[str, Any]:
    """All that decides questions, draws and scores."""
    drawn = {
        "temperature": asking.temperature,
        "draws": asking.draws,
        "template": asking.template,
        "stops": list(task.stops),
    }
    return {"questions": asking.questions, "seed": asking.seed, "own": dict(task.own)} | ({} if task.reads else drawn)


def asking_of(head: Head, **here: Any) -> Asking:
    """What was asked, from a file's first line; `here` gives texts, and whether code may be run."""
    s: dict[str, Any] = head.settings
    try:
        asking = Asking(
            int(s["questions"]), head.samples, float(s.get("temperature", 0.0)), s.get("template", "plain"),
            int(s["seed"]), draws=int(s.get("draws", 0)), **here,
        )  # fmt: skip
        if not (1 <= asking.questions <= MOST_QUESTIONS and asking.samples <= MOST_SAMPLES):
            raise ValueError(f"{asking.questions:,} questions, {asking.samples:,} samples")
        return asking
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{head.task}: settings that are not whole: {error}") from None


def wanted(task: Task, asking: Asking) -> list[Asked]:
    """Every answer that an evaluation asks for, in order."""
    samples = 1 if task.reads else asking.samples
    return [
        Asked(number, question, sample, seed_of(asking, task.name, number, sample))
        for number, question in enumerate(task.questions)
        for sample in range(samples)
    ]


def recorded(task: Task, asked: Asked, found: Answered) -> Record:
    """An answer with its score."""
    score, note = None, found.missing
    if not note and task.reads:
        score, note = bits(found.logprobs or ()), ""
    elif not note:
        score, note = task.score(asked.question, found.output, found.ended)
    if score is not None and not math.isfinite(score):
        score, note = None, "a log-probability that is no number"
    return Record(
        question=asked.number, sample=asked.sample, name=asked.question.name, prompt=found.prompt,
        prompt_ids=found.prompt_ids, output=found.output, output_ids=found.output_ids,
        logprobs=None if score is None else found.logprobs, ended=found.ended, seed=0 if task.reads else asked.seed,
        answer=asked.question.answer, score=score, note=note,
        served=found.served,
    )  # fmt: skip


def bits(logprobs: Iterable[float]) -> float:
    """Bits of a text, from the natural log-probabilities of its tokens."""
    return -math.fsum(logprobs) / math.log(2) + 0.0  # no negative zero


class _Served:
    """The model that an endpoint says it serves, in the answers that a folder has and in those that come."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._known = folder, served_in(folder)

    def refuse_other(self, records: Iterable[Record]) -> None:
        """Raise UserError for an answer that says it is of another model than those before."""
        for served in (record.served for record in records if record.served):
            self._known = self._known or served
            if served != self._known:
                raise UserError(
                    f"{self._folder}: its answers are of the model {self._known!r:.80}, as the endpoint said, and now "
                    f"it says {served!r:.80}: let it serve the first one again, or give another --out"
                )


def _ask(
    answerer: Answerer, task: Task, asking: Asking, log: Log, served: _Served, progress: Progress,
    stopped: Callable[[], bool],
) -> None:  # fmt: skip
    every = wanted(task, asking)
    _refuse_others(log, every)
    lost = [number for number, record in enumerate(log.records) if record.missing]
    progress(task.name, len(log.records), len(every))
    while len(log.records) < len(every):
        if stopped():
            raise StoppedError
        done = len(log.records)
        _asked(answerer, task, asking, every[done : done + answerer.at_once], served, log.add)
        progress(task.name, len(log.records), len(every))
    if lost:  # in an earlier attempt
        records, found = list(log.records), list[Record]()
        try:
            for first in range(0, len(lost), answerer.at_once):
                if stopped():
                    raise StoppedError
                numbers = lost[first : first + answerer.at_once]
                _asked(answerer, task, asking, [every[number] for number in numbers], served, found.extend)
        finally:  # what came is kept, also before a fault
            for number, record in zip(lost, found, strict=False):
                records[number] = record
            log.replace(records)


def _asked(
    answerer: Answerer, task: Task, asking: Asking, asked: Sequence[Asked], served: _Served,
    keep: Callable[[list[Record]], None],
) -> None:  # fmt: skip
    """Ask a few; what came before a fault is kept too, but for answers of another model."""
    found, fault = list[Answered](), None
    try:
        found += answerer.answer(task, asking, asked)
    except UserError as error:
        fault = error
    with ThreadPoolExecutor(default_threads()) as pool:
        records = list(pool.map(lambda pair: recorded(task, *pair), zip(asked, found, strict=False)))
    served.refuse_other(records)
    keep(records)
    if fault is not None:
        raise fault


def _refuse_others(log: Log, every: Sequence[Asked]) -> None:
    for record, asked in zip(log.records, every, strict=False):
        if (record.question, record.sample, record.name) != (asked.number, asked.sample, asked.question.name):
            raise UserError(f"{log.path}: its records are not of these questions, in this order: give another --out")
    if len(log.records) > len(every):
        raise UserError(f"{log.path}: more records than questions: give another --out")
