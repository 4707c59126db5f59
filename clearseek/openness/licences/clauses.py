"""What a licence forbids or asks, in its own words: the sentences, with their lines.

A licence that is called open may still list uses it forbids. The clauses are found by the phrases that lawyers reuse,
so that a table can quote them; whether a sentence binds is for a lawyer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Flag = Literal[
    "field_of_use",
    "non_commercial",
    "user_cap",
    "no_compete",
    "output_restriction",
    "pass_on",
    "naming",
    "patent_termination",
    "remote_restriction",
    "geo_exclusion",
]
_PATTERNS: Final[tuple[tuple[Flag, str], ...]] = (
    (
        "field_of_use",
        r"you (?:agree|shall|may|must|will|can) ?not (?:to )?use the (?:model|software|materials|llama)\b[^.]*",
    ),
    ("field_of_use", r"you cannot use the model\b[^.]*(?:restricted|prohibited) uses?"),
    ("field_of_use", r"for military (?:use|purposes?)\b[^.;]*|military, warfare, nuclear[^.;]*"),
    ("field_of_use", r"(?:use-based|use) restrictions? (?:set forth|as referenced|listed)[^.]*"),
    ("field_of_use", r"shall be used for good, not evil"),
    ("field_of_use", r"(?:shall|may|must) not be used (?:for|in|to|by)\b[^.]*"),
    ("field_of_use", r"acceptable use policy[^.]*"),
    (
        "non_commercial",
        r"non-?commercial (?:use|purposes?)\b[^.]*|not (?:use|exploit)[^.]*commercial(?:ly| purposes?)[^.]*",
    ),
    ("user_cap", r"(?:greater|more) than \d+ million monthly active users[^.]*"),
    (
        "no_compete",
        r"(?:not|never) use[^.]{0,120}(?:to (?:improve|train|develop)|for training)[^.]{0,80}models?[^.]*",
    ),
    ("output_restriction", r"no use of the output can contravene[^.]*|accountable for the output[^.]*"),
    ("pass_on", r"restrictions[^.]{0,80}must be included as an enforceable provision[^.]*"),
    (
        "naming",
        r"include [“\"]llama[^.]{0,30}[”\"] at the beginning[^.]*|built with (?:meta )?llama[^.]*",
    ),
    (
        "patent_termination",
        r"institute patent litigation[^.]*terminate[^.]*|lawsuit[^.]*infringe any patent[^.]*terminated[^.]*",
    ),
    ("remote_restriction", r"restrict \(remotely or otherwise\)[^.]*"),
    (
        "geo_exclusion",
        r"(?:not|excluded)[^.]{0,80}(?:domiciled|principal place of business) in the european union[^.]*",
    ),
)
_COMPILED: Final = tuple((flag, re.compile(pattern, re.I)) for flag, pattern in _PATTERNS)
_LONGEST_QUOTE: Final = 300
RESTRICTING: Final[frozenset[Flag]] = frozenset(
    {
        "field_of_use",
        "non_commercial",
        "user_cap",
        "no_compete",
        "output_restriction",
        "remote_restriction",
        "geo_exclusion",
    }
)
"""Clauses that limit who may use a thing, or what for."""


@dataclass(frozen=True, slots=True)
class Clause:
    """A sentence that restricts."""

    flag: Flag
    quote: str
    line: int
    """On which it begins."""


def restrictions(text: str) -> tuple[Clause, ...]:
    """The restricting sentences of a licence, in order, at most three of a kind."""
    flat, starts = _flatten(text)
    found: list[tuple[int, Clause]] = []
    for flag, pattern in _COMPILED:
        for match in pattern.finditer(flat):
            quote = match[0].strip()
            if _granted(flat, match.start(), flag):
                continue
            found.append((match.start(), Clause(flag, quote[:_LONGEST_QUOTE], _line(starts, match.start()))))
    found.sort(key=lambda pair: pair[0])
    kept: list[Clause] = []
    for _, clause in found:
        same = [each for each in kept if each.flag == clause.flag]
        if len(same) < 3 and all(each.line != clause.line for each in same):
            kept.append(clause)
    return tuple(kept)


def _granted(flat: str, at: int, flag: Flag) -> bool:
    """Whether the sentence names a thing in order to allow it, or names whom it may not endorse."""
    sentence = flat[max(0, flat.rfind(".", 0, at) + 1) : at].lower()
    after = flat[at : at + 120].lower()
    if flag == "field_of_use" and re.search(r"endorse|promote|advertis|construe", after):
        return True
    return flag == "non_commercial" and "whether" in sentence


def _flatten(text: str) -> tuple[str, list[int]]:
    """The text in one line, every stretch of white space one blank, and where each of its lines begins there."""
    pieces: list[str] = []
    starts: list[int] = []
    length = 0
    for line in text.splitlines():
        starts.append(length)
        piece = " ".join(line.replace("\u2019", "'").split())
        if piece:
            pieces.append(piece + " ")
            length += len(piece) + 1
    return "".join(pieces), starts


def _line(starts: list[int], at: int) -> int:
    """1-based line of a place in the flattened text."""
    low, high = 0, len(starts)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if starts[middle] <= at else (low, middle)
    while low + 1 < len(starts) and starts[low + 1] == starts[low]:
        low += 1  # blank lines begin where the next begins
    return low + 1
