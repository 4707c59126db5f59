"""The AI Act's summary of training content: which fields of the Commission's template are filled, and by what.

Every provider of a general-purpose model must publish one, open or not (Regulation (EU) 2024/1689, article 53(1)(d);
template of 24 July 2025). The template has no machine-readable form, so a summary is read as people write it: a table,
sections or a PDF, whose names or numbers are the template's. "None" is an answer; "not stated" is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Evidence, Grade, Row
from clearseek.audit.facts import SummaryFact
from clearseek.audit.read.card import Document
from clearseek.audit.read.mentions import first_link
from clearseek.audit.read.pdf import pdf_lines
from clearseek.audit.read.presence import fault
from clearseek.audit.read.subject import Subject, attempt

_NAMED = re.compile(r"ai-act|training-(?:data|content)-summary|summary-of-training|public-summary")
_LINKED = re.compile(
    r"summary of (?:the )?training[- ](?:data|content)|training[- ](?:data|content) (?:public )?summary"
    r"|public summary|53\(1\)\(d\)|AI act summary",
    re.I,
)
_READ = (".md", ".txt", ".rst")
_PAGES = (".pdf", ".docx", ".odt", ".html", ".htm")
_MOST_LABELS = 2_000
"""Rows, and sections, of a summary that are looked at: a hundred times those of the template."""
_EMPTY = re.compile(
    r"[-\u2013\u2014.\u2026?\s]*|(?:n/?a|tbd|todo)\b.{0,40}|(?:is )?(?:not|un)[- ]?(?:stated|known|measured|recorded"
    r"|disclosed).*",
    re.I,
)
_UNTICKED = re.compile(r"\u2610 ?yes[^\u2612\u2611]{0,40}\u2610 ?no\b", re.I)
"""A question of the form without an answer."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the template."""

    name: str
    """Section and subject."""
    words: str
    """Pattern of the names it goes by, without a section's number."""
    heading: str
    """Pattern of its heading in the Commission's form."""

    @property
    def section(self) -> str:
        """Number of its section."""
        return self.name.partition(" ")[0]


FIELDS: Final = (
    Field("1.1 provider", r"(?:provider|developer)\b", r"(?:provider|developer) (?:name and contact|identification)"),
    Field("1.2 model", r"(?:versioned )?models?\b(?![- ]generated)", r"versioned model name\(?s?\)?"),
    Field("1.3 modality and size", r"(?:training data )?size\b|modalit(?:y|ies).{0,20}size", r"training data size"),
    Field("1.3 types of content", r"types? of content|content types?", r"types? of content"),
    Field("1.3 latest acquisition", r"latest (?:date of )?(?:data )?(?:acquisition|collection)",
          r"latest date of data\W{0,3}acquisition\S{0,14}(?: for model training)?"),
    Field("1.3 languages", r"languages?\b|linguistic", r"linguistic characteristics(?: of the overall training data)?"),
    Field("2.1 public data sets", r"public(?:ly available)? data ?sets?", r"publicly available data ?sets"),
    Field("2.2 private data sets", r"private|licensed|commercially licensed",
          r"private non-publicly available data ?sets"),
    Field("2.3 crawled data", r"crawl|scrap", r"data crawled and scraped"),
    Field("2.4 user data", r"user data|data (?:collected )?from users", r"user data"),
    Field("2.5 synthetic data", r"synthetic|model[- ]generated", r"synthetic data"),
    Field("2.6 other data", r"other (?:sources|data)", r"other sources of data"),
    Field("3.1 reservations of rights", r"reservations?|opt-?outs?|copyright|text and data mining|\btdm\b",
          r"respect of reservation of rights"),
    Field("3.2 illegal content", r"illegal|unlawful", r"removal of illegal content"),
    Field("3.3 other information", r"other (?:information|remarks|measures)|additional|optional", r"other information"),
)  # fmt: skip


def row(subject: Subject) -> Row:
    """Whether a summary is there, and which fields it fills."""
    found = summary_file(subject)
    if found is None and (link := first_link(subject, _LINKED)):
        reason = f"linked, not read, so which fields it fills is not known: {link.target}"
        return ask.DOCUMENTS_DATA_SUMMARY.partly(Grade.LINKED, reason, link.place)
    if found is None:
        if section := subject.heading(_NAMED):
            document, number = section
            reason = f"a section of {document.file}; its fields were not read"
            return ask.DOCUMENTS_DATA_SUMMARY.partly(Grade.CLAIMED, reason, document.at(number))
        return ask.DOCUMENTS_DATA_SUMMARY.no(Grade.ABSENT, "no file and no section of that name")
    part = attempt(lambda: fault(subject.source, found, "summary"))
    if part.value is None:
        return ask.DOCUMENTS_DATA_SUMMARY.unknown(Grade.CLAIMED, f"{found}: {part.error}", Evidence(found))
    if part.value:
        reason = f"named like one and holds nothing: {found} {part.value}"
        return ask.DOCUMENTS_DATA_SUMMARY.no(Grade.CLAIMED, reason, subject.source.whole(found))
    pages = attempt(lambda: pdf_lines(subject.source, found)) if found.lower().endswith(".pdf") else None
    if not found.lower().endswith(_READ) and (pages is None or pages.value is None):
        reason = f"{found}, of a form that is not read field by field: which fields it fills is not known"
        reason = reason if pages is None else f"{pages.error}; so which fields it fills is not known"
        return ask.DOCUMENTS_DATA_SUMMARY.partly(Grade.PRESENT, reason, subject.source.whole(found))
    filled = fields(subject) if pages is None else _in_text(pages.value or [], subject.source.whole(found))
    places = (subject.source.whole(found), *(place for _, place in filled.values()))[:8]
    missing = [each.name for each in FIELDS if each.name not in filled]
    reason = f"{found} fills {len(filled)} of {len(FIELDS)} fields of the Commission's template"
    reason += f"; not {', '.join(missing)}" if missing else ""
    if pages is not None and not filled:
        reason = f"{found} has none of the headings of the Commission's template in English: its fields were not read"
    answer: Answer = "yes" if not missing else "partly" if filled or pages is not None else "no"
    facts = (SummaryFact({field: text[:500] for field, (text, _) in filled.items()}),) if filled else ()
    return ask.DOCUMENTS_DATA_SUMMARY.answer(answer, Grade.PRESENT, reason, *places, facts=facts)


def summary_file(subject: Subject) -> str | None:
    """The file that calls itself such a summary, one that can be read first."""
    named = [
        path
        for path in subject.source.sizes
        if _NAMED.search(path.rpartition("/")[2].lower().replace("_", "-")) and path.lower().endswith((*_READ, *_PAGES))
    ]
    return min(
        named, key=lambda path: (not path.lower().endswith(_READ), not subject.source.sizes[path], path), default=None
    )


def fields(subject: Subject) -> dict[str, tuple[str, Evidence]]:
    """Field -> what the summary says in it and where; fields that say nothing are left out."""
    path = summary_file(subject)
    if path is None or not path.lower().endswith(_READ):
        return {}
    document = subject.source.document(path)
    found: dict[str, tuple[str, Evidence]] = {}
    for label, text, line in (*_table(document)[:_MOST_LABELS], *_sections(document)[:_MOST_LABELS]):
        if _EMPTY.fullmatch(text):
            continue
        for each in FIELDS:
            if each.name not in found and _is(label, each):
                found[each.name] = text, document.at(line)
                break
    return found


def _is(label: str, field: Field) -> bool:
    """Whether a label is this field's: by its section's number and its words, or by the words at its beginning."""
    label = label.strip().lower()
    number, _, rest = label.partition(" ")
    if number.rstrip(".") == field.section:
        return re.search(field.words, rest, re.I) is not None
    return number[:1].isalpha() and re.match(rf"(?:the )?(?:{field.words})", label, re.I) is not None


def _table(document: Document) -> list[tuple[str, str, int]]:
    """Rows of tables with two columns: name, value, line."""
    return [(cell.row[0], cell.row[1], cell.line) for cell in document.cells if cell.column == 1 and len(cell.row) == 2]


def _sections(document: Document) -> list[tuple[str, str, int]]:
    """Headings with the first line of text under them."""
    out = []
    for number, line in enumerate(document.lines, 1):
        if line.startswith("#"):
            below = (text.strip() for text in document.lines[number : number + 20])
            text = next((each for each in below if each), "")
            if text and not text.startswith(("#", "|")):
                out.append((line.strip("# "), text, number))
    return out


def _in_text(lines: list[str], place: Evidence) -> dict[str, tuple[str, Evidence]]:
    """Field -> what stands between its heading in the template and the next: a PDF's text has no other form."""
    text = " ".join(" ".join(lines).split())
    found: list[tuple[Field, int, int]] = []
    begin = 0
    for each in FIELDS:
        numbered = re.compile(rf"{re.escape(each.section)}\.? (?:{each.heading})", re.I).search(text, begin)
        match = numbered or re.compile(rf"(?:{each.heading})\W{{0,3}}", re.I).search(text, begin)
        if match is not None:
            found.append((each, match.start(), match.end()))
            begin = match.end()
    told: dict[str, tuple[str, Evidence]] = {}
    ends = [start for _, start, _ in found[1:]] + [len(text)]
    for number, (each, _, after) in enumerate(found):
        between = (text[after:end].strip() for end in ends[number:])  # headings of columns follow on each other
        answer = next((part for part in between if re.search(r"\w", part)), "")
        if answer and not _EMPTY.fullmatch(answer[:500]) and not _UNTICKED.search(answer):
            told[each.name] = answer, place
    return told
