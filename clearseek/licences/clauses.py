"""The sentences of a licence that take something back, each quoted with its line.

A list of flags can be believed or not; a quotation can be looked up. The text is split into sentences and list items,
and each is tried against a few patterns per kind of restriction. A heading such as "You agree not to use the Model:"
makes every item below it a restriction. The patterns are written for licences in English; what they do not find may
still be there, so an empty answer is not a promise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from clearseek.licences.words import LONGEST_TEXT, shorten

Flag = Literal[
    "field_of_use", "user_cap", "non_commercial", "no_compete", "output_restriction", "naming_rule", "share_alike",
    "pass_on", "patent_termination", "remote_restriction", "geo_exclusion",
]  # fmt: skip
RESTRICTING: Final[frozenset[str]] = frozenset(
    ("field_of_use", "non_commercial", "user_cap", "no_compete", "output_restriction", "remote_restriction",
     "geo_exclusion")
)  # fmt: skip
"""Clauses that limit who may use a thing, or what for."""
_MOST = 200
_LONGEST_SENTENCE = 2000
_DENIED = r"(?:(?:shall|must|will|may|can|do|does|agrees?|is|are) ?not|cannot|never|prohibited from|not to)"


@dataclass(frozen=True, slots=True)
class Clause:
    """A sentence that restricts."""

    flag: Flag
    quote: str
    line: int
    """Where it begins, from 1."""


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


_PATTERNS: dict[Flag, re.Pattern[str]] = {
    "user_cap": _any(r"monthly active users"),
    "no_compete": _any(
        rf"{_DENIED}\b.{{0,250}}\bto (?:develop or |create or |train, create, or )?(?:improve|train|create|develop)\b"
        r".{0,40}\b(?:other|foundational?|competing)\b.{0,60}\bmodels?\b",
    ),
    "output_restriction": _any(
        r"no use of the output\b", r"outputs?\)? for research purposes",
        r"use of the outputs?\b.{0,60}license agreement",
        r"not to contravene .{0,80}\boutput", rf"{_DENIED} use\b.{{0,120}}\b(?:any )?outputs?\b",
        r"any outputs shall be subject to", r"interest in and to the output",
        rf"{_DENIED}.{{0,80}}\boutput or results\b",
    ),
    "naming_rule": _any(
        r"[\"'](?:built|improved|powered) (?:with|using|by|on)\b",
        r"beginning of (?:any such|its|the|your)\b.{0,20}\bname",
        r"is built using .{0,40}technology",
    ),
    "share_alike": _any(
        r"must be (?:only )?(?:made available )?under the terms of this license", r"must be only under the terms",
        r"same license elements", r"as a whole\b.{0,80}\bunder (?:the terms of )?this license",
        r"must be published under this agreement", r"will remain subject to this agreement",
    ),
    "pass_on": _any(
        r"as (?:an )?enforceable provisions?", r"always have to include\b.{0,60}restrictions",
        r"(?:require|ensure|procure)\b.{0,20}\ball (?:of )?(?:your users|persons)", r"bind each recipient",
        r"not contradict the restrictions in",
        r"shall be subject to the restrictions set out",
    ),
    "patent_termination": _any(
        r"(?:institute|initiate|file|commence|bring|assert)s?\b.{0,200}(?:litigation|lawsuit|proceedings?|legal action"
        r"|claim).{0,700}\bterminat",
    ),
    "remote_restriction": _any(r"\bremotely or otherwise\b", r"restrict remotely"),
    "geo_exclusion": _any(
        r"not (?:being )?(?:granted|licensed|available|apply)\b.{0,220}"
        r"(?:european union|\beea\b|\beu\b|united kingdom)",
        r"excluding\b.{0,80}(?:european union|united kingdom)",
    ),
    "non_commercial": _any(
        r"(?:for|in) non-? ?commercial (?:purposes|uses?|research)\b", r"research purposes\b", r"non-? ?production env",
        r"noncommercial purposes only", r"not primarily intended for or directed towards commercial",
        rf"{_DENIED}\b.{{0,100}}\bcommercial (?:purposes?|uses?|exploitation|activity|application)",
        r"non-commercial uses? only", r"sole purpose of .{0,40}research",
        r"(?:禁止|不得|不可|严禁|仅).{0,16}(?:商用|商业)|非商业(?:目的|用途|性)|仅(?:供|限|用于).{0,12}(?:研究|学术)",
    ),
    "field_of_use": _any(
        r"\b(?:you|licensees?|users?|they|who|anyone)\b.{0,60}\b(?:(?:shall|must|will|may|can) ?not|cannot|"
        r"agrees? not to),? (?:or allow others to )?use\b",
        r"\bagrees? not to use\b", r"\b(?:shall|must|may|will) not be (?:used|employed)\b",
        r"\bnot be used (?:for|in)\b",
        r"\bnot use, or allow others to use", r"\bnot for (?:any )?military", r"shall be used for good",
        r"^use-based restrictions? (?:as|incorporating)\b", r"^use restrictions$", r"^prohibited uses$",
        r"(?:acceptable|prohibited) use policy", r"\bmilitary (?:use|purposes?|applications?)",
        r"solely for computational",
        r"(?:不得|禁止|不可|严禁)[^。；]{0,40}(?:用于|使用|军事)",
        r"consistent with .{0,30}trustworthy ai", r"use(?:s)? (?:is|are) (?:prohibited|forbidden)",
    ),
}  # fmt: skip
_TRIGGER = _any(
    r"\bnot\b", r"never", r"cannot", r"prohibit", r"restrict", r"monthly active", r"output", r"built|improved|powered",
    r"beginning of", r"under ", r"elements", r"enforceable", r"ensure", r"require", r"procure", r"bind", r"terminat",
    r"remotely", r"exclud", r"commercial", r"production env", r"research", r"use policy", r"used for", r"military",
    r"solely", r"sole purpose", r"consistent", r"forbidden", r"[禁仅]|不得|不可|非商业",
)  # fmt: skip
_HARMLESS = _any(
    r"except in compliance",
    r"trade ?mark|trade names|service marks",
    r"to (?:endorse|promote|advertise)",
    r"does not (?:grant|limit|restrict|affect|apply)",
    r"(?:shall|must|may|will) not be used (?:in|for) advertising",
    r"not limited to the (?:warranties|implied)",
    r"technical measures",
    r"cannot use both",
    r"used to construe",
)
"""Sentences about names, warranties or the grant itself that use the same words."""
_LIST_OF_USES = _any(
    rf"{_DENIED} (?:allow others to )?use\b.*:$",
    r"restricted uses?:$",
    r"not be used.*:$",
    r"prohibited uses?:$",
    r"you (?:shall|must|will|may) not:$",
    r"not use, or allow others to use,.*:$",
)
_BULLET = "[-*\u2022\u2013\u00b7]"
_BREAK = re.compile(
    rf"\n[^\S\n]*\n|\n(?=[^\S\n]*(?:{_BULLET}|\(?(?:\d{{1,2}}|[a-z]|[ivx]{{1,4}})[.)])\s)"
    r"|(?<=[.;:])\s+(?=[A-Z\"“(•-]|\d\d?\.\d)"
)
_MARKER = re.compile(r"\W*(?:\d{1,2}(?:\.\d{1,2})*|[a-zA-Z]|[ivx]{1,4})?[.)]*\W*")
_ITEM = re.compile(rf"^\s*(?:{_BULLET}|\(?(?:\d{{1,2}}|[a-z]|[ivx]{{1,4}})[.)])\s+")
_QUOTES = str.maketrans({"“": '"', "”": '"', "\u2018": "'", "\u2019": "'", "*": "", "_": ""})


def restrictions(text: str) -> tuple[Clause, ...]:
    """What restricts in this text, in its order."""
    found: list[Clause] = []
    listing = False
    for sentence, line, is_item, fresh in _sentences(text[:LONGEST_TEXT]):
        plain = _ITEM.sub("", sentence[:_LONGEST_SENTENCE]).translate(_QUOTES)
        plain = " ".join(plain.split()).lower()
        if not plain:
            continue
        flags = _flags(plain)
        if listing and is_item and "field_of_use" not in flags:
            flags = ["field_of_use", *flags]
        listing = bool(_LIST_OF_USES.search(plain)) or (listing and (is_item or not fresh))
        found.extend(Clause(flag, shorten(_ITEM.sub("", sentence)), line) for flag in flags)
        if len(found) >= _MOST:
            break
    return tuple(found[:_MOST])


def _flags(plain: str) -> list[Flag]:
    if not _TRIGGER.search(plain) and not _PATTERNS["field_of_use"].search(plain):
        return []
    flags: list[Flag] = [flag for flag, pattern in _PATTERNS.items() if pattern.search(plain)]
    if "field_of_use" in flags and ("no_compete" in flags or _HARMLESS.search(plain)):
        flags.remove("field_of_use")
    if "output_restriction" in flags and "naming_rule" in flags:
        flags.remove("output_restriction")
    return flags


def _sentences(text: str) -> Iterator[tuple[str, int, bool, bool]]:
    """Sentences with their first line, whether they are list items, and whether they begin on a new line."""
    begin, line, counted, fresh = 0, 1, 0, True
    for match in [*_BREAK.finditer(text), None]:
        end = match.start() if match else len(text)
        part = text[begin:end]
        if match and len(part) < 12 and _MARKER.fullmatch(part):  # "1." alone belongs to what follows
            continue
        first = begin + len(part) - len(part.lstrip())
        line, counted = line + text.count("\n", counted, first), first
        yield part.strip(), line, bool(_ITEM.match(part + " ")), fresh
        begin, fresh = (match.end(), "\n" in match[0]) if match else (end, True)


_DIRECT = re.compile(r"you (?:agree|cannot|may not|shall not|must not|will not)|military|must not", re.I)
_A_USE = re.compile(r"(?:for|to|in any way)\b", re.I)


def strongest(clauses: tuple[Clause, ...]) -> list[Clause]:
    """What is forbidden, one use after the other; then prohibitions, before remarks."""

    def rank(clause: Clause) -> tuple[bool, bool, bool, int]:
        use = clause.flag == "field_of_use" and _A_USE.match(clause.quote) is not None
        return "military" not in clause.quote.lower(), not use, not _DIRECT.search(clause.quote), clause.line

    return sorted(clauses, key=rank)[:14]


def forbidden(clauses: tuple[Clause, ...]) -> str:
    """How many uses a list of them rules out, and the first; else the strongest clause."""
    ruled_out = [clause for clause in clauses if clause.flag == "field_of_use" and _A_USE.match(clause.quote)]
    first = f"“{shorten(strongest(clauses)[0].quote, 160)}”"
    return f"rules out {len(ruled_out)} uses, such as {first}" if len(ruled_out) > 1 else first
