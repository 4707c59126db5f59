"""Lineage: what the model, or models of the release, were made from, and what those licences ask of them.

A model tuned from another inherits its duties. Meta's community licences ask that a derived model's name begin with
"Llama", that "Built with Llama" be shown and that the agreement come along; a new licence on top does not undo that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from clearseek.openness.checks.licence import licence_texts
from clearseek.openness.evidence import Evidence, Grade, Row
from clearseek.openness.licences.table import Licence, lookup
from clearseek.openness.licences.upstream import NAME_PREFIX, duties, naming_problem
from clearseek.openness.subject import Subject

_FAMILIES = (
    (re.compile(r"llama[-_ ]?(3\.[123]|[234])(?!\d)", re.I), "llama{}"),
    (re.compile(r"\bgemma", re.I), "gemma"),
    (re.compile(r"\bdeepseek-v[23](?:-base)?$|deepseek-(?:llm|coder|moe)", re.I), "deepseek"),
)


@dataclass(frozen=True)
class Derived:
    """A model, what it was made from, and where that stands."""

    model: str
    base: str
    evidence: Evidence


def rows(subject: Subject) -> Iterator[Row]:
    """Whether what the bases' licences ask is done."""
    yield _duties(subject)


def derived_models(subject: Subject) -> Iterator[Derived]:
    """Models with their bases: from the card's metadata, and from tables with a column for them."""
    named = (subject.metadata.value or {}).get("base_model")
    card = subject.card
    for base in named if isinstance(named, list) else [named]:
        if isinstance(base, str) and card is not None:
            line = next((n for n, text in enumerate(card.lines, 1) if base in text), 1)
            yield Derived(subject.name, base, Evidence(card.file, f"line {line}, key base_model", base, card.sha256))
    for document in subject.documents:
        for cell in document.cells():
            header = cell.header[cell.column].lower() if cell.column < len(cell.header) else ""
            if re.fullmatch(r"base(?: |_)?model", header) and cell.text and cell.row:
                yield Derived(cell.row[0], cell.text, document.at(cell.line, f"{cell.row[0]}: {cell.text}"))


def licence_of(base: str) -> Licence | None:
    """The licence that a known base is under, where it asks something of derived models."""
    for pattern, name in _FAMILIES:
        if match := pattern.search(base.rpartition("/")[2]):
            return lookup(name.format(*match.groups()))
    return None


def _duties(subject: Subject) -> Row:
    title, name = "What the licences of the bases ask of derived models is done", "licence.upstream"
    derived = list(derived_models(subject))
    if not derived:
        reason = "no base model is named"
        return Row(name, "impact", title, "not applicable", Grade.ABSENT, reason)
    known = [(each, licence) for each in derived if (licence := licence_of(each.base)) is not None]
    if not known:
        bases = ", ".join(dict.fromkeys(each.base for each in derived))
        reason = f"bases: {bases}; none of them is known to ask for more than notices"
        return Row(
            name, "impact", title, "unknown", Grade.CLAIMED, reason, tuple(each.evidence for each in derived)[:8]
        )
    prose = " ".join(document.text for document in subject.documents).lower()
    here = {text.match.licence.id for text in licence_texts(subject).values() if text.match.licence}
    problems: list[str] = []
    for each, licence in known:
        undone = []
        if naming_problem(each.model.rpartition("/")[2], licence):
            undone.append(f"its name must begin with “{NAME_PREFIX[licence.id]}”")
        for duty in duties(licence):
            if duty.check == "shown" and duty.value.lower() not in prose:
                undone.append(f"“{duty.value}” must be shown, and is not")
            elif duty.check == "copy" and licence.id not in here:
                undone.append("the agreement must come along, and is not here")
        if undone:
            problems.append(f"{each.model} is made from {each.base} ({licence.name}): {', '.join(undone)}")
    places = tuple(each.evidence for each, _ in known)[:8]
    if problems:
        return Row(name, "impact", title, "no", Grade.CLAIMED, "; ".join(problems), places)
    reason = (
        f"names, notices and agreements of {', '.join(dict.fromkeys(licence.name for _, licence in known))} are here"
    )
    return Row(name, "impact", title, "yes", Grade.CHECKED, reason, places)
