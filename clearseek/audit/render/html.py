"""An audit as one page that needs nothing else: no script, no font, no picture from elsewhere.

Everything a release says is foreign text, so every piece is escaped, and the page forbids itself (by its
Content-Security-Policy) to load or run anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from clearseek.audit.evidence import Answer, Audit, Dimension, Row
from clearseek.audit.read.card import shorten
from clearseek.audit.render.text import DIMENSIONS, MARKS, headline
from clearseek.audit.views import views
from clearseek.signing.tree import visible
from clearseek.templates import render

_LOOK: Final[dict[Answer, str]] = {
    "yes": "yes", "partly": "part", "no": "no", "unknown": "open", "not applicable": "none",
}  # fmt: skip
"""Class of the style sheet that gives an answer its colour, on light and on dark."""


def as_html(audit: Audit) -> str:
    """The whole page."""
    found = views(audit)
    name = str(audit.facts["name"])
    return _page("audit.html.jinja", title=name, audit=audit, views=found, headline=headline(audit, found[0]))


def comparison_html(audits: Sequence[Audit]) -> str:
    """Releases side by side: a column a release, a line an assertion; pointing at a cell shows its reason."""

    def titles(dimension: Dimension) -> dict[str, str]:
        return {row.id: row.title for audit in audits for row in audit.of(dimension)}

    title = " beside ".join(str(audit.facts["name"]) for audit in audits)
    readings = list(zip(*map(views, audits), strict=True))
    return _page("comparison.html.jinja", title=title, audits=audits, readings=readings, titles=titles)


def _page(name: str, **values: Any) -> str:
    values |= {"dimensions": DIMENSIONS, "marks": MARKS, "look": _LOOK, "bars": _bars}
    return render("clearseek.audit.render", name, joined, shorten, shown=visible, **values)


def joined(text: str) -> str:
    """The lines of a part as one, for templates with a tag a line; foreign text has no line ends (`visible`)."""
    return re.sub(r"\n\s*", "", text)


def _bars(rows: tuple[Row, ...]) -> Iterator[tuple[Answer, int, float, float]]:
    """For each answer that was given: how often, and where its bar begins and how wide it is."""
    x, width = 230.0, 400.0 / max(1, len(rows))
    for answer in MARKS:
        if count := sum(row.answer == answer for row in rows):
            yield answer, count, x, count * width - 1
            x += count * width
