"""Markdown and the HTML in it taken apart: blocks of prose, tables and links, each with the line that it begins on.

Cards mix both: a table may be pipes or ``<table>``, a link ``[words](target)`` or ``<a href>``, and either stands in
the other. So markdown-it splits a text into blocks, and its tokens and the HTML tags become one stream of elements,
from which :class:`_Reader` collects whole sentences, rows and links. Nothing is rendered; comments are left out.

Strangers write these texts. markdown-it needs quadratic time for some of them (thousands of open brackets), so a line,
a piece of prose and its brackets, cells and links are bounded, and what is left out is said. HTML tags are found by a
pattern that never looks past the next ``<``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from html import unescape
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, Final, Literal

from clearseek.reading.grid import Grid
from clearseek.reading.parts import Block, Link, Parts

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

LONGEST_TEXT: Final = 400_000
"""Characters of a text that are taken apart."""
LONGEST_LINE: Final = 20_000
"""Characters of a line that are taken apart; a table may be one line of HTML."""
MOST_LINES: Final = 20_000
MOST_LINKS: Final = 5_000
MOST_CELLS: Final = 50_000
LONGEST_CELL: Final = 2_000
LONGEST_TARGET: Final = 2_000
_PIECE: Final = 4_000
"""Characters of prose that are given to markdown-it at once."""
_MOST_BRACKETS: Final = 200
_MOST_MARKS: Final = 800
"""Brackets and other marks of a piece; one with more is read as plain words."""
_LONGEST_BLOCK: Final = 20_000
_DEEPEST: Final = 8
"""Tables in tables."""

_BARE = re.compile(r"https?://[^\s<>()\[\]\"'`{}|\\^]{1,2000}")
_TAG = re.compile(
    r"<(?P<end>/?)(?P<name>[a-zA-Z][a-zA-Z0-9-]{0,30}+)(?P<rest>(?:[^<>\"']++|\"[^\"<]*+\"|'[^'<]*+'|[\"'])*+)>"
)
_ATTRIBUTE = re.compile(r"(?<![\w=-])([\w-]{1,30}+)\s{0,20}+=\s{0,20}+(\"[^\"]*+\"|'[^']*+'|[^\s\"'>][^\s>]*+)")
_SPACE = re.compile(r"\s+")
_BLOCKS: Final = re.compile(
    r"p|div|center|section|article|header|footer|[uod]l|d[td]|li|blockquote|details|summary|hr|fig(?:ure|caption)|main|pre"
)
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
_LONGEST_TAG: Final = 4_000
_HIDDEN: Final = ("script", "style", "template")
_WIDE = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
"""Characters between which a line's end is no space."""


@cache
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": True}).enable("table").disable("code")
    markdown.normalizeLink = lambda url: url  # type: ignore[method-assign]  # a link is quoted as it is written
    markdown.validateLink = lambda url: True  # type: ignore[method-assign]
    return markdown


def take_apart(lines: Sequence[str], begin: int = 0, marked: bool = True) -> Parts:
    """The parts of a text.

    Args:
        lines: The text.
        begin: Index of the first line of prose; before it only bare links are found.
        marked: Whether there is Markdown within lines; a log of a run has stars and brackets, and no emphasis.
    """
    reader = _Reader(begin, marked)
    for number, line in enumerate(lines[:begin], 1):
        reader.bare(line[:LONGEST_LINE], number)
    prose = [line[:LONGEST_LINE] for line in lines[begin : begin + MOST_LINES]]
    ends = accumulate(len(line) + 1 for line in prose)
    count = sum(end <= LONGEST_TEXT for end in ends)
    if begin + count < len(lines):
        reader.parts.unread = f"only its first {begin + count:,} lines were read"
    if any(len(line) > LONGEST_LINE for line in lines) and not reader.parts.unread:
        reader.parts.unread = f"only the first {LONGEST_LINE:,} characters of its longest lines were read"
    text = without_comments("\n".join(prose[:count]).replace("\0", "\ufffd"))
    tokens: list[Token] = []
    environment: dict[str, Any] = {}
    _markdown().block.parse(text, _markdown(), environment, tokens)
    reader.read(tokens, environment)
    return reader.parts


def without_comments(text: str) -> str:
    """The text with spaces for its HTML comments; an opening without end is none."""
    pieces: list[str] = []
    place = 0
    while (begin := text.find("<!--", place)) >= 0 and (end := text.find("-->", begin + 4)) >= 0:
        pieces += [text[place:begin], re.sub(r"[^\n]", " ", text[begin : end + 3])]
        place = end + 3
    return "".join([*pieces, text[place:]]).replace("<!", "< ").replace("<?", "< ")


def _attributes(tag: str) -> dict[str, str]:
    found = _ATTRIBUTE.finditer(tag[:_LONGEST_TAG])
    return {each[1].lower(): unescape(each[2].strip("\"'")).strip()[:LONGEST_TARGET] for each in found}


class _Reader:
    """Collects the parts of a text from its elements."""

    def __init__(self, offset: int, marked: bool) -> None:
        self.marked = marked
        self.parts = Parts()
        self.offset = offset
        self.line = 1
        self.begin_text()
        self.kind: Literal["paragraph", "item"] = "paragraph"
        self.path: list[tuple[int, str]] = []
        self.tables: list[Grid] = []
        self.cell: tuple[int, bool, dict[str, str]] | None = None
        """Line of the open cell, whether it is a heading, and its attributes."""
        self.open: tuple[str, int, int, str] | None = None
        """Target, line, place, picture of the open link."""
        self.hidden = ""
        self.code = 0

    def begin_text(self) -> None:
        """No text is open."""
        self.text: list[str] = []
        self.length = 0
        self.places: list[tuple[int, int]] = []
        self.links: list[Link] = []
        self.level = 0

    def read(self, tokens: Sequence[Token], environment: dict[str, Any]) -> None:
        """Read the blocks that markdown-it found."""
        for token in tokens:
            if token.map:
                self.line = self.offset + token.map[0] + 1
            if token.type == "inline":
                self.prose(token.content, environment)
            elif token.type == "html_block":
                self.html(token.content, environment)
                self.end_link()
                self.hidden = ""
            elif token.type in ("fence", "code_block"):
                self.flush()
                for number, line in enumerate(token.content.split("\n"), self.line + (token.type == "fence")):
                    self.bare(line, number)
            elif token.nesting >= 0:
                if token.type == "heading_open":  # Markdown's headings end whatever HTML left open
                    self.end_tables()
                    self.code = 0
                self.start(token.tag, {})
            else:
                self.end_link()
                self.end(token.tag)
        self.end_tables()
        self.flush()
        used = {link.target for link in self.parts.links}
        for each in islice(environment.get("references", {}).values(), MOST_LINKS):  # to which no words refer
            if each["href"] not in used:
                self.add(Link(each["href"][:LONGEST_TARGET], "", self.offset + each["map"][0] + 1))

    def prose(self, content: str, environment: dict[str, Any]) -> None:
        """Markdown within a block, in pieces of bounded size."""
        while content:
            cut = content.rfind("\n", 1, _PIECE) + 1 if len(content) > _PIECE else len(content)
            piece, content = content[: cut or _PIECE], content[cut or _PIECE :]
            after = self.line + piece.count("\n")
            self.inline(piece, environment)
            self.line = after
            if self.length > _LONGEST_BLOCK and not self.level:
                self.flush()

    def inline(self, piece: str, environment: dict[str, Any]) -> None:
        """A piece of Markdown: emphasis goes, links and tags become elements."""
        marks, brackets = sum(map(piece.count, "*_`<&\\")), piece.count("[")
        if not (self.marked and (marks or brackets)) or brackets > _MOST_BRACKETS or marks > _MOST_MARKS:
            self.lines(piece)
            return
        tokens: list[Token] = []
        _markdown().inline.parse(piece, _markdown(), environment, tokens)
        begun = len(self.parts.links)
        first, lines = self.line, piece.split("\n")
        for token in tokens:
            self.inline_token(token, environment)
        for number, link in enumerate(self.parts.links[begun:], begun):  # a span of code may hide the end of a line
            if link.target not in "".join(lines[link.line - first : link.line - first + 1]):
                near = next((n for n, each in enumerate(lines) if link.target in each), link.line - first)
                self.parts.links[number] = replace(link, line=first + near)

    def inline_token(self, token: Token, environment: dict[str, Any]) -> None:
        if token.type == "link_open":
            self.begin_link(str(token.attrs.get("href", "")))
        elif token.type == "link_close":
            self.end_link()
        elif token.type == "image":
            self.picture(str(token.attrs.get("src", "")), token.content)
        elif token.type == "html_inline" and _TAG.search(token.content):
            self.html(token.content, environment)
        elif token.type in ("softbreak", "hardbreak"):
            self.lines("\n")
            if token.type == "hardbreak":
                self.start("br", {})
        else:  # also a tag to markdown-it only, which would come back for ever
            self.words(token.content)

    def lines(self, text: str) -> None:
        """Plain words."""
        for number, line in enumerate(text.split("\n")):
            if number:
                self.line += 1
                self.words("\n")
            self.words(line)

    def html(self, content: str, environment: dict[str, Any]) -> None:
        """Tags, and what stands between them, which may be Markdown."""
        line, place = self.line, 0
        for match in _TAG.finditer(content):
            self.between(content[place : match.start()], environment)
            line += content.count("\n", place, match.start())
            self.line, place = line, match.end()
            name = match["name"].lower()
            if match["end"]:
                self.end(name)
            else:
                attributes = _attributes(match[0]) if "=" in match["rest"] else {}
                target = attributes.get("href") or attributes.get("src") or ""
                self.line += match[0].count("\n", 0, max(0, match[0].find(target)))  # a tag may be several lines
                self.start(name, attributes)
            line += match[0].count("\n")
            self.line = line
        self.between(content[place:], environment)

    def between(self, text: str, environment: dict[str, Any]) -> None:
        if self.code:
            for number, line in enumerate(text.split("\n"), self.line):
                self.bare(line, number)
        elif text.strip():
            self.prose(text, environment)
        else:
            self.words(text)

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        if tag in _HIDDEN:
            self.hidden = tag
        elif tag == "a":
            self.begin_link(attributes.get("href", ""))
        elif tag == "img":
            self.picture(attributes.get("src", ""), attributes.get("alt", ""))
        elif tag == "br" and (self.cell or self.open):
            self.words(" ")
        elif tag in ("table", "thead", "tbody", "tr", "td", "th"):
            self.start_table(tag, attributes)
        elif tag in _HEADINGS and self.cell is None:
            self.flush()
            self.level = _HEADINGS[tag]
        elif tag == "br" or _BLOCKS.fullmatch(tag):
            self.flush()
            self.code += tag == "pre"
            self.kind = "item" if tag in ("li", "dd") else self.kind

    def end(self, tag: str) -> None:
        """An element ends."""
        if tag == self.hidden:
            self.hidden = ""
        elif tag == "a":
            self.end_link()
        elif tag in ("td", "th"):
            self.end_cell()
        elif tag in ("tr", "thead", "table"):
            self.end_row()
            if self.tables and tag == "thead":
                self.tables[-1].in_head = False
            elif self.tables and tag == "table":
                self.tables.pop()
        elif tag in _HEADINGS or _BLOCKS.fullmatch(tag):
            self.flush()
            self.code = max(0, self.code - (tag == "pre"))
            self.kind = "paragraph" if tag in ("li", "dd", "ul", "ol", "dl") else self.kind

    def words(self, text: str) -> None:
        """Text of the open block or cell; bare links in it are links."""
        if self.hidden or not text:
            return
        if self.open is None and "://" in text:
            self.bare(text, self.line, self.length)
        text = _SPACE.sub(" ", text)
        if text[0] == " " and (not self.text or self.text[-1][-1] == " "):
            text = text[1:]
        if not text:
            return
        if self.text[1:] and self.text[-1] == " " and _WIDE.match(self.text[-2][-1]) and _WIDE.match(text):
            self.length -= len(self.text.pop())
        if not self.places or self.places[-1][1] != self.line:
            self.places.append((self.length, self.line))
        if self.cell is None or self.length < LONGEST_CELL:
            self.text.append(text)
            self.length += len(text)

    def bare(self, text: str, line: int, place: int = 0) -> None:
        """Links that are written out."""
        for match in _BARE.finditer(text) if "://" in text else ():
            self.add(Link(match[0].rstrip(".,;:!?*_"), "", line, place=place + match.start()))

    def begin_link(self, target: str) -> None:
        if target := _SPACE.sub("", target)[:LONGEST_TARGET]:
            self.end_link()
            self.open = (target, self.line, self.length, "")

    def end_link(self) -> None:
        if self.open is None:
            return
        target, line, place, image = self.open
        self.open = None
        image, _, alternative = image.partition(" ")
        text = "".join(self.text)[place:].strip() or alternative
        self.add(Link(target, text[:300], line, image, place))

    def picture(self, source: str, alternative: str) -> None:
        """A picture: the link's that it stands in, or one by itself."""
        source = _SPACE.sub("", source)[:LONGEST_TARGET]
        alternative = _SPACE.sub(" ", unescape(alternative)).strip()[:300]
        if source and self.open is None and not self.hidden:
            self.add(Link(source, alternative, self.line, source, self.length))
        elif source and self.open is not None and not self.open[3] and not self.hidden:
            self.open = (*self.open[:3], f"{source} {alternative}")

    def add(self, link: Link) -> None:
        if len(self.parts.links) < MOST_LINKS:
            self.parts.links.append(link)
            self.links.append(link)
        else:
            self.parts.unread = f"only its first {MOST_LINKS:,} links were read"

    def flush(self) -> None:
        """The open block ends, if it is not a cell's."""
        if self.cell is not None:
            self.words(" ")
            return
        text = "".join(self.text).rstrip()
        if text or (self.level and self.links):
            title = text or next((link.text for link in self.links if link.text), "")
            places = tuple(self.places) or ((0, self.line),)
            if self.level:
                self.path = [each for each in self.path if each[0] < self.level] + [(self.level, title)]
            above = tuple(name for _, name in self.path)
            if self.level:
                self.parts.paths.append((places[0][1], above))
            kind = "heading" if self.level else self.kind
            self.parts.blocks.append(Block(kind, title, places[0][1], above, tuple(self.links), self.level, places))
        self.begin_text()

    def start_table(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "table":
            self.end_cell()
            self.flush()
            if len(self.tables) < _DEEPEST:
                self.tables.append(Grid())
        elif self.tables and tag in ("td", "th"):
            self.end_cell()
            self.flush()
            self.cell = (self.line, tag == "th", attributes)
        elif self.tables:
            self.end_row()
            self.tables[-1].in_head = tag == "thead" or (self.tables[-1].in_head and tag == "tr")

    def end_cell(self) -> None:
        if self.cell is None:
            return
        self.end_link()
        line, head, attributes = self.cell
        text = "".join(self.text).strip()[:LONGEST_CELL]
        self.tables[-1].add(text, line, tuple(self.links), attributes, head)
        self.cell = None
        self.begin_text()

    def end_row(self) -> None:
        self.end_cell()
        cells = self.tables[-1].end_row(self.line) if self.tables else []
        room = MOST_CELLS - len(self.parts.cells)
        if len(cells) > room:
            self.parts.unread = f"only the first {MOST_CELLS:,} cells of its tables were read"
        self.parts.cells += cells[: max(0, room)]

    def end_tables(self) -> None:
        """All open tables end, and an open link."""
        while self.tables:
            self.end("table")
        self.end_link()
