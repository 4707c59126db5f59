"""What was asked and answered: a line of JSON for each sample, so that anyone can score it again, or ask again.

An evaluation is a folder. It has one file for each task, ``TASK.jsonl``, and ``index.json`` with each file's hash and
scores. A file's first line, its *head*, says what was asked of whom: the task with its version and settings, the model,
and what decides its answers' bits. Every line carries the SHA-256 of the line before and its own content, as the
transcript of a training run does: a line that is changed, left out or put elsewhere breaks all after it.

Nothing that differs from one asking to the next, such as a time, is in these files, so that the same model on the same
kind of machine gives the same bytes, also where a kill came between.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import PydanticCustomError

from clearseek.errors import UserError
from clearseek.files import append, reading, write_atomic, writing
from clearseek.jsontext import strict_json

FORM: Final = "clearseek-evaluation-1"
INDEX = "index.json"
LONGEST_LINE = 64 << 20
"""Bytes of a record; a longer one is refused."""
LONGEST_FILE = 1 << 30
"""Bytes of a task's file; a longer one is refused, for a reader holds all of it."""
LONGEST_INDEX = 16 << 20
_START = "0" * 64


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
TaskName = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$")]
"""One line that steers no terminal: it stands in tables, in cards and in commands."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
_Model = dict[str, JsonValue]


def _named(model: _Model) -> _Model:
    """A model with its name, which every table and sentence says."""
    if not isinstance(model.get("name"), str):
        raise PydanticCustomError("name", "its name must be stated, as a text")
    return model


def _identified(model: _Model) -> _Model:
    """A model with its weights' hash, beside which its name is left out, or with its name."""
    return model if "weights_sha256" in model and "name" not in model else _named(model)


class Head(_Strict):
    """What was asked of whom."""

    form: Literal["clearseek-evaluation-1"] = FORM
    task: TaskName
    version: Count
    """Of the task: another one may ask or score differently."""
    settings: dict[str, JsonValue]
    """Everything that decides the questions, the draws and the scores."""
    model: Annotated[_Model, AfterValidator(_identified)]
    """The weights' SHA-256, or name and address, as :func:`identity_of` says."""
    environment: dict[str, JsonValue]
    """What besides weights and prompts decides the answers' bits."""
    questions: Count
    samples: Annotated[int, Field(ge=1)] = 1
    """Answers to each question."""


class Record(_Strict):
    """One answer to one question."""

    question: Count
    """Number of the question in its task."""
    sample: Count = 0
    """Number of the answer to it."""
    name: str
    """What the question asks, in one spelling for all models: answers of two models are paired by it."""
    prompt: str
    """As the model got it: rendered by its template."""
    prompt_ids: list[Count] | None = None
    """None where the model is behind an API that takes text."""
    output: str = ""
    """As the model wrote it, without the text or token that ended it."""
    output_ids: list[Count] | None = None
    logprobs: list[float] | None = None
    """Natural logarithms of the probabilities of the output's tokens, or of the text's that was read."""
    ended: bool = True
    """Whether the model ended its output itself."""
    seed: Count = 0
    answer: str = ""
    """The right answer, or what else the score was made from."""
    score: float | None = None
    """Reward from 0 to 1, or bits; None where no answer came, which is never counted as a wrong one."""
    note: str = ""
    """Why this score, or why no answer came."""
    served: str | None = None
    """Model that an endpoint's answer says it is of, empty where it does not say; None for a model that is here."""
    harness: dict[str, JsonValue] | None = None
    """All that lm-evaluation-harness asked and measured, of a task of its own."""

    @property
    def missing(self) -> bool:
        """Whether no answer came."""
        return self.score is None


_T = TypeVar("_T", Head, Record)


class Task(_Strict):
    """A task's file, as the index lists it."""

    file: str
    sha256: Sha256
    chain: Sha256
    """Hash of the last line."""
    scores: dict[str, JsonValue]
    """What the records come to; :func:`clearseek.evaluate.scores.summary` makes it from them alone."""


class Index(_Strict):
    """The tasks of an evaluation, and of which model."""

    form: Literal["clearseek-evaluation-1"] = FORM
    model: Annotated[_Model, AfterValidator(_named)]
    tasks: dict[TaskName, Task]


def file_name(task: str) -> str:
    """Name of a task's file: the task's name, in which only letters, digits, points, dashes and underscores stay."""
    safe = "".join(each if each.isascii() and (each.isalnum() or each in "-_.") else "-" for each in task)
    short = safe if safe == task and len(safe) <= 80 else f"{safe[:80]}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"
    return f"{short}.jsonl"


class Log:
    """A task's file that is being written; a new one, or one that goes on after a kill.

    Lines that are whole stay, the head too; a torn last one is cut off. Raises UserError where the file holds another
    evaluation.
    """

    def __init__(self, path: Path, head: Head) -> None:
        self.path, self.head, self.records, self.chain = path, head, list[Record](), _START
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and (kept := self._kept()):
            with writing(path):
                os.truncate(path, kept)
        else:
            line, self.chain = _line(head, _START)
            write_atomic(path, line)

    def _kept(self) -> int:
        """Read the lines that are whole; return their bytes."""
        kept, lines = 0, _lines(self.path, torn=True)
        for number, (raw, content) in enumerate(lines):
            where = f"{self.path}:{number + 1}"
            if number == 0:
                found, self.chain = _parsed(content, where, Head, self.chain)
                there, here = (
                    head.model_copy(update={"model": model}).model_dump(mode="json")
                    for head, model in zip((found, self.head), comparable(found.model, self.head.model), strict=True)
                )
                if there != here:
                    raise UserError(
                        f"{self.path}: holds an evaluation that was asked otherwise ({unlike(there, here)}): give "
                        f"another --out, such as --out {self.path.parent}-2"
                    )
                self.head = found
            else:
                record, self.chain = _parsed(content, where, Record, self.chain)
                self.records.append(record)
            kept += len(raw)
        return kept

    def add(self, records: Sequence[Record]) -> None:
        """Append records, and have them on the disk."""
        text = ""
        for record in records:
            line, self.chain = _line(record, self.chain)
            text += line
        with writing(self.path), self.path.open("ab", buffering=0) as file:
            append(file, text.encode())
            os.fsync(file.fileno())
        self.records += records

    def replace(self, records: Sequence[Record]) -> None:
        """Write all records anew, at once."""
        text, self.chain = _line(self.head, _START)
        for record in records:
            line, self.chain = _line(record, self.chain)
            text += line
        write_atomic(self.path, text)
        self.records = list(records)


def read_records(path: Path) -> tuple[Head, list[Record], str]:
    """Head, records and last hash of a task's file.

    Raises UserError, with the line, for what is not whole, not of the form, or does not follow from the line before.
    """
    _refuse_longer(path, LONGEST_FILE)
    lines = _lines(path, torn=False)
    first = next(lines, None)
    if first is None:
        raise UserError(f"{path}: empty: evaluate again")
    head, chain = _parsed(first[1], f"{path}:1", Head, _START)
    records = []
    for number, (_, content) in enumerate(lines, 2):
        record, chain = _parsed(content, f"{path}:{number}", Record, chain)
        records.append(record)
    return head, records, chain


def read_head(raw: bytes, where: str) -> Head:
    """Head of a task's file from its first line. Raises UserError for a line of another form, or another hash."""
    return _parsed(strict_json(raw, where), where, Head, _START)[0]


def read_index(folder: Path) -> Index:
    """An evaluation's index. Raises UserError for one that is absent or not of the form."""
    path = folder / INDEX
    _refuse_longer(path, LONGEST_INDEX)
    with reading(path, "give the folder of an evaluation that was finished"):
        raw = path.read_bytes()
    try:
        index = Index.model_validate(strict_json(raw, str(path)))
    except ValidationError as error:
        raise UserError(f"{path}: {_first(error)}: evaluate again") from None
    for name, task in index.tasks.items():
        if task.file != file_name(name):
            raise UserError(f"{path}: tasks.{name}.file = {task.file!r}: it must be {file_name(name)}")
    return index


def identity_of(model: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """What makes a model that one: its weights and tokenizer, or, behind an API, its name and the address."""
    return {key: value for key, value in model.items() if key != "name" or "weights_sha256" not in model}


def comparable(found: _Model, wanted: _Model) -> tuple[_Model, _Model]:
    """Two models as they are compared: of what an endpoint lists of its model, only what is said of both.

    A list that cannot be had this time says nothing of the model.
    """
    one, other = found.get("listed"), wanted.get("listed")
    if one is None or other is None:
        one = other = None
    elif isinstance(one, dict) and isinstance(other, dict):
        one, other = ({key: each[key] for key in one.keys() & other.keys()} for each in (one, other))
    return found | {"listed": one}, wanted | {"listed": other}


def known_of(before: _Model, model: _Model) -> _Model:
    """A model with what was listed of it before as well, so that nothing that was ever said is forgotten."""
    one, other = before.get("listed"), model.get("listed")
    if not isinstance(one, dict):
        return model
    return model | {"listed": one | other if isinstance(other, dict) else one}


def refuse_other_model(folder: Path, index: Index) -> None:
    """Raise UserError where a folder holds an evaluation of another model than an index is of."""
    if not (folder / INDEX).is_file():
        return
    found, wanted = comparable(identity_of(read_index(folder).model), identity_of(index.model))
    if found != wanted:
        raise UserError(f"{folder}: holds an evaluation of another model: {unlike(found, wanted)}: give another --out")


def served_in(folder: Path) -> str:
    """Model that the answers in an evaluation's folder say they are of; empty where none says."""
    if not (folder / INDEX).is_file() or "address" not in (index := read_index(folder)).model:
        return ""
    for path in (folder / task.file for task in index.tasks.values()):
        for _, content in _lines(path, torn=True) if path.is_file() else ():
            if isinstance(served := content.get("served"), str) and served:
                return served
    return ""


def write_index(folder: Path, index: Index) -> None:
    """Write an evaluation's index; tasks that the folder's index has besides stay in it.

    Raises UserError where the folder is of another model.
    """
    refuse_other_model(folder, index)
    if (folder / INDEX).is_file():
        there = read_index(folder)
        both = {"model": known_of(there.model, index.model), "tasks": there.tasks | index.tasks}
        index = index.model_copy(update=both)
    write_atomic(folder / INDEX, json.dumps(index.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")


def _line(content: Head | Record, before: str) -> tuple[str, str]:
    """A line, and its hash."""
    body = content.model_dump(mode="json", exclude_defaults=True)
    body = {"form": FORM, **body} if isinstance(content, Head) else body
    digest = _hash(before, body)
    return json.dumps({**body, "before": before, "sha256": digest}, ensure_ascii=False, allow_nan=False) + "\n", digest


def _hash(before: str, body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(f"{before} {text}".encode()).hexdigest()


def _lines(path: Path, torn: bool) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Lines with what they hold; a last one without its end is left out, or refused."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a file of records, but a device or a folder: remove it")
    with reading(path), path.open("rb") as file:
        for number in range(1, 1 << 62):
            raw = file.readline(LONGEST_LINE + 1)
            if not raw or (torn and not raw.endswith(b"\n") and len(raw) <= LONGEST_LINE):
                return
            if len(raw) > LONGEST_LINE:
                raise UserError(f"{path}:{number}: longer than {LONGEST_LINE >> 20} MiB: not a record")
            if not raw.endswith(b"\n"):
                raise UserError(f"{path}:{number}: the line is torn: go on with the evaluation to mend it")
            yield raw, strict_json(raw, f"{path}:{number}")


def _parsed(content: dict[str, Any], where: str, kind: type[_T], before: str) -> tuple[_T, str]:
    """A line's content, whose hashes fit."""
    stated, named = content.pop("sha256", None), content.pop("before", None)
    try:
        digest = _hash(before, content)
        if named != before or stated != digest:
            raise UserError(
                f"{where}: its hash does not fit: this line, or one before it, was changed after it was made"
            )
        return kind.model_validate(content), digest
    except ValidationError as error:
        raise UserError(f"{where}: {_first(error)}: not a line of an evaluation") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}: not a line of an evaluation") from None


def _refuse_longer(path: Path, longest: int) -> None:
    with suppress(OSError):  # what is not there is told by whoever reads it
        if (size := path.stat().st_size) > longest:
            raise UserError(f"{path}: {size:,} bytes: more than the {longest >> 20:,} MiB that are read")


def _first(error: ValidationError) -> str:
    """The first fault that pydantic found."""
    fault = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['msg']}"


def unlike(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What differs of two objects, with both values."""
    told = []
    for key in sorted(found.keys() | wanted.keys()):
        one, other = found.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            told += [unlike(one, other)] * (one != other)
        elif one != other:
            told.append(f"{key} {json.dumps(one):.40} there, {json.dumps(other):.40} here")
    return ", ".join(told)
