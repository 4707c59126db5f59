"""What a reader gets: every row in every format, and foreign text that stays text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from clearseek.audit.render.sarif import as_sarif
from rich.console import Console

from clearseek.audit.evidence import Audit, Evidence, Grade, Question
from clearseek.audit.render.html import as_html, comparison_html
from clearseek.audit.render.markdown import as_markdown, comparison
from clearseek.audit.render.text import print_audit, print_comparison
from clearseek.cli import main
from tests.releases import audited, edit_json

EVIL = "<script>alert(1)</script> | `x` [red]y[/red] \x1b[31m\n| a"


@pytest.fixture
def hostile() -> Audit:
    row = Question("a.b", "technical", f"title {EVIL}").no(Grade.CLAIMED, EVIL, Evidence(EVIL, EVIL, EVIL))
    return Audit(EVIL, (row,), {"name": EVIL, "files": 1, "bytes": 2})


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_every_row_and_nothing_that_runs(release: Path, hostile: Audit) -> None:
    found = audited(release)
    page = Collector()
    page.feed(as_html(found))
    for row in found:
        assert row.title in page.text
        assert row.id in page.text
    page = Collector()
    page.feed(as_html(hostile))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    assert not [name for name, value in page.attributes if name.startswith("on") or name in ("src", "href")]


def test_a_page_puts_releases_side_by_side(release: Path, hostile: Audit) -> None:
    found = audited(release)
    page = Collector()
    page.feed(comparison_html([found, hostile, found]))
    assert all(row.id in page.text for row in (*found, *hostile))
    assert page.text.count(str(found.facts["name"])) >= 8
    assert "script" not in page.tags
    assert not [name for name, value in page.attributes if name.startswith("on") or name in ("src", "href")]


def test_markdown_rows_stay_rows(release: Path, hostile: Audit) -> None:
    found = audited(release)
    text = as_markdown(found)
    assert all(f"| {row.id} |" in text for row in found)
    lines = [line for line in as_markdown(hostile).splitlines() if "a.b" in line]
    assert len(lines) == 1
    assert lines[0].replace("\\|", "").count("|") == 6
    assert "<script>" not in lines[0]
    assert comparison([found, hostile]).count("\n") == len(found.rows) + 3 + 5


def test_sarif_names_rules_results_and_places(release: Path) -> None:
    found = audited(release)
    log = as_sarif(found)
    run = log["runs"][0]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == [row.id for row in found]
    assert {result["ruleId"] for result in run["results"]} == {
        row.id for row in found if row.answer in ("no", "partly", "unknown")
    }
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in run["results"])
    json.dumps(log)


def test_the_terminal_gets_foreign_text_as_text(hostile: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    print_audit(Console(highlight=False), hostile, evidence=True)
    print_comparison(Console(highlight=False), [hostile, hostile])
    out = capsys.readouterr().out
    assert "[red]y[/red]" in out
    assert "\x1b" not in out


CARD = """---
license: "![p](https://evil.example/p.png)<script>alert(1)</script>"
base_model: "[click](https://evil.example) \u202egnp.exe \\e[31mred \\uD800x"
---
# x
We use [a b|c](https://github.com/a/b) training code `x` | pipe
"""


@pytest.mark.parametrize("kind", ["markdown", "html", "sarif", "json", "cyclonedx", "spdx", "mot", "european-index"])
def test_no_format_lets_foreign_text_act(release: Path, tmp_path: Path, kind: str) -> None:
    (release / "README.md").write_text(CARD, encoding="utf-8")
    (release / "a b#%.md").write_text("# t\n", encoding="utf-8")
    edit_json(release / "config.json", lambda content: content.update(torch_dtype="\ud800"))
    out = tmp_path / kind
    assert main(["audit", str(release), "--format", kind, "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert "\x1b" not in text
    assert kind in ("mot", "european-index") or "\\ud800" in text
    if kind in ("markdown", "html"):
        assert "\u202e" not in text
        assert "<script" not in text
    if kind == "markdown":
        assert "evil.example" in text
        assert not re.search(r"(?<!\\)[\[\]`]|(?<!\\):(?=//)|!\(", text.partition("##")[2])


def test_sarif_has_no_links_in_its_messages_and_places_that_are_uris() -> None:
    row = Question("a.b", "technical", "t").no(Grade.CLAIMED, "[x](https://evil) \u202e", Evidence("a b#%.md"))
    (result,) = as_sarif(Audit("x", (row,), {"name": "x", "files": 1, "bytes": 2}))["runs"][0]["results"]
    assert result["message"]["text"].endswith("\\[x\\](https://evil) \\\\u202e")
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b%23%25.md"
