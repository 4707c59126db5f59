"""What frameworks make of rows: what is unknown is not closed, and no licence covers what lies elsewhere."""

from __future__ import annotations

import yaml

from clearseek.audit.evidence import Answer, Audit, Grade, Row
from clearseek.audit.facts import ComputeFact
from clearseek.audit.questions import QUESTIONS
from clearseek.audit.render.exports import as_european_index
from clearseek.audit.views import MOF, OSAI, View, views


def made(*rows: Row, **answers: Answer) -> Audit:
    """An audit of rows; `answers` names others by their ids, the dot as two underscores."""
    asked = {each for _, parts in MOF for _, pair in parts for each in pair} | {
        each for _, pair in OSAI for each in pair
    }
    found = {each.id: each.yes(Grade.CHECKED, "r") for each in asked} | {row.id: row for row in rows}
    for name, answer in answers.items():
        id = name.replace("__", ".")
        found[id] = row(id, answer, Grade.PRESENT)
    return Audit("x", tuple(found.values()), {"name": "x", "files": 1, "bytes": 1})


def view(audit: Audit, id: str) -> View:
    return next(each for each in views(audit) if each.id == id)


def row(id: str, answer: Answer, grade: Grade, *facts: ComputeFact) -> Row:
    question = next(each for each in QUESTIONS if each.id == id)
    return question.answer(answer, grade, "r", facts=facts)


def test_what_is_unknown_leaves_a_definition_undecided() -> None:
    assert view(made(), "osaid").proven == "met"
    assert view(made(data__training="unknown"), "osaid").claimed == "undecided"
    assert view(made(data__training="unknown", code__complete="no"), "osaid").claimed == "not met"
    linked = made(row("weights.final", "yes", Grade.LINKED))
    assert (view(linked, "osaid").claimed, view(linked, "osaid").proven) == ("met", "undecided")
    assert view(linked, "mof").proven == "undecided"
    assert view(made(), "mof").claimed == "class I Open Science"
    assert view(made(data__training="no"), "mof").claimed == "class II Open Tooling"


def test_not_applicable_is_no_yes_but_of_a_licence() -> None:
    assert view(made(documents__report="not applicable"), "mof").claimed == "undecided"
    assert view(made(licence__documents="not applicable"), "mof").claimed == "class I Open Science"


def test_the_index_counts_what_is_undecided_and_exports_no_class() -> None:
    audit = made(documents__paper="unknown", licence__weights="unknown", code__training="no")
    assert view(audit, "osai").claimed == "9 of 12, 2 undecided"
    content = yaml.safe_load(as_european_index(audit))
    assert content["trainingcode"]["class"] == "closed"
    assert content["paper"]["class"] is None
    assert content["paper"]["notes"].startswith("unknown: ")


def test_hours_tell_of_the_hardware_in_part() -> None:
    def hardware(*facts: ComputeFact) -> tuple[Answer, Answer]:
        found = view(made(row("cost.compute", "unknown", Grade.CLAIMED, *facts)), "osai").entries
        return next((each.claimed, each.proven) for each in found if each.name == "hardware_architecture")

    assert hardware(ComputeFact(operations=None, hours=1e6)) == ("partly", "unknown")
    assert hardware(ComputeFact(operations=1e24, hours=None)) == ("unknown", "unknown")
    assert hardware() == ("unknown", "unknown")


def test_a_report_elsewhere_has_its_own_licence() -> None:
    entries = {each.name: each for each in view(made(row("documents.report", "yes", Grade.LINKED)), "mof").entries}
    for name in ("III Open Model: Technical report", "I Open Science: Research paper"):
        assert entries[name].claimed == "unknown"
        assert entries[name].rows == ("documents.report",)
    entries = {each.name: each for each in view(made(), "mof").entries}
    assert entries["III Open Model: Technical report"].claimed == "yes"


def test_a_systemic_risk_is_never_exempt() -> None:
    exempt = {"licence__freedom": "yes", "documents__copyright_policy": "yes", "documents__data_summary": "unknown"}
    assert view(made(cost__threshold="yes", **exempt), "ai-act").claimed.startswith(  # type: ignore[arg-type]
        "exempt from 53(1)(a) and (b); undecided: 53(1)(d)"
    )
    assert view(made(cost__threshold="no", **exempt), "ai-act").proven.startswith("not exempt")  # type: ignore[arg-type]
    assert "unless training took" in view(made(cost__threshold="unknown", **exempt), "ai-act").claimed  # type: ignore[arg-type]
    assert view(made(licence__freedom="unknown"), "ai-act").claimed.startswith("undecided whether exempt")
