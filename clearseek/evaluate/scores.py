"""What records come to: scores with their intervals, from the records alone, and two models side by side."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clearseek.errors import UserError
from clearseek.evaluate.comparison import RESAMPLES, Comparison, compare, of_several_tasks
from clearseek.evaluate.records import Head, Record, read_index, read_records
from clearseek.evaluate.robustness import Robustness, robustness
from clearseek.evaluate.statistics import (
    CONFIDENCE,
    exact_interval,
    fixed_questions,
    mean_pass_at_k,
    sampled_questions,
    wilson_interval,
)

BITS = "bits per byte"
SHARE = "share"


def unit_of(head: Head) -> str:
    """What a task's score is in."""
    stated = head.settings.get("unit")
    return BITS if head.task == "bits-per-byte" or stated == BITS else SHARE


def answered(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by question, of the questions to which every answer came."""
    by_name, lost = defaultdict[str, list[Record]](list), set[str]()
    for record in records:
        by_name[record.name].append(record)
        if record.missing:
            lost.add(record.name)
    return {name: found for name, found in by_name.items() if name not in lost}


def refuse_uneven(head: Head, records: Sequence[Record]) -> None:
    """Raise UserError where a question has another number of answers than was asked for, a text is empty, or an
    endpoint said that its answers are of several models."""
    if any(each != head.samples for each in Counter(record.name for record in records).values()):
        raise UserError(f"{head.task}: a question with more or fewer than {head.samples:,} answers: evaluate again")
    if unit_of(head) == BITS and any(not (record.missing or record.output) for record in records):
        raise UserError(f"{head.task}: bits of an empty text: evaluate again")
    if len(served := sorted({record.served for record in records if record.served})) > 1:
        raise UserError(
            f"{head.task}: answers of several models, as the endpoint said: {', '.join(map(repr, served))[:200]}"
        )


def summary(head: Head, records: Sequence[Record]) -> dict[str, Any]:
    """Score of a task, with intervals that say what they answer; plain values for JSON.

    ``fixed`` holds the score had the same questions been asked without end, ``sampled`` that of questions like these.
    With one sample of each, ``sampled`` is Wilson's interval and ``exact`` is Clopper and Pearson's.
    """
    whole = answered(records)
    names = {record.name for record in records}
    said: dict[str, Any] = {
        "unit": unit_of(head), "questions": len(whole), "missing": len(names) - len(whole), "samples": head.samples,
        "confidence": CONFIDENCE,
    }  # fmt: skip
    if lost := Counter(record.note for record in records if record.missing):
        said["why_missing"] = dict(sorted(lost.items()))
    if not whole:
        return said | {"score": None}
    if unit_of(head) == BITS:
        return said | _bits([found[0] for found in whole.values()])
    return said | _shares(head, list(whole.values()))


def _bits(records: Sequence[Record]) -> dict[str, Any]:
    bits = np.array([record.score for record in records], dtype=np.float64)
    size = np.array([len(record.output.encode()) for record in records], dtype=np.float64)
    return {"score": float(bits.sum() / size.sum()), "sampled": _ratio_interval(bits, size), "bytes": int(size.sum())}


def _ratio_interval(top: Any, bottom: Any) -> list[float] | None:
    """Interval of the bootstrap for a ratio of sums over questions like these; None for fewer than two."""
    from scipy.stats import bootstrap

    if len(top) < 2:
        return None
    if np.ptp(top / bottom) == 0:
        return [float(top[0] / bottom[0])] * 2
    found = bootstrap(
        (top, bottom), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, vectorized=True, method="BCa",
        confidence_level=CONFIDENCE, n_resamples=RESAMPLES, batch=1000, rng=np.random.default_rng(0),
    )  # fmt: skip
    return [float(found.confidence_interval.low), float(found.confidence_interval.high)]


def _shares(head: Head, by_question: Sequence[Sequence[Record]]) -> dict[str, Any]:
    scores = [[float(record.score or 0.0) for record in found] for found in by_question]
    said: dict[str, Any] = {"score": math.fsum(map(math.fsum, scores)) / (len(scores) * head.samples)}
    notes = Counter(record.note for found in by_question for record in found if record.note)
    said["notes"] = dict(sorted(notes.items()))
    if any(score not in (0.0, 1.0) for found in scores for score in found):
        means = np.array([math.fsum(found) / len(found) for found in scores])
        return said | {"sampled": _ratio_interval(means, np.ones(len(means)))}
    right = [int(math.fsum(found)) for found in scores]
    said["right"] = sum(right)
    if head.samples == 1:
        intervals = {
            "sampled": wilson_interval(sum(right), len(right)),
            "exact": exact_interval(sum(right), len(right)),
        }
        return said | {name: list(each) for name, each in intervals.items()}
    said["fixed"] = list(fixed_questions(right, head.samples))
    said["sampled"] = list(sampled_questions(right, head.samples))
    ks = sorted({1, *(2**power for power in range(1, 20) if 2**power <= head.samples), head.samples})
    said["pass_at"] = {str(k): mean_pass_at_k(head.samples, right, k) for k in ks}
    return said


@dataclass(frozen=True)
class Versus:
    """Two models at one task."""

    task: str
    unit: str
    found: Comparison
    """The first model beside the second; of bits per byte with the sign turned, so that more is better."""
    alone: int
    """Questions that not both of them answered; they are left out."""
    templates: tuple[str, str] = ("", "")
    """How each was asked, where a question can be asked in several ways."""
    tasks: int = 1
    """Tasks that were compared with this one, itself included: Holm's p-value is over so many."""

    def sentence(self) -> str:
        """One honest sentence about the first model."""
        said = self.found.sentence(-1.0, BITS, digits=4) if self.unit == BITS else self.found.sentence()
        said += f"; {self.alone:,} questions that only one of them answered are left out" if self.alone else ""
        first, second = self.templates
        return said if first == second else f"{said}; templates: {first} for the first, {second} for the other"

    def values(self) -> dict[str, Any]:
        """All of it as plain values; differences are the first's score minus the second's, as the records have them."""
        found = asdict(self.found) | {"difference": self.found.difference}
        if self.unit == BITS:
            low, high = self.found.interval
            found |= {"first": -self.found.first, "second": -self.found.second, "interval": (-high, -low)}
            found["difference"] = 0.0 - self.found.difference  # no negative zero
        return {**found, "unit": self.unit, "verdict": self.found.verdict, "sentence": self.sentence(),
                "alone": self.alone, "tasks": self.tasks}  # fmt: skip


def read_scores(folder: Path) -> dict[str, tuple[Head, list[Record]]]:
    """Heads and records of an evaluation's tasks. Raises UserError for files that are not of one."""
    index = read_index(folder)
    found = {name: read_records(folder / task.file)[:2] for name, task in index.tasks.items()}
    for head, records in found.values():
        refuse_uneven(head, records)
    said = {record.served: head.task for head, records in found.values() for record in records if record.served}
    if len(said) > 1:
        told = ", ".join(f"{task} of {served!r:.80}" for served, task in said.items())
        raise UserError(f"{folder}: answers of several models, as the endpoint said: {told}: evaluate one of them")
    return found


def versus(
    first: Mapping[str, tuple[Head, list[Record]]], second: Mapping[str, tuple[Head, list[Record]]]
) -> list[Versus]:
    """Two models at the tasks that both did; p-values are Holm's.

    Raises UserError where they have no task in common, or were asked other questions, or in other ways.
    """
    names = [name for name in first if name in second]
    if not names:
        raise UserError(f"no task in common: {', '.join(first) or 'none'}, and {', '.join(second) or 'none'}")
    found = [_one(name, first[name], second[name], len(names)) for name in names]
    together = of_several_tasks({each.task: each.found for each in found})
    return [replace(each, found=together[each.task], tasks=len(names)) for each in found]


ASIDE = ("questions", "template", "draws")
"""Settings in which two evaluations may differ: how many questions were allowed, of which both had the same, the draws,
and the template, which is said."""


def _one(task: str, first: tuple[Head, list[Record]], second: tuple[Head, list[Record]], tasks: int) -> Versus:
    (one, a), (other, b) = first, second
    asked, also = {record.name for record in a}, {record.name for record in b}
    if one.version != other.version or one.samples != other.samples:
        raise UserError(f"{task}: the two were asked in other ways (version or samples): evaluate both alike")
    if asked != also:
        raise UserError(
            f"{task}: the models were asked other questions: {len(asked):,} and {len(also):,}, of which "
            f"{len(asked & also):,} are the same: evaluate both with the same options"
        )
    settings = [{name: value for name, value in each.settings.items() if name not in ASIDE} for each in (one, other)]
    if settings[0] != settings[1]:
        names = sorted(name for name in settings[0] | settings[1] if settings[0].get(name) != settings[1].get(name))
        raise UserError(
            f"{task}: the models were asked in other ways ({', '.join(names)}): evaluate both with the same options"
        )
    ours, theirs = answered(a), answered(b)
    both = [name for name in ours if name in theirs]
    if not both:
        raise UserError(f"{task}: no question that both answered")
    means, others = (_means([found[name] for name in both], unit_of(one)) for found in (ours, theirs))
    found = compare(means, others, one.samples, tasks=tasks)
    templates = str(one.settings.get("template", "")), str(other.settings.get("template", ""))
    return Versus(task, unit_of(one), found, len(asked) - len(both), templates)


def _means(by_question: Sequence[Sequence[Record]], unit: str) -> list[float]:
    """A score of each question, whose mean is the task's."""
    if unit == BITS:  # a long text weighs as much as it has bytes
        size = sum(len(found[0].output.encode()) for found in by_question) / len(by_question)
        return [-float(found[0].score or 0.0) / size for found in by_question]
    return [math.fsum(float(record.score or 0.0) for record in found) / len(found) for found in by_question]


@dataclass(frozen=True)
class Varied:
    """One model at one task, asked in several ways."""

    task: str
    unit: str
    found: Robustness

    def sentence(self) -> str:
        """One honest sentence on the ways."""
        return self.found.sentence(1.0, BITS) if self.unit == BITS else self.found.sentence()


def varied(ways: Mapping[str, Mapping[str, tuple[Head, list[Record]]]]) -> list[Varied]:
    """How far the scores move between several evaluations of the same questions, by name.

    Raises UserError for fewer than two, and where they have no task or question in common.
    """
    if len(ways) < 2:
        raise UserError("one evaluation does not vary: name two folders or more")
    first, *others = ways.values()
    tasks = [task for task in first if all(task in each for each in others)]
    if not tasks:
        raise UserError(f"{', '.join(ways)}: no task in common")
    return [_varied(task, {name: each[task] for name, each in ways.items()}) for task in tasks]


def _varied(task: str, ways: Mapping[str, tuple[Head, list[Record]]]) -> Varied:
    unit = unit_of(next(iter(ways.values()))[0])
    found = {name: answered(records) for name, (_, records) in ways.items()}
    first, *others = found.values()
    both = [question for question in first if all(question in each for each in others)]
    if not both:
        raise UserError(f"{task}: no question that all ways answered: ask the same ones")
    means = {name: _means([each[question] for question in both], unit) for name, each in found.items()}
    sign = -1.0 if unit == BITS else 1.0  # there less is better, and shown
    return Varied(task, unit, robustness({name: [sign * score for score in each] for name, each in means.items()}))
