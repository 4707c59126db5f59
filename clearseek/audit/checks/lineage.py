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
from itertools import islice
from typing import Final

import numpy as np

from clearseek.audit import questions as ask
from clearseek.audit.checks.terms import is_free, licence_files, licence_texts, per_subject, weights_licence
from clearseek.audit.evidence import Grade, Row
from clearseek.errors import UserError
from clearseek.licences.places import is_notice_file
from clearseek.licences.table import Licence
from clearseek.licences.upstream import duties, licence_of, naming_problem
from clearseek.reading.card import shorten
from clearseek.reading.claims import normalise
from clearseek.reading.evidence import Evidence, amount
from clearseek.reading.numbers import matrices, numbers
from clearseek.reading.subject import Subject

DERIVED: Final = 0.5
UNRELATED: Final = 0.1
"""Cosine between matrices of two models, the median: above, one comes from the other; below, neither does."""
_MOST_MATRICES = 48
MOST_MODELS: Final = 100
"""Models with their bases that are looked at; the longest tables of cards have some dozens."""
_SHORTEST_AGREEMENT = 400
"""Words; the shortest of the companies' agreements has three times that."""


@dataclass(frozen=True)
class Derived:
    """A model, what it was made from, and where that stands."""

    model: str
    base: str
    evidence: Evidence


def rows(subject: Subject) -> Iterator[Row]:
    """Whether what the bases' licences ask is done, and where another release is beside it, whether it is a base."""
    yield _duties(subject)
    if subject.base is not None:
        yield _weights(subject, subject.base)


@per_subject
def derived_models(subject: Subject) -> tuple[Derived, ...]:
    """Models with their bases: from the card's metadata, and from tables with a column for them."""
    return tuple(islice(_derived(subject), MOST_MODELS))


def _derived(subject: Subject) -> Iterator[Derived]:
    named = (subject.metadata.value or {}).get("base_model")
    card = subject.card
    bases = [base for base in (named if isinstance(named, list) else [named])[:MOST_MODELS] if isinstance(base, str)]
    if card is not None and bases:
        lines: dict[str, int] = {}
        for number, line in enumerate(card.lines, 1):
            lines.setdefault(line.rpartition(": ")[2].strip(" -'\""), number)
        for base in bases:
            where = f"line {lines.get(base, 1)}, key base_model"
            yield Derived(subject.name, base, Evidence(card.file, where, shorten(base), card.sha256))
    for document in subject.documents:
        for cell in document.cells:
            header = cell.header[cell.column].lower() if cell.column < len(cell.header) else ""
            if re.fullmatch(r"base(?: |_)?model", header) and cell.text and cell.row:
                yield Derived(cell.row[0], cell.text, document.at(cell.line, f"{cell.row[0]}: {cell.text}"))


def _duties(subject: Subject) -> Row:
    derived = derived_models(subject)
    if not derived:
        return ask.LICENCE_UPSTREAM.not_applicable("no base model is named")
    known = [(each, licence) for each in derived if (licence := licence_of(each.base)) is not None]
    owed = [(each, licence) for each, licence in known if not _is_owner(subject, each.base)]
    others = ", ".join(list(dict.fromkeys(each.base for each in derived if licence_of(each.base) is None))[:20])
    places = tuple(each.evidence for each in ([each for each, _ in known] or derived))[:8]
    if not known:
        reason = f"bases: {others}; none of them is known to ask for more than notices"
        return ask.LICENCE_UPSTREAM.unknown(Grade.CLAIMED, reason, *places)
    if not owed and not others:
        reason = "the release and its bases are of one owner, who owes himself nothing"
        return ask.LICENCE_UPSTREAM.not_applicable(reason, places[0], grade=Grade.CLAIMED)
    problems: list[str] = []
    unchecked: dict[str, None] = {}
    for each, licence in owed:
        undone, left = _check(subject, each, licence)
        unchecked |= dict.fromkeys(left)
        if undone:
            problems.append(f"{each.model} is made from {each.base} ({licence.name}): {', '.join(undone)}")
    if problems:
        return ask.LICENCE_UPSTREAM.no(Grade.CLAIMED, "; ".join(problems), *places)
    names = ", ".join(dict.fromkeys(licence.name for _, licence in owed))
    done = f"what shows in files and names of what {names or 'nobody'} asks for is here, texts by their title"
    unchecked |= {f"what {others} asks for": None} if others else {}
    unchecked |= {f"models beyond the first {MOST_MODELS}": None} if len(derived) == MOST_MODELS else {}
    if unchecked:
        return ask.LICENCE_UPSTREAM.unknown(Grade.PRESENT, f"{done}; not checked: {'; '.join(unchecked)}", *places)
    return ask.LICENCE_UPSTREAM.yes(Grade.PRESENT, done, *places)


def _is_owner(subject: Subject, base: str) -> bool:
    """Whether a release and its base are of one account of the hub, which owes itself nothing."""
    owner, slash, name = subject.source.name.partition("@")[0].partition("/")
    return bool(slash and owner and name) and "/" not in name and owner.lower() == base.partition("/")[0].lower()


def _check(subject: Subject, each: Derived, base: Licence) -> tuple[list[str], list[str]]:
    """What a model owes to its base's licence and is not done, and what cannot be told from files."""
    undone: list[str] = []
    left: list[str] = []
    own, licence = licence_texts(subject).get("weights"), weights_licence(subject)
    if naming_problem(each.model.rpartition("/")[2], base):
        undone.append(f"its name must begin with “{base.name_prefix}”")
    for duty in duties(base):
        if duty.check == "shown" and not any(each.lower() in _prose(subject) for each in base.shown):
            undone.append(f"“{duty.value}” must be shown, and is not")
        elif duty.check == "copy" and (missing := _copy_missing(subject, base)):
            undone.append(missing)
        elif duty.check == "notice" and not any(_bare(duty.value) in text for text in _notices(subject)):
            undone.append(f"a NOTICE must say “{duty.value}”, and none does")
        elif duty.check == "changes-marked":
            left.append("whether changed files say so")
        elif duty.check in ("restrictions-passed-on", "licence-kept") and (licence is None or licence.id != base.id):
            kept = duty.check == "licence-kept"
            limits = own is not None and any(clause.flag == "field_of_use" for clause in own.match.clauses)
            if licence is None or (not kept and (limits or not is_free(licence))):
                left.append("whether its own licence has the base's " + ("terms" if kept else "restrictions"))
            else:
                what = "it must be under the base's licence" if kept else "the base's restrictions must be passed on"
                undone.append(f"{what}, and it is under {licence.name}")
    if base.non_commercial and licence is not None and not licence.non_commercial:
        undone.append(f"the base may not be used for commerce, and this is under {licence.name}")
    left += [f"what else {base.name} asks for"] if base.read_in_part else []
    left += ["whether credit is given, and changes are named"] if base.family == "content" else []
    return undone, left


@per_subject
def _prose(subject: Subject) -> str:
    return " ".join(document.text for document in subject.documents).lower()


def _copy_missing(subject: Subject, base: Licence) -> str:
    """Why there is no copy of a licence here; empty where there is one."""
    here = [text for text in licence_files(subject) if text.match.licence and text.match.licence.id == base.id]
    if not here:
        return "the agreement must come along, and is not here"
    if any(text.match.basis == "text" or len(text.text.split()) >= _SHORTEST_AGREEMENT for text in here):
        return ""
    return f"the agreement must come along, and {here[0].file} has no more than its title and a few words"


@per_subject
def _notices(subject: Subject) -> tuple[str, ...]:
    """Words of the NOTICE files."""
    named = [path for path in subject.source.sizes if is_notice_file(path)][:20]
    return tuple(_bare(document.text) for document in subject.source.readable(named))


def _bare(text: str) -> str:
    """Words alone, without copyright signs."""
    return " ".join(word for word in re.findall(r"[^\W_]+", text.lower()) if word != "c")


def _weights(subject: Subject, base: Subject) -> Row:
    """Sampled matrices of the release beside the same of another."""
    named = list(dict.fromkeys(each.base for each in derived_models(subject)))
    ours, theirs = subject.weights.tensors, base.weights.tensors
    most = min(_MOST_MATRICES, subject.source.most_samples, base.source.most_samples)
    shared = matrices(ours, theirs, most=most)
    try:
        pairs = [(numbers(subject.source, ours, one), numbers(base.source, theirs, one)) for one in shared]
    except UserError as error:
        return ask.LINEAGE_WEIGHTS.unknown(Grade.PRESENT, str(error))
    cosines = [_cosine(one, other) for one, other in pairs if len(one) == len(other)]
    if not cosines:
        reason = f"no matrix of plain floats has the same name and shape in {base.name}"
        return ask.LINEAGE_WEIGHTS.unknown(Grade.PRESENT, reason)
    middle = float(np.median(cosines))
    same = sum(bool(np.array_equal(one, other)) for one, other in pairs)
    reason = f"{amount(len(shared), 'matrix', 'matrices')} beside {base.name}'s: "
    reason += f"cosine {middle:.4f} in the median, {same} the same"
    place = Evidence(*ours[shared[0]][:1])
    if UNRELATED < middle < DERIVED or (named and not base.names):
        why = "neither near nor far" if base.names or not named else "what the other is called is not known"
        return ask.LINEAGE_WEIGHTS.unknown(Grade.PRESENT, f"{reason}: {why}", place)
    comes = middle >= DERIVED
    is_named = any(normalise(each.rpartition("/")[2]) == normalise(name) for each in named for name in base.names)
    if comes and is_named:
        return ask.LINEAGE_WEIGHTS.yes(Grade.CHECKED, f"{reason}; it is named", place)
    if not comes and not is_named:
        return ask.LINEAGE_WEIGHTS.not_applicable(f"{reason}; and it is not named", place, grade=Grade.CHECKED)
    what = "it comes from there, or both from one other, and it does not say so"
    what = what if comes else "named, and it does not come from there"
    return ask.LINEAGE_WEIGHTS.no(Grade.CLAIMED, f"{reason}: {what}", place)


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else 0.0
