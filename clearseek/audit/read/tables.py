"""Cells of a document's tables."""

from __future__ import annotations

from collections.abc import Iterator

from clearseek.audit.read.card import Cell, Document


def table_cells(document: Document) -> Iterator[Cell]:
    """The cells of all tables."""
    return iter(document.cells)
