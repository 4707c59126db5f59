"""An audit as Markdown: tables that a repository or an article can carry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from clearseek.audit.evidence import Audit, Evidence
from clearseek.audit.render.text import DIMENSIONS, LEGEND, MARKS, differing, names_of, rows_of
from clearseek.audit.verdict import verdict
from clearseek.audit.views import views
from clearseek.signing.tree import visible
from clearseek.templates import render

_MARKUP: Final = re.compile(r"[\\|\[\]!()<>`*_~&#]|:(?=//)|(?<=www)\.", re.I)


def as_markdown(audit: Audit, everything: bool = False) -> str:
    """The verdict, the rows that tell something, or all, and what frameworks make of them."""
    return render(
        "clearseek.audit.render", "audit.md.jinja", cell, audit=audit, verdict=verdict(audit), views=views(audit),
        rows_of=rows_of, everything=everything, dimensions=DIMENSIONS, marks=MARKS, legend=LEGEND,
    )  # fmt: skip


def comparison(audits: Sequence[Audit], everything: bool = False) -> str:
    """Releases side by side: each one's verdict and licence, then the rows that differ, or all."""
    found, readings = list(map(verdict, audits)), list(zip(*map(views, audits), strict=True))
    return render(
        "clearseek.audit.render", "comparison.md.jinja", cell, audits=audits, verdicts=found,
        names=names_of(found, audits), rows=differing(audits, everything), readings=readings, marks=MARKS,
        legend=LEGEND,
    )  # fmt: skip


def cell(text: str | Evidence) -> str:
    """Foreign text that stays text: no table, link, picture or tag comes of it, and nothing in it is unseen."""
    return _MARKUP.sub(lambda match: "&lt;" if match[0] == "<" else "\\" + match[0], visible(str(text)))
