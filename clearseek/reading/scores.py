"""Scores that a release states on benchmarks of a known size: in tables, in the card's metadata, in `.eval_results`.

Formats: Hugging Face's ``model-index`` (huggingface/hub-docs, modelcard.md) and ``.eval_results/*.yaml``
(huggingface/hub-docs, eval_results.yaml). A score keeps how precisely it is written, since that says which counts of
right answers it can stand for. What is not understood (another metric, another split, a scale that is not clear) is
left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from clearseek.errors import UserError
from clearseek.reading.benchmarks import Benchmark, by_data_set, by_label, samples_in
from clearseek.reading.card import Cell, Document, read_yaml_list
from clearseek.reading.evidence import Evidence
from clearseek.reading.source import Source

MOST_SCORES: Final = 2_000
"""Scores of a table's document, and of all metadata, that are looked at."""
_MOST_FILES: Final = 50
_LONGEST: Final = 200_000
"""Files of `.eval_results` that are read, and bytes of one."""
_NUMBER: Final = re.compile(r"(\d{1,3}(?:\.\d{1,8})?)\s?(%?)[*†‡]?")
_NO_SCORE: Final = re.compile(
    r"shot|param|size|date|year|length|context|token|#|rank|diff|delta|Δ|gain|improv|std|±|stderr|samples|metric|split"
    r"|version|human(?!eval)|random|chance|avg\.?$|average|mean$|total|f1|bleu|rouge|perplex|ppl|loss|time|speed|cost",
    re.I,
)
"""Names of columns, or of models, under which no score of one model stands."""
_SHARES: Final = frozenset({
    "acc", "accuracy", "acc_norm", "exact_match", "em", "pass@1", "pass_at_1", "pass1", "strict_match",
})  # fmt: skip
"""Metrics that are shares of right answers."""
_METHODS: Final = ("wilson", "clustered", "bootstrap")
"""How ClearSeek computes intervals (:mod:`clearseek.evaluate.scores`)."""
_MOST_COUNTED: Final = 10**8
"""Questions, or answers to each, that a card may state."""
_GAP: Final = 15
"""Lines between two rows of one table, at most."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """Of what a score is, as `args` of its metric in a card that ClearSeek wrote: the questions that were answered."""

    questions: int
    samples: int
    """Answers to each question."""
    missing: int
    """Questions to which not every answer came; they do not count."""
    interval: tuple[float, float] | None
    """Of 95 % for the share over questions like these; None where none is stated, or not how it was computed."""
    method: str
    """How: ``wilson``, ``clustered`` by question, ``bootstrap``; empty without an interval."""


@dataclass(frozen=True, slots=True)
class Score:
    """A share of right answers, as it is stated."""

    benchmark: Benchmark
    value: float
    """From 0 to 1."""
    unit: float
    """One in the last digit that is written."""
    text: str
    model: str
    """Whose it is, by the name of its row or column; empty for the card's own."""
    samples: int | None
    """Answers to each question that it is the mean of, where that is stated."""
    evidence: Evidence
    token: bool = False
    """Whether a ``verifyToken`` comes with it, which only Hugging Face can check."""
    protocol: Protocol | None = None
    """Of how many questions and answers it is, where its metadata say so."""

    def counts(self, samples: int = 1) -> range:
        """The counts of right ones among so many answers to each question that give it, rounded or cut off."""
        trials = self.benchmark.questions * samples
        unit = max(self.unit, 1e-5 / trials)  # a figure in all its digits is as exact as numbers are
        first = math.ceil((self.value - unit / 2) * trials - 1e-6)
        end = math.ceil((self.value + unit) * trials - 1e-6)
        return range(max(0, first), min(trials + 1, end))


_Key = tuple[object, ...]
"""What the scores of a benchmark in a table have in common."""


def table_scores(document: Document) -> list[tuple[Score, ...]]:
    """The scores of each benchmark in each table of a document, of one model each; only groups of one scale."""
    groups: dict[_Key, list[tuple[Cell, str]]] = {}
    benchmarks: dict[_Key, tuple[Benchmark, str]] = {}
    begun: dict[_Key, tuple[int, int]] = {}
    key: _Key
    for cell in islice((each for each in document.cells if _NUMBER.fullmatch(each.text[:20].strip())), MOST_SCORES):
        name = cell.header[cell.column] if cell.column < len(cell.header) else ""
        labels = [label for label in cell.row[: min(2, cell.column)] if by_label(label)]
        if labels and not by_label(name):
            key, model, label = (cell.header, labels[0], cell.line), name, labels[0]
        elif by_label(name) and not labels and cell.column:
            key, model, label = (cell.header, cell.column), cell.row[0], name
            table, last = begun.get(key, (0, cell.line))
            table += cell.line - last > _GAP
            begun[key] = (table, cell.line)
            key = (*key, table)
        else:
            continue
        found = by_label(label)
        if found and re.search(r"[^\W\d_]", model) and not _NO_SCORE.search(model):
            groups.setdefault(key, []).append((cell, model))
            benchmarks[key] = (found, label)
    return [
        tuple(scores)
        for key, cells in groups.items()
        if (scores := list(_of_one_scale(document, *benchmarks[key], cells)))
    ]


def _of_one_scale(
    document: Document, benchmark: Benchmark, label: str, cells: list[tuple[Cell, str]]
) -> Iterator[Score]:
    texts = [match.groups() for cell, _ in cells if (match := _NUMBER.fullmatch(cell.text.strip()))]
    if len(texts) != len(cells):
        return
    percent = any(mark or float(number) > 1 for number, mark in texts)
    if not percent and not any("." in number for number, _ in texts):
        return  # only 0 and 1
    for (cell, model), (number, _) in zip(cells, texts, strict=True):
        read = _read(number, percent)
        if read and (percent or float(number) <= 1):
            yield Score(benchmark, *read, cell.text.strip(), model.strip(), samples_in(label), document.at(cell.line))


def _read(number: str, percent: bool) -> tuple[float, float] | None:
    """Value and unit of a written number; None for what is no share."""
    scale = 100.0 if percent else 1.0
    value = float(number) / scale
    return (value, 10.0 ** -len(number.partition(".")[2]) / scale) if value <= 1 else None


def index_scores(metadata: dict[str, Any], document: Document) -> Iterator[Score]:
    """Scores of the card's ``model-index``."""
    if "model-index" not in metadata:
        return
    place = document.at(next((n for n, text in enumerate(document.lines, 1) if text.startswith("model-index")), 1))
    for result in islice(_results(metadata.get("model-index")), MOST_SCORES):
        data, metrics = result.get("dataset"), result.get("metrics")
        if not isinstance(data, dict) or not isinstance(metrics, list):
            continue
        task = str(data.get("config") or data.get("args") or "")[:100]
        benchmark = by_data_set(str(data.get("type"))[:200], task) or by_label(str(data.get("name"))[:200])
        for metric in metrics[:20]:
            if not isinstance(metric, dict) or str(metric.get("type")).lower() not in _SHARES:
                continue
            if protocol := _protocol(metric.get("args")):
                yield from _stated(benchmark, result, metric.get("value"), place, protocol)
            elif benchmark:
                token = bool(metric.get("verifyToken"))
                yield from _plain(benchmark, metric.get("value"), place, str(metric.get("name")), token)


def _stated(
    benchmark: Benchmark | None, result: dict[str, Any], value: Any, place: Evidence, protocol: Protocol
) -> Iterator[Score]:
    """A score with its protocol: of so many questions, whatever a benchmark of the name has."""
    task = result.get("task")
    name = benchmark.name if benchmark else str(task.get("name") if isinstance(task, dict) else "")[:80]
    if name and type(value) in (int, float) and 0 <= value <= 1:
        asked = Benchmark(name, protocol.questions, "the card", "")
        text = f"{100 * value:.1f} %"
        yield Score(asked, float(value), written_unit(value), text, "", protocol.samples, place, protocol=protocol)


def _protocol(args: Any) -> Protocol | None:
    """The protocol that a metric states in our own form; None for anything else."""
    if not isinstance(args, dict):
        return None
    questions, samples, missing = (_count(args.get(name)) for name in ("questions", "samples", "missing"))
    if not questions or not samples or missing is None:
        return None
    ends, method = args.get("interval"), args.get("method")
    if ends is None or method not in _METHODS or args.get("confidence") != 0.95 or not _is_interval(ends):
        return Protocol(questions, samples, missing, None, "")
    return Protocol(questions, samples, missing, (float(ends[0]), float(ends[1])), str(method))


def written_unit(number: float) -> float:
    """One in the last digit that a number is written with; YAML keeps no zeros at its end."""
    digits, _, power = repr(float(number)).partition("e")
    return float(10.0 ** (int(power or 0) - len(digits.partition(".")[2])))


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST_COUNTED else None


def _is_interval(ends: Any) -> bool:
    """Whether a value is two shares in order."""
    numbers = isinstance(ends, list) and len(ends) == 2 and all(type(each) in (int, float) for each in ends)
    return numbers and 0 <= ends[0] <= ends[1] <= 1


def _results(index: Any) -> Iterator[dict[str, Any]]:
    for model in index[:20] if isinstance(index, list) else ():
        results = model.get("results") if isinstance(model, dict) else None
        yield from (each for each in (results if isinstance(results, list) else ()) if isinstance(each, dict))


def file_scores(source: Source) -> Iterator[Score]:
    """Scores of ``.eval_results/*.yaml``; a file that cannot be read has none."""
    names = [path for path in source.sizes if re.fullmatch(r"\.eval_results/[^/]+\.ya?ml", path)]
    for path in names[:_MOST_FILES]:
        with suppress(UserError):
            if source.sizes[path] > _LONGEST:
                continue
            for entry in read_yaml_list(source.document(path).text, path)[:MOST_SCORES]:
                data = entry.get("dataset") if isinstance(entry, dict) else None
                if isinstance(data, dict):
                    benchmark = by_data_set(str(data.get("id"))[:200], str(data.get("task_id"))[:100])
                    notes = str(entry.get("notes") or "")[:200]
                    place = source.whole(path)
                    if benchmark:
                        yield from _plain(benchmark, entry.get("value"), place, notes, bool(entry.get("verifyToken")))


def _plain(benchmark: Benchmark, value: Any, place: Evidence, label: str, token: bool) -> Iterator[Score]:
    """The score of a number in YAML: from 0 to 1, or in percent above."""
    text = repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)[:30].strip()
    match = _NUMBER.fullmatch(text[:20]) or re.fullmatch(r"(0\.\d{1,20})(%?)", text)
    if match and float(match[1]) not in (0.0, 1.0):
        read = _read(match[1], bool(match[2]) or float(match[1]) > 1)
        if read:
            yield Score(benchmark, *read, text, "", samples_in(label), place, token)
