"""A table, filled cell by cell: which names its columns have, and which cells reach into further rows and columns."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from clearseek.reading.parts import Cell, Link

MOST_COLUMNS: Final = 200
_MOST_SPANNED: Final = 50
"""Rows or columns that one cell reaches over."""


@dataclass(slots=True)
class Grid:
    """A table that is being read."""

    in_head: bool = False
    """Whether the open row stands in the table's head, as all rows of names in Markdown do."""
    header: tuple[str, ...] = ()
    row: list[tuple[str, int, tuple[Link, ...]]] = field(default_factory=list)
    """Cells of the open row: text, line, links."""
    heads: int = 0
    """Those of them that are ``<th>``."""
    rows: int = 0
    spans: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Column -> rows that a cell above still fills, and its text."""

    def add(self, text: str, line: int, links: tuple[Link, ...], attributes: dict[str, str], head: bool) -> None:
        """A cell of the open row."""
        self._fill(line)
        columns, rows = (_number(attributes.get(name, "")) for name in ("colspan", "rowspan"))
        for column in range(len(self.row), min(len(self.row) + columns, MOST_COLUMNS)):
            self.row.append((text, line, links))
            self.heads += head
            if rows > 1:
                self.spans[column] = (rows - 1, text)

    def _fill(self, line: int) -> None:
        """Cells that the rows above reach into this one with."""
        while (held := self.spans.pop(len(self.row), None)) is not None and len(self.row) < MOST_COLUMNS:
            if held[0] > 1:
                self.spans[len(self.row)] = (held[0] - 1, held[1])
            self.row.append((held[1], line, ()))

    def end_row(self, line: int) -> list[Cell]:
        """The cells of the open row, which ends; none where it gives the columns their names.

        A first row without figures that is not marked as names may give them, or be the first name and value: both.
        """
        if not self.row:
            return []
        self._fill(line)
        row, heads, self.row, self.heads = self.row, self.heads, [], 0
        texts = tuple(text for text, _, _ in row)
        self.rows += 1
        if self.in_head or (heads == len(row) and self.rows <= 2):
            above = self.header
            self.header = tuple(
                f"{above[n]} {text}".strip() if n < len(above) and above[n] != text else text
                for n, text in enumerate(texts)
            )
            return []
        cells = [Cell(texts, self.header, column, *held) for column, held in enumerate(row)]
        if self.rows == 1 and not any(re.search(r"\d", text) for text in texts[1:]):
            self.header = texts
        return cells


def _number(text: str) -> int:
    """A count of columns or rows as HTML gives it."""
    return max(1, min(int(text), _MOST_SPANNED)) if text.isdecimal() and len(text) < 4 else 1
