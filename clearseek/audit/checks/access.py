"""Access: whether the weights can simply be had, or one must ask, sign in or agree first; and whether everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clearseek.audit import questions as ask
from clearseek.audit.checks.gates import GATE, NO_GATE, said_of_access
from clearseek.audit.checks.terms import licence_texts, quote, said_elsewhere
from clearseek.audit.checks.weights import FILE_ADDRESS, may_lie_elsewhere, other_weights, weight_links
from clearseek.audit.evidence import Grade, Row
from clearseek.reading.card import shorten
from clearseek.reading.subject import Subject

_HUBS = re.compile(
    r"//(?:www\.)?(?:huggingface\.co|hf\.co|modelscope|wisemodel|kaggle)|drive\.google|docs\.google|forms\.", re.I
)


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
    if subject.weight_files or other_weights(subject):
        return ask.BARRIERS_ACCESS.yes(Grade.PRESENT, "they are here")
    if (place := said_of_access(subject, GATE)) is not None:
        reason = f"{place.file}, {place.where}: “{shorten(place.quote, 160)}”"
        return ask.BARRIERS_ACCESS.no(Grade.CLAIMED, reason, place)
    if not (links := weight_links(subject)) and not subject.pointed_weights and not subject.absent_shards:
        unclear = may_lie_elsewhere(subject)
        if not unclear:
            return ask.BARRIERS_ACCESS.not_applicable("there are no weights")
        return ask.BARRIERS_ACCESS.unknown(
            Grade.LINKED, "whether the linked models are this one is not said", *unclear[:4]
        )
    if (place := said_of_access(subject, NO_GATE)) is not None:
        reason = f"{place.file}, {place.where}: “{shorten(place.quote, 160)}”"
        return ask.BARRIERS_ACCESS.yes(Grade.CLAIMED, reason, place)
    if links and all(FILE_ADDRESS.search(each.quote) and not _HUBS.search(each.quote) for each in links):
        return ask.BARRIERS_ACCESS.yes(Grade.LINKED, "linked as files, which were not fetched", *links[:4])
    reason = "linked; whether the place asks for anything was not looked at"
    return ask.BARRIERS_ACCESS.unknown(Grade.LINKED, reason, *links[:4])


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
