"""Records that are looked at again: scores from the records alone, and the records themselves from the weights.

The first needs no model: the questions are made from their settings, their names, prompts, seeds and answers compared,
every output scored again, and the intervals computed again. The second asks the model for the same answers; on the same
kind of machine every bit of them is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clearseek.chat.render import render
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.evaluate.answerers import Answerer, Asked
from clearseek.evaluate.evaluation import asking_of, bits, listed, recorded, settings_of, wanted
from clearseek.evaluate.records import Head, Record, read_index, read_records
from clearseek.evaluate.tasks import Asking, Task, rebuild
from clearseek.files import sha256_file


def faults(folder: Path, tokenizer: Tokenizer | None = None, **here: Any) -> Iterator[str]:
    """What is wrong with an evaluation's folder, without its model; nothing where all is right.

    Args:
        folder: The evaluation.
        tokenizer: The model's; without it the prompts' ids are taken as they are.
        here: `texts` that were read, and `allow_code`, without which programs are not scored again.
    """
    index = read_index(folder)
    for name, task in index.tasks.items():
        path = folder / task.file
        if sha256_file(path) != task.sha256:
            yield f"{path}: another file than index.json says"
        try:
            head, records, chain = read_records(path)
            found = list(_faults_of(head, records, tokenizer, here))
        except UserError as error:
            yield str(error)
            continue
        yield from (f"{path}:{line}: {what}" for line, what in found)
        if head.task != name or head.model != index.model or chain != task.chain:
            yield f"{path}: its task, model or last hash is another than index.json says"
        if listed(path, head, records, chain).scores != task.scores:
            yield f"{path}: scores in index.json are not those of the records"


def _faults_of(
    head: Head, records: Sequence[Record], tokenizer: Tokenizer | None, here: dict[str, Any]
) -> Iterator[tuple[int, str]]:
    """Lines with what is wrong with them."""
    task, asking = task_of(head, here)
    every = wanted(task, asking)
    if settings_of(task, asking) != head.settings or len(task.questions) != head.questions:
        yield 1, "settings that make other questions"
    if len(records) != len(every):
        yield 1, f"{len(records):,} records of {len(every):,}"
    for line, (record, asked) in enumerate(zip(records, every, strict=False), 2):
        for what in _faults_of_one(record, asked, task, asking, tokenizer):
            yield line, what


def task_of(head: Head, here: dict[str, Any]) -> tuple[Task, Asking]:
    """The task that a file is of, with what was asked."""
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
    if not task.reads and record.seed != asked.seed:
        yield f"seed {record.seed}, where {asked.seed} is this question's"
    if (fault := _prompt_fault(record, question.chat if asking.template == "chat" else question.prompt, task, asking,
                               tokenizer)):  # fmt: skip
        yield fault
    if record.missing:
        return
    if task.reads:
        if record.output != question.target:
            yield "another text was read"
        score, note = bits(record.logprobs or ()), ""
    else:
        score, note = task.score(question, record.output, record.ended)
    if score != record.score or note != record.note:
        yield f"score {record.score} ({record.note}), where the output has {score} ({note})"


def _prompt_fault(record: Record, text: str, task: Task, asking: Asking, tokenizer: Tokenizer | None) -> str:
    """What is wrong with a record's prompt and ids."""
    if record.prompt_ids is None:
        return "" if record.prompt == text else "another prompt than the question's"
    if tokenizer is None:
        return ""
    if asking.template == "chat" and not task.reads:
        ids = render(tokenizer, [{"role": "user", "content": text}]).ids
    else:
        ids = [tokenizer.bos_id, *tokenizer.encode(text)]
    fits = ids[len(ids) - len(record.prompt_ids) :] == record.prompt_ids if task.reads else ids == record.prompt_ids
    if not fits or tokenizer.decode(record.prompt_ids) != record.prompt:
        return "another prompt than the question's"
    outputs = record.output_ids or []
    written = tokenizer.decode([each for each in outputs if each != tokenizer.eos_id])
    return "" if record.missing or written.startswith(record.output) else "the output's ids are another text"


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
