"""Licences: for weights, code, data and documents, the text that is here, the tag, and what the card says of them.

A tag is a word; the text is what binds. So each kind of thing is answered from the text that covers it, compared word
by word with the standard text, and only where there is none from the tag or the card, which then counts as a claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from clearseek.errors import UserError
from clearseek.openness.card import shorten
from clearseek.openness.checks.data import data_files
from clearseek.openness.evidence import Answer, Evidence, Grade, Row
from clearseek.openness.licences.clauses import Clause
from clearseek.openness.licences.match import Match, identify
from clearseek.openness.licences.table import Kind, Licence, is_open_for, lookup
from clearseek.openness.subject import Subject

_FILE = re.compile(
    r"^(?:licen[cs]e|copying|unlicense|(?:model|code|data|docs?)[-_]licen[cs]e)\b|licen[cs]e(?:\.\w{1,4})?$", re.I
)
RESTRICTING: Final = frozenset(
    ("field_of_use", "non_commercial", "user_cap", "no_compete", "output_restriction", "remote_restriction",
     "geo_exclusion")
)  # fmt: skip
"""Clauses that limit who may use a thing, or what for."""
_KINDS: Final[tuple[tuple[Kind, str], ...]] = (
    ("weights", r"model|weights"),
    ("code", r"code|software"),
    ("data", r"data"),
    ("documents", r"doc"),
)
KINDS: Final[tuple[Kind, ...]] = ("weights", "code", "data", "documents")
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


def rows(subject: Subject) -> Iterator[Row]:
    """One row a kind, then whether the sources agree, and what one may do with the weights."""
    texts = licence_texts(subject)
    for kind in KINDS:
        yield _kind(subject, kind, texts)
    yield _agreement(subject, texts)
    yield _freedom(subject, texts)


def licence_texts(subject: Subject) -> dict[Kind, Text]:
    """The licence file that covers each kind: one named after it, or else the general one."""
    found: dict[Kind, Text] = {}
    general: Text | None = None
    for path in sorted(subject.source.sizes, key=lambda path: (path.count("/"), path)):
        base = path.rpartition("/")[2]
        if path.count("/") > 1 or not _FILE.search(base) or base.lower().endswith((".py", ".json")):
            continue
        try:
            document = subject.source.document(path)
        except UserError:
            continue
        text = Text(path, identify(document.text), subject.source.whole(path))
        named = [kind for kind, words in _KINDS if re.search(words, path, re.I)]
        for kind in named:
            found.setdefault(kind, text)
        if not named and general is None:
            general = text
    if general is not None:
        for kind in KINDS:
            found.setdefault(kind, general)
    return found


def _tag(subject: Subject) -> tuple[str, Evidence] | None:
    """The metadata's licence tag."""
    metadata, card = subject.metadata.value or {}, subject.card
    tag = metadata.get("license")
    if isinstance(tag, str) and tag.lower() == "other":
        tag = metadata.get("license_name") or tag
    if not isinstance(tag, str) or card is None:
        return None
    line = next((n for n, text in enumerate(card.lines, 1) if text.startswith(("license:", "license_name:"))), 1)
    return tag, Evidence(card.file, f"line {line}, key license", tag, card.sha256)


def _stated(subject: Subject, kind: Kind) -> tuple[Licence | None, Evidence] | None:
    """What a sentence of the card says about the licence of this kind."""
    words = dict(_KINDS)[kind]
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
    title, name = f"The {kind} {_are(kind)} under an open licence", f"licence.{kind}"
    text, stated, tag = texts.get(kind), _stated(subject, kind), _tag(subject)
    if kind == "data" and not data_files(subject):
        reason = "there are no training data here to be licensed"
        return Row(name, "definition", title, "not applicable", Grade.ABSENT, reason)
    if text is not None:
        return _judge(name, title, kind, text, stated, tag)
    claim = stated or ((lookup(tag[0]), tag[1]) if tag and kind == "weights" else None)
    if claim is None:
        reason = "no licence text, no tag and no sentence covers them"
        return Row(name, "definition", title, "no", Grade.ABSENT, reason)
    licence, place = claim
    if licence is None:
        reason = "a licence is named that is not known here, and its text is not here"
        return Row(name, "definition", title, "unknown", Grade.CLAIMED, reason, (place,))
    answer: Answer = "yes" if is_open_for(licence, kind) else "no"
    return Row(
        name, "definition", title, answer, Grade.CLAIMED, f"{licence.id} by word; its text is not here", (place,)
    )


def _are(kind: Kind) -> str:
    return "is" if kind == "code" else "are"


def _judge(
    name: str,
    title: str,
    kind: Kind,
    text: Text,
    stated: tuple[Licence | None, Evidence] | None,
    tag: tuple[str, Evidence] | None,
) -> Row:
    match, licence = text.match, text.match.licence
    limits = tuple(clause for clause in match.clauses if clause.flag in RESTRICTING)
    places = (text.evidence, *(quote(text.file, clause) for clause in _strongest(limits)))
    nearest_id = match.nearest.id if match.nearest else "none"
    if licence is None:
        nearest = f"; the nearest is {nearest_id} ({100 * match.similarity:.0f} % alike)" if match.nearest else ""
        return Row(
            name, "definition", title, "unknown", Grade.PRESENT, f"{text.file}: unknown licence{nearest}", places
        )
    what = f"{text.file} is {match.label}"
    if match.changes:
        change = match.changes[0]
        what += f", line {change.line}: " + _differs(change.expected, change.found)
        return Row(name, "definition", title, "no", Grade.PRESENT, what, places)
    if not is_open_for(licence, kind):
        family = {"rail": "use-restricted (RAIL family)", "community": "a community licence with conditions"}
        what += f", {family.get(licence.family, 'not open for ' + kind)}"
        if licence.family == "rail":
            what += f", {100 * match.similarity:.0f} % alike to {nearest_id}"
        what += f": “{shorten(_strongest(limits)[0].quote, 160)}”" if limits else ""
        return Row(name, "definition", title, "no", Grade.PRESENT, what, places)
    agreeing = [place for found, place in ([stated] if stated else []) if found is not None and found.id == licence.id]
    if tag is not None and (tagged := lookup(tag[0])) is not None and tagged.id == licence.id:
        agreeing.append(tag[1])
    if agreeing:
        return Row(name, "definition", title, "yes", Grade.CHECKED, f"{what}, as the card says", (*places, *agreeing))
    return Row(name, "definition", title, "yes", Grade.PRESENT, what, places)


def _differs(expected: str, found: str) -> str:
    if expected and found:
        return f"“{shorten(found, 120)}” instead of “{shorten(expected, 120)}”"
    return f"“{shorten(found, 120)}” is added" if found else f"“{shorten(expected, 120)}” is missing"


def _strongest(clauses: tuple[Clause, ...]) -> list[Clause]:
    """Prohibitions before remarks: those that name the reader and what is forbidden."""
    direct = re.compile(r"you (?:agree|cannot|may not|shall not|must not|will not)|military|must not", re.I)
    return sorted(clauses, key=lambda clause: (not direct.search(clause.quote), clause.line))[:4]


def quote(file: str, clause: Clause) -> Evidence:
    """A clause as evidence."""
    return Evidence(file, f"line {clause.line}", shorten(clause.quote))


def _agreement(subject: Subject, texts: dict[Kind, Text]) -> Row:
    title, name = "Licence text, tag and card name the same licence", "licence.agreement"
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
        (fine if text.match.licence.id == id_ and not text.match.changes else wrong).append((kind, id_, text, place))
    compared = wrong + fine
    places = tuple(place for _, _, _, place in compared) + tuple(text.evidence for _, _, text, _ in compared[:4])
    if wrong:
        reason = "; ".join(
            f"{kind}: {id_} by the card, and {text.file} is {text.match.label}" for kind, id_, text, _ in wrong
        )
        return Row(name, "technical", title, "no", Grade.PRESENT, reason, places[:8])
    if not fine:
        return Row(name, "technical", title, "unknown", Grade.ABSENT, "there are no two sources to compare")
    reason = "; ".join(f"{kind}: {id_} by the card and by {text.file}" for kind, id_, text, _ in fine)
    return Row(name, "technical", title, "yes", Grade.CHECKED, reason, places[:8])


def _freedom(subject: Subject, texts: dict[Kind, Text]) -> Row:
    title, name = "The weights may be used, changed and passed on for any purpose", "licence.freedom"
    text = texts.get("weights")
    if text is None:
        stated, tag = _stated(subject, "weights"), _tag(subject)
        licence = (stated[0] if stated else None) or (lookup(tag[0]) if tag else None)
        places = tuple(each[1] for each in (stated, tag) if each)
        if licence is None:
            reason = "no licence is named: without one, nothing is allowed"
            return Row(name, "technical", title, "no" if not places else "unknown", Grade.ABSENT, reason, places)
        answer: Answer = "yes" if is_open_for(licence, "weights") else "no"
        return Row(name, "technical", title, answer, Grade.CLAIMED, f"{licence.name}, by word", places)
    limits = tuple(
        clause
        for clause in text.match.clauses
        if clause.flag in RESTRICTING or clause.flag in ("pass_on", "naming_rule")
    )
    places = (text.evidence, *(quote(text.file, clause) for clause in _strongest(limits)))
    if text.match.licence is None and not limits:
        return Row(name, "technical", title, "unknown", Grade.PRESENT, f"{text.file}: unknown licence", places)
    if limits:
        kinds = ", ".join(dict.fromkeys(clause.flag.replace("_", " ") for clause in limits))
        first = _strongest(limits)[0]
        reason = f"{text.match.label} restricts: {kinds}; line {first.line}: “{shorten(first.quote, 160)}”"
        return Row(name, "technical", title, "no", Grade.PRESENT, reason, places)
    if text.match.changes:
        return Row(
            name, "technical", title, "unknown", Grade.PRESENT, f"{text.match.label}: see licence.weights", places
        )
    return Row(name, "technical", title, "yes", Grade.CHECKED, f"{text.match.label}, word for word", places)
