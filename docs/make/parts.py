"""Generated parts: what pages say that the code knows better.

A part stands in a page between ``<!-- generated: NAME -->`` and ``<!-- /generated -->``, so that people write the page
around it and the repository shows all of it. `PARTS` has the function that makes each; :func:`write` writes them into
the pages, and a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from docs.make import commands, coverage, interface, screens, settings, sizes

ROOT = Path(__file__).parents[2]
PART = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- /generated -->)", re.S)
PARTS: dict[str, Callable[[], str]] = {
    "commands": commands.part,
    "coverage_one_sample": coverage.one_sample,
    "coverage_several_samples": coverage.several_samples,
    "false_alarms": coverage.tests,
    "interface": interface.part,
    "questions": screens.questions,
    "recipes": settings.recipes,
    **settings.TABLES,
    **screens.SCREENS,
    **sizes.PARTS,
}
"""What makes a part, by its name in the pages. Each returns whole lines; it skips where what it needs is not here."""


def pages() -> dict[str, Path]:
    """Every page, by its path from the root of the repository."""
    found = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
    return {page.relative_to(ROOT).as_posix(): page for page in found}


def written() -> dict[tuple[str, str], str]:
    """The parts as they stand in the pages, by page and name."""
    return {
        (name, part[2]): part[3]
        for name, page in pages().items()
        for part in PART.finditer(page.read_text(encoding="utf-8"))
    }


def write() -> list[str]:
    """Write every part anew; return the pages that are others now."""
    changed = []
    for name, page in pages().items():
        text = page.read_text(encoding="utf-8")
        fresh = PART.sub(_anew, text)
        if fresh != text:
            page.write_text(fresh, encoding="utf-8")
            changed.append(name)
    return changed


def _anew(match: re.Match[str]) -> str:
    try:
        return match[1] + PARTS[match[2]]() + match[4]
    except pytest.skip.Exception:  # of files that are not in this repository: the part stays as it is
        return match[0]
