"""Questions are declared once, and nothing but what prints a row reads its sentence."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import clearseek
from clearseek.audit.audit import audit_release
from clearseek.audit.evidence import Grade, Question
from clearseek.audit.facts import ComputeFact, LicenceFact
from clearseek.audit.questions import QUESTIONS, VERIFICATIONS
from clearseek.audit.views import views
from clearseek.reading.evidence import Evidence
from clearseek.reading.source import Folder
from tests.releases import audited, fixture

PACKAGE = Path(clearseek.__file__).parent
PRINTING = {
    ("audit/render/text.py", "_print_row"),
    ("audit/verdict.py", "_told"),
    ("cli/verify.py", "_print_rows"),
    ("verify/statement.py", "as_statement"),
}
"""Functions that print a reason or pass it on as it is, and read nothing in it.

`clearseek.audit.evidence` itself may read it anywhere.
"""
ASKED = Question("a.b", "impact", "It is so")


def readers(code: str) -> Iterator[str]:
    """Functions, or ``<module>``, that read an attribute called reason, each as often as it does."""

    def within(node: ast.AST, function: str) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        named = isinstance(node, ast.Constant) and node.value == "reason"
        if named or (isinstance(node, ast.Attribute) and node.attr == "reason" and isinstance(node.ctx, ast.Load)):
            yield function
        for child in ast.iter_child_nodes(node):
            yield from within(child, function)

    return within(ast.parse(code), "<module>")


def test_code_that_reads_a_reason_is_found() -> None:
    code = """
def licence(row):
    return row.reason.partition(" is ")[2]
def by_name(row):
    return getattr(row, "reason")
def content(row):
    return row.as_json()["reason"]
def fine(row, reason):
    reason = f"{reason}; {row.told}"
    return row.adding(reason)
found = [row.reason for row in rows]
"""
    assert list(readers(code)) == ["licence", "by_name", "content", "<module>"]


def test_no_code_reads_a_reason_but_to_print_it() -> None:
    texts = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    found = {
        (path, function)
        for path, text in texts.items()
        if "clearseek.audit" in text or "clearseek.verify" in text  # others have no rows, and may have other reasons
        for function in readers(text)
    }
    outside = {place for place in found if place[0] != "audit/evidence.py"}
    assert outside - PRINTING == set(), "give the row a fact, and read that (clearseek/audit/facts.py)"
    assert PRINTING - outside == set(), "prints no reason any more: take it off the list"
    templates = {path.name for path in PACKAGE.rglob("*.jinja") if ".reason" in path.read_text(encoding="utf-8")}
    assert templates == {"audit.html.jinja", "audit.md.jinja", "comparison.html.jinja"}


def test_every_question_has_its_own_name_and_the_subjects_stay_together() -> None:
    names = [each.id for each in (*QUESTIONS, *VERIFICATIONS)]
    assert len(set(names)) == len(names)
    dimensions = [each.dimension for each in QUESTIONS]
    assert dimensions == sorted(dimensions, key=("technical", "definition", "impact").index)
    assert all(each.title[0].isupper() and not each.title.endswith(".") for each in (*QUESTIONS, *VERIFICATIONS))


@pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-r1", ""])
def test_an_audit_answers_the_listed_questions_in_their_order(name: str, release: Path) -> None:
    found = audit_release(Folder(fixture(name) if name else release))
    listed = [each for each in QUESTIONS if found.get(each) is not None]
    assert [row.question for row in found] == listed
    assert {each.id for each in QUESTIONS if each not in listed} <= {
        "parameters.mtp", "parameters.stored", "files.signature", "weights.trajectory", "lineage.weights",
        "cost.operations", "cost.devices", "cost.price", "cost.energy",
    }  # fmt: skip


def test_views_rest_on_listed_questions(release: Path) -> None:
    listed = {each.id for each in QUESTIONS}
    for view in views(audited(release)):
        for entry in view.entries:
            assert set(entry.rows) <= listed, entry


def test_a_row_says_more_and_keeps_its_facts() -> None:
    fact, place, other = LicenceFact("MIT", "MIT", "LICENSE"), Evidence("LICENSE"), Evidence("README.md")
    row = ASKED.yes(Grade.PRESENT, "because", place, facts=(fact,))
    more = row.adding("and more", other, grade=Grade.CHECKED)
    assert (more.answer, more.grade, more.reason, more.evidence) == ("yes", 4, "because; and more", (place, other))
    less = row.adding("but not sure", answer="unknown", grade=Grade.ABSENT)
    assert (less.answer, less.grade, less.reason, less.evidence) == ("unknown", 0, "because; but not sure", (place,))
    wrong = row.refuted("it is not", other)
    assert (wrong.answer, wrong.grade, wrong.reason, wrong.evidence) == ("no", 1, "it is not; because", (other, place))
    assert more.facts == less.facts == wrong.facts == (fact,)
    assert row.facts_of(LicenceFact) == (fact,) and row.facts_of(ComputeFact) == ()


def test_a_question_about_steps_names_them() -> None:
    steps = next(each for each in VERIFICATIONS if each.id == "verify.steps").of_steps(4, 6)
    assert (steps.id, steps.title) == ("verify.steps.4-6", "Steps 4 to 6, trained again, give the same bits")
    asked = next(each for each in VERIFICATIONS if each.id == "verify.data")
    assert asked.covers("verify.data") and asked.covers("verify.data.1-2") and not asked.covers("verify.data_rebuilt")


def test_facts_are_json_where_there_are_any(release: Path) -> None:
    rows = {row["id"]: row for row in audited(release).as_json()["rows"]}
    assert rows["licence.weights"]["facts"] == [{"kind": "licence", "name": "MIT", "spdx_id": "MIT", "file": "LICENSE"}]
    assert "facts" not in rows["files.names"]
    v3 = {row["id"]: row for row in audit_release(Folder(fixture("deepseek-v3")), "DeepSeek-V3").as_json()["rows"]}
    (compute,) = v3["cost.compute"]["facts"]
    assert (compute["kind"], compute["device"], round(compute["hours"])) == ("compute", "H800", 2_664_000)
