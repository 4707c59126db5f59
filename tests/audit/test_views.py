"""What frameworks make of rows: what is unknown is not closed, what is missing is named, links count as claimed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from clearseek.audit.checks.content_summary import FIELDS
from clearseek.audit.evidence import Answer, Audit, Grade, Row
from clearseek.audit.facts import ComputeFact, SummaryFact
from clearseek.audit.questions import QUESTIONS
from clearseek.audit.render.exports import as_european_index
from clearseek.audit.views import View, frameworks, view, views


def made(*rows: Row, **answers: Answer) -> Audit:
    """An audit in which all is there; `answers` names other answers by their ids, the dot as two underscores."""
    found = {each.id: each.yes(Grade.CHECKED, "r") for each in QUESTIONS} | {each.id: each for each in rows}
    for name, answer in answers.items():
        id = name.replace("__", ".")
        found[id] = row(id, answer, Grade.PRESENT)
    return Audit("x", tuple(found.values()), {"name": "x", "files": 1, "bytes": 1})


def row(id: str, answer: Answer, grade: Grade, *facts: ComputeFact | SummaryFact) -> Row:
    question = next(each for each in QUESTIONS if each.id == id)
    return question.answer(answer, grade, "r", facts=facts)


def linked(*ids: str) -> list[Row]:
    return [row(id, "yes", Grade.LINKED) for id in ids]


def entry(found: View, name: str) -> tuple[Answer, Answer]:
    return next((each.claimed, each.proven) for each in found.entries if each.name.endswith(name))


def test_the_table_is_dated_and_names_listed_rows() -> None:
    known = {each.id for each in QUESTIONS}
    for framework in frameworks().values():
        assert framework.source and framework.date >= "2024"
        for each in framework.requirements:
            named = {*each.all, *each.any, *each.behind, each.licence, each.or_linked, each.halved_by} - {""}
            assert named <= known, each
            assert each.all or each.any or each.field, each
            assert not (each.all and each.any), each
    asked = [each.field for each in frameworks()["ai-act"].requirements if each.field]
    assert asked == [each.name for each in FIELDS]
    assert len(frameworks()["osai"].requirements) == 12


def test_what_is_unknown_leaves_a_definition_undecided() -> None:
    assert view(made(), "osaid").proven == "met"
    assert view(made(data__training="unknown"), "osaid").claimed == "undecided: training data"
    both = view(made(data__training="unknown", code__training="no"), "osaid").claimed
    assert both == "not met: no training code; undecided: training data"
    weights = made(*linked("weights.final"))
    assert (view(weights, "osaid").claimed, view(weights, "osaid").proven) == ("met", "undecided: parameters")
    assert view(weights, "mof").proven.startswith("undecided; class III Open Model, undecided: Model parameters")


def test_a_class_is_the_highest_that_is_whole_and_what_the_next_lacks_is_named() -> None:
    assert view(made(), "mof").claimed == "class I Open Science"
    without = view(made(data__training="no"), "mof").claimed
    assert without == "class II Open Tooling; class I Open Science: no Datasets"
    assert view(made(licence__weights="no"), "mof").claimed == "none; class III Open Model: no Model parameters (Final)"
    assert "Datasets (in part)" in view(made(data__training="partly"), "mof").claimed


OPEN = ("weights.final", "weights.intermediate", "documents.report", "data.training", "data.evaluation",
        "code.architecture", "code.training", "code.inference", "code.evaluation", "code.data")  # fmt: skip


def test_a_release_that_links_to_all_of_it_reaches_the_top_as_claimed_and_nothing_as_proven() -> None:
    """A card with links, as of the examples that OSI gives: Pythia, OLMo, Amber, CrystalCoder, T5."""
    rest: dict[str, Answer] = {
        "documents__data_card": "no", "documents__paper": "no", "licence__code": "unknown", "licence__data": "unknown",
        "documents__model_card": "partly", "code__configuration": "no",
    }  # fmt: skip
    audit = made(*linked(*OPEN), row("code.configuration", "no", Grade.ABSENT), **rest)
    assert view(audit, "mof").claimed == "class I Open Science"
    assert view(audit, "mof").proven.startswith("undecided; class III Open Model, undecided: Model architecture")
    found = view(made(*linked(*OPEN), row("code.configuration", "no", Grade.ABSENT)), "osaid")
    assert found.claimed == "undecided: settings of training", "they may lie behind the link to the code"
    assert view(made(*linked(*OPEN)), "osaid").claimed == "met"


def test_weights_and_a_report_alone_meet_nothing() -> None:
    ids = ("data.training", "code.training", "code.data", "code.evaluation", "documents.data_card")
    audit = made(*linked("weights.final", "documents.report"), *(row(id, "no", Grade.ABSENT) for id in ids))
    assert view(audit, "osaid").claimed == "not met: no training data, no data-processing code, no training code"
    assert view(audit, "mof").claimed == "none; class III Open Model: no Data card"


def test_data_that_are_told_in_part_are_for_a_person_to_judge() -> None:
    assert view(made(row("data.training", "partly", Grade.LINKED)), "osaid").claimed == "undecided: training data"
    assert view(made(row("data.training", "no", Grade.CLAIMED)), "osaid").claimed == "not met: no training data"


def test_a_licence_is_asked_of_what_is_here() -> None:
    assert view(made(licence__code="no"), "osaid").claimed.startswith("not met: no data-processing code, no training")
    assert view(made(licence__code="unknown"), "osaid").claimed.startswith("undecided: ")
    code = ("code.architecture", "code.training", "code.inference", "code.data")
    assert view(made(*linked(*code), licence__code="no"), "osaid").claimed == "met"
    assert view(made(licence__weights="no"), "osaid").claimed == "not met: no open licence of the parameters"


def test_not_applicable_is_no_yes_but_of_a_licence() -> None:
    assert entry(view(made(documents__model_card="not applicable"), "mof"), "Model card")[0] == "unknown"
    assert view(made(licence__documents="not applicable"), "mof").claimed == "class I Open Science"


def test_the_index_counts_what_is_undecided_and_exports_no_class() -> None:
    audit = made(documents__paper="unknown", licence__weights="unknown", code__training="no")
    assert view(audit, "osai").claimed == "9 of 12, 2 undecided"
    content = yaml.safe_load(as_european_index(audit))
    assert content["trainingcode"]["class"] == "closed"
    assert content["paper"]["class"] is None
    assert content["paper"]["notes"].startswith("unknown: ")


def test_a_gate_halves_the_weights() -> None:
    assert entry(view(made(barriers__access="no"), "plain"), "weights") == ("partly", "partly")
    gated = made(*linked("weights.final"), barriers__access="no")
    assert entry(view(gated, "osai"), "weights_basemodel") == ("partly", "unknown")


def test_hours_tell_of_the_hardware_in_part() -> None:
    def hardware(*facts: ComputeFact) -> tuple[Answer, Answer]:
        none = row("cost.devices", "not applicable", Grade.ABSENT)
        audit = made(row("cost.compute", "unknown", Grade.CLAIMED, *facts), none)
        return entry(view(audit, "osai"), "hardware_architecture")

    assert hardware(ComputeFact(operations=None, hours=1e6)) == ("partly", "unknown")
    assert hardware(ComputeFact(operations=1e24, hours=None)) == ("unknown", "unknown")
    assert hardware() == ("unknown", "unknown")


def test_a_linked_report_counts_as_claimed_and_a_linked_data_set_has_its_own_card() -> None:
    found = view(made(*linked("documents.report"), documents__paper="no", licence__documents="no"), "mof")
    assert entry(found, "Technical report") == entry(found, "Research paper") == ("yes", "unknown")
    found = view(made(*linked("data.training"), row("documents.data_card", "no", Grade.ABSENT)), "mof")
    assert entry(found, "Data card") == ("yes", "unknown")


def test_a_systemic_risk_is_never_exempt() -> None:
    rest: dict[str, Answer] = {"documents__copyright_policy": "yes", "documents__data_summary": "unknown"}
    assert view(made(cost__threshold="yes", **rest), "ai-act").claimed.startswith(
        "exempt from 53(1)(a) and (b); undecided: 53(1)(d)"
    )
    assert view(made(cost__threshold="no", **rest), "ai-act").proven.startswith("not exempt")
    assert "unless training took 10^25" in view(made(cost__threshold="unknown", **rest), "ai-act").claimed
    assert view(made(licence__freedom="unknown"), "ai-act").claimed.startswith("undecided whether exempt")
    assert "; no 53(1)(c) copyright policy" in view(made(documents__copyright_policy="no"), "ai-act").claimed


@pytest.mark.parametrize(
    ("grade", "answer", "facts", "expected"),
    [
        (Grade.PRESENT, "partly", (SummaryFact({"2.4 user data": "None."}),), ("yes", "yes")),
        (Grade.PRESENT, "partly", (SummaryFact({"1.1 provider": "Us"}),), ("no", "no")),
        (Grade.LINKED, "yes", (), ("unknown", "unknown")),
        (Grade.ABSENT, "no", (), ("no", "no")),
    ],
)
def test_a_field_is_filled_or_not_and_open_where_the_summary_was_not_read(
    grade: Grade, answer: Answer, facts: tuple[SummaryFact, ...], expected: tuple[Answer, Answer]
) -> None:
    audit = made(row("documents.data_summary", answer, grade, *facts))
    assert entry(view(audit, "ai-act"), "2.4 user data") == expected


def test_an_empty_release_meets_nothing_and_a_view_is_json(tmp_path: Path) -> None:
    from tests.releases import audited

    (tmp_path / "README.md").write_text("# Foo\n\nFoo is a language model.\n")
    for each in views(audited(tmp_path)):
        assert "met" not in each.claimed.split() or "not met" in each.claimed
        assert {"id", "name", "claimed", "proven", "entries", "source", "date"} == set(each.as_json())
