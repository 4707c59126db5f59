"""What stated scores carry: never more is denied than no answers at all could give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clearseek.audit.checks.scores import rows
from clearseek.audit.evidence import Row
from clearseek.audit.facts import ScoreFact
from clearseek.evaluate.comparison import mcnemar
from clearseek.evaluate.evaluation import evaluate
from clearseek.evaluate.statistics import exact_interval, wilson_interval
from clearseek.evaluate.tasks import Asking, build
from clearseek.reading.source import Folder
from clearseek.reading.subject import Subject
from clearseek.release.evaluations import Carried
from clearseek.release.scores import as_yaml, model_index
from tests.evaluate.scripted import Scripted, mostly


def row_of(folder: Path, text: str) -> Row:
    (folder / "README.md").write_text(f"# Foo-7B\n\nFoo-7B is a model.\n\n{text}", encoding="utf-8")
    (row,) = rows(Subject(Folder(folder)))
    return row


def table(*figures: str, label: str = "AIME 2024") -> str:
    names = ["Foo-7B", "Bar-7B", "Baz-7B"][: len(figures)]
    return f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}\n| {label} | {' | '.join(figures)} |\n"


def test_one_answer_each_can_be_told_apart_from_six_questions_on() -> None:
    """The bound of the row: with five questions between two models no answers give p <= 0.05."""
    assert min(mcnemar(5 + lost, lost) for lost in range(13)) > 0.05 >= mcnemar(6, 0)


@pytest.mark.parametrize(
    ("figures", "label", "answer"),
    [
        (("50.0", "46.7"), "AIME 2024", "partly"),  # one of 30 questions
        (("80.0", "63.3"), "AIME 2024", "partly"),  # five of 30
        (("80.0", "60.0"), "AIME 2024", "yes"),  # six of 30
        (("7.1", "6.7"), "AIME 2024", "partly"),  # a tenth of a question, of means of several answers
        (("7.1", "6.7"), "AIME 2024 (avg@64)", "partly"),
        (("70.0", "63.0"), "AIME 2024 (avg@64)", "yes"),  # the worked example: 4.6 standard errors
        (("79.8", "72.6"), "AIME 2024", "yes"),  # of how many answers is not stated: two questions may tell
        (("97.2", "96.4"), "MATH-500", "partly"),
        (("97.3", "96.4"), "MATH-500", "yes"),  # 97.3 is of several answers: nothing is denied
        (("81.6", "80.6"), "GSM8K", "yes"),
        (("88.59", "88.58"), "MMLU", "yes"),  # a mean over subjects, and 1.4 questions
        (("50.0", "50.0"), "AIME 2024", "unknown"),  # not ranked
        (("50.0",), "AIME 2024", "unknown"),
        (("50.0", "20.0"), "AIME", "unknown"),  # of no known size
        (("50.0", "46.7"), "Wordle", "not applicable"),
    ],
)
def test_ranks_that_figures_carry(tmp_path: Path, figures: tuple[str, ...], label: str, answer: str) -> None:
    row = row_of(tmp_path, table(*figures, label=label))
    assert row.answer == answer, row.reason
    assert row.answer != "no" and (row.evidence or row.answer in ("unknown", "not applicable"))


def test_a_row_says_which_and_facts_have_intervals(tmp_path: Path) -> None:
    row = row_of(tmp_path, table("50.0", "46.7", "20.0"))
    assert "50.0 against 46.7 on the 30 questions of AIME 2024 (Foo-7B, Bar-7B)" in row.reason
    assert "of 2 pairs next in rank 1 cannot" in row.reason and "Foo-7B's 50.0" in row.reason
    fact = row.facts_of(ScoreFact)[0]
    low, high = exact_interval(15, 30)
    assert (fact.benchmark, fact.questions, fact.model, fact.one_answer) == ("AIME 2024", 30, "Foo-7B", True)
    assert (fact.low, fact.high) == pytest.approx((low, high), abs=1e-4) and fact.file == "README.md"
    several = row_of(tmp_path, table("55.5", "20.0"))
    assert "1 not of one answer to each question" in several.reason and not several.facts_of(ScoreFact)[0].one_answer


def test_our_own_card_says_what_each_score_can_carry(tmp_path: Path) -> None:
    """`model-index` as `clearseek release` writes it, from records of one answer each, and of several."""
    asking, drawn = Asking(60), Asking(20, 4, 1.0)
    tasks = [build(name, asking) for name in ("addition", "copying")]
    evaluate(Scripted(mostly(0.9), "m"), tasks, asking, tmp_path / "one")
    evaluate(Scripted(mostly(0.9), "m"), [build("sums", drawn)], drawn, tmp_path / "several")
    carried = [Carried.read(name, tmp_path / name) for name in ("one", "several")]
    said = [task.scores for each in carried for task in each.index.tasks.values()]
    (tmp_path / "Foo").mkdir()

    def row(**changes: Any) -> Row:
        (index,) = model_index("Foo", carried)
        index["results"][0]["metrics"][0]["args"] |= changes
        text = f"---\n{as_yaml({'model-index': [index]})}---\n# Foo\n\nFoo is a model.\n"
        (tmp_path / "Foo" / "README.md").write_text(text, encoding="utf-8")
        (found,) = rows(Subject(Folder(tmp_path / "Foo")))
        return found

    found = row()
    assert found.answer == "unknown" and found.tells
    low, high = said[0]["sampled"]
    assert (
        f"{100 * said[0]['score']:.1f} % on addition, of 60 questions with one answer each ({100 * low:.1f} to "
        f"{100 * high:.1f} %, Wilson's): another score of fewer than 6 questions (10.0 points) away on them cannot"
    ) in found.reason
    assert "1 more with questions and answers stated" in found.reason and "no count" not in found.reason
    facts = {fact.benchmark: fact for fact in found.facts_of(ScoreFact)}
    assert {name: (fact.questions, fact.samples, fact.missing, fact.method) for name, fact in facts.items()} == {
        "addition": (60, 1, 0, "wilson"), "copying": (60, 1, 0, "wilson"), "sums": (20, 4, 0, "clustered"),
    }  # fmt: skip
    assert [fact.stated_low for fact in facts.values()] == [each["sampled"][0] for each in said]
    assert facts["addition"].one_answer and (facts["addition"].low, facts["addition"].high) == pytest.approx(
        said[0]["exact"], abs=1e-4
    )
    narrow = row(interval=[low + 0.02, high])
    assert narrow.answer == "partly" and "on addition states another interval than its figure and 60" in narrow.reason
    assert row(questions=59).answer == "partly"
    for nothing in ({"questions": True}, {"samples": 0}, {"missing": -1}, {"questions": 10**12}):
        assert "addition" not in row(**nothing).reason, "of no known form: left out"
    for none in ({"interval": [0.9, 0.1]}, {"interval": "x"}, {"method": ["wilson"]}, {"confidence": 0.9}):
        assert "of 60 questions with one answer each: another" in row(**none).reason


def stated(folder: Path, value: object, questions: int, *interval: float) -> Row:
    """The row of a card that states a figure of one answer to each question, with Wilson's interval."""
    args = {
        "questions": questions, "samples": 1, "missing": 0, "confidence": 0.95, "interval": list(interval),
        "method": "wilson",
    }  # fmt: skip
    result = {
        "task": {"type": "text-generation", "name": "Foo"}, "dataset": {"type": "foo", "name": "Foo"},
        "metrics": [{"type": "accuracy", "value": value, "args": args}],
    }  # fmt: skip
    text = as_yaml({"model-index": [{"name": "Foo", "results": [result]}]})
    (folder / "README.md").write_text(f"---\n{text}---\n# Foo\n\nFoo is a model.\n", encoding="utf-8")
    (found,) = rows(Subject(Folder(folder)))
    assert found.tells and found.facts_of(ScoreFact)[0].stated_low == interval[0]
    return found


def test_rounded_figures_and_intervals_are_no_other_ones(tmp_path: Path) -> None:
    for right, questions in ((0, 10), (5, 10), (10, 10), (600, 1319), (1, 30), (49, 50), (33, 60), (1, 10**5)):
        low, high = wilson_interval(right, questions)
        for digits in (3, 4, 6, 17):
            for places in (2, 3, 4, 17):
                share = round(right / questions, digits)
                row = stated(tmp_path, share, questions, round(low, places), round(high, places))
                assert row.answer == "unknown" and "another interval" not in row.reason, (right, digits, places)
        assert stated(tmp_path, int(right / questions * 1e4) / 1e4, questions, low, high).answer == "unknown", "cut off"


@pytest.mark.parametrize(
    ("value", "questions", "interval"),
    [
        (0.6, 10, wilson_interval(5, 10)),
        (0.5, 10, wilson_interval(6, 10)),
        (0.5, 10, (0.2467, 0.7634)),  # a hundredth off, in one end
        (0.5, 10, (0.2366, 0.7624)),
        (0.4549, 1319, wilson_interval(601, 1319)),
        (0.4549, 1319, (0.429, 0.4819)),  # 0.4282 rounds to 0.428
        (600 / 1319, 1319, wilson_interval(600, 1300)),
        (1, 10, wilson_interval(9, 10)),
        (0, 60, wilson_interval(30, 60)),
        (0.55, 10, wilson_interval(5, 10)),  # of no count
        (0.5, 10**8, (0.4, 0.6)),
    ],
)
def test_another_interval_than_the_figures_is_named(
    tmp_path: Path, value: float, questions: int, interval: tuple[float, float]
) -> None:
    row = stated(tmp_path, value, questions, *interval)
    assert row.answer == "partly"
    assert f" % on Foo states another interval than its figure and {questions:,} questions give" in row.reason


def test_a_figure_in_all_its_digits_is_a_count(tmp_path: Path) -> None:
    """600 of 1,319 as a float: found to be of several answers, for its last digit was taken for exact."""
    (tmp_path / "README.md").write_text(
        "---\nmodel-index:\n- name: Foo\n  results:\n  - dataset: {type: openai/gsm8k, name: GSM8K}\n"
        f"    metrics: [{{type: accuracy, value: {600 / 1319!r}}}]\n---\n# Foo\n\nFoo is a model.\n", encoding="utf-8"
    )  # fmt: skip
    (found,) = rows(Subject(Folder(tmp_path)))
    assert found.facts_of(ScoreFact)[0].one_answer and "not of one answer" not in found.reason


def test_results_in_files_are_shown_with_their_token(tmp_path: Path) -> None:
    (tmp_path / ".eval_results").mkdir()
    entry = "- dataset:\n    id: Idavidrein/gpqa\n    task_id: gpqa_diamond\n  value: 41.9\n  verifyToken: abc\n"
    (tmp_path / ".eval_results" / "gpqa.yaml").write_text(entry)
    row = row_of(tmp_path, "Text.")
    assert row.answer == "unknown" and row.tells and "41.9 on GPQA Diamond" in row.reason
    assert "1 with a verifyToken, which only Hugging Face can check" in row.reason
