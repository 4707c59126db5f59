"""Evaluation claims: is the protocol complete enough to repeat them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Evidence, Grade, Row
from clearseek.audit.read.card import Document
from clearseek.audit.read.claims import is_this_model, normalise
from clearseek.audit.read.subject import Subject

QUESTIONS = {
    "aime 2024": 30, "aime 2025": 30, "aime24": 30, "aime25": 30, "gpqa-diamond": 198, "gpqa diamond": 198,
    "math-500": 500, "math500": 500, "humaneval": 164, "ifeval": 541, "simpleqa": 4326, "swe verified": 500,
    "gsm8k": 1319, "hellaswag": 10042, "piqa": 1838, "arc-challenge": 1172, "winogrande": 1267,
}  # fmt: skip
"""Questions of fixed test sets, by the name that cards use in lower case."""
_ANSWERS = r"(?:responses|samples|completions|answers|generations|attempts|solutions|rollouts)"
_SAMPLES = re.compile(
    rf"generat\w{{1,4}} (\d{{1,4}}) {_ANSWERS}"
    rf"|(?<![\w.,])(\d{{1,4}}) {_ANSWERS} (?:per|for each|for every|to each) "
    r"(?:question|problem|query|prompt|task|example|item|instance)"
    rf"|averag\w{{1,4}} (?:over|across|of) (\d{{1,4}}) (?:independent |random |different )?(?:{_ANSWERS}|runs)"
    r"|\b(?:avg|mean)@(\d{1,4})\b|\bpass@1[:@] ?(\d{1,4})\b|\bpass@(?:k|1)\b[^.|\n]{0,80}?(?<![\w-])k ?= ?(\d{1,4})\b",
    re.I,
)
"""How many answers were taken to each question; the many other numbers called k are no such number."""
_PERCENT = re.compile(r"(\d{1,3})(?:\.(\d{1,9}))?\s?%?")
_EVALUATION = re.compile(
    r"(?<!i)eval|benchmark|(?<!as a )(?<!a )\bresults?\b|\bscores?\b|metric|accuracy|leaderboard", re.I
)
PROTOCOL = {
    "shots": r"\b\d+-shot|zero-shot|few-shot|# ?shots",
    "answers a question": _SAMPLES.pattern,
    "temperature": r"temperature",
    "length of answers": r"(?:generation|output|\bmax\w{0,10}) (?:length|tokens)",
    "seed": r"random seeds?|\bseeds? ?[:=]|\bseeds? \d|fixed seed",
    "harness and version": r"lm[-_ ]eval|lighteval|simple-evals|opencompass|evaluation harness|evalplus|inspect.ai",
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
    """Whether the protocol is complete."""
    found = [score for document in subject.documents for score in scores(document, subject.name)]
    yield _protocol(subject, found)


def scores(document: Document, name: str) -> Iterator[Score]:
    """Scores of this model in a document's tables."""
    wanted = normalise(name)
    for cell in document.cells:
        match = _PERCENT.fullmatch(cell.text)
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


def _protocol(subject: Subject, given: list[Score]) -> Row:
    tables = {(score.evidence.file, score.evidence.where) for score in given}
    if not tables:
        return ask.CLAIMS_PROTOCOL.not_applicable("no scores of this model in the documents")
    found: dict[str, Evidence] = {}
    for document in subject.documents:
        headers = {cell.line: " ".join(cell.header) for cell in document.cells if not cell.column}
        for number, line in enumerate(document.lines, 1):
            if len(found) == len(PROTOCOL):
                break
            about = (*document.headings[number - 1], line, headers.get(number, ""))
            if (document.file, f"line {number}") not in tables and not any(map(_EVALUATION.search, about)):
                continue
            for part, words in PROTOCOL.items():
                if part not in found and re.search(words, f"{line} {headers.get(number, '')}", re.I):
                    found[part] = document.at(number)
    missing = [part for part in PROTOCOL if part not in found]
    places = tuple(dict.fromkeys(found.values()))[:8]
    if not missing:
        return ask.CLAIMS_PROTOCOL.yes(Grade.CLAIMED, f"stated: {', '.join(found)}", *places)
    reason = f"not stated: {', '.join(missing)}" + (f"; stated: {', '.join(found)}" if found else "")
    return ask.CLAIMS_PROTOCOL.answer("partly" if found else "no", Grade.CLAIMED, reason, *places)
