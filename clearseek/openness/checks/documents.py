"""Documents: model card, data card, report, paper, evaluation results, each here, linked or only spoken of.

The word "paper" in a card is no paper. A report counts as linked when a link leads to one, as present when its file is
here; and a card counts as a card when it says what cards are for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from clearseek.openness.card import Document
from clearseek.openness.checks import content_summary
from clearseek.openness.claims import normalise
from clearseek.openness.evidence import Evidence, Grade, Row
from clearseek.openness.source import is_test
from clearseek.openness.subject import Subject

_PAPER = re.compile(
    r"arxiv\.org/(?:abs|pdf)/|doi\.org/|openreview\.net/|aclanthology\.org/|\.pdf(?:$|[?#])|dl\.acm\.org|nature\.com/articles"
)
_REVIEWED = re.compile(r"openreview\.net/|aclanthology\.org/|proceedings\.|nature\.com/articles|dl\.acm\.org")
_RESULTS = re.compile(
    r"(?:^|/)(?:eval\w*|results?|\.eval_results)/(?:.*/)?[^/]*(?:\.(?:jsonl?|csv|tsv|parquet)(?:\.gz|\.zst)?"
    r"|(?:result|metric|score)[^/]*\.(?:txt|md|ya?ml))$|^\.eval_results/.*\.ya?ml$"
)
_POLICY = re.compile(r"copyright-policy|opt-?out")
SECTIONS = {
    "what the model is": r"introduction|summary|description|details|overview|architecture|about|^model$",
    "how to use it": r"usage|how to|use|inference|run|quick ?start|getting started",
    "evaluation": r"evaluation|results|benchmark|performance",
    "training": r"training|pre-?train|data",
    "limits and risks": r"limitation|bias|risk|safety|out-of-scope|responsib",
    "licence": r"licen[cs]e|terms",
}


def rows(subject: Subject) -> Iterator[Row]:
    """One row a document."""
    yield _model_card(subject)
    yield _data_card(subject)
    yield _report(subject)
    yield _paper(subject)
    yield _evaluation(subject)
    yield content_summary.row(subject)
    yield _policy(subject)


def _policy(subject: Subject) -> Row:
    """A document that the AI Act asks for, by its file's name or by a heading."""
    name, title = "documents.copyright_policy", "A copyright policy for the training data is published"
    for path in subject.source.sizes:
        if _POLICY.search(path.rpartition("/")[2].lower().replace("_", "-")):
            return Row(name, "impact", title, "yes", Grade.PRESENT, path, (subject.source.whole(path),))
    for document in subject.documents:
        for number, line in enumerate(document.lines, 1):
            if line.startswith("#") and _POLICY.search(line.lower().replace(" ", "-")):
                return Row(
                    name, "impact", title, "yes", Grade.CLAIMED, f"a section of {document.file}", (document.at(number),)
                )
    return Row(name, "impact", title, "no", Grade.ABSENT, "no file and no section of that name")


def _model_card(subject: Subject) -> Row:
    title, name = "There is a model card", "documents.model_card"
    card = subject.card
    if card is None:
        return Row(name, "definition", title, "no", Grade.ABSENT, "no README at the top of the release")
    headings = [title for path in card.headings for title in path[-1:]]
    found = [part for part, words in SECTIONS.items() if any(re.search(words, each, re.I) for each in headings)]
    missing = [part for part in SECTIONS if part not in found]
    place = (Evidence(card.file, "", "", card.sha256),)
    if len(found) < 2:
        reason = f"{card.file} has no sections that a card has"
        return Row(name, "definition", title, "partly", Grade.PRESENT, reason, place)
    stated = [row for row in subject.claims if row.evidence.file == card.file]
    reason = f"{card.file} has sections on {', '.join(found)}" + (f"; none on {', '.join(missing)}" if missing else "")
    answer = "yes" if not missing or missing == ["limits and risks"] else "partly"
    grade = Grade.CHECKED if stated or subject.metadata.value else Grade.PRESENT
    return Row(name, "definition", title, answer, grade, reason, place)  # type: ignore[arg-type]


def _data_card(subject: Subject) -> Row:
    title, name = "There is a data card", "documents.data_card"
    files = subject.source.find("data_card*", "datacard*", "dataset_card*", "datasheet*", "croissant*.json")
    files += tuple(
        path for path in subject.source.sizes if re.fullmatch(r"(?:.*/)?data(?:set)?s?/readme\.md", path.lower())
    )
    if files:
        places = tuple(subject.source.whole(path) for path in files)
        return Row(name, "definition", title, "yes", Grade.PRESENT, f"{', '.join(files)}", places)
    links = _links(subject, re.compile(r"huggingface\.co/datasets/", re.I))
    if links:
        reason = "no data card here; the documents link to data sets, which have their own"
        return Row(name, "definition", title, "partly", Grade.LINKED, reason, _places(links))
    return Row(name, "definition", title, "no", Grade.ABSENT, "no data card here, and no link to one")


@dataclass(frozen=True)
class _Found:
    file: str
    line: int
    target: str


def _links(subject: Subject, pattern: re.Pattern[str]) -> list[_Found]:
    return [
        _Found(document.file, link.line, link.target)
        for document in subject.documents
        for link in document.links
        if pattern.search(link.target)
    ]


def _places(links: list[_Found]) -> tuple[Evidence, ...]:
    distinct = {link.target: link for link in reversed(links)}
    return tuple(Evidence(link.file, f"line {link.line}", link.target) for link in reversed(distinct.values()))[:6]


def _own_papers(subject: Subject) -> list[_Found]:
    """Links to papers that present this model: cited by the card, or named as its paper or report."""
    out = []
    for document in subject.documents:
        for link in document.links:
            line = document.lines[link.line - 1].lower()
            around = " ".join(document.lines[max(0, link.line - 12) : link.line]).lower()
            cited = "@" in around and ("title" in around or "eprint" in around or "url" in line)
            if _PAPER.search(link.target) and (cited or re.search(r"paper|report|preprint", line)):
                out.append(_Found(document.file, link.line, link.target))
    return out


def _report(subject: Subject) -> Row:
    title, name = "There is a technical report", "documents.report"
    files = tuple(
        path
        for path in subject.source.find("*.pdf", "*report*.md", "*paper*.md", "*.tex")
        if not path.startswith(".") and _is_report(path, normalise(subject.name))
    )
    if files:
        places = tuple(subject.source.whole(path) for path in files[:6])
        return Row(name, "definition", title, "yes", Grade.PRESENT, ", ".join(files[:6]), places)
    links = _own_papers(subject)
    if links:
        reason = f"linked: {', '.join(dict.fromkeys(link.target for link in links))}"
        return Row(name, "definition", title, "yes", Grade.LINKED, reason, _places(links))
    return Row(name, "definition", title, "no", Grade.ABSENT, "no report here, and none linked")


def _is_report(path: str, model: str) -> bool:
    """A document about the model: named so, or a PDF beside the card; plots and bug reports are none."""
    base = path.rpartition("/")[2].lower()
    named = bool(re.search(r"report|paper", base)) and not re.search(r"bug|issue|license", base)
    return named or (base.endswith(".pdf") and ("/" not in path or model in normalise(base)))


def _paper(subject: Subject) -> Row:
    title, name = "There is a peer-reviewed paper", "documents.paper"
    links = [link for link in _own_papers(subject) if _REVIEWED.search(link.target)]
    if links:
        reason = f"linked: {', '.join(dict.fromkeys(link.target for link in links))}"
        return Row(name, "impact", title, "yes", Grade.LINKED, reason, _places(links))
    preprint = bool(_own_papers(subject))
    reason = "a preprint is linked; whether it was reviewed elsewhere is not said here" if preprint else "none is named"
    return Row(name, "impact", title, "unknown" if preprint else "no", Grade.ABSENT, reason)


def score_tables(document: Document) -> list[int]:
    """Lines of table cells that hold a score of a known kind, which make an evaluation."""
    words = re.compile(
        r"accuracy|acc\.|pass@|\bem\b|\bf1\b|bpb|bits per byte|perplexity|score|win ?rate|exact match|percentile|rating"
        r"|mmlu|gsm8k",
        re.I,
    )
    return [
        cell.line
        for cell in document.cells()
        if re.fullmatch(r"\d{1,4}(?:\.\d+)?\s?%?", cell.text)
        and words.search(" ".join((*cell.row[:2], *(cell.header[cell.column : cell.column + 1]))))
    ]


def _evaluation(subject: Subject) -> Row:
    title, name = "Evaluation results are published", "documents.evaluation"
    raw = tuple(path for path in subject.source.sizes if _RESULTS.search(path.lower()) and not is_test(path))
    if raw:
        places = tuple(subject.source.whole(path) for path in raw[:6])
        return Row(name, "definition", title, "yes", Grade.PRESENT, f"{len(raw)} files of results, raw", places)
    for document in subject.documents:
        lines = score_tables(document)
        if lines:
            reason = (
                f"{len(lines)} scores in tables, lines {lines[0]} to {lines[-1]} of {document.file}; no raw outputs"
            )
            return Row(name, "definition", title, "yes", Grade.CLAIMED, reason, (document.at(lines[0]),))
    return Row(name, "definition", title, "no", Grade.ABSENT, "no table of scores and no results")
