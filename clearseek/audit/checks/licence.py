"""Licences: for weights, code, data and documents, the text that is here, the tag, and what the card says of them.

A tag is a word; the text is what binds. So each kind of thing is answered from the text that covers it, and only where
there is none from the tag or the card, which then counts as a claim. A restriction that is found decides, wherever it
stands. And all sources of one kind are compared with each other: a card that says MIT beside a text of Apache-2.0
contradicts itself, unless one of them is for the code and the other for the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import wraps
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from clearseek.audit import questions as ask
from clearseek.audit.checks.data_sets import data_files
from clearseek.audit.evidence import Answer, Evidence, Grade, Question, Row
from clearseek.audit.facts import Fact, LicenceFact, RestrictionFact, licence_fact, named_licences
from clearseek.audit.read.card import shorten
from clearseek.audit.read.licensed import Statement, statements
from clearseek.audit.read.prose import said_in_policy, said_of_use
from clearseek.audit.read.subject import Subject
from clearseek.licences.clauses import RESTRICTING, Clause, forbidden, strongest
from clearseek.licences.markup import without_markup
from clearseek.licences.match import Match, identify
from clearseek.licences.places import covers, is_licence, is_policy
from clearseek.licences.table import Kind, Licence, is_open_for

T = TypeVar("T")
_MOST_FILES = 40
"""Licences, and policies, that are read."""
_QUESTIONS: Final[dict[Kind, Question]] = {
    "weights": ask.LICENCE_WEIGHTS, "code": ask.LICENCE_CODE, "data": ask.LICENCE_DATA,
    "documents": ask.LICENCE_DOCUMENTS,
}  # fmt: skip
KINDS: Final = tuple(_QUESTIONS)
_FLAGS: Final = {
    "field_of_use": "some uses are ruled out", "non_commercial": "no commercial use", "no_compete": "no use for other models",
    "output_restriction": "limits on outputs", "geo_exclusion": "places left out",
}  # fmt: skip
"""Restrictions of a known licence, in words."""


@dataclass(frozen=True)
class Text:
    """A licence file and what it is."""

    file: str
    match: Match
    evidence: Evidence
    text: str

    @property
    def limits(self) -> tuple[Clause, ...]:
        """Clauses that limit who may use a thing, or what for."""
        return tuple(clause for clause in self.match.clauses if clause.flag in RESTRICTING)


@dataclass(frozen=True)
class Said:
    """A restriction that stands elsewhere than in the licence."""

    file: str
    clause: Clause
    sure: bool = True
    """Another licence file may cover something else."""

    @property
    def words(self) -> str:
        """With its place."""
        return f"{self.file}, line {self.clause.line}, says “{shorten(self.clause.quote, 160)}”"


def rows(subject: Subject) -> Iterator[Row]:
    """One row a kind, then whether the sources agree, and what one may do with the weights."""
    for kind in KINDS:
        yield _kind(subject, kind)
    yield _agreement(subject)
    yield _freedom(subject)


def per_subject(make: Callable[[Subject], T]) -> Callable[[Subject], T]:
    """Keep what was found in a release for as long as the release is kept."""
    kept: WeakKeyDictionary[Subject, T] = WeakKeyDictionary()

    @wraps(make)
    def get(subject: Subject) -> T:
        if subject not in kept:
            kept[subject] = make(subject)
        return kept[subject]

    return get


@per_subject
def licence_files(subject: Subject) -> tuple[Text, ...]:
    """The files named as licences, wherever they lie: those at the top first, and there those named so and no more."""
    found: list[Text] = []
    named = [path for path in subject.source.sizes if is_licence(path)]
    plain = ("license", "licence", "copying")
    named.sort(key=lambda path: (path.count("/"), path.rpartition("/")[2].lower().split(".")[0] not in plain, path))
    for document in subject.source.readable(named[:_MOST_FILES]):
        text = without_markup(document.text)
        found.append(Text(document.file, identify(text), subject.source.whole(document.file), text))
    return tuple(found)


def _covers(subject: Subject, text: Text) -> tuple[Kind, ...] | None:
    """What a licence file is for: by its name, or by the weights that lie beside it in a folder."""
    kinds, folder = covers(text.file), text.file.rpartition("/")[0]
    if kinds is None and folder and "/" not in folder:
        beside = any(path.startswith(f"{folder}/") for path in subject.weight_files)
        return ("weights",) if beside else None
    return kinds


@per_subject
def licence_texts(subject: Subject) -> dict[Kind, Text]:
    """The licence file that covers each kind: one named after it, or else the general one."""
    found: dict[Kind, Text] = {}
    own = [(text, kinds) for text in licence_files(subject) if (kinds := covers(text.file)) is not None]
    for text, kinds in own:
        for kind in kinds:
            found.setdefault(kind, text)
    general = [text for text, kinds in own if not kinds]
    # a file that only points to others ("under either of LICENSE.APACHE and LICENSE.BSD") is read after them
    general.sort(key=lambda text: text.match.basis == "title" and not (text.match.licence or _NOBODY).restricted)
    for kind in KINDS if general else ():
        found.setdefault(kind, general[0])
    return found


_NOBODY = Licence("", "", "permissive", frozenset())


@per_subject
def said_elsewhere(subject: Subject) -> tuple[Said, ...]:
    """Restrictions of the weights in the card, in policies, and in licences beside the one that covers them."""
    found: list[Said] = []
    if subject.card is not None:
        found += [Said(subject.card.file, clause) for clause in said_of_use(subject.card)]
    for document in subject.source.readable([path for path in subject.source.sizes if is_policy(path)][:_MOST_FILES]):
        found += [Said(document.file, clause) for clause in said_in_policy(document)]
    chosen = licence_texts(subject).get("weights")
    for text in licence_files(subject):
        kinds = covers(text.file)
        if chosen is None or text is chosen or kinds is None or "weights" not in (kinds or KINDS):
            continue
        if bool(kinds) == bool(covers(chosen.file)):  # one that is named after the weights goes before the general one
            found += [Said(text.file, clause, sure=False) for clause in text.limits]
    return tuple(found)


def is_free(licence: Licence) -> bool:
    """Whether anybody may use, change and pass on for any purpose what is under a licence."""
    return not licence.restricted and not licence.no_derivatives and "arXiv" not in licence.id


def contradicting(subject: Subject, licence: Licence | None) -> tuple[Said, ...]:
    """What is said elsewhere against a licence that restricts nothing: first what is sure."""
    if licence is None or not is_free(licence):
        return ()
    return tuple(sorted(said_elsewhere(subject), key=lambda said: not said.sure))


def _stated(subject: Subject, kind: Kind) -> list[Statement]:
    """What the card says of this kind; where it says nothing of it in particular, what it says of the whole release."""
    every = statements(subject)
    own = [each for each in every if kind in each.kinds]
    return own or [each for each in every if not each.kinds and (kind != "data")]


def _kind(subject: Subject, kind: Kind) -> Row:
    question, text, stated = _QUESTIONS[kind], licence_texts(subject).get(kind), _stated(subject, kind)
    if kind == "data" and not data_files(subject):
        return question.not_applicable("there are no training data here to be licensed")
    if text is not None:
        row = _of_text(question, kind, text, stated)
        licence = text.match.licence
    elif stated:
        row = _by_word(question, kind, stated)
        licence = next((each.deciding for each in stated if each.deciding), None)
    else:
        return question.no(Grade.ABSENT, "no licence text, no tag and no sentence covers them")
    return _unless_said(subject, row, licence) if kind == "weights" else row


def _by_word(question: Question, kind: Kind, stated: list[Statement]) -> Row:
    """A licence by the card's word alone. Of several statements one that restricts decides."""
    known = [each for each in stated if each.licences]
    if not known:
        each = stated[0]
        facts: tuple[Fact, ...] = named_licences(each.name) if kind == "weights" else ()
        reason = f"“{shorten(each.name, 80)}” is no licence that is known here, and its text is not here"
        return question.unknown(Grade.CLAIMED, reason, each.place, facts=facts)
    first = next((each for each in known if each.deciding and each.deciding.restricted), known[0])
    ids = (" or " if first.either else " and ").join(licence.id for licence in first.licences)
    approved = ", approved by the OSI" if all(licence.osi for licence in first.licences) else ""
    are_open = [is_open_for(licence, kind) for licence in first.licences]
    answer: Answer = "yes" if all(are_open) or (first.either and any(are_open)) else "no"
    if answer == "no" and any(are_open):
        answer = "unknown"  # which of them covers the weights?
    why = f": {_restricted(first.deciding)}" if answer == "no" and first.deciding else ""
    reason = f"{ids}{approved}, by word; {'its text is' if len(are_open) == 1 else 'their texts are'} not here{why}"
    facts = (*_named(first), *(_flag_facts(first.deciding) if answer == "no" and first.deciding else ()))
    return question.answer(answer, Grade.CLAIMED, reason, *(each.place for each in known[:4]), facts=facts)


def _named(stated: Statement) -> tuple[LicenceFact, ...]:
    if stated.either and len(stated.licences) > 1:
        return named_licences(" OR ".join(licence.id for licence in stated.licences))
    return tuple(map(licence_fact, stated.licences))


def _restricted(licence: Licence) -> str:
    """What a known licence takes back, in words."""
    told = [words for flag, words in _FLAGS.items() if getattr(licence, flag)]
    told += [f"another licence is needed above {licence.user_cap:,} monthly users"] if licence.user_cap else []
    told += ["what was changed may not be passed on"] if licence.no_derivatives else []
    own = "its maker's own terms, which no list of open licences has"
    return ", ".join(told) or (own if licence.id.startswith("LicenseRef") else "no list of open licences has it")


def _flag_facts(licence: Licence) -> tuple[RestrictionFact, ...]:
    flags = [flag for flag in sorted(RESTRICTING) if getattr(licence, flag, None)]
    return tuple(map(RestrictionFact, flags))


def _clause_facts(file: str, clauses: tuple[Clause, ...] | list[Clause]) -> tuple[RestrictionFact, ...]:
    kinds = {clause.flag: clause for clause in reversed(strongest(tuple(clauses)))}
    return tuple(RestrictionFact(flag, shorten(each.quote), file, each.line) for flag, each in kinds.items())


def _unless_said(subject: Subject, row: Row, licence: Licence | None) -> Row:
    """The row of the weights; something else here that restricts them decides."""
    said = contradicting(subject, licence) if row.answer == "yes" else ()
    if not said:
        return row
    places = (quote(each.file, each.clause) for each in said[:4])
    answer: Answer = "no" if said[0].sure else "unknown"
    facts = (*row.facts, *_clause_facts(said[0].file, [said[0].clause]))
    changed = row.adding(f"but {said[0].words}", *places, answer=answer, grade=min(row.grade, Grade.PRESENT))
    return replace(changed, facts=facts)


def _of_text(question: Question, kind: Kind, text: Text, stated: list[Statement]) -> Row:
    """A kind of thing by the text that covers it."""
    match, licence, limits = text.match, text.match.licence, text.limits
    places = (text.evidence, *(quote(text.file, clause) for clause in strongest(limits)))
    facts: tuple[Fact, ...] = (*_text_facts(text), *_clause_facts(text.file, limits))
    worst = f": {forbidden(limits)}" if limits else ""
    if licence is None:
        near = f"; the nearest is {match.nearest.id} ({100 * match.similarity:.0f} % alike)" if match.nearest else ""
        if limits:
            reason = f"{text.file} has terms of its own, which restrict{worst}{near}"
            return question.no(Grade.PRESENT, reason, *places, facts=facts)
        return question.unknown(Grade.PRESENT, f"{text.file}: unknown licence{near}", *places, facts=facts)
    what = f"{text.file} is {match.label}"
    if match.changes:
        return _of_changed(question, kind, text, what, places, facts)
    if match.is_cut:
        return question.unknown(Grade.PRESENT, f"{what}: it is too long", *places, facts=facts)
    if not is_open_for(licence, kind) or (limits and match.basis == "title"):
        family = {"rail": "use-restricted (RAIL family)", "community": "a community licence with conditions"}
        closed = (
            what + f", {family.get(licence.family, f'not open for {kind}')}" + (worst or f": {_restricted(licence)}")
        )
        return question.no(Grade.PRESENT, closed, *places, facts=(*facts, *(() if limits else _flag_facts(licence))))
    shut = next((other for other in match.others if not is_open_for(other, kind)), None)
    if shut is not None:
        reason = f"{what}; which of them is for what is not said, and {shut.id} is not open: {_restricted(shut)}"
        return question.answer("partly", Grade.PRESENT, reason, *places, facts=(*facts, *_flag_facts(shut)))
    if not match.exact:
        what += ", whose standard text is not here to be compared with"
        return question.yes(Grade.CLAIMED, what, *places, facts=facts)
    agreeing = [each.place for each in stated if licence in each.licences]
    if agreeing:
        return question.yes(Grade.CHECKED, f"{what}, as the card says", *places, *agreeing[:4], facts=facts)
    return question.yes(Grade.PRESENT, what, *places, facts=facts)


def _of_changed(
    question: Question, kind: Kind, text: Text, what: str, places: tuple[Evidence, ...], facts: tuple[Fact, ...]
) -> Row:
    """A known text with words that rule added, left out or replaced."""
    match, limits = text.match, text.limits
    change = match.changes[0]
    what += f", line {change.line}: " + _differs(change.expected, change.found)
    changed = RestrictionFact("changed", shorten(change.found or change.expected), text.file, change.line)
    place = Evidence(text.file, f"line {change.line}", shorten(change.context))
    closed = not all(is_open_for(licence, kind) for licence in match.licences)
    answer: Answer = "no" if limits or closed else "partly"
    if not limits:
        facts = (*facts, changed)
    elif shorten(limits[0].quote, 60) not in what:
        what += f"; it restricts: {forbidden(limits)}"
    return question.answer(answer, Grade.PRESENT, what, *places, place, facts=facts)


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


def quote(file: str, clause: Clause) -> Evidence:
    """A clause as evidence."""
    return Evidence(file, f"line {clause.line}", shorten(clause.quote))


@dataclass(frozen=True)
class _Source:
    """Something that says which licence a kind of thing is under."""

    where: str
    label: str
    ids: frozenset[str]
    place: Evidence
    general: bool
    """It does not say what for."""
    text: Text | None = None
    tag: bool = False


def _sources(subject: Subject, kind: Kind) -> list[_Source]:
    found: list[_Source] = []
    every = statements(subject)
    own_words = any(kind in each.kinds for each in every)
    for each in every:
        if own_words and not each.kinds and not each.tag:
            continue  # the card says in particular what this kind is under
        if each.licences and (kind in each.kinds or (not each.kinds and kind == "weights")):
            label = " and ".join(licence.id for licence in each.licences)
            where = "the metadata" if each.tag else f"the card, {each.place.where}"
            ids = frozenset(licence.id for licence in each.licences)
            found.append(_Source(where, label, ids, each.place, not each.kinds, tag=each.tag))
    own = [(text, kinds) for text in licence_files(subject) if (kinds := _covers(subject, text)) is not None]
    named = any(kind in kinds for _, kinds in own)
    for text, kinds in own:
        match = text.match
        if (
            not (kind in kinds or (not kinds and not named))
            or match.is_cut
            or (match.licence is None and not text.limits)
        ):
            continue
        if match.basis == "title" and is_free(match.licence or _NOBODY) and len(own) > 1:
            continue  # it points to the others
        own_terms = match.licence is None or (match.changes and is_free(match.licence)) or (
            match.basis == "title" and is_free(match.licence) and text.limits
        )  # fmt: skip
        ids = frozenset(["LicenseRef-Modified-MIT"] if own_terms else [each.id for each in match.licences])
        label = "terms of its own, which restrict" if match.licence is None else match.label
        found.append(_Source(text.file, label, ids, text.evidence, not kinds, text))
    return found


def _agreement(subject: Subject) -> Row:
    """Whether all sources of each kind name the same licence."""
    sources = {kind: _sources(subject, kind) for kind in KINDS}
    problems: list[str] = []
    places: list[Evidence] = []
    fine: list[str] = []
    exact = True
    for kind, found in sources.items():
        elsewhere = frozenset().union(
            *(each.ids for other, rest in sources.items() if other != kind for each in rest if not each.general)
        )
        own = [each for each in found if not each.general]
        # what is said of the whole release may be meant for another kind, of which the same is said
        compared = [each for each in found if not each.general or not own or not each.ids & elsewhere]
        compared = compared if any(each.text is None for each in compared) or kind == "weights" else []
        # two sentences of a card may be about two models: each is compared with a text or the tag
        first = next((each for each in compared if each.text), next((each for each in compared if each.tag), None))
        if first is None or len(compared) < 2:
            continue
        against = [each for each in compared if not _same(each.ids, first.ids)]
        places += [each.place for each in compared[:4]]
        if against:
            problems.append(f"{kind}: {against[0].label} by {against[0].where}, and {_is(first)}")
        else:
            fine.append(f"{kind}: {first.label} by {' and by '.join(each.where for each in compared[:3])}")
            exact = exact and any(each.text and each.text.match.exact for each in compared)
    if problems:
        return ask.LICENCE_AGREEMENT.no(Grade.PRESENT, "; ".join(problems), *dict.fromkeys(places[:8]))
    if against_use := [said for said in contradicting(subject, weights_licence(subject)) if said.sure]:
        said = [quote(each.file, each.clause) for each in against_use[:4]]
        return ask.LICENCE_AGREEMENT.no(Grade.PRESENT, against_use[0].words, *said, *places[:4])
    if not fine:
        return ask.LICENCE_AGREEMENT.unknown(Grade.ABSENT, "there are no two sources to compare")
    return ask.LICENCE_AGREEMENT.yes(
        Grade.CHECKED if exact else Grade.PRESENT, "; ".join(fine), *dict.fromkeys(places[:8])
    )


def _is(source: _Source) -> str:
    return f"{source.where} is {source.label}" if source.text else f"{source.label} by {source.where}"


def _same(a: frozenset[str], b: frozenset[str]) -> bool:
    """Whether two sources name a licence in common; the name of a family agrees with its members."""
    families = {each.removeprefix("LicenseRef-") for each in a | b if each.startswith("LicenseRef-")}
    return bool(a & b) or any(
        family in "-".join(each for each in other)
        for family in families if family in ("BSD", "GPL", "LGPL", "GFDL", "OpenRAIL")
        for other in (a, b) if f"LicenseRef-{family}" not in other
    )  # fmt: skip


def weights_licence(subject: Subject) -> Licence | None:
    """The licence that the weights are under, by their text or by word."""
    if (text := licence_texts(subject).get("weights")) is not None:
        return text.match.licence
    return next((each.deciding for each in _stated(subject, "weights") if each.deciding), None)


def _freedom(subject: Subject) -> Row:
    text, stated = licence_texts(subject).get("weights"), _stated(subject, "weights")
    licence = weights_licence(subject)
    places = (text.evidence,) if text is not None else tuple(each.place for each in stated[:3])
    if text is not None and (limits := _limits(text)):
        places = (*places, *(quote(text.file, clause) for clause in strongest(limits)))
        kinds = ", ".join(dict.fromkeys(clause.flag.replace("_", " ") for clause in limits))
        first = strongest(limits)[0]
        reason = f"{text.file} limits the use ({kinds}); line {first.line}: “{shorten(first.quote, 160)}”"
        return ask.LICENCE_FREEDOM.no(Grade.PRESENT, reason, *places)
    if said := contradicting(subject, licence):
        places = (*places, *(quote(each.file, each.clause) for each in said[:4]))
        return ask.LICENCE_FREEDOM.answer("no" if said[0].sure else "unknown", Grade.PRESENT, said[0].words, *places)
    if licence is None and text is not None:
        return ask.LICENCE_FREEDOM.unknown(Grade.PRESENT, f"{text.file}: unknown licence", *places)
    if licence is None:
        reason = "no licence is named: without one, nothing is allowed"
        reason = "a licence is named that is not known here" if places else reason
        return ask.LICENCE_FREEDOM.answer("no" if not places else "unknown", Grade.ABSENT, reason, *places)
    if text is None:
        answer: Answer = "yes" if is_free(licence) else "no"
        reason = f"{licence.name}, by word{'' if is_free(licence) else f': {_restricted(licence)}'}"
        return ask.LICENCE_FREEDOM.answer(answer, Grade.CLAIMED, reason, *places)
    if not is_free(licence):
        return ask.LICENCE_FREEDOM.no(Grade.PRESENT, f"{text.match.label}: {_restricted(licence)}", *places)
    if text.match.exact and all(map(is_free, text.match.others)):
        return ask.LICENCE_FREEDOM.yes(Grade.CHECKED, f"{text.match.label}, word for word", *places)
    if text.match.basis == "title":
        return ask.LICENCE_FREEDOM.yes(Grade.CLAIMED, text.match.label, *places)
    return ask.LICENCE_FREEDOM.unknown(Grade.PRESENT, f"{text.match.label}: see licence.weights", *places)


def _limits(text: Text) -> tuple[Clause, ...]:
    """What a licence takes back, or asks beyond notices."""
    flags = RESTRICTING | {"pass_on", "naming_rule"}
    return tuple(clause for clause in text.match.clauses if clause.flag in flags)
