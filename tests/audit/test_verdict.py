"""The answer of an audit: from answers, grades and facts; what could not be told is never held against a release."""

from __future__ import annotations

import json
from itertools import product
from typing import Any, get_args

import pytest

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Audit, Grade, Question, Row
from clearseek.audit.facts import ComputeFact, Fact, LicenceFact, MemoryFact, RestrictionFact
from clearseek.audit.questions import QUESTIONS
from clearseek.audit.verdict import COMPARISONS, RESTRICTIONS, verdict
from clearseek.reading.evidence import Evidence

MIT = LicenceFact("MIT", "MIT", "LICENSE")
PARTS = (ask.WEIGHTS_FINAL, ask.LICENCE_WEIGHTS, ask.DATA_TRAINING, ask.CODE_TRAINING)


def row(question: Question, answer: Answer, grade: Grade = Grade.PRESENT, *facts: Fact, quote: str = "") -> Row:
    return question.answer(answer, grade, "REASON", Evidence("README.md", "line 1", quote), facts=facts)


def told(*rows: Row, **facts: Any) -> str:
    return verdict(Audit("x", rows, {"name": "Foo", **facts})).sentence


def release(**answers: Row) -> tuple[Row, ...]:
    """Rows of a release of which everything is here under MIT; `answers` are others, by names of questions."""
    everything = {"WEIGHTS_FINAL": (), "LICENCE_WEIGHTS": (MIT,), "DATA_TRAINING": (), "CODE_TRAINING": (),
                  "LICENCE_DATA": (), "LICENCE_CODE": ()}  # fmt: skip
    rows = {name: row(getattr(ask, name), "yes", Grade.PRESENT, *facts) for name, facts in everything.items()}
    return tuple((rows | answers).values())


def test_an_open_release_is_called_open_source() -> None:
    assert told(*release()) == (
        "open weights under MIT; open source: weights, data and training code are here under open licences"
    )
    linked = release(DATA_TRAINING=row(ask.DATA_TRAINING, "yes", Grade.LINKED, quote="https://x"))
    assert told(*linked) == "open weights under MIT; open source as far as its links hold: data linked and not read"


def test_open_weights_alone_are_not_open_source() -> None:
    without = release(
        DATA_TRAINING=row(ask.DATA_TRAINING, "no", Grade.ABSENT),
        CODE_TRAINING=row(ask.CODE_TRAINING, "no", Grade.ABSENT),
    )
    assert told(*without) == "open weights under MIT; not open source: no data, no training code"


@pytest.mark.parametrize("flag", RESTRICTIONS)
def test_a_restricted_licence_is_named_so_with_what_it_restricts_and_its_clause(flag: str) -> None:
    clause = RestrictionFact(flag, "Whoever has many monthly users must ask.", "LICENSE", 3)
    restricted = row(ask.LICENCE_WEIGHTS, "no", Grade.PRESENT, MIT, clause)
    found = verdict(Audit("x", release(LICENCE_WEIGHTS=restricted), {"name": "Foo"}))
    assert found.sentence == (
        f"open weights under a restricted licence ({RESTRICTIONS[flag]}); "
        "not open source: no open licence for the weights"
    )
    assert f"not open: {RESTRICTIONS[flag]}: “Whoever has many monthly users must ask”" in found.lines[0].text
    assert "monthly users" in found.licence


def test_the_worst_restriction_comes_first_and_only_one_of_each_kind() -> None:
    clauses = [RestrictionFact("field_of_use", each, "LICENSE", 1) for each in ("war", "spying")]
    clauses += [RestrictionFact("non_commercial", "no trade", "LICENSE", 9)]
    found = verdict(Audit("x", release(LICENCE_WEIGHTS=row(ask.LICENCE_WEIGHTS, "no", Grade.PRESENT, *clauses)), {}))
    assert "(no commercial use, rules out some uses)" in found.sentence
    assert (
        "no commercial use: “no trade”; rules out some uses: “war”" in found.licence and "spying" not in found.licence
    )


def test_a_country_that_is_shut_out_is_told_wherever_it_stands() -> None:
    shut = row(ask.BARRIERS_GEOGRAPHY, "no", Grade.PRESENT, quote="not in the European Union")
    licence = row(ask.LICENCE_WEIGHTS, "no", Grade.PRESENT, LicenceFact("Foo Terms", file="LICENSE"))
    found = verdict(Audit("x", (*release(LICENCE_WEIGHTS=licence), shut), {}))
    assert "leaves countries out" in found.sentence and "European Union" in found.licence


def test_what_could_not_be_told_is_never_held_against_a_release() -> None:
    for answers in product(get_args(Answer), repeat=4):
        given = [row(question, answer) for question, answer in zip(PARTS, answers, strict=True)]
        licences = [row(ask.LICENCE_DATA, "yes"), row(ask.LICENCE_CODE, "yes")]
        sentence = told(*given, *licences)
        denied = {question.id for question, answer in zip(PARTS, answers, strict=True) if answer in ("no", "partly")}
        if not denied:
            assert not [word for word in ("not open", "no data", "no training", "restricted") if word in sentence], (
                sentence
            )
        if "unknown" in answers and not denied:
            assert "could not be" in sentence
        if answers[2] != "no":
            assert "no data" not in sentence
        if answers[3] != "no":
            assert "no training code" not in sentence
        if set(answers) == {"yes"}:
            assert "; open source: " in sentence
        else:
            assert "; open source: " not in sentence


def test_a_release_of_nothing_of_code_alone_and_of_data_alone() -> None:
    absent = {
        name: row(getattr(ask, name), "no", Grade.ABSENT)
        for name in ("WEIGHTS_FINAL", "DATA_TRAINING", "CODE_TRAINING")
    }
    assert told(*release(**absent)) == (
        "nothing that makes a model open source was found here: no weights, no data, no training code"
    )
    only = {name: each for name, each in absent.items() if name != "CODE_TRAINING"}
    assert told(*release(**only)) == "training code without weights; not open source: no weights, no data"
    only = {name: each for name, each in absent.items() if name != "DATA_TRAINING"}
    assert told(*release(**only)) == "data without weights; not open source: no weights, no training code"


def test_sources_that_name_different_licences_are_in_the_sentence() -> None:
    differ = row(ask.LICENCE_AGREEMENT, "no", Grade.PRESENT)
    assert told(*release(), differ).startswith("open weights under MIT (card and licence do not agree); ")


def test_a_gate_and_a_part_are_said() -> None:
    gate = row(ask.BARRIERS_ACCESS, "no", Grade.CLAIMED)
    assert told(*release(), gate).startswith("weights behind a gate, under MIT; ")
    part = release(WEIGHTS_FINAL=row(ask.WEIGHTS_FINAL, "partly"), DATA_TRAINING=row(ask.DATA_TRAINING, "partly"))
    assert told(*part) == (
        "only a part of the weights under MIT; open source in part: only a part of the weights, only a part of the data"
    )


def test_a_licence_of_code_that_is_absent_decides_nothing_and_code_elsewhere_has_its_own() -> None:
    bare, closed = row(ask.LICENCE_CODE, "no", Grade.ABSENT), row(ask.LICENCE_CODE, "no")
    assert told(*release(LICENCE_CODE=closed)).endswith("; not open source: no open licence for the training code")
    assert told(*release(LICENCE_CODE=bare)).endswith("could not be told: the licence of the training code")
    linked = row(ask.CODE_TRAINING, "yes", Grade.LINKED, quote="https://x")
    assert "; open source as far" in told(*release(LICENCE_CODE=bare, CODE_TRAINING=linked))


def test_lines_tell_where_a_thing_is_by_grade() -> None:
    quoted = {
        row(ask.DATA_TRAINING, "yes", Grade.LINKED, quote="https://data"): "linked and not read: https://data",
        row(ask.DATA_TRAINING, "yes", Grade.CHECKED): "here: README.md",
        row(ask.DATA_TRAINING, "yes", Grade.CLAIMED): "claimed, without a place to get it",
        row(ask.DATA_TRAINING, "no", Grade.ABSENT, quote="books"): "none found; described only, in README.md: “books”",
        row(ask.DATA_TRAINING, "unknown"): "could not be told: REASON",
        row(ask.DATA_TRAINING, "partly", Grade.LINKED, quote="https://data"):
            "in part: linked and not read: https://data; REASON",
    }  # fmt: skip
    for given, text in quoted.items():
        line = verdict(Audit("x", (given,), {})).lines[1]
        assert (line.label, line.text, line.look) == ("data", text, given.answer)


@pytest.mark.parametrize(
    ("operations", "answer", "words"),
    [(3e22, "yes", "below 10^23"), (3.3e24, "yes", "3.3 x 10^24 operations, above 10^23"),
     (2e25, "no", "above 10^25"), (2e25, "unknown", "perhaps above 10^25")],
)  # fmt: skip
def test_what_it_takes_is_told_with_the_thresholds(operations: float, answer: Answer, words: str) -> None:
    counted = row(ask.COST_THRESHOLD, answer, Grade.CHECKED, ComputeFact(operations, None))
    held = row(ask.BARRIERS_HARDWARE, "no", Grade.CHECKED, MemoryFact(688_000_000_000, 10))
    line = verdict(Audit("x", (counted, held), {})).lines[4]
    assert "10 GPUs of 80 GB hold the 688.0 GB of weights" in line.text and words in line.text


def test_rows_that_refute_the_release_are_its_contradictions() -> None:
    wrong, fine = row(ask.PARAMETERS_TOTAL, "no", Grade.CLAIMED), row(ask.LICENCE_AGREEMENT, "yes", Grade.CHECKED)
    line = verdict(Audit("x", (wrong, fine), {})).lines[5]
    assert line.text == "REASON" and line.rows == ("parameters.total",) and line.look == "no"
    assert verdict(Audit("x", (fine,), {})).lines[5].text == "none in 1 comparison"
    several = row(ask.CONTEXT_LENGTH, "partly", Grade.CLAIMED)  # a length that is computed and one that was tested
    assert verdict(Audit("x", (several,), {})).lines[5].look == "yes"
    assert verdict(Audit("x", (row(ask.PARAMETERS_TOTAL, "unknown"),), {})).lines[5].look is None
    assert set(COMPARISONS) <= {each.id for each in QUESTIONS}


def test_where_several_models_could_be_meant_the_choice_is_told() -> None:
    found = verdict(Audit("x", release(), {"name": "Foo", "name_from": "a link", "siblings": ["Foo-Base"]}))
    assert found.choice == "taken for Foo, by a link; it could also be Foo-Base: choose with --name"
    assert found.as_json()["choice"] == found.choice
    assert "choice" not in verdict(Audit("x", release(), {"name": "Foo"})).as_json()


def test_the_json_form_has_a_key_for_each_line() -> None:
    content = verdict(Audit("x", release(), {"name": "Foo"})).as_json()
    assert list(content) == ["model", "sentence", "licence", "weights", "data", "training_code", "report",
                             "in_practice", "contradictions"]  # fmt: skip
    assert json.loads(json.dumps(content)) == content
