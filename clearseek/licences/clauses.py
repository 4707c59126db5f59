"""The sentences of a licence that take something back, each quoted with its line.

A list of flags can be believed or not; a quotation can be looked up. The text is split into sentences and list items,
and each is tried against a few patterns per kind of restriction. A heading such as "You agree not to use the Model:"
makes every item below it a restriction. The patterns are written for licences in English; what they do not find may
still be there, so an empty answer is not a promise.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
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


@dataclass(frozen=True, slots=True)
class Clause:
    """A sentence that restricts."""

    flag: Flag
    quote: str
    line: int
    """Where it begins, from 1."""


_DATA = tomllib.loads((files(__package__) / "clauses.toml").read_text(encoding="utf-8"))


def _any(patterns: list[str]) -> re.Pattern[str]:
    plain = "|".join(f"(?:{pattern})" for pattern in patterns)
    return re.compile(re.sub(r"<([a-z]+)>", lambda match: _DATA["words"][match[1]], plain))


_ANYWHERE: dict[str, re.Pattern[str]] = {flag: _any(patterns) for flag, patterns in _DATA["anywhere"].items()}
_PATTERNS: dict[Flag, re.Pattern[str]] = {
    flag: _any([*patterns, *_DATA["anywhere"].get(flag, ())]) for flag, patterns in _DATA["flags"].items()
}
_HARMLESS, _LIST_OF_USES, _SHOWN_NAME, _OTHER_LICENCE = (
    _any(_DATA["sentences"][name]) for name in ("harmless", "list_of_uses", "shown_name", "other_licence")
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
    flags: list[Flag] = [flag for flag, pattern in _PATTERNS.items() if pattern.search(plain)]
    if "field_of_use" in flags and ("no_compete" in flags or _HARMLESS.search(plain)):
        flags.remove("field_of_use")
    if "output_restriction" in flags and "naming_rule" in flags:
        flags.remove("output_restriction")
    if "user_cap" in flags and _SHOWN_NAME.search(plain) and not _OTHER_LICENCE.search(plain):
        flags[flags.index("user_cap")] = "naming_rule"
    return flags


def in_prose(sentence: str) -> tuple[Flag | None, bool]:
    """What a sentence restricts where no licence speaks, and whether it is a plain ban in another language."""
    plain = sentence.lower()
    if _ANYWHERE["abroad"].search(plain):
        return "non_commercial", True
    flags: tuple[Flag, ...] = ("geo_exclusion", "non_commercial", "field_of_use")
    return next((flag for flag in flags if _ANYWHERE[flag].search(plain)), None), False


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
