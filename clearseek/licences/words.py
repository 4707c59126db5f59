"""A licence as a sequence of words, and the difference between two of them.

Copies of one licence differ in ways that mean nothing: line breaks, quotation marks, bullets, numbering, the year. So a
text becomes words, each with its place; copyright lines are set aside; numbers of list items are marked as such. What
then differs is found as in a patience diff: sequences of words that occur once in the first text, where the second has
them first, are anchors, and only what lies between anchors is compared word for word. That keeps the work near linear
whatever the text.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

from clearseek.licences.names import WORD, goes_on, is_notice

LONGEST_TEXT = 200_000
"""Characters that are looked at; the longest licence in use has a fifth of that."""
_MOST_WORDS = 30_000
_SHINGLE = 5
"""Words in an anchor."""
PHRASE = 6
_WIDEST_GAP = 40_000
"""Pairs of words that are compared between two anchors; a wider gap counts as replaced."""

_NUMBER = re.compile(r"\d{1,2}|[a-z]|[ivx]{1,4}")
_LIST_START = re.compile(
    r"^[^\w(]*(?:\(?(?:\d{1,2}(?:\.\d{1,2})*|[A-Za-z]|[ivx]{1,4})[.)]+(?=\s)|\d\d?(?:\.\d\d?)+(?=\s))"
)
_RESERVED = re.compile(r"^\W*all rights reserved\W*$", re.I)
_SAME = {"licence": "license", "licences": "licenses", "licenced": "licensed", "https": "http"}


class Word(NamedTuple):
    """A word and where it stands."""

    text: str
    """In lower case, one spelling of each."""
    begin: int
    end: int
    line: int
    """From 1."""
    item: int
    """1: numbers a list item; 2: could do so; 0: a word like any other."""


@dataclass(frozen=True, slots=True)
class Text:
    """A licence's words."""

    raw: str
    words: tuple[Word, ...]
    copyright: tuple[tuple[int, str], ...]
    """Line number and line."""
    cut: bool
    """There is more than was looked at."""

    def span(self, begin: int, end: int) -> str:
        """These words as they stand there, with the mark that ends their sentence."""
        last = self.words[end - 1].end
        return self.raw[self.words[begin].begin : last + (self.raw[last : last + 1] in (".", "!", "?"))]

    def continues(self, place: int) -> bool:
        """Whether a sentence goes on from the word before this place to the word there."""
        if not 0 < place < len(self.words):
            return False
        return _STOP.search(self.raw[self.words[place - 1].end : self.words[place].begin]) is None

    def alone(self, begin: int, end: int) -> bool:
        """Whether these words are all that their lines have."""
        before, after = self.words[max(0, begin - 1)], self.words[min(end, len(self.words) - 1)]
        first, last = self.words[begin], self.words[end - 1]
        return (begin == 0 or before.line < first.line) and (end == len(self.words) or after.line > last.line)

    def quote(self, begin: int, end: int, longest: int = 300) -> str:
        """What these words say, as it stands there."""
        if begin >= end:
            return ""
        return shorten(self.raw[self.words[begin].begin : self.words[end - 1].end], longest)

    def sentence(self, begin: int, end: int, longest: int = 300) -> str:
        """The sentence or list item around these words."""
        if not self.words:
            return ""
        first = self.words[min(begin, len(self.words) - 1)]
        last = self.words[min(max(end - 1, begin), len(self.words) - 1)]
        before = max(_last_stop(self.raw, max(0, first.begin - longest), first.begin), first.begin - longest)
        after = _STOP.search(self.raw, last.end, last.end + longest)
        return shorten(self.raw[before : after.end() if after else last.end], longest)


_STOP = re.compile(r"[.;:](?=\s|$)|\n\s*\n")


def _last_stop(raw: str, begin: int, end: int) -> int:
    stops = [match.end() for match in _STOP.finditer(raw, begin, end)]
    return stops[-1] if stops else begin


def shorten(text: str, longest: int = 300) -> str:
    """On one line, cut with an ellipsis."""
    text = " ".join(text[: 4 * longest].split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def read(text: str) -> Text:
    """Split a text into words, without its copyright lines."""
    raw = text[:LONGEST_TEXT]
    words: list[Word] = []
    notices: list[tuple[int, str]] = []
    place = 0
    for number, line in enumerate(raw.split("\n"), 1):
        if is_notice(line) or (notices and notices[-1][0] == number - 1 and goes_on(notices[-1][1], line)):
            notices.append((number, shorten(line)))
        elif not _RESERVED.match(line):
            start = _LIST_START.match(line)
            limit = start.end() if start else 0
            words.extend(_word(match, line, place, number, limit) for match in WORD.finditer(line))
        place += len(line) + 1
        if len(words) > _MOST_WORDS:
            break
    cut = len(text) > LONGEST_TEXT or len(words) > _MOST_WORDS
    return Text(raw, tuple(words[:_MOST_WORDS]), tuple(notices[:100]), cut)


def _word(match: re.Match[str], line: str, place: int, number: int, limit: int) -> Word:
    text = match[0].lower().replace("\u2019", "").replace("'", "")
    item = 0
    if len(text) <= 4 and _NUMBER.fullmatch(text):
        bracket = line[match.start() - 1 : match.start()] == "(" and line[match.end() : match.end() + 1] == ")"
        if match.end() <= limit or bracket:
            item = 1
        elif line[match.end() : match.end() + 1] in (".", ")"):
            item = 2
    return Word(_SAME.get(text, text), place + match.start(), place + match.end(), number, item)


def phrases(words: Sequence[str]) -> list[int]:
    """A number for each run of six words, by its place."""
    return [crc32(" ".join(words[i : i + PHRASE]).encode()) for i in range(len(words) - PHRASE + 1)]


class Op(NamedTuple):
    """Words a[i:j] of one text stand where the other has b[k:l]."""

    i: int
    j: int
    k: int
    l: int  # noqa: E741


def differences(a: Sequence[str], b: Sequence[str]) -> list[Op]:
    """What to replace in `a` to get `b`, in order."""
    found: list[Op] = []
    i = k = 0
    for j, l in [*_anchors(a, b), (len(a), len(b))]:  # noqa: E741
        if j < i or l < k:  # inside what was matched already
            continue
        found.extend(_gap(a, b, Op(i, j, k, l)))
        i, k = j, l
        while i < len(a) and k < len(b) and a[i] == b[k]:
            i, k = i + 1, k + 1
    return found


def _gap(a: Sequence[str], b: Sequence[str], gap: Op) -> list[Op]:
    i, j, k, l = gap  # noqa: E741
    while i < j and k < l and a[i] == b[k]:
        i, k = i + 1, k + 1
    while i < j and k < l and a[j - 1] == b[l - 1]:
        j, l = j - 1, l - 1  # noqa: E741
    if i == j and k == l:
        return []
    if i == j or k == l or (j - i) * (l - k) > _WIDEST_GAP:
        return [Op(i, j, k, l)]
    codes = SequenceMatcher(None, a[i:j], b[k:l], autojunk=False).get_opcodes()
    return [Op(i + c, i + d, k + e, k + f) for tag, c, d, e, f in codes if tag != "equal"]


def _anchors(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Places of word sequences that both texts have, as many as are in the same order in both."""
    ours, theirs = _own_places(tuple(a)), _places(b)
    pairs = [(i[0], theirs[shingle][0]) for shingle, i in ours.items() if len(i) == 1 and shingle in theirs]
    # the longest increasing run of places in b
    tails: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for index, (_, place) in enumerate(pairs):
        at = bisect_left(tails, place)
        if at == len(tails):
            tails.append(place)
            ends.append(index)
        else:
            tails[at], ends[at] = place, index
        before.append(ends[at - 1] if at else -1)
    chain: list[tuple[int, int]] = []
    index = ends[-1] if ends else -1
    while index >= 0:
        chain.append(pairs[index])
        index = before[index]
    return chain[::-1]


@lru_cache(maxsize=200)
def _own_places(words: tuple[str, ...]) -> dict[tuple[str, ...], list[int]]:
    return _places(words)


def _places(words: Sequence[str]) -> dict[tuple[str, ...], list[int]]:
    places: dict[tuple[str, ...], list[int]] = {}
    for i in range(len(words) - _SHINGLE + 1):
        places.setdefault(tuple(words[i : i + _SHINGLE]), []).append(i)
    return places
