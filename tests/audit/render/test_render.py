"""What a reader gets: every row in every format, and foreign text that stays text."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from clearseek.audit.evidence import Audit, Grade, Question
from clearseek.audit.render.pages import as_html, as_markdown, comparison_html, comparison_markdown
from clearseek.audit.render.text import DIMENSIONS, MARKS, print_audit, print_comparison
from clearseek.audit.verdict import verdict
from clearseek.cli import main
from clearseek.reading.evidence import Evidence
from tests.releases import audited, edit_json, fixture

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
    page.feed(comparison_html([found, hostile, found], everything=True))
    assert all(row.id in page.text for row in (*found, *hostile))
    assert page.text.count(verdict(found).sentence) == 2
    assert "script" not in page.tags
    assert not [name for name, value in page.attributes if name.startswith("on") or name in ("src", "href")]


def test_markdown_rows_stay_rows(release: Path, hostile: Audit) -> None:
    found = audited(release)
    text = as_markdown(found, everything=True)
    assert all(f"| {row.id} |" in text for row in found)
    lines = [line for line in as_markdown(hostile).splitlines() if "a.b" in line]
    assert len(lines) == 1
    assert lines[0].replace("\\|", "").count("|") == 6
    assert "<script>" not in lines[0]
    text = comparison_markdown([found, hostile], everything=True)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == (2 + 2) + (2 + len(found.rows) + 1) + (2 + 5)


@pytest.fixture
def published() -> list[Audit]:
    return [audited(fixture("deepseek-v3"), "DeepSeek-V3"), audited(fixture("deepseek-r1"), "DeepSeek-R1")]


def test_every_form_begins_with_the_verdict(published: list[Audit], capsys: pytest.CaptureFixture[str]) -> None:
    found = verdict(published[0])
    print_audit(Console(highlight=False), published[0])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{found.model}: {found.sentence}"
    told = [line for line in lines[1:] if line][: len(found.lines) + bool(found.choice)]
    assert all(any(line.label in each and line.text in each for each in told) for line in found.lines)
    markdown = [line for line in as_markdown(published[0]).splitlines() if line]
    assert markdown[1].replace("\\", "") == f"**{found.sentence}**"
    assert [line[:2] for line in markdown[2 + bool(found.choice) :][:6]] == ["- "] * 6
    page = Collector()
    page.feed(as_html(published[0]).partition("<body>")[2])
    assert page.text.split("\n")[1:3] == [found.model, found.sentence]
    told = page.text.partition(DIMENSIONS["technical"])[0]
    for line in found.lines:  # each after the one before it
        told = told.partition(f"{line.label}\u2002{line.text}")[2]
        assert told


def test_rows_with_nothing_to_show_stand_behind_all(published: list[Audit], capsys: pytest.CaptureFixture[str]) -> None:
    hidden = [row for row in published[0] if not row.tells]
    assert hidden and all(row.answer in ("not applicable", "unknown") for row in hidden)
    for everything in (False, True):
        print_audit(Console(highlight=False), published[0], everything=everything)
        out, text = capsys.readouterr().out, as_markdown(published[0], everything)
        assert [row.id for row in published[0] if f"  {row.id} " in out] == [
            row.id for row in published[0] if everything or row.tells
        ]
        assert all((f"| {row.id} |" in text) == everything for row in hidden)
        assert (f"{len(hidden)} more rows" in out) != everything


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_eight_releases_fit_in_80_columns(published: list[Audit], encoding: str) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace")
    console = Console(file=file, width=80, force_terminal=True, color_system=None, highlight=False)
    print_comparison(console, published * 4)
    print_audit(console, published[0], evidence=True)
    file.flush()
    lines = raw.getvalue().decode(encoding).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.split()[:8] == list("12345678") for line in lines) == 3
    row = next(line for line in lines if "The weights are under" in line)
    answers = [audit["licence.weights"].answer for audit in published]
    assert row.split()[:4:2] == [MARKS[each][0] if encoding == "utf-8" else each[0] for each in answers]


def test_only_rows_that_differ_are_compared(published: list[Audit], capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison(Console(highlight=False, width=80), published)
    out = capsys.readouterr().out
    assert "code.training" not in out and "The stated total of parameters is what the tensors come to" in out
    assert verdict(published[1]).licence in out
    print_comparison(Console(highlight=False, width=80), published, everything=True)
    assert "The training code is published  code.training\n" in capsys.readouterr().out


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


@pytest.mark.parametrize("kind", ["markdown", "html", "json", "cyclonedx", "spdx", "mot", "european-index"])
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
