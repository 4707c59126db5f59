"""Licences: for weights, code, data and documents, the text that is here, the tag, and what the card says of them.

A tag is a word; the text is what binds. So each kind of thing is answered from the text that covers it, and only where
there is none from the tag or the card, which then counts as a claim. A restriction that is found decides, wherever it
stands. And all sources of one kind are compared with each other: a card that says MIT beside a text of Apache-2.0
contradicts itself, unless one of them is for the code and the other for the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from clearseek.audit import questions as ask
from clearseek.audit.checks.data_sets import data_files, trained_on
from clearseek.audit.checks.terms import (
    KINDS,
    Text,
    contradicting,
    is_free,
    licence_files,
    licence_texts,
    quote,
    stated_of,
    unread_licence,
    weights_licence,
)  # fmt: skip
from clearseek.audit.checks.weights import may_lie_elsewhere, weight_links
from clearseek.audit.evidence import Answer, Grade, Question, Row
from clearseek.audit.facts import Fact, LicenceFact, RestrictionFact, licence_fact, named_licences
from clearseek.licences.clauses import RESTRICTING, Clause, forbidden, strongest
from clearseek.licences.table import Kind, Licence, is_open_for
from clearseek.reading.card import shorten
from clearseek.reading.evidence import Evidence
from clearseek.reading.licensed import Statement, statements
from clearseek.reading.subject import Subject
from clearseek.reading.words import cue

_QUESTIONS: Final[dict[Kind, Question]] = {
    "weights": ask.LICENCE_WEIGHTS, "code": ask.LICENCE_CODE, "data": ask.LICENCE_DATA,
    "documents": ask.LICENCE_DOCUMENTS,
}  # fmt: skip
_FLAGS: Final = {
    "field_of_use": "some uses are ruled out", "non_commercial": "no commercial use",
    "no_compete": "no use for other models", "output_restriction": "limits on outputs",
    "geo_exclusion": "places left out", "user_cap": "another licence is needed above a number of users",
    "no_derivatives": "what was changed may not be passed on",
}  # fmt: skip
"""Restrictions of a known licence, in words."""
_FAMILIES: Final = {"rail": "use-restricted (RAIL family)", "community": "a community licence with conditions"}
_SMALL: Final = 100_000
"""Bytes of data below which a general licence is not said to cover the training data: an example is not them."""
_MADE_OF: Final = cue("made_of")
"""Says that a model comes from a family whose makers keep conditions on what is made of it."""
CODE: Final = ("*.py", "*.ipynb", "*.sh", "*.cpp", "*.cu", "*.jl", "*.rs")
_LOOSE: Final = ("BSD", "GPL", "LGPL", "GFDL", "OpenRAIL")
"""Names of families, which agree with their members."""


def rows(subject: Subject) -> Iterator[Row]:
    """One row a kind, then whether the sources agree, and what one may do with the weights."""
    found = [_kind(subject, kind) for kind in KINDS]
    yield from found
    yield _agreement(subject)
    yield _freedom(subject, found[0])


def _kind(subject: Subject, kind: Kind) -> Row:
    question, text, stated = _QUESTIONS[kind], licence_texts(subject).get(kind), stated_of(subject, kind)
    size = sum(subject.source.sizes[path] for path in data_files(subject)) if kind == "data" else 0
    if kind == "data" and (not size or (text is not None and not text.kinds and not stated
                                        and (size < _SMALL or trained_on(subject)))):  # fmt: skip
        if not stated:
            if linked := trained_on(subject):
                reason = "what the training data are under is not said here: they lie elsewhere"
                return question.unknown(Grade.LINKED, reason, *(each.evidence for each in linked[:4]))
            return question.not_applicable("there are no training data here to be licensed")
        text = None  # a text that is here does not cover what lies elsewhere
    if text is None and not stated:
        if kind == "weights" and (elsewhere := may_lie_elsewhere(subject)):
            reason = "no text, tag or sentence here covers the weights; they lie elsewhere, where one may be named"
            return question.unknown(Grade.LINKED, reason, *elsewhere[:4])
        return question.no(Grade.ABSENT, "no licence text, no tag and no sentence covers them")
    if kind == "weights" and text is not None and not stated and _is_of_code(subject, text):
        reason = "the weights' own licence is not stated here; "
        reason += f"{text.file} ({text.match.label}) is this repository's, and the weights lie elsewhere"
        return question.unknown(Grade.CLAIMED, reason, text.evidence)
    row = _by_word(question, kind, stated) if text is None else _of_text(question, kind, text, stated)
    if left := unread_licence(subject, kind):
        answer: Answer = "unknown" if row.answer == "yes" else row.answer
        row = row.adding(f"{left} was not read: the licences here are too long", answer=answer)
    if kind != "weights" or row.answer != "yes":
        return row
    said = contradicting(subject, weights_licence(subject))
    if not said:
        closed = next((each for each in stated if text and _goes_before(each, text)), None)
        unknown = next((each for each in stated if not each.licences and not each.tag), None)
        if unknown is not None and (closed is None or closed.deciding is None):
            reason = (
                f"but the card, {unknown.place.where}, names “{shorten(unknown.name, 80)}”, which is not known here"
            )
            return row.adding(reason, unknown.place, answer="unknown", grade=Grade.CLAIMED)
        if closed is None or closed.deciding is None:
            return row
        reason = f"but the card, {closed.place.where}, says {closed.deciding.name}: {_restricted(closed.deciding)}"
        row = row.adding(reason, closed.place, answer="no", grade=Grade.CLAIMED)
        return replace(row, facts=(*map(licence_fact, closed.licences), *_flag_facts(closed.deciding)))
    places = (quote(each.file, each.clause) for each in said[:4])
    answer = "no" if said[0].sure else "unknown"
    changed = row.adding(f"but {said[0].words}", *places, answer=answer, grade=min(row.grade, Grade.PRESENT))
    return replace(changed, facts=(*row.facts, *_clause_facts(said[0].file, (said[0].clause,))))


def _is_of_code(subject: Subject, text: Text) -> bool:
    """Whether a general licence that restricts nothing lies in a repository of code, and the weights elsewhere."""
    free = text.match.licence is not None and is_free(text.match.licence) and not text.limits
    here = subject.weight_files or subject.pointed_weights or subject.absent_shards
    told = any("weights" in each.kinds and each.file == text.file for each in statements(subject))
    elsewhere = not here and bool(subject.source.find(*CODE)) and bool(weight_links(subject))
    codes = any(each.kinds == {"code"} and (each.file == text.file or text.match.licence in each.licences)
                for each in statements(subject))  # fmt: skip
    return free and not text.kinds and not told and elsewhere and (codes or _is_made_of_others(subject))


def _is_made_of_others(subject: Subject) -> bool:
    """Whether a document says that the model was made from one whose maker's terms go with it."""
    sentences = (each.text[:1_000] for document in subject.documents[:4] for each in document.sentences)
    return any(_MADE_OF.search(text) for text in sentences)


def _goes_before(stated: Statement, text: Text) -> bool:
    """Whether the card names restricted terms for the weights in particular, or along with the licence of a text."""
    closed = stated.deciding is not None and stated.deciding.restricted and not stated.tag
    together = text.match.licence in stated.licences and not stated.either
    return closed and (together or ("weights" in stated.kinds and not text.kinds))


def _by_word(question: Question, kind: Kind, stated: list[Statement]) -> Row:
    """A licence by the card's word alone. Of several statements one that restricts decides."""
    known = [each for each in stated if each.licences]
    if not known:
        each = stated[0]
        facts: tuple[Fact, ...] = named_licences(each.name) if kind == "weights" else ()
        reason = f"“{shorten(each.name, 80)}” is no licence that is known here, and its text is not here"
        return question.unknown(Grade.CLAIMED, reason, each.place, facts=facts)
    first = next((each for each in known if each.deciding and each.deciding.restricted), known[0])
    ids = (" OR " if first.either else " AND ").join(licence.id for licence in first.licences)
    approved = ", approved by the OSI" if all(licence.osi for licence in first.licences) else ""
    are_open = [is_open_for(licence, kind) for licence in first.licences]
    answer: Answer = "yes" if all(are_open) or (first.either and any(are_open)) else "no"
    if answer == "no" and any(are_open):
        answer = "unknown"  # which of them covers the weights?
    reason = f"{ids.replace(' OR ', ' or ').replace(' AND ', ' and ')}{approved}, by word; "
    reason += "its text is not here" if len(are_open) == 1 else "their texts are not here"
    facts = named_licences(ids)
    if answer == "no" and first.deciding:
        reason, facts = f"{reason}: {_restricted(first.deciding)}", (*facts, *_flag_facts(first.deciding))
    return question.answer(answer, Grade.CLAIMED, reason, *(each.place for each in known[:4]), facts=facts)


def _restricted(licence: Licence) -> str:
    """What a known licence takes back, in words."""
    told = [words for flag, words in _FLAGS.items() if getattr(licence, flag)]
    own = "its maker's own terms, which no list of open licences has"
    return ", ".join(told) or (own if licence.id.startswith("LicenseRef") else "no list of open licences has it")


def _flag_facts(licence: Licence) -> tuple[RestrictionFact, ...]:
    return tuple(RestrictionFact(flag) for flag in sorted(RESTRICTING) if getattr(licence, flag, None))


def _clause_facts(file: str, clauses: tuple[Clause, ...]) -> tuple[RestrictionFact, ...]:
    kinds = {clause.flag: clause for clause in reversed(strongest(clauses))}
    return tuple(RestrictionFact(flag, shorten(each.quote), file, each.line) for flag, each in kinds.items())


def _of_text(question: Question, kind: Kind, text: Text, stated: list[Statement]) -> Row:
    """A kind of thing by the text that covers it."""
    match, licence, limits = text.match, text.match.licence, text.limits
    places = [text.evidence, *(quote(text.file, clause) for clause in strongest(limits))]
    facts: tuple[Fact, ...] = (*_text_facts(text), *_clause_facts(text.file, limits))
    worst = f": {forbidden(limits)}" if limits else ""
    what = f"{text.file} is {match.label}"
    answer: Answer = "yes"
    grade = Grade.PRESENT
    if licence is None:
        answer = "no" if limits else "unknown"
        what = text.file + (f" has terms of its own, which restrict{worst}" if limits else ": unknown licence")
        if match.nearest:
            what += f"; the nearest is {match.nearest.id} ({100 * match.similarity:.0f} % alike)"
    elif match.changes:
        change = match.changes[0]
        closed = not all(is_open_for(licence, kind) for licence in match.licences)
        answer = "no" if limits or closed else "partly"
        what += f", line {change.line}: " + _differs(change.expected, change.found)
        places.append(Evidence(text.file, f"line {change.line}", shorten(change.context)))
        if not limits:
            quoted = shorten(change.found or change.expected)
            facts = (*facts, RestrictionFact("changed", quoted, text.file, change.line))
        elif shorten(limits[0].quote, 60) not in what:
            what += f"; it restricts{worst}"
    elif match.is_cut:
        answer, what = "unknown", what if match.unread else f"{what}: it is too long"
    elif not is_open_for(licence, kind) or (limits and match.basis == "title"):
        answer = "no"
        what += f", {_FAMILIES.get(licence.family, f'not open for {kind}')}" + (worst or f": {_restricted(licence)}")
        facts = facts if limits else (*facts, *_flag_facts(licence))
    elif shut := next((other for other in match.others if not is_open_for(other, kind)), None):
        answer, facts = "partly", (*facts, *_flag_facts(shut))
        what += f"; which of them is for what is not said, and {shut.id} is not open: {_restricted(shut)}"
    elif not match.exact:
        grade, what = Grade.CLAIMED, f"{what}, whose standard text is not here to be compared with"
    elif agreeing := [each.place for each in stated if licence in each.licences]:
        grade, what, places = Grade.CHECKED, f"{what}, as the card says", [*places, *agreeing[:4]]
    return question.answer(answer, grade, what, *places, facts=facts)


def _text_facts(text: Text) -> tuple[LicenceFact, ...]:
    """The licences that a file holds; none where its text is unknown, or goes on after the end of the known one."""
    match = text.match
    if match.licence is None or match.is_cut:
        return ()
    if match.changes:
        return (LicenceFact(match.label, file=text.file),)
    return tuple(licence_fact(licence, text.file) for licence in match.licences)


def _differs(expected: str, found: str) -> str:
    if expected and found:
        return f"“{shorten(found, 120)}” instead of “{shorten(expected, 120)}”"
    return f"“{shorten(found, 120)}” is added" if found else f"“{shorten(expected, 120)}” is missing"


class _Source(NamedTuple):
    """Something that says which licence a kind of thing is under."""

    label: str
    where: str
    ids: frozenset[str]
    place: Evidence
    general: bool
    """It does not say what for."""
    rank: int
    """0: a sentence, 1: the tag, 2: a text."""
    exact: bool = False
    base: frozenset[str] = frozenset()
    """The licences that a text is but for words which restrict nothing."""
    added: str = ""
    """How it differs from them."""


def _sources(subject: Subject, kind: Kind) -> Iterator[_Source]:
    every = statements(subject)
    own_words = any(kind in each.kinds for each in every)
    for each in every:
        # what is said of the whole release counts where nothing is said of this kind in particular
        general = not each.kinds and kind == "weights" and (each.tag or not own_words)
        if each.licences and (kind in each.kinds or general):
            label = " and ".join(licence.id for licence in each.licences)
            where = "the metadata" if each.tag else f"the card, {each.place.where}"
            ids = frozenset(licence.id for licence in each.licences)
            yield _Source(label, where, ids, each.place, not each.kinds, int(each.tag))
    texts = [text for text in licence_files(subject) if text.kinds is not None]
    named = any(kind in (text.kinds or ()) for text in texts)
    for text in texts:
        match, kinds = text.match, text.kinds or ()
        said = any(match.licence in each.licences for each in every)
        unread = (match.is_cut and not (match.unread and said)) or (match.licence is None and not text.limits)
        unread = unread or (text.points and len(texts) > 1)
        # a general text covers no data that lie elsewhere, nor a paper of which the card says something else
        elsewhere = not kinds and ((kind == "data" and not data_files(subject)) or (kind == "documents" and own_words))
        if unread or elsewhere or not (kind in kinds or not (kinds or named)):
            continue
        changed = match.changes or (text.points and text.limits)
        own_terms = match.licence is None or (is_free(match.licence) and changed)
        ids = base = frozenset(each.id for each in match.licences)
        ids = frozenset([f"LicenseRef-Modified-{'-'.join(sorted(base))}"]) if own_terms else ids
        label = "terms of its own, which restrict" if match.licence is None else match.label
        added = "".join(f": {_differs(each.expected, each.found)}" for each in match.changes[:1] if own_terms)
        base = base if own_terms and not text.limits else frozenset()
        yield _Source(label, text.file, ids, text.evidence, not kinds, 2, match.exact, base, added)


def _agreement(subject: Subject) -> Row:
    """Whether all sources of each kind name the same licence."""
    sources = {kind: list(_sources(subject, kind)) for kind in KINDS}
    problems: list[str] = []
    fine: list[str] = []
    refuted = False
    places: dict[Evidence, None] = {}
    exact = True
    for kind, found in sources.items():
        # a choice, or a list, of licences agrees with a text of each
        several = frozenset(id for each in found if len(each.ids) > 1 and each.rank < 2 for id in each.ids)
        particular = [(other, each) for other, rest in sources.items() for each in rest if not each.general]
        elsewhere = {id for other, each in particular if other != kind for id in each.ids}
        named = frozenset(id for other, each in particular if other == kind for id in each.ids)
        # what is said of the whole release may be meant for another kind, of which the same is said
        compared = [each for each in found if not (each.general and named and each.ids & elsewhere)
                    or _same(each.ids, named)]  # fmt: skip
        # two sentences of a card may be about two models, and two texts for two parts: a word is compared with a text
        # or the tag
        first = max(compared, key=lambda each: each.rank, default=None)
        if first is None or len(compared) < 2 or not first.rank or all(each.rank == 2 for each in compared):
            continue
        places.update(dict.fromkeys(each.place for each in compared[:4]))
        # one that agrees with any of several texts contradicts none: they may be for two parts
        best = [each for each in compared if each.rank == first.rank]
        wrong = (each for each in compared if not any(_same(each.ids, other.ids) or (each.ids | other.ids) <= several
                                                      for other in best) and each.rank < first.rank)  # fmt: skip
        if against := next(wrong, None):
            other = f"{first.label} by {first.where}"
            other = f"{first.where} is {first.label}{first.added}" if first.rank == 2 else other
            problems.append(f"{kind}: {against.label} by {against.where}, and {other}")
            refuted = refuted or not against.ids <= first.base
        else:
            words = [each for each in compared if each.rank < first.rank]
            first = next((each for each in best if any(_same(each.ids, word.ids) for word in words)), first)
            same = [each for each in compared if _same(each.ids, first.ids) or each.ids <= several]
            fine.append(f"{kind}: {first.label} by {' and by '.join(each.where for each in same[:3])}")
            exact = exact and any(each.exact for each in same)
    if problems:
        answer: Answer = "no" if refuted else "partly"
        return ask.LICENCE_AGREEMENT.answer(answer, Grade.PRESENT, "; ".join(problems), *list(places)[:8])
    if against_use := [said for said in contradicting(subject, weights_licence(subject)) if said.sure]:
        quoted = [quote(each.file, each.clause) for each in against_use[:4]]
        return ask.LICENCE_AGREEMENT.no(Grade.PRESENT, against_use[0].words, *quoted, *list(places)[:4])
    unknown = next((each for each in stated_of(subject, "weights") if not each.licences and not each.tag), None)
    if unknown is not None:
        reason = f"the card, {unknown.place.where}, names “{shorten(unknown.name, 80)}”, which is not known here"
        return ask.LICENCE_AGREEMENT.unknown(Grade.CLAIMED, reason, unknown.place)
    if not fine:
        return ask.LICENCE_AGREEMENT.unknown(Grade.ABSENT, "there are no two sources to compare")
    grade = Grade.CHECKED if exact else Grade.PRESENT
    return ask.LICENCE_AGREEMENT.yes(grade, "; ".join(fine), *list(places)[:8])


def _same(a: frozenset[str], b: frozenset[str]) -> bool:
    """Whether two sources name a licence in common; the name of a family agrees with its members."""
    return bool(a & b) or any(
        family in member
        for family in _LOOSE for one, other in ((a, b), (b, a)) if f"LicenseRef-{family}" in one for member in other
    )  # fmt: skip


def _freedom(subject: Subject, weights: Row) -> Row:
    """What the row of the weights comes to for whoever uses them: a licence may be free, and not made for weights."""
    licence = weights_licence(subject)
    if weights.grade is Grade.ABSENT:
        return ask.LICENCE_FREEDOM.no(Grade.ABSENT, "no licence is named: without one, nothing is allowed")
    answer: Answer = "unknown" if weights.answer == "partly" else weights.answer
    restricted = any(isinstance(fact, RestrictionFact) for fact in weights.facts)
    if answer == "no" and licence and is_free(licence) and not restricted:
        answer = "yes"
    return replace(weights, question=ask.LICENCE_FREEDOM, answer=answer, facts=())
