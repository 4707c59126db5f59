"""Access: whether the weights can simply be had, or one must ask, sign in or agree first; and whether everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clearseek.audit import questions as ask
from clearseek.audit.checks.terms import licence_texts, quote, said_elsewhere
from clearseek.audit.checks.weights import FILE_ADDRESS, may_lie_elsewhere, other_weights, weight_links
from clearseek.audit.evidence import Grade, Row
from clearseek.reading.card import shorten
from clearseek.reading.evidence import Evidence
from clearseek.reading.identity import normalise
from clearseek.reading.mentions import of_another, own_documents
from clearseek.reading.subject import Subject
from clearseek.reading.words import cue

_LONGEST = 2_000

_GATE = cue("gate")
_ASKS = re.compile(
    "request|accept|agree|sign|acknowledg|appl|ask|gate|form|questionnaire|approv|regist|log|submit|account|申|填|同意|签|无需|antrag"
    "|anmeld|demande|inscri|solicit|フォーム", re.I
)  # fmt: skip
"""What any gate has; most sentences have nothing of it."""
_NO_GATE = cue("no_gate")
_THE_WEIGHTS = cue("weights_said")
_ELSEWHERE = cue("another_gate")
"""Forms for a use, a service or another model: a matter of the licence, or of another thing than the weights."""
_LICENCE = re.compile(r"licen[cs]|lizenz|terms|disclaimer|协议|许可|声明", re.I)
_FETCH = re.compile(r"download|access|obtain|get the|下载|获取", re.I)
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
    if (place := _said(subject, _GATE)) is not None:
        reason = f"{place.file}, {place.where}: “{shorten(place.quote, 160)}”"
        return ask.BARRIERS_ACCESS.no(Grade.CLAIMED, reason, place)
    if not (links := weight_links(subject)) and not subject.pointed_weights and not subject.absent_shards:
        unclear = may_lie_elsewhere(subject)
        if not unclear:
            return ask.BARRIERS_ACCESS.not_applicable("there are no weights")
        return ask.BARRIERS_ACCESS.unknown(
            Grade.LINKED, "whether the linked models are this one is not said", *unclear[:4]
        )
    if (place := _said(subject, _NO_GATE)) is not None:
        reason = f"{place.file}, {place.where}: “{shorten(place.quote, 160)}”"
        return ask.BARRIERS_ACCESS.yes(Grade.CLAIMED, reason, place)
    if links and all(FILE_ADDRESS.search(each.quote) and not _HUBS.search(each.quote) for each in links):
        return ask.BARRIERS_ACCESS.yes(Grade.LINKED, "linked as files, which were not fetched", *links[:4])
    reason = "linked; whether the place asks for anything was not looked at"
    return ask.BARRIERS_ACCESS.unknown(Grade.LINKED, reason, *links[:4])


def _said(subject: Subject, words: re.Pattern[str]) -> Evidence | None:
    """The first sentence of these words that is about this model's weights."""
    names = frozenset(map(normalise, subject.names))
    for document in own_documents(subject)[:6]:
        for sentence in document.sentences:
            match = words.search(sentence.text[:_LONGEST]) if _ASKS.search(sentence.text[:_LONGEST]) else None
            if match is None or _ELSEWHERE.search(sentence.text) or (words is _GATE and _NO_GATE.search(sentence.text)):
                continue
            licence = _LICENCE.search(" ".join(sentence.headings[-1:])) and not _FETCH.search(sentence.text)
            own = {each for link in sentence.block.links if (each := subject.is_own(link.target)) is not None}
            spoken = _THE_WEIGHTS.search(sentence.text) or True in own
            if spoken and not licence and own != {False} and not of_another(sentence.text[: match.start()], names):
                return document.at(sentence.line_at(match.start()), sentence.text)
    return None


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
