"""Access: whether the weights can simply be had, or one must ask, sign in or agree first; and whether everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clearseek.audit import questions as ask
from clearseek.audit.checks.terms import licence_texts, quote, said_elsewhere
from clearseek.audit.checks.weights import weight_links
from clearseek.audit.evidence import Grade, Row
from clearseek.audit.read.card import shorten
from clearseek.audit.read.subject import Subject

_GATE = re.compile(
    r"(?:accept|agree to) (?:our|the) (?:licen[cs]e|terms|agreement|acceptable use)|request access|access request|"
    r"request (?:is|has been|will be) (?:approved|processed)|gated (?:model|repo)|fill (?:out|in) .{0,30}form",
    re.I,
)
_THE_WEIGHTS = re.compile(r"download|weights|checkpoints?|\bmodels?\b|hugging ?face|\bhf\b|\bhub\b|\brepo", re.I)
_ELSEWHERE = re.compile(
    r"commercial|business|\bapi\b|playground|demo|trial|试用|wait ?list|white ?list|\bdata ?sets?\b", re.I
)
"""Forms for a use or a service: a matter of the licence, or of another thing than the weights."""


def rows(subject: Subject) -> Iterator[Row]:
    """Whether there is a gate before the weights, and whether somebody is shut out for where he lives."""
    yield _gate(subject)
    yield _geography(subject)


def _gate(subject: Subject) -> Row:
    gated = [key for key in subject.metadata.value or {} if key.startswith("extra_gated")]
    if gated and subject.card is not None:
        reason = f"the card's metadata set up a gate: {', '.join(gated)}"
        return ask.BARRIERS_ACCESS.no(Grade.CLAIMED, reason, subject.card.at(1, gated[0]))
    if getattr(subject.source, "gated", False):
        return ask.BARRIERS_ACCESS.no(Grade.PRESENT, "the hub has a gate before the repository")
    if subject.weight_files:
        return ask.BARRIERS_ACCESS.yes(Grade.PRESENT, "they are here")
    for document in subject.documents[:3]:
        for sentence in document.sentences:
            match = _GATE.search(sentence.text)
            if match and _THE_WEIGHTS.search(sentence.text) and not _ELSEWHERE.search(sentence.text):
                line = sentence.line_at(match.start())
                reason = f"{document.file}, line {line}: “{shorten(sentence.text, 160)}”"
                return ask.BARRIERS_ACCESS.no(Grade.CLAIMED, reason, document.at(line, shorten(sentence.text)))
    if weight_links(subject):
        reason = "linked; whether the place asks for anything was not looked at"
        return ask.BARRIERS_ACCESS.unknown(Grade.LINKED, reason)
    return ask.BARRIERS_ACCESS.not_applicable("there are no weights")


def _geography(subject: Subject) -> Row:
    """Clauses of the licence, the card and policies that leave a place out."""
    text = licence_texts(subject).get("weights")
    clauses = [(text.file, clause) for clause in text.match.clauses] if text is not None else []
    clauses += [(said.file, said.clause) for said in said_elsewhere(subject)]
    if found := [quote(file, clause) for file, clause in clauses if clause.flag == "geo_exclusion"]:
        reason = f"{found[0].file}, {found[0].where}: “{shorten(found[0].quote, 160)}”"
        return ask.BARRIERS_GEOGRAPHY.no(Grade.PRESENT, reason, *found[:4])
    if (subject.metadata.value or {}).get("extra_gated_eu_disallowed") is True and subject.card is not None:
        reason = "the card's metadata shut out the European Union"
        return ask.BARRIERS_GEOGRAPHY.no(Grade.CLAIMED, reason, subject.card.at(1, "extra_gated_eu_disallowed"))
    if text is None:
        return ask.BARRIERS_GEOGRAPHY.unknown(Grade.ABSENT, "there is no licence text to read")
    match = text.match
    reason = f"{text.file} is {match.label}; no clause on places was found in it"
    if match.licence is not None and match.licence.geo_exclusion is None and (match.exact or match.basis == "title"):
        grade = Grade.PRESENT if match.exact else Grade.CLAIMED
        return ask.BARRIERS_GEOGRAPHY.yes(grade, reason, text.evidence)
    return ask.BARRIERS_GEOGRAPHY.unknown(Grade.PRESENT, f"{reason}, which is no promise", text.evidence)
