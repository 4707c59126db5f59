"""Licences: for weights, code, data and documents, the text that is here, the tag, and what the card says of them.

A tag is a word; the text is what binds. So each kind of thing is answered from the text that covers it, compared word
by word with the standard text, and only where there is none from the tag or the card, which then counts as a claim.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import wraps
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from clearseek.audit import questions as ask
from clearseek.audit.checks.data_sets import data_files
from clearseek.audit.evidence import Answer, Evidence, Grade, Question, Row
from clearseek.audit.facts import LicenceFact, RestrictionFact, licence_fact, named_licences
from clearseek.audit.read.card import shorten
from clearseek.audit.read.prose import said_in_policy, said_of_use
from clearseek.audit.read.subject import Subject
from clearseek.licences.clauses import Clause, forbidden, strongest
from clearseek.licences.markup import without_markup
from clearseek.licences.match import Match, identify
from clearseek.licences.places import covers, is_licence, is_policy
from clearseek.licences.table import Kind, Licence, choices, is_open_for, lookup

T = TypeVar("T")
Tag = tuple[str, Evidence]
Stated = tuple[Licence | None, Evidence]
_MOST_FILES = 40
"""Licences, and policies, that are read."""

RESTRICTING: Final = frozenset(
    ("field_of_use", "non_commercial", "user_cap", "no_compete", "output_restriction", "remote_restriction",
     "geo_exclusion")
)  # fmt: skip
"""Clauses that limit who may use a thing, or what for."""
_WORDS: Final[dict[Kind, str]] = {"weights": r"model|weights", "code": r"code|software", "data": r"data",
                                 "documents": r"doc"}  # fmt: skip
_QUESTIONS: Final[dict[Kind, Question]] = {
    "weights": ask.LICENCE_WEIGHTS, "code": ask.LICENCE_CODE, "data": ask.LICENCE_DATA,
    "documents": ask.LICENCE_DOCUMENTS,
}  # fmt: skip
KINDS: Final = tuple(_QUESTIONS)
_MAY_STATE = re.compile(r"\b(?:are|is) .{0,20}(?:under|subject to)\b", re.I)
_STATED = re.compile(
    r"(?P<what>.{0,160}?)\b(?:are|is) (?:both )?(?:(?:licensed|released|available|distributed) under|under|subject to)"
    r"(?: the terms of)? (?P<licence>.{3,120})",
    re.I,
)


@dataclass(frozen=True)
class Text:
    """A licence file and what it is."""

    file: str
    match: Match
    evidence: Evidence
    text: str


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
    texts = licence_texts(subject)
    for kind in KINDS:
        row = _kind(subject, kind, texts)
        yield replace(row, facts=row.facts + _taken_back(subject, texts)) if kind == "weights" else row
    yield _agreement(subject, texts)
    yield _freedom(subject, texts)


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
    plainest = re.compile(r"(?:.*/)?(?:licen[cs]e|copying)(?:\.\w+)?$", re.I)
    named.sort(key=lambda path: (path.count("/"), not plainest.match(path), path))
    for document in subject.source.readable(named[:_MOST_FILES]):
        text = without_markup(document.text)
        found.append(Text(document.file, identify(text), subject.source.whole(document.file), text))
    return tuple(found)


@per_subject
def licence_texts(subject: Subject) -> dict[Kind, Text]:
    """The licence file that covers each kind: one named after it, or else the general one."""
    found: dict[Kind, Text] = {}
    own = [(text, kinds) for text in licence_files(subject) if (kinds := covers(text.file)) is not None]
    for text, kinds in own:
        for kind in kinds:
            found.setdefault(kind, text)
    general = next((text for text, kinds in own if not kinds), None)
    for kind in KINDS if general is not None else ():
        found.setdefault(kind, general)  # type: ignore[arg-type]
    return found


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
            limits = (clause for clause in text.match.clauses if clause.flag in RESTRICTING)
            found += [Said(text.file, clause, sure=False) for clause in limits]
    return tuple(found)


def _taken_back(subject: Subject, texts: dict[Kind, Text]) -> tuple[RestrictionFact, ...]:
    """What restricts the weights: in their licence, in texts beside it, or as is known of a licence that is named."""
    text, licence = texts.get("weights"), _licence(subject, texts)[0]
    found: list[RestrictionFact] = []
    if text is not None:
        limits = tuple(clause for clause in text.match.clauses if clause.flag in RESTRICTING)
        clauses = [(text.file, clause) for clause in strongest(limits)]
        added = text.match.changes[:1]
        found = [RestrictionFact("changed", shorten(each.found), text.file, each.line) for each in added]
    else:
        clauses = []
        flags = sorted(RESTRICTING) if licence is not None and licence.restricted else []
        found = [RestrictionFact(flag) for flag in flags if getattr(licence, flag, None)]
    clauses += [(said.file, said.clause) for said in contradicting(subject, licence)]
    found += [RestrictionFact(clause.flag, shorten(clause.quote), file, clause.line) for file, clause in clauses[:14]]
    return tuple(found)


def is_free(licence: Licence) -> bool:
    """Whether anybody may use, change and pass on for any purpose what is under a licence."""
    return not licence.restricted and "-ND-" not in licence.id and "arXiv" not in licence.id


def contradicting(subject: Subject, licence: Licence | None) -> tuple[Said, ...]:
    """What is said elsewhere against a licence that restricts nothing: first what is sure."""
    if licence is None or not is_free(licence):
        return ()
    return tuple(sorted(said_elsewhere(subject), key=lambda said: not said.sure))


def _tag(subject: Subject) -> Tag | None:
    """The metadata's licence tag."""
    metadata, card = subject.metadata.value or {}, subject.card
    tag = metadata.get("license")
    if isinstance(tag, list):
        tag = " AND ".join(map(str, tag))  # a list does not say that one may choose
    if isinstance(tag, str) and tag.lower() == "other":
        tag = metadata.get("license_name") or tag
    if not isinstance(tag, str) or card is None:
        return None
    line = next((n for n, text in enumerate(card.lines, 1) if text.startswith(("license:", "license_name:"))), 1)
    return tag, Evidence(card.file, f"line {line}, key license", tag, card.sha256)


def _stated(subject: Subject, kind: Kind) -> Stated | None:
    """What a sentence of the card says about the licence of this kind."""
    words = _WORDS[kind]
    card = subject.card
    if card is None:
        return None
    for number, line in enumerate(card.lines, 1):
        if not _MAY_STATE.search(line):
            continue
        for sentence in re.split(r"(?<=[a-z)])\.\s", line):
            match = _STATED.search(sentence)
            if match and re.search(words, match["what"], re.I):
                name = re.sub(r"\[([^\]]*)\].*", r"\1", match["licence"]).strip(" .*_`[")
                return lookup(name), card.at(number, sentence.strip())
    return None


def _kind(subject: Subject, kind: Kind, texts: dict[Kind, Text]) -> Row:
    question, text, stated, tag = _QUESTIONS[kind], texts.get(kind), _stated(subject, kind), _tag(subject)
    if kind == "data" and not data_files(subject):
        return question.not_applicable("there are no training data here to be licensed")
    if text is not None:
        row = replace(_judge(question, kind, text, stated, tag), facts=_of_text(text))
        return _unless_said(subject, row, text.match.licence) if kind == "weights" else row
    claim = stated or ((lookup(tag[0]), tag[1]) if tag and kind == "weights" else None)
    if claim is None:
        return question.no(Grade.ABSENT, "no licence text, no tag and no sentence covers them")
    licence, place = claim
    if licence is None and tag is not None and place is tag[1] and (named := choices(tag[0])):
        return _unless_said(subject, _by_expression(question, kind, named, tag), named[0])
    if licence is None:
        reason = "a licence is named that is not known here, and its text is not here"
        facts = named_licences(tag[0]) if tag and kind == "weights" else ()
        return question.unknown(Grade.CLAIMED, reason, place, facts=facts)
    answer: Answer = "yes" if is_open_for(licence, kind) else "no"
    reason = f"{licence.id} by word; its text is not here"
    row = question.answer(answer, Grade.CLAIMED, reason, place, facts=(licence_fact(licence),))
    return _unless_said(subject, row, licence) if kind == "weights" else row


def _by_expression(question: Question, kind: Kind, licences: tuple[Licence, ...], tag: Tag) -> Row:
    """Several licences by word, the one that decides first."""
    answer: Answer = "yes" if is_open_for(licences[0], kind) else "no"
    if answer == "no" and any(is_open_for(licence, kind) for licence in licences):
        answer = "unknown"  # which of them covers the weights?
    reason = f"{', '.join(licence.id for licence in licences)} by word; their texts are not here"
    return question.answer(answer, Grade.CLAIMED, reason, tag[1], facts=named_licences(tag[0]))


def _of_text(text: Text) -> tuple[LicenceFact, ...]:
    """The licence that a file holds; none where its text is unknown, or goes on after the end of the known one."""
    match = text.match
    if match.licence is None or match.is_cut:
        return ()
    return (LicenceFact(match.label, file=text.file) if match.changes else licence_fact(match.licence, text.file),)


def _unless_said(subject: Subject, row: Row, licence: Licence | None) -> Row:
    """The row of the weights; in doubt where something else here restricts them."""
    said = contradicting(subject, licence) if row.answer == "yes" else ()
    if not said:
        return row
    places = (quote(each.file, each.clause) for each in said[:4])
    return row.adding(f"but {said[0].words}", *places, answer="unknown", grade=min(row.grade, Grade.PRESENT))


def _judge(question: Question, kind: Kind, text: Text, stated: Stated | None, tag: Tag | None) -> Row:
    match, licence = text.match, text.match.licence
    limits = tuple(clause for clause in match.clauses if clause.flag in RESTRICTING)
    places = (text.evidence, *(quote(text.file, clause) for clause in strongest(limits)))
    nearest_id = match.nearest.id if match.nearest else "none"
    if licence is None:
        nearest = f"; the nearest is {nearest_id} ({100 * match.similarity:.0f} % alike)" if match.nearest else ""
        return question.unknown(Grade.PRESENT, f"{text.file}: unknown licence{nearest}", *places)
    what = f"{text.file} is {match.label}"
    if match.changes:
        change = match.changes[0]
        what += f", line {change.line}: " + _differs(change.expected, change.found)
        return question.no(Grade.PRESENT, what, *places)
    if match.is_cut:
        return question.unknown(Grade.PRESENT, f"{what}: it is too long", *places)
    if not is_open_for(licence, kind):
        family = {"rail": "use-restricted (RAIL family)", "community": "a community licence with conditions"}
        what += f", {family.get(licence.family, 'not open for ' + kind)}"
        if licence.family == "rail":
            what += f", {100 * match.similarity:.0f} % alike to {nearest_id}"
        what += f": {forbidden(limits)}" if limits else ""
        return question.no(Grade.PRESENT, what, *places)
    if not match.exact:
        return _by_title(question, what, places, limits)
    agreeing = [place for found, place in ([stated] if stated else []) if found is not None and found.id == licence.id]
    if tag is not None and licence in (lookup(tag[0]), *choices(tag[0])):
        agreeing.append(tag[1])
    if agreeing:
        return question.yes(Grade.CHECKED, f"{what}, as the card says", *places, *agreeing)
    return question.yes(Grade.PRESENT, what, *places)


def _by_title(question: Question, what: str, places: tuple[Evidence, ...], limits: tuple[Clause, ...]) -> Row:
    """An open licence that only its title tells: no more than a claim, and none where the text takes back."""
    if limits:
        first = strongest(limits)[0]
        what += f", which restricts nothing; but line {first.line}: “{shorten(first.quote, 160)}”"
        return question.no(Grade.PRESENT, what, *places)
    what += ", whose standard text is not here to be compared with"
    return question.yes(Grade.CLAIMED, what, *places)


def _differs(expected: str, found: str) -> str:
    if expected and found:
        return f"“{shorten(found, 120)}” instead of “{shorten(expected, 120)}”"
    return f"“{shorten(found, 120)}” is added" if found else f"“{shorten(expected, 120)}” is missing"


def quote(file: str, clause: Clause) -> Evidence:
    """A clause as evidence."""
    return Evidence(file, f"line {clause.line}", shorten(clause.quote))


def _agreement(subject: Subject, texts: dict[Kind, Text]) -> Row:
    said: list[tuple[Kind, str, Evidence]] = []
    for kind in KINDS:
        if (stated := _stated(subject, kind)) is not None and stated[0] is not None:
            said.append((kind, stated[0].id, stated[1]))
    if (tag := _tag(subject)) is not None and (tagged := lookup(tag[0])) is not None:
        said.append(("weights", tagged.id, tag[1]))
    wrong: list[tuple[Kind, str, Text, Evidence]] = []
    fine: list[tuple[Kind, str, Text, Evidence]] = []
    for kind, id_, place in said:
        text = texts.get(kind)
        if text is None or text.match.licence is None:
            continue
        if text.match.licence.id == id_ and text.match.is_cut:  # neither whole nor changed
            continue
        (fine if text.match.licence.id == id_ and _is_whole(text) else wrong).append((kind, id_, text, place))
    compared = wrong + fine
    places = tuple(place for _, _, _, place in compared) + tuple(text.evidence for _, _, text, _ in compared[:4])
    if wrong:
        reason = "; ".join(
            f"{kind}: {id_} by the card, and {text.file} is {text.match.label}" for kind, id_, text, _ in wrong
        )
        return ask.LICENCE_AGREEMENT.no(Grade.PRESENT, reason, *places[:8])
    if against := _against(subject, texts):
        places = (*(quote(each.file, each.clause) for each in against[:4]), *places)
        return ask.LICENCE_AGREEMENT.no(Grade.PRESENT, against[0].words, *places[:8])
    if not fine:
        return ask.LICENCE_AGREEMENT.unknown(Grade.ABSENT, "there are no two sources to compare")
    reason = "; ".join(f"{kind}: {id_} by the card and by {text.file}" for kind, id_, text, _ in fine)
    grade = Grade.CHECKED if all(text.match.exact for _, _, text, _ in fine) else Grade.PRESENT
    return ask.LICENCE_AGREEMENT.yes(grade, reason, *places[:8])


def _is_whole(text: Text) -> bool:
    """Whether a text is the licence that it is taken for, as far as that can be known."""
    match = text.match
    if match.basis == "title" and match.licence is not None and is_free(match.licence):
        return not any(clause.flag in RESTRICTING for clause in match.clauses)
    return match.exact or match.basis == "title"


def _against(subject: Subject, texts: dict[Kind, Text]) -> list[Said]:
    """What the card and policies say against the licence of the weights."""
    licence = _licence(subject, texts)[0]
    return [said for said in contradicting(subject, licence) if said.sure]


def _licence(subject: Subject, texts: dict[Kind, Text]) -> tuple[Licence | None, tuple[Evidence, ...]]:
    """The licence of the weights: by its text, or else by the card or the tag."""
    if (text := texts.get("weights")) is not None:
        return text.match.licence, (text.evidence,)
    stated, tag = _stated(subject, "weights"), _tag(subject)
    tagged = (lookup(tag[0]) or next(iter(choices(tag[0])), None)) if tag else None
    licence = (stated[0] if stated else None) or tagged
    return licence, tuple(each[1] for each in (stated, tag) if each)


def weights_licence(subject: Subject) -> Licence | None:
    """The licence that the weights are under, by their text or by word."""
    return _licence(subject, licence_texts(subject))[0]


def _freedom(subject: Subject, texts: dict[Kind, Text]) -> Row:
    text = texts.get("weights")
    licence, places = _licence(subject, texts)
    if text is not None and (limits := _limits(text)):
        places = (*places, *(quote(text.file, clause) for clause in strongest(limits)))
        kinds = ", ".join(dict.fromkeys(clause.flag.replace("_", " ") for clause in limits))
        first = strongest(limits)[0]
        reason = f"{text.match.label} restricts: {kinds}; line {first.line}: “{shorten(first.quote, 160)}”"
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
        reason = f"{licence.name}, by word"
        return ask.LICENCE_FREEDOM.answer("yes" if is_free(licence) else "no", Grade.CLAIMED, reason, *places)
    if not is_free(licence):
        return ask.LICENCE_FREEDOM.no(Grade.PRESENT, text.match.label, *places)
    if text.match.exact:
        return ask.LICENCE_FREEDOM.yes(Grade.CHECKED, f"{text.match.label}, word for word", *places)
    if text.match.basis == "title":
        return ask.LICENCE_FREEDOM.yes(Grade.CLAIMED, text.match.label, *places)
    return ask.LICENCE_FREEDOM.unknown(Grade.PRESENT, f"{text.match.label}: see licence.weights", *places)


def _limits(text: Text) -> tuple[Clause, ...]:
    """What a licence takes back, or asks beyond notices."""
    flags = RESTRICTING | {"pass_on", "naming_rule"}
    return tuple(clause for clause in text.match.clauses if clause.flag in flags)
