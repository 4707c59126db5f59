"""Evaluation claims: is the protocol complete enough to repeat, and are the scores arithmetically possible.

A share of n questions is a multiple of 1/n, and of k answers to each a multiple of 1/(nk). So a score of 55.5 % on the
30 questions of AIME 2024 cannot come from one answer each: 16.65 is not a number of questions (the GRIM test: Brown and
Heathers, 2017). Sizes of benchmarks are published facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor

from clearseek.openness.card import Document
from clearseek.openness.claims import is_this_model, normalise
from clearseek.openness.evidence import Evidence, Grade, Row
from clearseek.openness.subject import Subject

QUESTIONS = {
    "aime 2024": 30, "aime 2025": 30, "aime24": 30, "aime25": 30, "gpqa-diamond": 198, "gpqa diamond": 198,
    "math-500": 500, "math500": 500, "humaneval": 164, "ifeval": 541, "simpleqa": 4326, "swe verified": 500,
    "gsm8k": 1319, "hellaswag": 10042, "piqa": 1838, "arc-challenge": 1172, "winogrande": 1267,
}  # fmt: skip
"""Questions of fixed test sets, by the name that cards use in lower case."""
_SAMPLES = re.compile(
    r"generat\w+ (\d{1,4}) (?:responses|samples|completions|answers)|(\d{1,4}) samples (?:per|for each)|k ?= ?(\d+)",
    re.I,
)
PROTOCOL = {
    "shots": r"\b\d+-shot|zero-shot|few-shot|# ?shots",
    "answers a question": _SAMPLES.pattern,
    "temperature": r"temperature",
    "length of answers": r"(?:generation|output|max\w*) (?:length|tokens)",
    "seed": r"random seeds?|\bseeds? ?[:=]|\bseeds? \d|fixed seed",
    "harness and version": r"lm[-_ ]eval\w*|lighteval|simple-evals|opencompass|evaluation harness|evalplus|inspect.ai",
    "raw outputs": r"raw outputs|raw results|sample outputs|predictions? files?",
}


@dataclass(frozen=True, slots=True)
class Score:
    """A percentage that the card gives this model on a benchmark of known size."""

    benchmark: str
    questions: int
    value: float
    decimals: int
    evidence: Evidence


def rows(subject: Subject) -> Iterator[Row]:
    """Whether the protocol is complete, and whether scores are possible."""
    yield _protocol(subject)
    yield _possible(subject)


def possible(value: float, decimals: int, trials: int) -> bool:
    """Whether `value` percent, rounded to `decimals`, is a whole number of successes in `trials`."""
    half = 0.5 * 10.0**-decimals
    low, high = (value - half) / 100 * trials, (value + half) / 100 * trials
    return floor(high + 1e-9) >= ceil(low - 1e-9)


def samples_needed(value: float, decimals: int, questions: int, most: int = 1024) -> int | None:
    """The fewest answers a question that make `value` possible."""
    return next((k for k in range(1, most + 1) if possible(value, decimals, questions * k)), None)


def scores(document: Document, name: str) -> Iterator[Score]:
    """Scores of this model in a document's tables."""
    wanted = normalise(name)
    for cell in document.cells():
        match = re.fullmatch(r"(\d{1,3})(?:\.(\d+))?\s?%?", cell.text)
        column = cell.header[cell.column] if cell.column < len(cell.header) else ""
        if not match or float(match[0].rstrip(" %")) > 100:
            continue
        if is_this_model(column, wanted):
            label = " ".join(cell.row[:2]).lower()
        elif any(is_this_model(text, wanted) for text in cell.row[:2]):
            label = column.lower()
        else:
            continue
        for benchmark, questions in QUESTIONS.items():
            if re.search(rf"(?<![\w-]){re.escape(benchmark)}(?![\w-])", label) and "cons@" not in label:
                decimals = len(match[2] or "")
                quote = f"{benchmark}: {cell.text}"
                where = Evidence(document.file, f"line {cell.line}", quote, document.sha256)
                yield Score(benchmark, questions, float(match[0].rstrip(" %")), decimals, where)
                break


def _stated_samples(subject: Subject) -> tuple[int, Evidence] | None:
    for document in subject.documents:
        for number, line in enumerate(document.lines, 1):
            if (match := _SAMPLES.search(line)) and (found := next((each for each in match.groups() if each), None)):
                return int(found), document.at(number)
    return None


def _possible(subject: Subject) -> Row:
    title, name = "The stated scores are possible for the number of questions", "claims.possible"
    found = [score for document in subject.documents for score in scores(document, subject.name)]
    if not found:
        reason = "no score of this model on a benchmark of known size"
        return Row(name, "impact", title, "not applicable", Grade.ABSENT, reason)
    stated = _stated_samples(subject)
    answers = stated[0] if stated else 1
    wrong: list[tuple[str, Evidence]] = []
    hints: list[tuple[str, Evidence]] = []
    for score in found:
        if possible(score.value, score.decimals, score.questions * answers) or possible(
            score.value, score.decimals, score.questions
        ):
            continue
        fewest = samples_needed(score.value, score.decimals, score.questions)
        text = f"{score.value:g} % of {score.questions} ({score.benchmark}) needs at least {fewest} answers a question"
        (wrong if stated or fewest is None else hints).append((text, score.evidence))
    places = tuple(place for _, place in wrong + hints) or tuple(score.evidence for score in found[:4])
    if stated:
        places = (stated[1], *places)
    if wrong:
        return Row(name, "impact", title, "no", Grade.CLAIMED, "; ".join(text for text, _ in wrong), places[:8])
    if hints:
        reason = "; ".join(text for text, _ in hints) + ", and how many were taken is not said"
        return Row(name, "impact", title, "unknown", Grade.CLAIMED, reason, places[:8])
    with_k = f" with {answers} answers a question" if stated else ""
    reason = f"{len(found)} scores on benchmarks of known size, all possible{with_k}"
    return Row(name, "impact", title, "yes", Grade.CHECKED, reason, places[:8])


def _protocol(subject: Subject) -> Row:
    title, name = "An outsider could repeat the evaluation", "claims.protocol"
    if not any(True for document in subject.documents for _ in scores(document, subject.name)):
        reason = "no scores of this model in the documents"
        return Row(name, "impact", title, "not applicable", Grade.ABSENT, reason)
    found: dict[str, Evidence] = {}
    for document in subject.documents:
        for number, line in enumerate(document.lines, 1):
            for part, words in PROTOCOL.items():
                if part not in found and re.search(words, line, re.I):
                    found[part] = document.at(number)
    missing = [part for part in PROTOCOL if part not in found]
    places = tuple(dict.fromkeys(found.values()))[:8]
    if not missing:
        return Row(name, "impact", title, "yes", Grade.CLAIMED, f"stated: {', '.join(found)}", places)
    reason = f"not stated: {', '.join(missing)}" + (f"; stated: {', '.join(found)}" if found else "")
    return Row(name, "impact", title, "partly" if found else "no", Grade.CLAIMED, reason, places)
