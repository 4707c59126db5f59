"""Lineage: what the model, or models of the release, were made from, and what those licences ask of them.

A model tuned from another inherits its duties. Meta's community licences ask that a derived model's name begin with
"Llama", that "Built with Llama" be shown and that the agreement come along; a new licence on top does not undo that.
Whether one model comes from another shows in its numbers: training moves weights a little, while those of two models
that began from different draws are as far apart as any.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from clearseek.errors import UserError
from clearseek.openness.checks.licence import licence_texts
from clearseek.openness.checks.numbers import matrices, numbers
from clearseek.openness.claims import normalise
from clearseek.openness.evidence import Answer, Evidence, Grade, Row
from clearseek.openness.licences.table import Licence, lookup
from clearseek.openness.licences.upstream import NAME_PREFIX, duties, naming_problem
from clearseek.openness.subject import Subject

_FAMILIES = (
    (re.compile(r"llama[-_ ]?(3\.[123]|[234])(?!\d)", re.I), "llama{}"),
    (re.compile(r"\bgemma", re.I), "gemma"),
    (re.compile(r"\bdeepseek-v[23](?:-base)?$|deepseek-(?:llm|coder|moe)", re.I), "deepseek"),
)


DERIVED: Final = 0.5
UNRELATED: Final = 0.1
"""Cosine between matrices of two models, the median: above, one comes from the other; below, neither does."""
_MOST_MATRICES = 48


@dataclass(frozen=True)
class Derived:
    """A model, what it was made from, and where that stands."""

    model: str
    base: str
    evidence: Evidence


def rows(subject: Subject) -> Iterator[Row]:
    """Whether what the bases' licences ask is done."""
    yield _duties(subject)
    yield _weights(subject)


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


def _weights(subject: Subject) -> Row:
    """Sampled matrices of the release beside the same of another."""
    title, name, base = (
        "Its weights come from the base that it names, and from no other",
        "lineage.weights",
        subject.base,
    )
    named = list(dict.fromkeys(each.base for each in derived_models(subject)))
    if base is None:
        if not named:
            return Row(name, "technical", title, "not applicable", Grade.ABSENT, "no base model is named")
        reason = f"{', '.join(named[:4])} named; --base compares their weights"
        return Row(name, "technical", title, "unknown", Grade.CLAIMED, reason)
    ours, theirs = subject.weights.tensors, base.weights.tensors
    most = min(_MOST_MATRICES, subject.source.most_samples, base.source.most_samples)
    shared = matrices(ours, theirs, most=most)
    if not shared:
        reason = f"no matrix of plain floats has the same name and shape in {base.source.model_name}"
        return Row(name, "technical", title, "unknown", Grade.PRESENT, reason)
    try:
        pairs = [(numbers(subject.source, ours, one), numbers(base.source, theirs, one)) for one in shared]
    except UserError as error:
        return Row(name, "technical", title, "unknown", Grade.PRESENT, str(error))
    cosines = [_cosine(one, other) for one, other in pairs if len(one) == len(other)]
    middle = float(np.median(cosines)) if cosines else 0.0
    same = sum(bool(np.array_equal(one, other)) for one, other in pairs)
    reason = (
        f"{len(shared)} matrices beside {base.source.model_name}'s: cosine {middle:.4f} in the median, {same} the same"
    )
    is_named = any(_alike(each, base.source.model_name) for each in named)
    places = tuple(Evidence(*ours[one][:1]) for one in shared[:1])
    if UNRELATED < middle < DERIVED:
        return Row(name, "technical", title, "unknown", Grade.PRESENT, f"{reason}: neither near nor far", places)
    comes = middle >= DERIVED
    if comes == is_named:
        what = "it is named" if comes else "and it is not named"
        answer: Answer = "yes" if comes else "not applicable"
        return Row(name, "technical", title, answer, Grade.CHECKED, f"{reason}; {what}", places)
    what = (
        "it comes from there, or both from one other, and it does not say so"
        if comes
        else "named, and it does not come from there"
    )
    return Row(name, "technical", title, "no", Grade.CLAIMED, f"{reason}: {what}", places)


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    length = float(np.linalg.norm(one.astype(np.float64)) * np.linalg.norm(other.astype(np.float64)))
    return float(one.astype(np.float64) @ other.astype(np.float64)) / length if length else 0.0


def _alike(one: str, other: str) -> bool:
    """Whether two names, owner aside, are of one model."""
    return normalise(one.rpartition("/")[2]) == normalise(other)
