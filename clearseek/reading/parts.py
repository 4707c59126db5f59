"""What a text consists of: blocks of prose and their sentences, cells of tables, and links, each with its line.

Prose wraps, so a sentence is read from its whole block, and every place in it knows the line that it stands on: whoever
is shown a quotation must find it again.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

_END = re.compile(r"[.!?…][\"'”\u2019»)\]*]{0,3}(?=\s)|[。\uff01\uff1f][”\u2019」』\uff09]{0,2}")
_SHORT = re.compile(
    r"(?:^|[\s(])(?:[a-z]|e\.g|i\.e|et al|al|vs|cf|ca|figs?|eq|sec|tab|nos?|approx|resp|dr|mrs?|st|inc|ltd|ver)\.$",
    re.I,
)
"""Ends that are no sentence's: abbreviations and initials."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link and the words that it stands on; a picture that leads nowhere is a link to itself."""

    target: str
    text: str
    """Its words, or what its picture says instead of being seen."""
    line: int
    """The line that its target stands on."""
    image: str = ""
    """Address of the picture that it is, such as a badge, or an empty string."""
    place: int = 0
    """Where in its block's text its words begin."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table with its row's and column's names."""

    row: tuple[str, ...]
    """All cells of the row, markup removed."""
    header: tuple[str, ...]
    """The table's column names."""
    column: int
    text: str
    line: int
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Block:
    """A paragraph, an item of a list, or a heading, as one text without markup."""

    kind: Literal["paragraph", "item", "heading"]
    text: str
    line: int
    headings: tuple[str, ...]
    """What it stands under, outermost first; of a heading, with itself."""
    links: tuple[Link, ...]
    level: int
    """Depth of a heading, from 1; 0 for others."""
    places: tuple[tuple[int, int], ...]
    """Where in the text each of its lines begins, and the line."""

    def line_at(self, place: int) -> int:
        """The line that a character of the text stands on."""
        return self.places[max(0, bisect_right(self.places, (place, 1 << 60)) - 1)][1]

    @cached_property
    def sentences(self) -> tuple[Sentence, ...]:
        """The text's sentences, in order."""
        begins = [0]
        for match in _END.finditer(self.text):
            before = self.text[max(0, match.start() - 12) : match.start() + 1]
            after = self.text[match.end() : match.end() + 2].strip()
            numbered = match.start() < 4 and self.text[: match.start()].isdigit()
            if after and not after[0].islower() and not numbered and not _SHORT.search(before):
                begins.append(match.end() + (self.text[match.end()] == " "))
        ends = [*begins[1:], len(self.text)]
        spans = ((begin, self.text[begin:end].rstrip()) for begin, end in zip(begins, ends, strict=True))
        return tuple(Sentence(text, self, begin) for begin, text in spans if text)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a block."""

    text: str
    block: Block
    begin: int
    """Where in the block's text it begins."""

    @property
    def line(self) -> int:
        """The line that it begins on."""
        return self.block.line_at(self.begin)

    def line_at(self, place: int) -> int:
        """The line that a character of the sentence stands on."""
        return self.block.line_at(self.begin + place)

    @property
    def headings(self) -> tuple[str, ...]:
        """What it stands under, outermost first."""
        return self.block.headings

    @property
    def links(self) -> tuple[Link, ...]:
        """The links in it."""
        if not self.block.links:
            return ()
        end = self.begin + len(self.text)
        last = end >= len(self.block.text)
        return tuple(each for each in self.block.links if self.begin <= each.place < end + last)


@dataclass(slots=True)
class Parts:
    """What a text consists of."""

    blocks: list[Block] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    paths: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    """The headings that lines stand under, from a line on."""
    unread: str = ""
    """What was left out, or an empty string."""
