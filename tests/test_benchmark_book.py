"""The benchmark book: every figure that a page cites is one of a result, and says whether the measured code changed."""

from __future__ import annotations

import ast
import json
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = sorted(ROOT.glob("benchmarks/results/*.json"))
PAGES = ["README.md", *sorted(page.relative_to(ROOT).as_posix() for page in ROOT.glob("docs/**/*.md"))]
WRITE = "write it anew with: python benchmarks/book.py"


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def figures() -> ModuleType:
    import figures

    return figures


@pytest.fixture
def claims() -> ModuleType:
    import claims

    return claims


def test_the_book_and_the_marks_in_pages_are_what_the_results_say() -> None:
    """Fails where a file that decides a figure has changed and a page cites the figure without its mark."""
    import book

    assert list(book.others()) == [], WRITE


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_is_one_of_its_claim(page: str, figures: ModuleType) -> None:
    if page in figures.readers():
        assert list(figures.wrong((ROOT / page).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("page", PAGES)
def test_no_measured_figure_stands_without_its_claim(page: str, figures: ModuleType) -> None:
    if page in figures.readers():
        found = figures.unmarked((ROOT / page).read_text(encoding="utf-8"))
        assert found == [], f"link them to docs/benchmarks.md, or say of which kind they are: {figures.KINDS}"


def test_every_result_is_claimed_and_says_where_it_comes_from(claims: ModuleType) -> None:
    assert {claim.result for claim in claims.claims()} == {file.stem for file in RESULTS}
    assert len({claim.anchor for claim in claims.claims()}) == len(claims.claims())
    notebook = " ".join((ROOT / "docs/notebook.md").read_text(encoding="utf-8").split())
    for file in RESULTS:
        about = json.loads(file.read_text(encoding="utf-8"))["about"]
        assert (ROOT / about["script"]).is_file(), file
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}[+Z].*", about["date"]), file
        assert about["versions"] and isinstance(about["machine"], dict), file
        assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for sha256 in about["files"].values()), file
        for quote in about.get("quotes", ()):
            assert " ".join(quote.split()) in notebook, f"{file}: not in docs/notebook.md: {quote}"


def test_the_script_of_a_result_writes_where_it_comes_from() -> None:
    scripts = {json.loads(file.read_text(encoding="utf-8"))["about"]["script"] for file in RESULTS}
    for script in scripts - {"docs/notebook.md"}:
        assert "write_result(" in (ROOT / script).read_text(encoding="utf-8"), script


def test_what_scripts_import_from_the_package_is_there() -> None:
    """A script that no test runs would be found out of date by whoever wants its figure again."""
    missing = []
    for script in ROOT.glob("benchmarks/*.py"):
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clearseek"):
                here = defined(node.module or "")
                missing += [f"{script.name}: {node.module}.{each.name}" for each in node.names if each.name not in here]
    assert missing == []


@cache
def defined(module: str) -> frozenset[str]:
    """Names at the top of a module of the package, and the modules in it."""
    place = ROOT / module.replace(".", "/")
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    names = {path.stem for path in place.glob("*")} if place.is_dir() else set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.alias(asname=str(name)) | ast.alias(name=name):
                names.add(name)
    return frozenset(names)


def test_the_files_that_decide_a_result_are_there(claims: ModuleType) -> None:
    for claim in claims.claims():
        for glob in claim.measure["files"]:
            assert list(ROOT.glob(glob)), f"{claim.title}: no file fits {glob}"
    here = {path: sha256 for claim in claims.claims() for path, sha256 in claims.hashes(claim.measure).items()}
    for path, sha256 in claims.claims()[0].accepted:
        assert here.get(path) == sha256, f"claims.toml accepts {path} as it no longer is: take the entry out"


def first(claims: ModuleType, figures: ModuleType) -> Any:
    """A claim of which pages may cite 2.25 times, and whose code is as it was."""
    claim = next(each for each in claims.claims() if each.anchor == "grpo-beside-trl")
    return replace(claim, about={**claim.about, "files": claims.hashes(claim.measure)})


def cited(figures: ModuleType, monkeypatch: pytest.MonkeyPatch, claim: Any, text: str) -> list[str]:
    monkeypatch.setattr(figures, "by_anchor", lambda: {claim.anchor: claim})
    return list(figures.wrong(text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("faster by [2.25 times](benchmarks.md#grpo-beside-trl)", 0),
        ("faster by [2.3 times](benchmarks.md#grpo-beside-trl)", 0),
        ("faster by [2.25 to 2.28 times](benchmarks.md#grpo-beside-trl)", 0),
        ("faster by [+2.25 times](benchmarks.md#grpo-beside-trl)", 0),
        ("faster by [-2.25 times](benchmarks.md#grpo-beside-trl)", 1),
        ("faster by [2.35 times](benchmarks.md#grpo-beside-trl)", 1),
        ("faster by [2 times](benchmarks.md#grpo-by-hand)", 1),
        ("<!-- measured: grpo-beside-trl -->\n[x](benchmarks.md#grpo-beside-trl)\n\n| a | b |\n|---|---|\n"
         "| 9 of them | 2.25 |\n<!-- /measured -->", 0),
        ("<!-- measured: grpo-beside-trl -->\n[x](benchmarks.md#grpo-beside-trl)\n\n| a | b |\n|---|---|\n"
         "| x | 2.26 |\n<!-- /measured -->", 1),
        ("<!-- measured: grpo-beside-trl -->\n\n| a | b |\n|---|---|\n| x | 2.25 |\n<!-- /measured -->", 1),
    ],
)  # fmt: skip
def test_a_figure_that_no_result_holds_is_found(
    text: str, found: int, claims: ModuleType, figures: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(cited(figures, monkeypatch, first(claims, figures), text)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is 3 times as fast.", 1),
        ("| a | 12 % |", 1),
        ("It writes 400 tokens/s, in 2\nGB.", 2),
        ("It has 3 layers; see [2.25 times](benchmarks.md#grpo-beside-trl) and `3 times`.", 0),
        ("<!-- figures: settings -->\n\nAt most 10 s.\n\nIt took 10 s.", 1),
        ("<!-- figures: guesses -->\n\nAt most 10 s.", 1),
        ("```text\ntook 10 s\n```", 0),
    ],
)
def test_a_figure_without_its_claim_is_found(text: str, found: int, figures: ModuleType) -> None:
    assert len(figures.unmarked(text)) == found


def test_a_figure_of_earlier_code_is_marked(
    claims: ModuleType, figures: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = first(claims, figures)
    page, text = "docs/x.md", "It is [2.25 times](benchmarks.md#grpo-beside-trl) as fast.\n"
    monkeypatch.setattr(figures, "by_anchor", lambda: {claim.anchor: claim})
    assert claim.holds and figures.marked(text, page) == text

    path = next(iter(claim.about["files"]))
    changed = {**claim.about["files"], path: "0" * 64}
    monkeypatch.setattr(claims, "hashes", lambda measure: changed)
    claim = replace(claim)
    assert claim.changed == [path]
    marked = figures.marked(text, page)
    assert marked.startswith("It is [2.25 times](benchmarks.md#grpo-beside-trl)† as fast.\n")
    assert marked.count(figures.LEGEND.format("benchmarks.md")) == 1 and figures.marked(marked, page) == marked

    claim = replace(claim, accepted={(path, "0" * 64): "a comment"})
    assert claim.holds and claim.differences == {path: "a comment"} and figures.marked(marked, page) == text
    claim = replace(claim, accepted={(path, "1" * 64): "another change"})
    assert not claim.holds


def test_a_file_that_comes_or_goes_is_a_change(claims: ModuleType, figures: ModuleType) -> None:
    claim = first(claims, figures)
    path, *others = claim.about["files"]
    fewer = replace(claim, about={**claim.about, "files": {each: claim.about["files"][each] for each in others}})
    more = replace(claim, about={**claim.about, "files": {**claim.about["files"], "clearseek/gone.py": "0" * 64}})
    assert fewer.changed == [path] and more.changed == ["clearseek/gone.py"]


def test_a_result_says_what_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import record

    peer, out = tmp_path / "peers/bin/python", tmp_path / "new/grpo_speed.json"
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks/grpo_speed.py"), "--peer-python", str(peer)])
    record.write_result(out, {"ratio": 2.0}, {"processor": "one"})
    written = json.loads(out.read_text(encoding="utf-8"))
    about = written["about"]
    assert written["ratio"] == 2.0 and about["script"] == "benchmarks/grpo_speed.py"
    assert about["command"] == "python benchmarks/grpo_speed.py --peer-python python"
    assert about["machine"] == {"processor": "one"} and "clearseek/posttrain/grpo.py" in about["files"]
    assert [file.name for file in out.parent.iterdir()] == ["grpo_speed.json"]


def test_a_result_that_goes_on_keeps_the_code_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import record

    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks/learning.py")])
    begun = {"date": "2026-01-01T00:00:00+00:00", "files": {"clearseek/posttrain/grpo.py": "0" * 64}}
    for _ in range(2):
        record.write_result(tmp_path / "learning.json", {"about": begun, "more": 1}, {})
        about = json.loads((tmp_path / "learning.json").read_text(encoding="utf-8"))["about"]
        assert about["files"] == begun["files"] and about["begun"] == "2026-01-01T00:00:00+00:00"
        begun = about
