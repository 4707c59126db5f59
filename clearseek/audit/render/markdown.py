"""An audit as Markdown: tables that a repository or an article can carry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from clearseek.audit.evidence import Audit, Evidence
from clearseek.audit.render.text import DIMENSIONS, MARKS, headline
from clearseek.audit.views import views
from clearseek.signing.tree import visible
from clearseek.templates import render

_MARKUP: Final = re.compile(r"[\\|\[\]!()<>`*_~&#]|:(?=//)|(?<=www)\.", re.I)


def as_markdown(audit: Audit) -> str:
    """The whole audit as a document."""
    found = views(audit)
    return render(
        "clearseek.audit.render", "audit.md.jinja", cell, audit=audit, views=found, headline=headline(audit, found[0]),
        dimensions=DIMENSIONS, marks=MARKS,
    )  # fmt: skip


def comparison(audits: Sequence[Audit]) -> str:
    """Releases side by side: a row an assertion, a column a release."""
    ids = dict.fromkeys(row.id for audit in audits for row in audit)
    readings = list(zip(*map(views, audits), strict=True))
    return render(
        "clearseek.audit.render", "comparison.md.jinja", cell, audits=audits, ids=ids, readings=readings, marks=MARKS
    )


def cell(text: str | Evidence) -> str:
    """Foreign text that stays text: no table, link, picture or tag comes of it, and nothing in it is unseen."""
    return _MARKUP.sub(lambda match: "&lt;" if match[0] == "<" else "\\" + match[0], visible(str(text)))
