"""Documents from templates: every name has a value, every template ships, and foreign text is no template."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from clearseek.audit.evidence import Audit, Grade, Question
from clearseek.audit.render.pages import as_html, as_markdown, comparison_html
from clearseek.reading.evidence import Evidence
from clearseek.release.source_archive import source_files
from clearseek.templates import render

ROOT = Path(__file__).parents[1]
TEMPLATES = sorted((ROOT / "clearseek").rglob("*.jinja"))
ENTRIES = [path for path in TEMPLATES if path.name not in ("page.html.jinja", "parts.html.jinja", "template.jinja")]
"""Documents: a chat template gets its values from whoever reads it, and leaves out what is not given."""


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.name)
def test_a_name_without_a_value_is_an_error(path: Path) -> None:
    filters = [named(name) for name in ("figure", "band", "cell", "joined", "shorten", "listed", "expression")]
    with pytest.raises(UndefinedError):
        render(".".join(path.relative_to(ROOT).parts[:-2]), path.name, *filters)


def named(name: str) -> Any:
    def function(text: Any, *_: Any) -> str:
        return str(text)

    function.__name__ = name
    return function


def test_templates_and_other_files_are_in_the_wheel_and_in_a_release() -> None:
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    shipped = {
        path
        for package, patterns in tables["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    needed = {path for path in (ROOT / "clearseek").rglob("*") if path.suffix in (".jinja", ".toml", ".txt", ".typed")}
    assert len(ENTRIES) == 11 and needed > set(TEMPLATES)
    assert needed <= shipped
    assert needed <= set(source_files())


def test_foreign_text_is_neither_markup_nor_a_template() -> None:
    evil = "<b onclick='x' title=\"y\">{{ 7 * 7 }}</b>{% raw %}{# gone #}\x1b\u202e"
    row = Question("a.b", "technical", evil).no(Grade.CLAIMED, evil, Evidence(evil, evil, evil))
    audit = Audit(evil, (row,), {"name": evil, "files": 1, "bytes": 2})
    shown = "&lt;b onclick=&#x27;x&#x27; title=&quot;y&quot;&gt;{{ 7 * 7 }}&lt;/b&gt;{% raw %}{# gone #}\\x1b\\u202e"
    for page in (as_html(audit), comparison_html([audit, audit], everything=True)):
        assert page.count(shown) >= 4
        assert not [part for part in ("<b ", "\x1b", "\u202e", "'x'", '"y"') if part in page]
    assert "{{ 7 \\* 7 }}" in as_markdown(audit)
