"""An audit as one page that needs nothing else: no script, no font, no picture from elsewhere.

Everything a release says is foreign text, so every piece is escaped, and the page forbids itself (by its
Content-Security-Policy) to load or run anything. What opens and closes does so without a script.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from clearseek.audit.evidence import Answer, Audit
from clearseek.audit.read.card import shorten
from clearseek.audit.render.text import DIMENSIONS, LEGEND, MARKS, differing, is_shown, names_of
from clearseek.audit.verdict import verdict
from clearseek.audit.views import views
from clearseek.signing.tree import visible
from clearseek.templates import render

_LOOK: Final[dict[Answer, str]] = {
    "yes": "yes", "partly": "part", "no": "no", "unknown": "open", "not applicable": "none",
}  # fmt: skip
"""Class of the style sheet that gives an answer its colour, on light and on dark."""


def as_html(audit: Audit) -> str:
    """The whole page: the verdict, the rows that tell something, the others folded, and what frameworks make of it."""
    found, rows = verdict(audit), {each: audit.of(each) for each in DIMENSIONS}
    told = {
        each: ([row for row in of if is_shown(row)], [row for row in of if not is_shown(row)])
        for each, of in rows.items()
    }
    return _page("audit.html.jinja", title=found.model, audit=audit, verdict=found, views=views(audit), rows=told)


def comparison_html(audits: Sequence[Audit], everything: bool = False) -> str:
    """Releases side by side: each one's verdict and licence, then the rows that differ, a narrow column a release."""
    found = [verdict(audit) for audit in audits]
    return _page(
        "comparison.html.jinja", title=f"{len(audits)} releases compared", audits=audits, verdicts=found,
        names=names_of(found, audits), readings=list(map(views, audits)), rows=differing(audits, everything),
        everything=everything,
    )  # fmt: skip


def _page(name: str, **values: Any) -> str:
    values |= {"dimensions": DIMENSIONS, "marks": MARKS, "look": _LOOK, "legend": LEGEND}
    return render("clearseek.audit.render", name, joined, shorten, shown=visible, **values)


def joined(text: str) -> str:
    """The lines of a part as one, for templates with a tag a line; foreign text has no line ends (`visible`)."""
    return re.sub(r"\n\s*", "", text)
