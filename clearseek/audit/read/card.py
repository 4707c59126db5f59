"""A model card, read as text with places: lines, headings, tables, links and the YAML block on top.

Every statement that an audit quotes must be found again by a reader, so nothing is rendered: a document stays a list of
lines, and each piece taken from it knows its line. Only as much Markdown is understood as cards use for facts.
Source of the metadata block: Hugging Face's model card specification.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import yaml

from clearseek.audit.evidence import Evidence
from clearseek.errors import UserError

LONGEST_BLOCK = 1_000_000
"""Characters of YAML that are read."""
LONGEST_LINE = 4_000
"""Characters of a line that are looked at: facts stand in prose and tables, and longer lines are data."""
MOST_CELLS = 100
"""Cells of a table's row, and links of a line, that are looked at."""
MOST_LINKS = 5_000
"""Links of a document that are looked at."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Marks of byte order and what they stand for; UTF-32's begins as UTF-16's does."""
_HEADING = re.compile(r"(#{1,6})\s+(\S.*)")
_LINK = re.compile(
    r"\[(?P<text>[^\[\]]{0,300})\]\((?P<target>[^()\s]{1,2000})\)|(?:href|src)=\"(?P<href>[^\"]{1,2000})\""
)
_BARE = re.compile(r"https?://[^\s<>()\[\]\"'`{}|\\^]{1,2000}")
_EMPHASIS = re.compile(r"\*\*|__|`|<[^<>]{0,200}>")
_INLINE_LINK = re.compile(r"\[([^\[\]]{0,300})\]\([^()\s]{1,2000}\)")
_MARKED = re.compile(r"[\[*_`<]")
_RULE = re.compile(r":?-+:?")


@dataclass(frozen=True, slots=True)
class Link:
    """A link and the words it stands on."""

    target: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table with its row's and column's names."""

    row: tuple[str, ...]
    """The row's other cells, markup removed."""
    header: tuple[str, ...]
    """The table's column names."""
    column: int
    text: str
    line: int


@dataclass(frozen=True)
class Document:
    """A text file of a release."""

    file: str
    """Path in the release."""
    text: str
    sha256: str = ""
    lines: tuple[str, ...] = field(init=False)
    """Without their ends; line 1 is the first."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", tuple(line[:LONGEST_LINE] for line in self.text.splitlines()))

    def at(self, line: int, quote: str | None = None) -> Evidence:
        """A line as evidence; the quote is the line itself unless one is given."""
        shown = plain(self.lines[line - 1]) if quote is None else quote
        return Evidence(self.file, f"line {line}", shorten(shown), self.sha256)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The YAML block between ``---`` lines at the top; empty where there is none.

        Raises UserError where there is one that cannot be read.
        """
        if not self.lines or self.lines[0].strip() != "---":
            return {}
        end = next((n for n, line in enumerate(self.lines[1:], 1) if line.strip() in ("---", "...")), None)
        if end is None:
            raise UserError(f"{self.file}, line 1: the YAML block that begins here has no end (a line ---)")
        return read_yaml("\n".join(self.lines[1:end]), self.file)

    @cached_property
    def headings(self) -> tuple[tuple[str, ...], ...]:
        """For each line, the headings it stands under, outermost first."""
        path: list[tuple[int, str]] = []
        out: list[tuple[str, ...]] = []
        fenced = False
        for line in self.lines:
            if line.lstrip().startswith(("```", "~~~")):
                fenced = not fenced
            match = None if fenced else _HEADING.match(line)
            if match:
                level = len(match[1])
                path = [(depth, title) for depth, title in path if depth < level]
                path.append((level, plain(match[2].rstrip().rstrip("#"))))
            out.append(tuple(title for _, title in path))
        return tuple(out)

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """All links, Markdown's, HTML's and bare ones, in order."""
        found: list[Link] = []
        for number, line in enumerate(self.lines, 1):
            seen: set[str] = set()
            if len(found) >= MOST_LINKS:
                break
            for match in islice(_LINK.finditer(line), MOST_CELLS):
                target = match["target"] or match["href"]
                seen.add(target)
                found.append(Link(target, plain(match["text"] or ""), number))
            for match in islice(_BARE.finditer(line), MOST_CELLS):
                target = match[0].rstrip(".,;:!?")
                if target not in seen:
                    found.append(Link(target, "", number))
        return tuple(found[:MOST_LINKS])

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of all pipe tables, row by row, without header rows."""
        found: list[Cell] = []
        header: tuple[str, ...] = ()
        for number, line in enumerate(self.lines, 1):
            if not line.lstrip().startswith("|"):
                header = ()
                continue
            row = _row(line)
            if row and all(_RULE.fullmatch(cell) for cell in row):
                continue
            if not header:
                header = row
                continue
            found += (Cell(row, header, column, text, number) for column, text in enumerate(row))
        return tuple(found)


def _row(line: str) -> tuple[str, ...]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return tuple(plain(cell) for cell in re.split(r"(?<!\\)\|", inner, maxsplit=MOST_CELLS)[:MOST_CELLS])


def decode(raw: bytes) -> str:
    """The text of a file: UTF-8, or what a mark of byte order at its beginning says; what cannot be read is U+FFFD."""
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
    return raw.decode(encoding, errors="replace")


def plain(text: str) -> str:
    """A line without Markdown's emphasis, code marks and HTML tags; a link leaves its words."""
    if _MARKED.search(text):
        text = _EMPHASIS.sub("", _INLINE_LINK.sub(r"\1", text))
    return " ".join(text.split()).strip(" *")


def shorten(text: str, longest: int = 240) -> str:
    """The text, cut at `longest` characters."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """A YAML mapping of plain values. Raises UserError, which `where` starts, for anything else.

    Aliases are refused: a few lines of them stand for gigabytes.
    """
    if len(text) > LONGEST_BLOCK:
        raise UserError(f"{where}: its YAML is longer than {LONGEST_BLOCK:,} characters")
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 2}" if error.problem_mark else ""
        raise UserError(f"{where}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{where}: not valid YAML: {shorten(' '.join(str(error).split()))}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{where}: its YAML must be a mapping of names to values")
    return {str(name): value for name, value in content.items()}


class _Loader(yaml.SafeLoader):
    """Plain values, no aliases, no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases are not read", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands there twice", key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)
