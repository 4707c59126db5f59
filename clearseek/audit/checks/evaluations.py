"""Evaluation claims: which scores the documents state, is the protocol complete enough to repeat, are scores possible.

A share of n questions is a multiple of 1/n, and of k answers to each a multiple of 1/(nk). So a score of 55.5 % on the
30 questions of AIME 2024 cannot come from one answer each: 16.65 is not a number of questions (the GRIM test: Brown and
Heathers, 2017). Sizes of benchmarks are published facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import ceil, floor
from typing import Final

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Evidence, Grade, Row
from clearseek.audit.read.card import Cell, Document
from clearseek.audit.read.mentions import own_documents
from clearseek.audit.read.subject import Subject

QUESTIONS = {
    "aime 2024": 30, "aime 2025": 30, "aime24": 30, "aime25": 30, "gpqa-diamond": 198, "gpqa diamond": 198,
    "math-500": 500, "math500": 500, "humaneval": 164, "ifeval": 541, "simpleqa": 4326, "swe verified": 500,
    "gsm8k": 1319, "hellaswag": 10042, "piqa": 1838, "arc-challenge": 1172, "winogrande": 1267,
}  # fmt: skip
"""Questions of fixed test sets, by the name that cards use in lower case."""
BENCHMARK: Final = re.compile(
    r"(?<![a-z])(?:[a-z]{0,3}mmlu(?:-?pro|-?redux)?|gsm-?8k|math-?500|aime|humaneval\+?|mbpp\+?|arc[-_ ]?(?:[ce]|challenge|easy)|hellaswag|bbh"
    r"|big-?bench|gpqa|wino(?:grande|gender)|piqa|c-?eval|truthfulqa|trivi\w*qa|drop|boolq|lambada|openbookqa|ifeval|livecodebench"
    r"|swe-?bench|mt-?bench|alpaca-?eval|mgsm|agieval|superglue|squad|natural ?(?:questions|qs)|simpleqa|arena-?hard|c?math|wikitext"
    r"|chinesesimpleqa|race|multipl-?e|evalplus|bigcodebench|ruler|needle|common ?sense ?qa|siqa|gaokao|xwinograd|flores|wmt\d\d"
    r"|librispeech|fleurs|common ?voice|glue|imagenet|mmmu|vqav?2|chartqa|docvqa|mteb|codeforces|hle)(?![a-z])",
    re.I,
)
"""Test sets that anybody can have under these names."""
_MEASURE = re.compile(
    r"accuracy|\bacc\b|pass@|\bem\b|\bf1\b|\bbpb\b|bits per byte|perplexity|\bppl\b|scores?\b|win ?rate|exact match|percentile|rating|\belo\b|\bwer\b"
    r"|\bbleu\b|\brouge|average|\bavg\b|准确率|得分|平均",
    re.I,
)
_NUMBER = re.compile(r"[~≈]?\d{1,4}(?:\.\d{1,6})?\s?%?\W{0,3}(?:±\s?[\d.]{1,8}%?|\([^()]{0,20}\))?")
_LISTED = re.compile(r"[\s:：=]{1,4}(?:\([^()]{0,30}\))?\W{0,4}\d{1,3}(?:\.\d{1,3})?\s?%?(?![\w-])")
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
    r"(?<!i)eval|benchmark|(?<!as a )(?<!a )\bresults?\b|\bscores?\b|metric|accuracy|leaderboard|评测|评估|测试", re.I
)
PROTOCOL = {
    "shots": r"\b\d+[- ]shot|zero[- ]shot|few[- ]shot|# ?shots|\bshots?\b",
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
    """Whether the protocol is complete, and whether scores are possible."""
    yield _protocol(subject)
    yield _possible(subject, [score for document in own_documents(subject) for score in scores(document, subject)])


def score_cells(document: Document) -> Iterator[Cell]:
    """Cells of tables that hold a score: a number whose row or column is a benchmark or a measure of one."""
    about: dict[str, bool] = {}
    for cell in document.cells:
        if cell.column and _NUMBER.fullmatch(cell.text[:40]):
            for text in (*cell.row[:2], *cell.header[cell.column : cell.column + 1]):
                if text not in about:
                    about[text] = bool(BENCHMARK.search(text[:200]) or _MEASURE.search(text[:200]))
                if about[text]:
                    yield cell
                    break


def listed_scores(document: Document) -> list[int]:
    """Lines of sentences and list items that state a score on a benchmark."""
    out = []
    for block in document.blocks:
        match = BENCHMARK.search(block.text[:2_000]) if block.kind != "heading" else None
        if match and _LISTED.match(block.text, match.end()):
            out.append(block.line_at(match.start()))
    return out


def possible(value: float, decimals: int, trials: int) -> bool:
    """Whether `value` percent, rounded to `decimals`, is a whole number of successes in `trials`."""
    half = 0.5 * 10.0**-decimals
    low, high = (value - half) / 100 * trials, (value + half) / 100 * trials
    return floor(high + 1e-9) >= ceil(low - 1e-9)


def samples_needed(value: float, decimals: int, questions: int, most: int = 1024) -> int | None:
    """The fewest answers a question that make `value` possible."""
    return next((k for k in range(1, most + 1) if possible(value, decimals, questions * k)), None)


def scores(document: Document, subject: Subject) -> Iterator[Score]:
    """Scores of this model in a document's tables, whichever way they lie."""
    own: dict[str, bool] = {}

    def is_own(text: str) -> bool:
        if text not in own:
            own[text] = len(text) < 100 and subject.kin(text) in ("same", "form")
        return own[text]

    for cell in document.cells:
        match = _PERCENT.fullmatch(cell.text)
        column = cell.header[cell.column] if cell.column < len(cell.header) else ""
        if not match or float(match[0].rstrip(" %")) > 100:
            continue
        if is_own(column):
            label = " ".join(cell.row[:2]).lower()
        elif any(map(is_own, cell.row[:2])):
            label = column.lower()
        else:
            continue
        for benchmark, questions in QUESTIONS.items():
            if re.search(rf"(?<![\w-]){re.escape(benchmark)}(?![\w-])", label) and "cons@" not in label:
                decimals = len(match[2] or "")
                where = document.at(cell.line, f"{benchmark}: {cell.text}")
                yield Score(benchmark, questions, float(match[0].rstrip(" %")), decimals, where)
                break


def _stated_samples(subject: Subject) -> dict[int, Evidence]:
    """Numbers of answers that were taken to a question, by the documents' words, code left out."""
    found: dict[int, Evidence] = {}
    for document in own_documents(subject):
        for sentence in document.sentences:
            for match in islice(_SAMPLES.finditer(sentence.text), 20):
                count = int(next(each for each in match.groups() if each))
                if count > 0 and len(found) < 8:
                    found.setdefault(count, document.at(sentence.line_at(match.start())))
    return found


def _possible(subject: Subject, found: list[Score]) -> Row:
    if not found:
        return ask.CLAIMS_POSSIBLE.not_applicable("no score of this model on a benchmark of known size")
    stated = _stated_samples(subject)
    wrong: list[tuple[str, Evidence]] = []
    hints: list[tuple[str, Evidence]] = []
    for score in found:
        if any(possible(score.value, score.decimals, score.questions * count) for count in (1, *stated)):
            continue
        fewest = samples_needed(score.value, score.decimals, score.questions)
        text = f"{score.value:g} % of {score.questions} ({score.benchmark}) needs at least {fewest} answers a question"
        (wrong if stated or fewest is None else hints).append((text, score.evidence))
    places = tuple(place for _, place in wrong + hints) or tuple(score.evidence for score in found[:4])
    if stated:
        places = (*stated.values(), *places)
    if wrong:
        return ask.CLAIMS_POSSIBLE.no(Grade.CLAIMED, "; ".join(text for text, _ in wrong), *places[:8])
    if hints:
        reason = "; ".join(text for text, _ in hints) + ", and how many were taken is not said"
        return ask.CLAIMS_POSSIBLE.unknown(Grade.CLAIMED, reason, *places[:8])
    with_k = f" with {' or '.join(map(str, stated))} answers a question" if stated else ""
    reason = f"{len(found)} scores on benchmarks of known size, all possible{with_k}"
    return ask.CLAIMS_POSSIBLE.yes(Grade.CHECKED, reason, *places[:8])


def _protocol(subject: Subject) -> Row:
    """How much of what a repetition needs is told where evaluation is spoken of."""
    found: dict[str, Evidence] = {}
    scored = False
    for document in own_documents(subject):
        tables = {cell.line: " ".join((*cell.header, *cell.row[:2])) for cell in score_cells(document)}
        scored = scored or bool(tables) or bool(listed_scores(document))
        texts = list(tables.items())
        for sentence in document.sentences:
            if any(map(_EVALUATION.search, (sentence.text, *sentence.headings))):
                texts.append((sentence.line, sentence.text))
        for part, words in PROTOCOL.items() if texts else ():
            pattern = re.compile(words, re.I)
            line = next((line for line, text in texts if pattern.search(text[:4_000])), None)
            if line is not None:
                found.setdefault(part, document.at(line))
    if not scored:
        return ask.CLAIMS_PROTOCOL.not_applicable("the documents state no scores in tables or lists")
    missing = [part for part in PROTOCOL if part not in found]
    places = tuple(dict.fromkeys(found.values()))[:8]
    if not missing:
        return ask.CLAIMS_PROTOCOL.yes(Grade.CLAIMED, f"stated: {', '.join(found)}", *places)
    reason = f"not stated: {', '.join(missing)}" + (f"; stated: {', '.join(found)}" if found else "")
    return ask.CLAIMS_PROTOCOL.answer("partly" if found else "no", Grade.CLAIMED, reason, *places)
