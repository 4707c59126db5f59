"""Evaluations that a release carries, looked at again: their scores from their records, and records from the weights.

The first needs no model and is done of all records: questions, prompts and seeds follow from the settings, scores from
the outputs, intervals from the scores (:mod:`clearseek.evaluate.check`). The second asks the final weights again for
records that the nonce chooses, and for all that are missing: a wrong answer that is called missing would raise a score.
On the same kind of machine every bit of them is the same. On another kind they are forced through the model, and
contradicted only by what is more than rounding (:mod:`clearseek.evaluate.forced`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import torch

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Grade, Row
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import OtherVersionError, UserError
from clearseek.evaluate.answerers import Local
from clearseek.evaluate.check import differences, look
from clearseek.evaluate.forced import FORM, contradiction
from clearseek.evaluate.records import INDEX, Head, Record, read_records
from clearseek.evaluate.tasks import NotHereError
from clearseek.hub.read import import_hf
from clearseek.inference.model import Model, weights_hash
from clearseek.reading.evidence import Evidence, amount
from clearseek.release.evaluations import FOLDER, Carried, carried, held_out
from clearseek.sysfiles import system_file
from clearseek.verify.replay import Release
from clearseek.verify.rows import attempted

RECORDS: Final = 64
"""Records of each task that are asked for again, where nothing else is said."""
_EXACT: Final = "loops-1"
"""Sums whose bits depend on nothing but weights and tokens."""
_PLACE: Final = Evidence(f"{FOLDER}/")


@dataclass(frozen=True)
class Again:
    """How evaluations are looked at again."""

    nonce: str = ""
    records: int | None = RECORDS
    """Records of each task to ask for again; None for all."""
    allow_code: bool = False
    """Whether programs that a model wrote may be run, in a cell."""


def evaluation_rows(release: Release, again: Again) -> Iterator[Row]:
    """Rows of the evaluations that a release carries; none where it carries none."""
    place = release.root / FOLDER
    if place.is_dir() and any(path.is_dir() for path in place.iterdir()):
        yield attempted(ask.VERIFY_SCORES, lambda: _scores(release, again), _PLACE)
        yield attempted(ask.VERIFY_RECORDS, lambda: _Weights(release, again).row(), _PLACE)


def _scores(release: Release, again: Again) -> Row:
    tokenizer, tasks, records = Tokenizer.load(release.root / "tokenizer.json"), 0, 0
    undecided = list[str]()
    for each in carried(release.root):
        if wrong := _strange(each) or _other_source(release, each):
            return ask.VERIFY_SCORES.no(Grade.CLAIMED, wrong, _of(each))
        here = {"texts": held_out(release.data), "allow_code": again.allow_code}
        for looked in look(each.folder, each.index, tokenizer, **here):
            if looked.faults:
                more = f"; {len(looked.faults) - 1:,} more" if len(looked.faults) > 1 else ""
                fault = looked.faults[0].replace(f"{release.root}/", "")
                return ask.VERIFY_SCORES.no(Grade.CLAIMED, f"{fault}{more}", _of(each))
            if looked.undecided:
                undecided.append(looked.undecided)
            else:
                tasks, records = tasks + 1, records + len(looked.records)
    reason = f"{amount(tasks, 'task')}, {amount(records, 'record')}: questions, prompts and seeds follow from settings"
    reason += ", scores from outputs, and the stated scores and intervals from these"
    if undecided:
        return ask.VERIFY_SCORES.unknown(Grade.CHECKED, f"{reason}; not scored again: {'; '.join(undecided)}", _PLACE)
    return ask.VERIFY_SCORES.yes(Grade.CHECKED, reason, _PLACE)


def _of(each: Carried) -> Evidence:
    return Evidence(f"{FOLDER}/{each.name}/{INDEX}")


def _strange(each: Carried) -> str:
    """Files that the index does not list, in words, or an empty string."""
    listed = {INDEX, *(task.file for task in each.index.tasks.values())}
    names = sorted(path.name for path in each.folder.iterdir() if not system_file(path.name))
    strange = [name for name in names if name not in listed]
    return f"{FOLDER}/{each.name}/{strange[0]}: no task of index.json" if strange else ""


def _other_source(release: Release, each: Carried) -> str:
    """What is wrong with the ClearSeek that asked, or an empty string: its source has to be the release's."""
    archives = sorted(path.name for path in (release.root / "code").glob("clearseek-*.tar.gz"))
    for task, head in each.heads.items():
        asked_by = head.environment.get("clearseek")
        if f"clearseek-{asked_by}.tar.gz" not in archives:
            return f"{task} was asked by ClearSeek {asked_by}, and code/ holds {', '.join(archives) or 'no source'}"
    return ""


@dataclass
class _Weights:
    """The final weights, asked again."""

    release: Release
    again: Again
    asked: int = 0
    every: int = 0
    rounded: int = 0
    """Records that came out otherwise where other bits are expected."""
    unknown: int = 0
    """Records that came out otherwise, of weights stored so that nobody knows how far rounding goes."""
    notes: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    _locals: dict[tuple[str, str], Local] = field(default_factory=dict)

    def row(self) -> Row:
        for each in carried(self.release.root):
            model = each.index.model
            if (model.get("weights_sha256"), model.get("tokenizer_sha256")) != (self.digest, self.tokenizer.sha256):
                reason = f"{FOLDER}/{each.name} is of other weights, or another tokenizer, than the release's"
                return ask.VERIFY_RECORDS.no(Grade.CLAIMED, reason, _of(each))
            for task, listed in each.index.tasks.items():
                head, records, _ = read_records(each.folder / listed.file)
                if wrong := self._wrong(each, head, records):
                    return ask.VERIFY_RECORDS.no(Grade.CLAIMED, f"{task}, {wrong}", Evidence(
                        f"{FOLDER}/{each.name}/{listed.file}"))  # fmt: skip
        return self._found()

    def _wrong(self, each: Carried, head: Head, records: Sequence[Record]) -> str:
        """First contradiction between a task's records and the weights, in words, or an empty string."""
        local = self._local(head)
        here = {"texts": held_out(self.release.data), "allow_code": self.again.allow_code}
        numbers = chosen(self.again, f"{each.name} {head.task}", records)
        try:
            found = list(differences(local, head, records, numbers, **here))
        except (OtherVersionError, NotHereError) as error:
            self.undecided.append(str(error))
            return ""
        self.asked, self.every = self.asked + len(numbers), self.every + len(records)
        others = _other_machine(head, local)
        for number, record in found:
            if not others:
                return f"record {number + 1:,}: {_what(records[number], record)}"
            if wrong := contradiction(local, head, records[number], record):
                return f"record {number + 1:,}: {wrong}, which is more than another machine's rounding ({others})"
        if head.environment["weights stored as"] == FORM:
            self.rounded += len(found)
        else:
            self.unknown += len(found)
        if others and others not in self.notes:
            self.notes.append(others)
        return ""

    def _found(self) -> Row:
        """Row of records without a contradiction."""
        which = "all" if self.asked == self.every else f"{self.asked:,}, chosen by the nonce,"
        reason = f"{which} of {amount(self.every, 'record')} asked for again: "
        others = [f"{self.rounded:,} came out otherwise, by no more than rounding"] * (self.rounded > 0)
        if self.unknown:
            others.append(
                f"{self.unknown:,} came out otherwise, and without FP32 nothing tells rounding from invention"
            )
        reason += ", ".join(others) or "the same bits"
        reason += "".join(f"; this machine is another ({note})" for note in self.notes)
        if self.undecided:
            reason += f"; not asked: {'; '.join(self.undecided)}"
        if self.rounded or self.unknown or self.undecided:
            return ask.VERIFY_RECORDS.unknown(Grade.PRESENT, reason, _PLACE)
        return ask.VERIFY_RECORDS.yes(Grade.REEXECUTED, reason, _PLACE)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.release.root / "tokenizer.json")

    @cached_property
    def digest(self) -> str:
        return weights_hash(import_hf(self.release.root, allow_missing_mtp=True)[1])

    def _local(self, head: Head) -> Local:
        """The final weights as the records' were stored, on a GPU where they were and one is here."""
        kind: Any = head.environment.get("weights stored as")
        if kind not in ("F32", "BF16", "I8"):
            raise UserError(f"{head.task}: weights stored as {kind!r:.40}: no such form")
        there = head.environment.get("device", "cpu") != "cpu"
        device = "cuda" if there and torch.cuda.is_available() else "cpu"
        if (kind, device) not in self._locals:
            config, tensors = import_hf(self.release.root, allow_missing_mtp=True)
            model = Model.of("", config, tensors, self.tokenizer, kind, torch.device(device))
            self._locals[kind, device] = Local(model.without_drafts())
        return self._locals[kind, device]


def chosen(again: Again, name: str, records: Sequence[Record]) -> list[int]:
    """Numbers of the records to ask for again: those that are missing, and a draw by the nonce."""
    if again.records is None:
        return list(range(len(records)))
    order = sorted(range(len(records)), key=lambda k: hashlib.sha256(f"{again.nonce} {name} {k}".encode()).digest())
    return sorted({*order[: again.records], *(k for k, record in enumerate(records) if record.missing)})


def _other_machine(head: Head, local: Local) -> str:
    """What of this machine decides bits and is not as it was, in words; empty where the bits have to be the same."""
    theirs = {name: value for name, value in head.environment.items() if name != "clearseek"}
    names = sorted(theirs.keys() | local.environment.keys())
    said = [
        f"{name} {local.environment.get(name, 'none')} instead of {theirs.get(name, 'none')!s:.80}"
        for name in names
        if local.environment.get(name) != theirs.get(name)
    ]
    if not said and local.environment["sums"] != _EXACT:
        said = ["sums by PyTorch, whose last bits depend on what is computed beside"]
    return ", ".join(said)


def _what(stated: Record, found: Record) -> str:
    """What differs of two records of one question."""
    for name in ("prompt_ids", "output_ids", "output", "ended", "logprobs", "score", "note"):
        if (ours := getattr(found, name)) != (theirs := getattr(stated, name)):
            return f"{name} is {ours!r:.80} when it is asked for again, and {theirs!r:.80} in the file"
    return "another record when it is asked for again"
