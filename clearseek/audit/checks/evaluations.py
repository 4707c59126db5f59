"""Evaluation claims: which scores the documents state, and whether the protocol is complete enough to repeat them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from clearseek.audit import questions as ask
from clearseek.audit.checks.data_sets import linked_results
from clearseek.audit.checks.papers import own_papers
from clearseek.audit.evidence import Grade, Row
from clearseek.reading.card import Cell, Document
from clearseek.reading.evidence import Evidence
from clearseek.reading.mentions import own_documents
from clearseek.reading.source import is_test
from clearseek.reading.subject import Subject
from clearseek.reading.words import BENCHMARK, WORDS, any_of, cue

_MEASURE = cue("measure")
_NUMBER = re.compile(r"[~≈]?\d{1,4}(?:\.\d{1,6})?\s?%?\W{0,3}(?:±\s?[\d.]{1,8}%?|\([^()]{0,20}\))?")
_LISTED = re.compile(r"[\s:\uff1a=]{1,4}(?:\([^()]{0,30}\))?\W{0,4}\d{1,3}(?:\.\d{1,3})?\s?%?(?![\w-])")
_REACHED = re.compile(r"\d{1,3}(?:\.\d{1,3})?\s?%?(?: accuracy| points)? (?:on|in) (?:the )?$")
_EVALUATION = cue("evaluation")
_SCRIPTS = re.compile(
    r"(?:^|/)(?:eval\w*|bench\w*)/(?:[^/]+/)*[^/]+\.(?:py|sh)$|(?:^|/)[^/]*eval(?:uat\w+)?[^/]*\.(?:py|sh)$"
)
PROTOCOL: Final = {part: any_of(words) for part, words in WORDS["protocol"].items()}


@lru_cache(maxsize=4096)
def _spoken(heading: str) -> bool:
    """Whether a heading speaks of evaluation."""
    return _EVALUATION.search(heading) is not None


def rows(subject: Subject) -> Iterator[Row]:
    """Whether the protocol is complete."""
    yield _protocol(subject)


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


def score_lines(document: Document) -> list[int]:
    """Lines of tables with scores."""
    return [cell.line for cell in score_cells(document)]


@lru_cache(maxsize=64)
def listed_scores(document: Document) -> list[int]:
    """Lines of sentences and list items that state a score on a benchmark."""
    out = []
    for block in (each for each in document.blocks if re.search(r"\d", each.text)):
        match = BENCHMARK.search(block.text[:2_000]) if block.kind != "heading" else None
        if match and (_LISTED.match(block.text, match.end()) or _REACHED.search(block.text[: match.start()])):
            out.append(block.line_at(match.start()))
    return out


def _protocol(subject: Subject) -> Row:
    """How much of what a repetition needs is told where evaluation is spoken of."""
    found: dict[str, Evidence] = {}
    scored = texts_of = False
    for document in own_documents(subject):
        tables = {cell.line: " ".join((*cell.header, *cell.row[:2])) for cell in score_cells(document)}
        scored = scored or bool(tables) or bool(listed_scores(document))
        texts = list(tables.items())
        for sentence in document.sentences:
            if _EVALUATION.search(sentence.text) or any(map(_spoken, sentence.headings)):
                texts.append((sentence.line, sentence.text))
        texts_of = texts_of or bool(texts)
        for part, pattern in PROTOCOL.items() if texts else ():
            line = next((line for line, text in texts if pattern.search(text[:4_000])), None)
            if line is not None:
                found.setdefault(part, document.at(line))
    if results := linked_results(subject):
        found.setdefault("raw outputs", results[0].evidence)
    scripts = [path for path in subject.source.sizes if _SCRIPTS.search(path.lower()) and not is_test(path)]
    if scripts and (texts_of or scored):
        found.setdefault("its code", subject.source.whole(scripts[0]))
    if not scored and not results and not {"its code", "harness and version"} & found.keys():
        return ask.CLAIMS_PROTOCOL.not_applicable("the documents state no scores in tables or lists")
    missing = [part for part in PROTOCOL if part not in found]
    places = tuple(dict.fromkeys(found.values()))[:8]
    if not missing:
        return ask.CLAIMS_PROTOCOL.yes(Grade.CLAIMED, f"stated: {', '.join(found)}", *places)
    if not found and (own := own_papers(subject)):
        reason = "nothing of it is told here; the model's own report is linked and was not read"
        return ask.CLAIMS_PROTOCOL.unknown(Grade.ABSENT, reason, own[0].evidence)
    reason = f"not stated: {', '.join(missing)}" + (f"; stated: {', '.join(found)}" if found else "")
    return ask.CLAIMS_PROTOCOL.answer("partly" if found else "no", Grade.CLAIMED, reason, *places)
