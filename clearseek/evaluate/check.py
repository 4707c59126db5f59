"""Records that are looked at again: scores from the records alone, and the records themselves from the weights.

The first needs no model: the questions are made from their settings, their names, prompts, seeds and answers compared,
every output scored again, and the intervals computed again. The second asks the model for the same answers; on the same
kind of machine every bit of them is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import OtherVersionError, UserError
from clearseek.evaluate.answerers import Answerer, Asked, prompt_ids
from clearseek.evaluate.evaluation import asking_of, bits, recorded, settings_of, wanted
from clearseek.evaluate.harness.evaluation import harness_faults
from clearseek.evaluate.records import Head, Index, Record, comparable, identity_of, read_index, read_records
from clearseek.evaluate.records import Task as Listed
from clearseek.evaluate.scores import refuse_uneven, summary
from clearseek.evaluate.tasks import HARNESS, Asking, NotHereError, Question, Task, rebuild
from clearseek.evaluate.tasks.task import Template
from clearseek.files import sha256_file
from clearseek.inference.text import Bytes, Text

_SUMS: Final = 1e-9
"""Largest relative difference of a score by the order in which libraries add."""
_RESAMPLED: Final = 0.02
"""Share of an interval's width by which versions of scipy may resample it differently."""


@dataclass(frozen=True)
class Looked:
    """A task's records, looked at again without the model."""

    task: str
    faults: tuple[str, ...] = ()
    """What is wrong with them, each with file and line."""
    undecided: str = ""
    """Why neither questions nor scores could be looked at here, or an empty string."""
    head: Head | None = None
    """First line of the file; None where it could not be read."""
    records: tuple[Record, ...] = ()


def faults(folder: Path, tokenizer: Tokenizer | None = None, **here: Any) -> Iterator[str]:
    """What is wrong with an evaluation's folder, or cannot be decided, without its model; nothing where all is right.

    Args:
        folder: The evaluation.
        tokenizer: The model's; without it the prompts' ids are taken as they are.
        here: `texts` that were read, and `allow_code`, without which programs are not scored again.
    """
    for looked in look(folder, read_index(folder), tokenizer, **here):
        yield from looked.faults
        if looked.undecided:
            yield looked.undecided


def look(folder: Path, index: Index, tokenizer: Tokenizer | None = None, **here: Any) -> Iterator[Looked]:
    """Each task of an evaluation, looked at again; arguments as of :func:`faults`."""
    for name, task in index.tasks.items():
        path = folder / task.file
        if not path.is_file():  # a device or a pipe would have no end
            yield Looked(name, (f"{path}: no such file: evaluate again",))
            continue
        found = [f"{path}: another file than index.json says"] if sha256_file(path) != task.sha256 else []
        try:
            head, records, chain = read_records(path)
        except UserError as error:
            yield Looked(name, (*found, str(error)))
            continue
        found += [f"{path}:{line}: {what}" for line, what in harness_faults(head, records)]
        undecided = ""
        try:
            for line, what in _faults_of(head, records, tokenizer, here):
                found.append(f"{path}:{line}: {what}")
        except (OtherVersionError, NotHereError) as error:
            undecided = str(error)
        except UserError as error:
            found.append(f"{path}:1: {error}")
        there, stated = comparable(head.model, identity_of(index.model))
        if head.task != name or there != stated or chain != task.chain:
            found.append(f"{path}: its task, model or last hash is another than index.json says")
        try:
            refuse_uneven(head, records)
            same = _same_scores(summary(head, records), task)
        except UserError as error:
            found.append(f"{path}: {error}")
        else:
            found += [f"{path}: scores in index.json are not those of the records"] * (not same)
        yield Looked(name, tuple(found), undecided, head, tuple(records))


def _same_scores(ours: dict[str, Any], task: Listed) -> bool:
    """Whether scores are those that the index states, but for what versions of libraries round or resample."""
    stated: dict[str, Any] = task.scores
    if ours.keys() != stated.keys():
        return False
    resampled = not {"exact", "fixed"} & ours.keys()  # scipy's bootstrap
    return all(
        _near(value, stated[name], _RESAMPLED if resampled and name == "sampled" else 0.0)
        for name, value in ours.items()
    )


def _near(ours: Any, stated: Any, share: float) -> bool:
    if isinstance(ours, list) and isinstance(stated, list) and len(ours) == len(stated):
        width = share * (ours[-1] - ours[0]) if ours else 0.0
        return all(_close(one, other, width) for one, other in zip(ours, stated, strict=True))
    if isinstance(ours, dict) and isinstance(stated, dict):
        return ours.keys() == stated.keys() and all(_close(ours[each], stated[each], 0.0) for each in ours)
    return _close(ours, stated, 0.0)


def _close(one: Any, other: Any, width: float) -> bool:
    if type(one) is float and type(other) is float:
        return math.isclose(one, other, rel_tol=_SUMS, abs_tol=max(_SUMS, width))
    return type(one) is type(other) and bool(one == other)


def _faults_of(
    head: Head, records: Sequence[Record], tokenizer: Tokenizer | None, here: dict[str, Any]
) -> Iterator[tuple[int, str]]:
    """Lines with what is wrong with them."""
    if len(records) != head.questions * head.samples:  # before so many are made as the file says
        yield 1, f"{len(records):,} records of {head.questions * head.samples:,}"
        return
    task, asking = task_of(head, here)
    every = wanted(task, asking)
    if settings_of(task, asking) != head.settings or len(task.questions) != head.questions:
        yield 1, "settings that make other questions"
    bytes_of = None if tokenizer is None else Bytes(tokenizer)
    for line, (record, asked) in enumerate(zip(records, every, strict=False), 2):
        for what in _faults_of_one(record, asked, task, asking, tokenizer):
            yield line, what
        if (
            tokenizer is not None
            and bytes_of is not None
            and (what := _output_fault(record, task, tokenizer, bytes_of))
        ):
            yield line, what


def task_of(head: Head, here: dict[str, Any]) -> tuple[Task, Asking]:
    """The task that a file is of, with what was asked. Raises as :func:`clearseek.evaluate.tasks.rebuild` does."""
    if head.task.startswith(HARNESS):
        raise NotHereError(f"{head.task}: asked and scored by lm-evaluation-harness, which is not run again here")
    asking = asking_of(head, **here)
    return rebuild(head, asking), asking


def _faults_of_one(
    record: Record, asked: Asked, task: Task, asking: Asking, tokenizer: Tokenizer | None
) -> Iterator[str]:
    question = asked.question
    place, wanted_place = (record.question, record.sample), (asked.number, asked.sample)
    if place != wanted_place or record.name != question.name or record.answer != question.answer:
        yield f"question {wanted_place} is another one: {question.name!r:.80}"
        return
    seed = 0 if task.reads else asked.seed
    if record.seed != seed:
        yield f"seed {record.seed}, where {seed} is this question's"
    if fault := _prompt_fault(record, question, asking.template, task.reads, tokenizer):
        yield fault
    if record.missing:
        if not record.note or record.logprobs:
            yield "an answer that did not come, without saying why, or with log-probabilities"
        return
    if task.reads:
        if record.output != question.target:
            yield "another text was read"
        score, note = bits(record.logprobs or ()), ""
    else:
        score, note = task.score(question, record.output, record.ended)
    if score != record.score or note != record.note:
        yield f"score {record.score} ({record.note}), where the output has {score} ({note})"


def _prompt_fault(
    record: Record, question: Question, template: Template, reads: bool, tokenizer: Tokenizer | None
) -> str:
    """What is wrong with a record's prompt and its ids."""
    other = "another prompt than the question's"
    if record.prompt_ids is None:
        return "" if record.prompt == (question.chat if template == "chat" else question.prompt) else other
    if tokenizer is None:
        return ""
    ids = prompt_ids(tokenizer, question, template)
    # Of a text that is read, as much is before it as the model's sequences have.
    fits = ids[len(ids) - len(record.prompt_ids) :] == record.prompt_ids if reads else ids == record.prompt_ids
    return "" if fits and tokenizer.decode(record.prompt_ids) == record.prompt else other


def _output_fault(record: Record, task: Task, tokenizer: Tokenizer, bytes_of: Bytes) -> str:
    """What is wrong with an output's ids and their log-probabilities."""
    ids, logprobs = record.output_ids, record.logprobs
    if record.missing or ids is None:
        return ""
    if logprobs is None or len(logprobs) != len(ids) or any(each > 0 for each in logprobs):
        return "not a log-probability for each id of the output"
    if task.reads:
        return "" if ids == tokenizer.encode(record.output) else "the output's ids are another text"
    text, written = Text(bytes_of, task.stops), ""
    for place, each in enumerate(ids, 1):
        written += text.add(each)
        if each == tokenizer.eos_id or (text.stopped is not None and place < len(ids)):
            return "the output's ids go on behind its end"
    written += text.end()
    if written != record.output:
        return "the output's ids are another text"
    if text.stopped is not None:
        return "" if record.ended else "the output has a text that ends it, and the record says that it did not end"
    if len(ids) > task.max_tokens or (record.ended and len(ids) == task.max_tokens):
        return f"more than the {task.max_tokens} ids that an output may have"
    return ""


def differences(
    answerer: Answerer, head: Head, records: Sequence[Record], chosen: Sequence[int], **here: Any
) -> Iterator[tuple[int, Record]]:
    """Records that come out otherwise when their questions are asked again, with what came.

    Args:
        answerer: The same model, on the same kind of machine.
        head: First line of the records' file.
        records: All records of the file.
        chosen: Numbers of the records to ask for again.
        here: As of :func:`faults`.
    """
    task, asking = task_of(head, here)
    every = wanted(task, asking)
    for first in range(0, len(chosen), answerer.at_once):
        numbers = chosen[first : first + answerer.at_once]
        asked = [every[number] for number in numbers]
        for number, each, found in zip(numbers, asked, answerer.answer(task, asking, asked), strict=True):
            again = recorded(task, each, found)
            if again != records[number]:
                yield number, again
