"""The AI Act's summary of training content: which fields of the Commission's template are filled, and by what.

Every provider of a general-purpose model must publish one, open or not (Regulation (EU) 2024/1689, article 53(1)(d);
template of 24 July 2025). The template has no machine-readable form, so a summary is read as people write it: a table,
sections or a PDF, whose names or numbers are the template's. "None" is an answer; "not stated" is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Final, NamedTuple

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Grade, Row
from clearseek.audit.facts import SummaryFact
from clearseek.audit.presence import sift
from clearseek.errors import UserError
from clearseek.reading.evidence import Evidence
from clearseek.reading.mentions import first_link
from clearseek.reading.pdf import pdf_lines
from clearseek.reading.subject import Subject, attempt
from clearseek.reading.words import WORDS, cue

_NAMED = re.compile(r"ai-act|training-(?:data|content)-summary|summary-of-training|public-summary")
_LINKED = cue("summary_linked")
_READ = (".md", ".txt", ".rst")
_PAGES = (".pdf", ".docx", ".odt", ".html", ".htm")
_MOST_LABELS = 2_000
"""Rows, and sections, of a summary that are looked at: a hundred times those of the template."""
_EMPTY = cue("says_nothing")
_UNTICKED = re.compile(r"\u2610 ?yes[^\u2612\u2611]{0,40}\u2610 ?no\b", re.I)
"""A question of the form without an answer."""


class Field(NamedTuple):
    """One field of the template."""

    name: str
    """Number of its section, and subject."""
    words: str
    """Pattern of the names it goes by, without a section's number."""
    heading: str
    """Pattern of its heading in the Commission's form."""


FIELDS: Final = tuple(Field(**each) for each in WORDS["template"])
Told = dict[str, tuple[str, Evidence]]
"""Field -> what a summary says in it, and where."""


def row(subject: Subject) -> Row:
    """Whether a summary is there, and which fields it fills."""
    question, path = ask.DOCUMENTS_DATA_SUMMARY, summary_file(subject)
    if path is None:
        if link := first_link(subject, _LINKED):
            reason = f"linked, not read, so which fields it fills is not known: {link.target}"
            return question.partly(Grade.LINKED, reason, link.place)
        if section := subject.heading(_NAMED):
            reason = f"a section of {section[0].file}; its fields were not read"
            return question.partly(Grade.CLAIMED, reason, section[0].at(section[1]))
        return question.no(Grade.ABSENT, "no file and no section of that name")
    found = sift(subject.source, [path], "summary")
    if not found.real:
        return found.missing(subject.source, question, "")
    told, place = attempt(lambda: _told(subject, path)), subject.source.whole(path)
    if told.value is None:
        reason = f"{told.error}; it was not read field by field, so which fields it fills is not known"
        return question.partly(Grade.PRESENT, reason, place)
    missing = [each.name for each in FIELDS if each.name not in told.value]
    reason = f"{path} fills {len(told.value)} of {len(FIELDS)} fields of the Commission's template"
    reason += f"; not {', '.join(missing)}" if missing else ""
    answer: Answer = "yes" if not missing else "partly" if told.value else "no"
    facts = (SummaryFact({field: text[:500] for field, (text, _) in told.value.items()}),) if told.value else ()
    places = (place, *(where for _, where in told.value.values()))[:8]
    return question.answer(answer, Grade.PRESENT, reason, *places, facts=facts)


def summary_file(subject: Subject) -> str | None:
    """The file that calls itself such a summary, one that can be read first."""
    sizes = subject.source.sizes
    named = [path for path in sizes if _NAMED.search(path.rpartition("/")[2].lower().replace("_", "-"))]
    named = [path for path in named if path.lower().endswith((*_READ, *_PAGES))]
    return min(named, key=lambda path: (not path.lower().endswith(_READ), not sizes[path], path), default=None)


def fields(subject: Subject) -> Told:
    """What the summary says in each field, as far as it can be read; fields that say nothing are left out."""
    path = summary_file(subject)
    return {} if path is None else attempt(lambda: _told(subject, path)).value or {}


def _told(subject: Subject, path: str) -> Told:
    """What a summary says in each field. Raises UserError where that cannot be read."""
    if path.lower().endswith(".pdf"):
        found = _in_text(pdf_lines(subject.source, path), subject.source.whole(path))
        if not found:
            raise UserError(f"{path} has none of the template's headings in English: its fields were not read")
        return found
    if not path.lower().endswith(_READ):
        raise UserError(f"{path} is of a form that is not taken apart")
    found = {}
    for label, text, line in islice(_labelled(subject, path), _MOST_LABELS):
        name = next((each.name for each in FIELDS if each.name not in found and _is(label, each)), None)
        if name is not None and not _EMPTY.fullmatch(text):
            found[name] = text, subject.source.document(path).at(line)
    return found


def _labelled(subject: Subject, path: str) -> Iterator[tuple[str, str, int]]:
    """Rows of tables with two columns, and headings with the text under them: label, text, line."""
    document = subject.source.document(path)
    for cell in document.cells:
        if cell.column == 1 and len(cell.row) == 2:
            yield *cell.row, cell.line
    for title, below in pairwise(document.blocks):
        if title.kind == "heading" and below.kind != "heading":
            yield title.text, below.text, title.line


def _is(label: str, field: Field) -> bool:
    """Whether a label is this field's: by its section's number and its words, or by the words at its beginning."""
    number, _, rest = label.strip().lower().partition(" ")
    if number.rstrip(".") == field.name.partition(" ")[0]:
        return re.search(field.words, rest, re.I) is not None
    return number[:1].isalpha() and re.match(rf"\s*(?:the )?(?:{field.words})", label, re.I) is not None


def _in_text(lines: list[str], place: Evidence) -> Told:
    """What stands between each heading of the template and the next: a PDF's text has no other form."""
    text, begin = " ".join(" ".join(lines).split()), 0
    found: list[tuple[str, int, int]] = []
    for name, _, heading in FIELDS:
        numbered = re.compile(rf"{re.escape(name.partition(' ')[0])}\.? (?:{heading})", re.I).search(text, begin)
        if match := numbered or re.compile(rf"(?:{heading})\W{{0,3}}", re.I).search(text, begin):
            found.append((name, match.start(), begin := match.end()))
    told: Told = {}
    ends = [start for _, start, _ in found[1:]] + [len(text)]
    for number, (name, _, after) in enumerate(found):
        between = (text[after:end].strip() for end in ends[number:])  # headings of columns follow on each other
        answer = next((part for part in between if re.search(r"\w", part)), "")
        if answer and not _EMPTY.fullmatch(answer[:500]) and not _UNTICKED.search(answer):
            told[name] = answer, place
    return told
