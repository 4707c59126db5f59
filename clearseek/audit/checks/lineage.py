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
from hashlib import sha256
from itertools import islice
from typing import Final

import numpy as np

from clearseek.audit import questions as ask
from clearseek.audit.checks.terms import is_free, licence_files, licence_texts, per_subject, weights_licence
from clearseek.audit.evidence import Answer, Evidence, Grade, Row
from clearseek.audit.read.card import shorten
from clearseek.audit.read.claims import normalise
from clearseek.audit.read.numbers import matrices, numbers
from clearseek.audit.read.subject import Subject, attempt
from clearseek.errors import UserError
from clearseek.licences.places import is_notice_file
from clearseek.licences.table import Licence
from clearseek.licences.upstream import duties, licence_of, naming_problem

DERIVED: Final = 0.5
UNRELATED: Final = 0.1
"""Cosine between matrices of two models, the median: above, one comes from the other; below, neither does."""
_MOST_MATRICES = 48
TOKENIZER: Final = "tokenizer.json"
MOST_MODELS: Final = 100
"""Models with their bases that are looked at; the longest tables of cards have some dozens."""
_SHORTEST_AGREEMENT = 400
"""Words; the shortest of the companies' agreements has three times that."""
_MOST_TOKENIZER = 50_000_000


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
    others = list(dict.fromkeys(each.base for each in derived if licence_of(each.base) is None))
    if not known:
        reason = f"bases: {', '.join(others[:20])}; none of them is known to ask for more than notices"
        return ask.LICENCE_UPSTREAM.unknown(Grade.CLAIMED, reason, *tuple(each.evidence for each in derived)[:8])
    if not owed and not others:
        reason = "the release and its bases are of one owner, who owes himself nothing"
        return ask.LICENCE_UPSTREAM.not_applicable(reason, known[0][0].evidence, grade=Grade.CLAIMED)
    problems: list[str] = []
    unchecked: list[str] = []
    for each, licence in owed:
        undone, left = _check(subject, each, licence)
        unchecked += [what for what in left if what not in unchecked]
        if undone:
            problems.append(f"{each.model} is made from {each.base} ({licence.name}): {', '.join(undone)}")
    places = tuple(each.evidence for each, _ in known)[:8]
    if problems:
        return ask.LICENCE_UPSTREAM.no(Grade.CLAIMED, "; ".join(problems), *places)
    names = ", ".join(dict.fromkeys(licence.name for _, licence in owed))
    done = f"what shows in files and names of what {names or 'nobody'} asks for is here, texts by their title"
    unchecked += [f"what {', '.join(others[:20])} asks for"] if others else []
    unchecked += [f"models beyond the first {MOST_MODELS}"] if len(derived) == MOST_MODELS else []
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
    if naming_problem(each.model.rpartition("/")[2], base):
        undone.append(f"its name must begin with “{base.name_prefix}”")
    own = licence_texts(subject).get("weights")
    licence = weights_licence(subject)
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
    if base.read_in_part:
        left.append(f"what else {base.name} asks for")
    if base.family == "content":
        left.append("whether credit is given, and changes are named")
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
    if not shared:
        reason = f"no matrix of plain floats has the same name and shape in {base.name}"
        reason += _tokenizers(subject, base)
        return ask.LINEAGE_WEIGHTS.unknown(Grade.PRESENT, reason)
    try:
        pairs = [(numbers(subject.source, ours, one), numbers(base.source, theirs, one)) for one in shared]
    except UserError as error:
        return ask.LINEAGE_WEIGHTS.unknown(Grade.PRESENT, str(error))
    cosines = [_cosine(one, other) for one, other in pairs if len(one) == len(other)]
    middle = float(np.median(cosines)) if cosines else 0.0
    same = sum(bool(np.array_equal(one, other)) for one, other in pairs)
    reason = (
        f"{len(shared)} matrices beside {base.name}'s: cosine {middle:.4f} in the median, {same} the same"
        f"{_tokenizers(subject, base)}"
    )
    is_named = any(_alike(each, name) for each in named for name in base.names)
    places = tuple(Evidence(*ours[one][:1]) for one in shared[:1])
    if UNRELATED < middle < DERIVED or (named and not base.names):
        why = "neither near nor far" if base.names or not named else "what the other is called is not known"
        return ask.LINEAGE_WEIGHTS.unknown(Grade.PRESENT, f"{reason}: {why}", *places)
    comes = middle >= DERIVED
    if comes == is_named:
        what = "it is named" if comes else "and it is not named"
        answer: Answer = "yes" if comes else "not applicable"
        return ask.LINEAGE_WEIGHTS.answer(answer, Grade.CHECKED, f"{reason}; {what}", *places)
    what = "it comes from there, or both from one other, and it does not say so"
    what = what if comes else "named, and it does not come from there"
    return ask.LINEAGE_WEIGHTS.no(Grade.CLAIMED, f"{reason}: {what}", *places)


def _tokenizers(subject: Subject, base: Subject) -> str:
    """Whether tokenizer.json is that of the base, as words to add; empty where one of them cannot be read."""
    ours, theirs = _tokenizer_hash(subject), _tokenizer_hash(base)
    if not ours or not theirs:
        return ""
    return f", {TOKENIZER} {'the same' if ours == theirs else 'differs'}"


def _tokenizer_hash(subject: Subject) -> str:
    source = subject.source
    if TOKENIZER not in source.sizes:
        return ""
    if known := source.sha256(TOKENIZER):
        return known
    if source.sizes[TOKENIZER] > _MOST_TOKENIZER:
        return ""
    raw = attempt(lambda: source.read(TOKENIZER, _MOST_TOKENIZER)).value
    return "" if raw is None else sha256(raw).hexdigest()


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    length = float(np.linalg.norm(one.astype(np.float64)) * np.linalg.norm(other.astype(np.float64)))
    return float(one.astype(np.float64) @ other.astype(np.float64)) / length if length else 0.0


def _alike(one: str, other: str) -> bool:
    """Whether two names, owner aside, are of one model."""
    return normalise(one.rpartition("/")[2]) == normalise(other)
