"""Which licence a text is: similar words find the candidate, the difference word by word decides.

Similarity alone is not enough. CC-BY-NC-4.0 shares 98 % of its words with CC-BY-4.0, and MIT with "shall be used for
Good, not Evil" added is still 97 % MIT: the added words decide. So a text is `exact` only if it differs from a standard
text in nothing but copyright lines, names, years, the title and the numbers of list items; any other difference makes
it that licence *modified*, and each change is quoted with its sentence. Terms of single companies, whose texts are not
shipped, are recognised by their title and by a phrase that no other licence has; `nearest` then names the standard text
that they resemble most.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from clearseek.licences.clauses import Clause, restrictions
from clearseek.licences.names import WORD, is_operative, one_sentence
from clearseek.licences.table import LICENCES, Licence
from clearseek.licences.titles import by_title
from clearseek.licences.words import Op, Text, bag, dice, differences, read

SAME_LICENCE = 0.9
"""Share of common words from which a text is a form of a standard text; DeepSeek's licence shares .898 with a RAIL."""
_CLOSE = 0.04
"""Distance in similarity up to which candidates below the best are compared word by word too."""
_MOST_CHANGES = 200
_LONGEST_NAME = 12
"""Most words of a holder's name."""
_LONGEST_TITLE = 20
_LOWER = """
the of by and for a an this is its or license licensed released under text see file full copy copyright project author
authors contributor contributors holder holders owner owners http www org com net io github opensource licenses html txt
md gmail
"""
_SMALL = frozenset(_LOWER.split())
"""Words in lower case that a title or a name may have."""
_OF_TITLES = frozenset(
    word for licence in LICENCES for word in re.findall(r"[a-z]+", f"{licence.id} {licence.name}".lower())
)
_MOST_UNKNOWN = 4
"""Most words of a title that are in no licence's title: enough for a project's name, too few for a rule."""
_PREAMBLES = """
spdx identifier filecopyrighttext work project software model weights code repository is are under below follows
following terms version distributed available made
"""
_OF_PREAMBLES = frozenset(_PREAMBLES.split())
"""Words in lower case that only say which licence follows."""
_OF_IDS = re.compile(r"(?<=\d)-(?:only|or-later)\b")
"""Ends of SPDX ids, which make no rule there."""
_LONGEST_PREAMBLE = 120
_OF_OTHERS = re.compile(
    r"third[- ]part|\b(?:bundl\w+|includ\w+|contain\w*|incorporat\w+|portions?|parts?|components?|subcomponents?"
    r"|derived|based on|notices?)\b",
    re.I,
)
"""Words that begin the notice of somebody else's part."""
_LONGEST_NOTICE = 60
_MOST_NOTICES = 8
_MOST_LOWER = 3
"""Most unknown words in lower case of a holder's name in the middle of a rule."""

_CC_BY = tuple(f"CC-BY{kind}-4.0" for kind in ("", "-SA", "-NC", "-NC-SA", "-ND", "-NC-ND"))
OPTIONAL_FROM = {
    **dict.fromkeys(("Apache-2.0", "GPL-2.0-only", "GPL-3.0-only"), "end of terms and conditions"),
    **dict.fromkeys(_CC_BY, "creative commons is not a party to"),
}
"""Words from which on a standard text says how to apply the licence; copies may leave this part out."""
STARTS_AT = {
    "Unlicense": "this is free and unencumbered software",
    "CC0-1.0": "statement of purpose",
    **dict.fromkeys(_CC_BY, "by exercising the licensed rights"),
}
"""Words up to which a standard text says what it is, which copies may leave out; by default the short first lines."""
HARMLESS = (
    "the text of the creative commons public licenses is dedicated to the public domain under the cc0 public domain "
    "dedication",
    "gnu general public license",
    "wiki creativecommons org considerations for licensors",
    "wiki creativecommons org considerations for licensees",
)
"""Phrases that some copies of a text add and that make no rule."""
NAME_SLOTS = {
    "BSD-2-Clause": ("copyright holders and contributors", "copyright holder or contributors"),
    "BSD-3-Clause": ("copyright holders and contributors", "copyright holder or contributors", "copyright holder nor"),
    "ISC": ("isc", "isc"),
    "0BSD": ("author", "author"),
}
"""Phrases that name the licensor in the middle of a rule, by licence; a name may replace their first words."""
_HOLDER = frozenset(("of", "the", "copyright", "holder", "holders", "isc", "author", "authors"))


@dataclass(frozen=True, slots=True)
class Change:
    """One difference of a text from a standard text."""

    kind: Literal["insert", "delete", "replace"]
    expected: str
    """The standard text's words."""
    found: str
    """The found text's words."""
    line: int
    """Line number in the found text, from 1."""
    context: str
    """The sentence around the change, in the found text."""


@dataclass(frozen=True, slots=True)
class Match:
    """The licence of a text, and how far the text departs from it."""

    licence: Licence | None
    """The licence; None where no standard text is near and no title is known."""
    similarity: float
    """Share of words in common with `nearest`."""
    exact: bool
    """Whether the whole text was compared and no rule differs from `licence`'s standard text."""
    nearest: Licence | None
    """The standard text with the most words in common."""
    basis: Literal["text", "title", "none"]
    """``text``: compared word by word with `licence`. ``title``: `licence`'s text is not shipped."""
    changes: tuple[Change, ...]
    """Differences from `licence`'s standard text; empty where the basis is not ``text``."""
    copyright: tuple[tuple[int, str], ...]
    """Copyright lines with their numbers."""
    clauses: tuple[Clause, ...]
    """Sentences that restrict, quoted."""

    @property
    def label(self) -> str:
        """``MIT``, ``modified MIT``, ``LicenseRef-DeepSeek-1.0 (by its title)`` or ``unknown``."""
        if self.licence is None:
            return "unknown"
        if self.basis == "title":
            return f"{self.licence.id} (by its title)"
        if self.is_cut:
            return f"{self.licence.id} as far as it was compared"
        return self.licence.id if self.exact else f"modified {self.licence.id}"

    @property
    def is_cut(self) -> bool:
        """Whether the compared part equals a standard text, and the rest was not compared."""
        return self.basis == "text" and not self.exact and not self.changes


@dataclass(frozen=True, slots=True)
class _Standard:
    """A shipped text."""

    licence: Licence
    text: Text
    words: tuple[str, ...]
    bag: Counter[str]
    start: int
    """Number of words of the title."""
    stop: int
    """Number of words up to the part that copies may leave out."""
    slots: frozenset[int]
    """Places of words that a name may replace."""


@cache
def _standards() -> tuple[_Standard, ...]:
    folder = files(__package__) / "texts"
    shipped = {path.name for path in folder.iterdir()}
    return tuple(
        _standard(licence, (folder / f"{licence.id}.txt").read_text(encoding="utf-8"))
        for licence in LICENCES
        if f"{licence.id}.txt" in shipped
    )


def _standard(licence: Licence, content: str) -> _Standard:
    text = read(content)
    words = tuple(word.text for word in text.words)
    start = _find(words, STARTS_AT[licence.id]) if licence.id in STARTS_AT else _title_words(content)
    stop = _find(words, OPTIONAL_FROM[licence.id]) if licence.id in OPTIONAL_FROM else len(words)
    slots: set[int] = set()
    for phrase in NAME_SLOTS.get(licence.id, ()):
        parts = phrase.split()
        for i in range(len(words) - len(parts) + 1):
            if list(words[i : i + len(parts)]) == parts:
                slots.update(n for n in range(max(0, i - 2), i + len(parts)) if words[n] in _HOLDER)
    return _Standard(licence, text, words, bag(text.words), start, stop, frozenset(slots))


def _find(words: Sequence[str], phrase: str) -> int:
    parts = phrase.split()
    places = (i for i in range(len(words)) if list(words[i : i + len(parts)]) == parts)
    found = next(places, -1)
    assert found >= 0, phrase
    return found


def _title_words(content: str) -> int:
    """Number of words of the short paragraphs at the beginning, two at most."""
    count = 0
    for paragraph in content.split("\n\n")[:2]:
        size = len(read(paragraph).words)
        if size > 14 or paragraph.rstrip().endswith((".", ":", ";", ",")):
            break
        count += size
    return count


def identify(text: str) -> Match:
    """Name the licence of a text, its changes and its restrictions. Never raises."""
    return _beside_notices(text, _MOST_NOTICES)


def _beside_notices(text: str, most: int) -> Match:
    """The licence of a text that may have up to `most` notices of others below it."""
    whole = _identify(text)
    last = whole.changes[-1] if len(whole.changes) == 1 else None
    if last is None or last.kind != "insert" or not most:
        return whole
    lines = text.split("\n")
    for start in range(last.line - 1, max(0, last.line - 4), -1):  # a ruler may precede the first word
        above, below = "\n".join(lines[:start]), "\n".join(lines[start:])
        own = _identify(above)
        if own.exact and own.licence is whole.licence:
            return own if _is_notice_of_others(below, most - 1) else whole
    return whole


def _is_notice_of_others(text: str, most: int) -> bool:
    """Whether a text is a few words on included parts of others, and then those parts' unchanged licence."""
    paragraphs = [(match.start(), match.end()) for match in re.finditer(r"\n[^\S\n]*\n", text)][:6]
    for begin, end in paragraphs:
        intro = WORD.findall(text[:begin])
        if len(intro) > _LONGEST_NOTICE or any(is_operative(word) for word in intro):
            return False
        if _OF_OTHERS.search(text[:begin]) and _beside_notices(text[end:], most).exact:
            return True
    return False


def _identify(text: str) -> Match:
    found = read(text)
    words = tuple(word.text for word in found.words)
    ranked = _ranked(found)
    clauses = restrictions(text)
    similarity, nearest = (ranked[0][0], ranked[0][1].licence) if ranked else (0.0, None)
    candidates = [each for score, each in ranked[:4] if score >= max(SAME_LICENCE, similarity - _CLOSE)]
    compared = [(_changes(each, found, words), each.licence) for each in candidates if _in_order(each, words)]
    if compared:
        changes, licence = min(compared, key=lambda pair: sum(_weight(change) for change in pair[0]))
        if not changes and not found.cut:
            return Match(licence, similarity, True, licence, "text", (), found.copyright, clauses)
    titled = by_title(words)
    if titled is not None and not (compared and titled is licence):
        return Match(titled, similarity, False, nearest, "title", (), found.copyright, clauses)
    if not compared:
        return Match(None, similarity, False, nearest, "none", (), found.copyright, clauses)
    return Match(licence, similarity, False, nearest, "text", changes, found.copyright, clauses)


def _weight(change: Change) -> int:
    # a licence from which much is missing is less likely the one that was changed than one to which something was added
    return 3 * len(change.expected.split()) + len(change.found.split())


def _in_order(standard: _Standard, words: tuple[str, ...]) -> bool:
    """Whether most of a standard text is in these words in the same order: shuffled words are not a licence."""
    return sum(op.j - op.i for op in differences(standard.words, words)) < len(standard.words) / 2


def _ranked(found: Text) -> list[tuple[float, _Standard]]:
    """The standard texts, nearest first. A text with other matter below the licence counts by its beginning."""
    whole = bag(found.words)
    ranked: list[tuple[float, _Standard]] = []
    for standard in _standards():
        score = dice(standard.bag, whole)
        size = len(standard.words)
        if len(found.words) > 1.1 * size + 20:
            score = max(score, dice(standard.bag, bag(found.words[: size + 20])))
        ranked.append((score, standard))
    ranked.sort(key=lambda pair: -pair[0])
    return ranked if found.words else []


def _changes(standard: _Standard, found: Text, words: tuple[str, ...]) -> tuple[Change, ...]:
    """Differences of the text from a standard text that matter."""
    changes: list[Change] = []
    for op in differences(standard.words, words):
        for part in _matters(standard, found, op):
            changes.append(_change(standard, found, part))
            if len(changes) == _MOST_CHANGES:
                return tuple(changes)
    return tuple(changes)


def _change(standard: _Standard, found: Text, op: Op) -> Change:
    kind: Literal["insert", "delete", "replace"] = "insert" if op.i == op.j else "delete" if op.k == op.l else "replace"
    at = min(op.k, len(found.words) - 1)
    return Change(
        kind, standard.text.quote(op.i, op.j), found.quote(op.k, op.l), found.words[at].line, found.sentence(op.k, op.l)
    )


def _matters(standard: _Standard, found: Text, op: Op) -> list[Op]:
    """The part of a difference that is more than a name, a title, a number or advice; empty if the whole is not."""
    ours, theirs = standard.text.words[op.i : op.j], found.words[op.k : op.l]
    items = [word.item for word in (*ours, *theirs)]
    if all(item == 1 for item in items) or (all(items) and (not ours or not theirs)):
        return []
    if not ours and " ".join(word.text for word in theirs) in HARMLESS:
        return []
    if op.i >= standard.stop:  # beyond the rules, a name may fill a blank; added words may be a rule
        blank = len(theirs) <= len(ours) and _is_name(found, op)
        return [] if not theirs or blank else [Op(op.i, op.i, op.k, op.l)]
    if op.j > standard.stop:
        return _matters(standard, found, Op(op.i, standard.stop, op.k, op.l))
    if op.j <= standard.start:
        return [] if _is_title(found, op) or _is_preamble(found, op) else [op]
    in_slot = all(place in standard.slots for place in (range(op.i, op.j) if ours else (op.i - 1, op.i)))
    return [] if in_slot and _is_name(found, op, any_case=True) else [op]


def _is_name(found: Text, op: Op, any_case: bool = False, longest: int = _LONGEST_NAME) -> bool:
    """Whether these words of a text can be a name: capitals, numbers, and no word that makes a rule."""
    words = found.words[op.k : op.l]
    if not words:
        return True
    raw = found.raw[words[0].begin : words[-1].end]
    if len(words) > longest or not one_sentence(raw) or any(is_operative(word) for word in WORD.findall(raw)):
        return False
    firsts = [found.raw[word.begin] for word in words if word.text not in _SMALL]
    lower = sum(not (first.isupper() or first.isdigit()) for first in firsts)
    return lower <= (_MOST_LOWER if any_case else 0)


def _is_title(found: Text, op: Op) -> bool:
    """Whether these words can be a title: words of licences' titles, and a project's name."""
    words = {word.text for word in found.words[op.k : op.l] if not word.text.isdigit()}
    return len(words - _SMALL - _OF_TITLES) <= _MOST_UNKNOWN and _is_name(found, op, longest=_LONGEST_TITLE)


def _is_preamble(found: Text, op: Op) -> bool:
    """Whether these words only say whose work is under which licence, and that the licence's text follows."""
    words = found.words[op.k : op.l]
    if not words or len(words) > _LONGEST_PREAMBLE:
        return False
    raw = found.raw[words[0].begin : words[-1].end]
    unknown = {
        word for word in words if word.text not in _SMALL | _OF_TITLES | _OF_PREAMBLES and not word.text.isdigit()
    }
    names = all(found.raw[word.begin].isupper() for word in unknown)
    rules = any(is_operative(word) for word in WORD.findall(_OF_IDS.sub("", raw)))
    return names and len({word.text for word in unknown}) <= 1 and not rules  # a project's name
