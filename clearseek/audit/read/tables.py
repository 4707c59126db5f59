"""Cells of a document's tables, those written with pipes and those written as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, islice

from clearseek.audit.read.card import Cell, Document, plain

_TAG = re.compile(r"(</?t(?:r|d|h|able)\b[^<>]{0,300}>)", re.I)
_MOST_CELLS = 200
"""Cells of a row that are read."""
_MOST_IN_ALL = 50_000


def table_cells(document: Document) -> Iterator[Cell]:
    """The cells of all tables, without their first rows; not more than any card has."""
    return islice(chain(document.cells, _html_cells(document)), _MOST_IN_ALL)


def _html_cells(document: Document) -> Iterator[Cell]:
    """Cells of HTML tables; a first row whose cells are all words gives the columns their names."""
    header: tuple[str, ...] = ()
    for row, line in _html_rows(document):
        if not row:
            header = ()
        elif not header and not any(re.search(r"\d", text) for text in row[1:]):
            header = row
        else:
            for column, text in enumerate(row):
                yield Cell(row, header, column, text, line)


def _html_rows(document: Document) -> Iterator[tuple[tuple[str, ...], int]]:
    """Rows of HTML tables with their lines; an empty row where a table begins."""
    row: list[str] = []
    text: list[str] | None = None
    for number, line in enumerate(document.lines, 1):
        if text is None and "<t" not in line.lower() and "</t" not in line.lower():
            continue
        for piece in _TAG.split(line):
            tag = piece.lower()
            if not _TAG.fullmatch(piece):
                if text is not None and len(text) < 50:
                    text.append(piece[:300])
                continue
            if text is not None and len(row) < _MOST_CELLS:
                row.append(plain(" ".join(text)))
            text = [] if tag.startswith(("<td", "<th")) else None
            if tag.startswith(("<tr", "</tr", "</table", "<table")):
                if row:
                    yield tuple(row), number
                row = []
            if tag.startswith("<table"):
                yield (), number
