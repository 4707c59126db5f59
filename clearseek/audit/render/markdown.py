"""An audit as Markdown: tables that a repository or an article can carry."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from clearseek.audit.evidence import Audit, Row
from clearseek.audit.render.text import DIMENSIONS, MARKS, headline
from clearseek.audit.views import views
from clearseek.signing.tree import visible


def as_markdown(audit: Audit) -> str:
    """The whole audit as a document."""
    return "\n".join(_lines(audit)) + "\n"


def _lines(audit: Audit) -> Iterator[str]:
    found = views(audit)
    yield f"# Audit of {_cell(str(audit.facts['name']))}"
    yield ""
    yield headline(audit, found[0])
    for dimension, question in DIMENSIONS.items():
        yield from ("", f"## {question}", "", "| | grade | row | finding | evidence |", "|---|---|---|---|---|")
        for row in audit.of(dimension):
            yield _row(row)
    yield from ("", "## Frameworks", "", "| framework | as claimed | as proven |", "|---|---|---|")
    for view in found:
        yield f"| {view.name} | {_cell(view.claimed)} | {_cell(view.proven)} |"


def _row(row: Row) -> str:
    places = "; ".join(_cell(str(each)) for each in row.evidence[:3])
    return f"| {MARKS[row.answer][0]} | E{int(row.grade)} | {row.id} | {_cell(row.reason)} | {places} |"


_MARKUP: Final = re.compile(r"[\\|\[\]!()<>`*_~&#]|:(?=//)|(?<=www)\.", re.I)


def _cell(text: str) -> str:
    """Foreign text that stays text: no table, link, picture or tag comes of it, and nothing in it is unseen."""
    return _MARKUP.sub(lambda match: "&lt;" if match[0] == "<" else "\\" + match[0], visible(text))


def comparison(audits: Sequence[Audit], rows: Sequence[str] | None = None) -> str:
    """Releases side by side: a row an assertion, a column a release."""
    ids = list(dict.fromkeys(row.id for audit in audits for row in audit)) if rows is None else list(rows)
    out = ["| row | " + " | ".join(_cell(str(audit.facts["name"])) for audit in audits) + " |"]
    out.append("|---" * (len(audits) + 1) + "|")
    for id in ids:
        cells = [f"{MARKS[row.answer][0]} E{int(row.grade)}" if (row := audit.get(id)) else "" for audit in audits]
        out.append(f"| {id} | " + " | ".join(cells) + " |")
    found = [views(audit) for audit in audits]
    for place, view in enumerate(found[0]):
        cells = [f"claimed: {each[place].claimed}; proven: {each[place].proven}" for each in found]
        out.append(f"| **{view.name}** | " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(out) + "\n"
