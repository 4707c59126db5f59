"""An audit as a page that needs nothing else, and as Markdown that a repository or an article can carry.

Everything a release says is foreign text, so every piece is escaped. The page has no script, no font, no picture from
elsewhere, and forbids itself (by its Content-Security-Policy) to load or run anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from clearseek.audit.evidence import Answer, Audit
from clearseek.audit.render.text import DIMENSIONS, LEGEND, MARKS, NOT_ASKED, differing, names_of
from clearseek.audit.verdict import verdict
from clearseek.audit.views import views
from clearseek.reading.card import shorten
from clearseek.reading.evidence import Evidence
from clearseek.signing.tree import visible
from clearseek.templates import render

_LOOK: Final[dict[Answer, str]] = {
    "yes": "yes", "partly": "part", "no": "no", "unknown": "open", "not applicable": "none",
}  # fmt: skip
"""Class of the style sheet that gives an answer its colour, on light and on dark."""
_MARKUP: Final = re.compile(r"[\\|\[\]!()<>`*_~&#]|:(?=//)|(?<=www)\.", re.I)


def as_html(audit: Audit) -> str:
    """The whole page: the verdict, the rows that tell something, the others folded, and what frameworks make of it."""
    return _document("audit.html", [audit])


def as_markdown(audit: Audit, everything: bool = False) -> str:
    """The verdict, the rows that tell something, or all, and what frameworks make of them."""
    return _document("audit.md", [audit], everything)


def comparison_html(audits: Sequence[Audit], everything: bool = False) -> str:
    """Releases side by side: each one's verdict and licence, then the rows that differ, a narrow column a release."""
    return _document("comparison.html", audits, everything)


def comparison_markdown(audits: Sequence[Audit], everything: bool = False) -> str:
    """Releases side by side: each one's verdict and licence, then the rows that differ, or all."""
    return _document("comparison.md", audits, everything)


def _document(name: str, audits: Sequence[Audit], everything: bool = False) -> str:
    found = list(map(verdict, audits))
    return render(
        "clearseek.audit.render", f"{name}.jinja", joined, cell, shorten, shown=visible, audits=audits, verdicts=found,
        names=names_of(found, audits), readings=list(map(views, audits)), rows=differing(audits, everything),
        everything=everything, dimensions=DIMENSIONS, marks=MARKS, look=_LOOK, legend=LEGEND, not_asked=NOT_ASKED,
    )  # fmt: skip


def joined(text: str) -> str:
    """The lines of a part as one, for templates with a tag a line; foreign text has no line ends (`visible`)."""
    return re.sub(r"\n\s*", "", text)


def cell(text: str | Evidence) -> str:
    """Foreign text that stays text: no table, link, picture or tag comes of it, and nothing in it is unseen."""
    return _MARKUP.sub(lambda match: "&lt;" if match[0] == "<" else "\\" + match[0], visible(str(text)))
