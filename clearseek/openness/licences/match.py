"""Which licence a text is: the nearest standard text picks the candidate, and the words that differ decide.

Likeness alone is treacherous. MIT and the JSON licence ("Good, not Evil") are 97 % alike, CC BY and its non-commercial
sister 98 %; one sentence is the whole difference. So a text is a standard licence only if nothing but names, dates and
addresses differ. Otherwise it is that licence *modified*, and the changes are quoted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from importlib.resources import files
from typing import Final

from clearseek.openness.licences.clauses import Clause, restrictions
from clearseek.openness.licences.table import Licence, lookup

LONGEST: Final = 200_000
"""Characters that are compared; no licence is longer."""
ALIKE: Final = 0.8
"""Word-bag likeness (Dice) below which a text is not taken for a form of the standard text."""
CLOSE: Final = 0.04
"""Difference in likeness up to which two standard texts are both compared word by word."""
_WORD = re.compile(r"[^\W_]+(?:['.][^\W_]+)*")
_COPYRIGHT = re.compile(r"^\W*(?:copyright|©|\(c\)|portions copyright)\b.*(?:\d{4}|\[|\{|<|©|\(c\))", re.I)
_TITLES: Final = (
    (r"deepseek license agreement", "deepseek"),
    (r"llama (2|3\.1|3\.2|3\.3|3|4) community license", "llama"),
    (r"gemma terms of use", "gemma"),
    (r"(?:tongyi qianwen|qwen) license agreement", "qwen"),
    (r"qwen research license", "qwen-research"),
    (r"mistral ai research license", "mrl"),
    (r"mistral ai non-production license", "mnpl"),
    (r"bigscience (?:rail license|bloom rail)", "bigscience-bloom-rail-1.0"),
    (r"bigscience open ?rail-m", "bigscience-openrail-m"),
    (r"bigcode open ?rail-m", "bigcode-openrail-m"),
    (r"attribution-noncommercial-sharealike 4\.0 international", "CC-BY-NC-SA-4.0"),
    (r"attribution-noncommercial-noderivatives 4\.0 international", "CC-BY-NC-ND-4.0"),
    (r"attribution-noncommercial 4\.0 international", "CC-BY-NC-4.0"),
    (r"attribution-noderivatives 4\.0 international", "CC-BY-ND-4.0"),
)
"""Licences without a standard text here: how the first lines call them."""


@dataclass(frozen=True, slots=True)
class Change:
    """Words that differ from the standard text."""

    expected: str
    """In the standard text; empty where words were added."""
    found: str
    """In this text; empty where words are missing."""
    line: int
    """Of this text."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a licence text is."""

    licence: Licence | None
    """None where it is like none known."""
    exact: bool
    """Whether it is the standard text, but for names and dates. A licence known by its title alone is never exact."""
    nearest: str
    """Id of the standard text that is most alike."""
    likeness: float
    """With that text: 0 to 1."""
    changes: tuple[Change, ...]
    """From the standard text of `licence`, where there is one."""
    copyright: tuple[tuple[int, str], ...]
    """Copyright lines with their numbers."""
    clauses: tuple[Clause, ...]
    """What it restricts, quoted."""

    @property
    def name(self) -> str:
        """In words: an id, ``modified MIT``, or ``unknown licence``."""
        if self.licence is None:
            return "unknown licence"
        return self.licence.id if self.exact or not self.changes else f"modified {self.licence.id}"


@dataclass(frozen=True)
class _Text:
    words: tuple[str, ...]
    lines: tuple[int, ...]
    bag: Counter[str]


@lru_cache(maxsize=1)
def _standards() -> dict[str, _Text]:
    folder = files("clearseek.openness.licences") / "texts"
    found = sorted(folder.iterdir(), key=lambda path: path.name)
    return {path.name.removesuffix(".txt"): _words(path.read_text(encoding="utf-8")) for path in found}


def _words(text: str) -> _Text:
    """Words in lower case with their lines; copyright lines and lines without words are left out."""
    words: list[str] = []
    lines: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not _COPYRIGHT.match(line):
            for match in _WORD.finditer(line.lower().replace("\u2019", "'")):
                words.append("http" if match[0] == "https" else match[0])
                lines.append(number)
    return _Text(tuple(words), tuple(lines), Counter(words))


def identify(text: str) -> Match:
    """Say which licence a text is, and how it differs from it."""
    text = text[:LONGEST]
    found = _words(text)
    candidates = _nearest(found)
    nearest, likeness = candidates[0] if candidates else ("", 0.0)
    titled = _by_title(text)
    clauses = restrictions(text)
    holders = tuple((n, line.strip()[:200]) for n, line in enumerate(text.splitlines(), 1) if _COPYRIGHT.match(line))
    if titled is not None:
        return Match(titled, False, nearest, likeness, (), holders[:20], clauses)
    if likeness < ALIKE:
        return Match(None, False, nearest, likeness, (), holders[:20], clauses)
    compared = {name: tuple(_changes(_standards()[name], found)) for name, _ in candidates}
    nearest = min(compared, key=lambda name: _distance(name, compared[name]))
    likeness, changes, licence = dict(candidates)[nearest], compared[nearest], lookup(nearest)
    return Match(licence, not changes, nearest, likeness, changes, holders[:20], clauses)


def _distance(name: str, changes: tuple[Change, ...]) -> tuple[bool, int]:
    """Fewest changed words first; a licence that is open to nobody's eyes is only ever an exact match."""
    licence = lookup(name)
    odd = bool(changes) and (licence is None or licence.family == "other")
    return odd, sum(len(change.expected.split()) + len(change.found.split()) for change in changes)


def _by_title(text: str) -> Licence | None:
    head = " ".join(text[:600].lower().split())
    for pattern, name in _TITLES:
        if match := re.search(pattern, head):
            return lookup(f"llama{match[1]}" if name == "llama" else name)
    return None


def _nearest(found: _Text) -> list[tuple[str, float]]:
    """Ids of the most similar standard texts, the best first, with the likeness (Dice of word bags).

    Of two that are about as alike, the fewer changed words decide, so both are kept.
    """
    scored: list[tuple[str, float]] = []
    for name, standard in _standards().items():
        total = len(found.words) + len(standard.words)
        best = max((likeness for _, likeness in scored), default=0.0)
        if total == 0 or 2 * min(len(found.words), len(standard.words)) / total < best - CLOSE:
            continue
        scored.append((name, 2 * sum((found.bag & standard.bag).values()) / total))
    scored.sort(key=lambda pair: -pair[1])
    return [pair for pair in scored[:3] if pair[1] >= scored[0][1] - CLOSE]


_HARMLESS: Final = re.compile(
    r"(?:\d{1,4}|year|yyyy|fullname|name|owner|of|the|copyright|c|and|contributors|https?|www|org|com|license|licence|"
    r"version|mit|bsd|isc|apache|clause|all|rights|reserved|terms|international|public|attribution|creative|commons|"
    r"4\.0|holder|holders|project|software|json|zero|simplified|new|end|conditions)"
)
_PLACE: Final = re.compile(r"(?:copyright|holders?|owner|contributors|its|their|the|fullname|names?|author|authors)")
_ALARM: Final = frozenset(
    {"not", "no", "only", "except", "without", "if", "unless", "must", "shall", "may", "use", "used"}
)


def _changes(standard: _Text, found: _Text) -> Iterator[Change]:
    """Differences that matter: words of names, years and titles may differ where a licence leaves a place for them."""
    matcher = SequenceMatcher(None, standard.words, found.words, autojunk=False)
    for op, a1, a2, b1, b2 in matcher.get_opcodes():
        if op == "equal":
            continue
        expected, got = standard.words[a1:a2], found.words[b1:b2]
        if _is_heading(expected, got, a1, b1) or _is_appendix(standard, a1, got) or _is_name(expected, got):
            continue
        line = found.lines[min(b1, len(found.lines) - 1)] if found.lines else 1
        yield Change(" ".join(expected)[:300], " ".join(got)[:300], line)


def _is_heading(expected: tuple[str, ...], got: tuple[str, ...], a1: int, b1: int) -> bool:
    """A title or a preamble of few words at the very top, of words that a title has."""
    return a1 < 12 and b1 < 12 and all(_HARMLESS.fullmatch(word) for word in (*expected, *got))


def _is_name(expected: tuple[str, ...], got: tuple[str, ...]) -> bool:
    """The holder's name where the standard text says "the copyright holder"."""
    return (
        bool(expected) and all(_PLACE.fullmatch(word) for word in expected) and not _ALARM & set(got) and len(got) <= 8
    )


def _is_appendix(standard: _Text, a1: int, got: tuple[str, ...]) -> bool:
    """The instructions after the terms ("how to apply"), left out."""
    heads = (("appendix", "how", "to"), ("how", "to", "apply"))
    begin = next((n for n in range(len(standard.words)) if standard.words[n : n + 3] in heads), None)
    return begin is not None and a1 >= begin - 4 and not got
