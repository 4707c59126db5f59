"""A text of a release, such as its card: lines, and what stands in them, each piece with its line.

Every statement that an audit quotes must be found again by a reader, so a document stays a list of lines, and each
piece taken from it (:mod:`clearseek.reading.markup`) knows where it begins.
Source of the metadata block: Hugging Face's model card specification.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import yaml

from clearseek.errors import UserError
from clearseek.reading.evidence import Evidence
from clearseek.reading.markup import take_apart
from clearseek.reading.parts import Block, Cell, Link, Parts, Sentence
from clearseek.reading.withheld import withheld

__all__ = ["Block", "Cell", "Document", "Link", "Sentence", "decode", "plain", "read_yaml", "read_yaml_list", "shorten"]
LONGEST_BLOCK = 1_000_000
"""Characters of YAML that are read."""
LONGEST_LINE = 4_000
"""Characters of a line that are looked at: facts stand in prose and tables, and longer lines are data."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Marks of byte order and what they stand for; UTF-32's begins as UTF-16's does."""
_EMPHASIS = re.compile(r"\*\*|__|`|<[^<>]{0,200}>")
_INLINE_LINK = re.compile(r"\[([^\[\]]{0,300})\]\([^()\s]{1,2000}\)")
_MARKED = re.compile(r"[\[*_`<]")


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
    def _end_of_metadata(self) -> int | None:
        """Index of the line that ends the YAML block on top; None where there is no such block, or no end."""
        if not self.lines or self.lines[0].strip() != "---":
            return None
        return next((n for n, line in enumerate(self.lines[1:], 1) if line.strip() in ("---", "...")), None)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The YAML block between ``---`` lines at the top; empty where there is none.

        Raises UserError where there is one that cannot be read.
        """
        if not self.lines or self.lines[0].strip() != "---":
            return {}
        if self._end_of_metadata is None:
            raise UserError(f"{self.file}, line 1: the YAML block that begins here has no end (a line ---)")
        return read_yaml("\n".join(self.lines[1 : self._end_of_metadata]), self.file)

    @cached_property
    def _parts(self) -> Parts:
        end = self._end_of_metadata
        marked = "readme" in self.file.lower() or not self.file.lower().endswith((".txt", ".rst"))
        return take_apart(self.text.splitlines(), 0 if end is None else end + 1, marked)

    @property
    def blocks(self) -> list[Block]:
        """Paragraphs, items of lists and headings, each as one text without markup."""
        return self._parts.blocks

    @cached_property
    def sentences(self) -> tuple[Sentence, ...]:
        """The sentences of all blocks."""
        return tuple(sentence for block in self.blocks for sentence in block.sentences)

    @property
    def links(self) -> list[Link]:
        """All links, Markdown's, HTML's and bare ones, in order."""
        return self._parts.links

    @cached_property
    def withheld(self) -> frozenset[tuple[int, str]]:
        """Line and target of the links of which the words say that nothing is given out there."""
        return withheld(self._parts)

    @property
    def cells(self) -> list[Cell]:
        """The cells of all tables, of pipes or HTML, row by row, without rows of column names."""
        return self._parts.cells

    @property
    def unread(self) -> str:
        """What of it was not taken apart because it is too much, in words, or an empty string."""
        return self._parts.unread

    @cached_property
    def headings(self) -> tuple[tuple[str, ...], ...]:
        """For each line, the headings it stands under, outermost first."""
        out: list[tuple[str, ...]] = []
        path: tuple[str, ...] = ()
        for line, below in self._parts.paths:
            out += [path] * (line - 1 - len(out))
            path = below
        return tuple(out + [path] * (len(self.lines) - len(out)))


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
    content = _load_yaml(text, where)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{where}: its YAML must be a mapping of names to values")
    return {str(name): value for name, value in content.items()}


def read_yaml_list(text: str, where: str) -> list[Any]:
    """A YAML list of plain values. Raises UserError as :func:`read_yaml` does."""
    content = _load_yaml(text, where)
    if not isinstance(content, list):
        raise UserError(f"{where}: its YAML must be a list")
    return content


def _load_yaml(text: str, where: str) -> Any:
    if len(text) > LONGEST_BLOCK:
        raise UserError(f"{where}: its YAML is longer than {LONGEST_BLOCK:,} characters")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 2}" if error.problem_mark else ""
        raise UserError(f"{where}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{where}: not valid YAML: {shorten(' '.join(str(error).split()))}") from None


_MOST_BITS = 1024
"""Of a whole number that is read; more than any floating-point number has."""


class _Loader(yaml.SafeLoader):
    """Plain values, no aliases, no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases are not read", mark)
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: Any) -> Any:
        """A whole number; one in hexadecimal may have more digits than Python writes out in decimal ones."""
        number = super().construct_yaml_int(node)
        if number.bit_length() > _MOST_BITS:
            raise yaml.constructor.ConstructorError(None, None, "a number of too many digits", node.start_mark)
        return number

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands there twice", key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
