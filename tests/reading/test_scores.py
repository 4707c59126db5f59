"""Stated scores against Hugging Face's own writers, and tables that only look like scores."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.errors import UserError
from clearseek.reading.benchmarks import BENCHMARKS, by_data_set, by_label, samples_in
from clearseek.reading.card import Document, read_yaml, read_yaml_list
from clearseek.reading.scores import Score, file_scores, index_scores, table_scores
from clearseek.reading.source import Folder


def in_table(text: str) -> list[tuple[tuple[str, str, str], ...]]:
    groups = table_scores(Document("README.md", text))
    return [tuple((each.benchmark.name, each.model, each.text) for each in group) for group in groups]


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("GSM8K", "GSM8K"), ("GSM8K (EM)", "GSM8K"), ("gsm8k (8-shot, CoT)", "GSM8K"),
        ("AIME 2024 (Pass@1)", "AIME 2024"),
        ("AIME'25", "AIME 2025"), ("AIME24 avg@64", "AIME 2024"), ("GPQA-Diamond", "GPQA Diamond"),
        ("GPQA (Diamond)", "GPQA Diamond"), ("HumanEval (Pass@1)", "HumanEval"), ("HumanEval+", "HumanEval+"),
        ("MATH-500", "MATH-500"), ("MMLU (Acc.)", None), ("MMLU 5-shot", "MMLU"), ("MMLU-Pro", "MMLU-Pro"),
        ("ARC-Challenge", "ARC-Challenge"), ("SWE-bench Verified", "SWE-bench Verified"),
        # other questions, other counts, several sizes of one name
        ("HumanEval-Mul", None), ("MATH", None), ("AIME", None), ("GPQA", None), ("MMLU-Redux", None), ("MMMLU", None),
        ("HumanEval (Pass@10)", None), ("AIME 2024 (cons@64)", None), ("GSM8K (F1)", None), ("ARC", None),
        ("GSM8K and MATH-500", None), ("", None), ("x" * 5000, None), ("(" * 99, None),
    ],
)  # fmt: skip
def test_labels_name_a_benchmark_or_nothing(label: str, name: str | None) -> None:
    found = by_label(label)
    assert (found.name if found else None) == name


def test_sizes_have_sources_and_names_of_their_own() -> None:
    for each in BENCHMARKS:
        assert each.questions > 0 and each.source and by_label(each.name) is each
        assert (
            sum(bool(re.fullmatch(other.names, re.sub(r"[\s_-]", "", each.name.lower()))) for other in BENCHMARKS) == 1
        )
        for id in each.data_sets:
            assert id == id.lower() and by_data_set(*id.split(":")) is each
    assert by_data_set("Idavidrein/gpqa") is None and by_data_set("foo/bar", "gpqa_diamond") is None
    for label, samples in {"avg@64": 64, "pass@1 (avg 16)": 16, "Pass@1": None, "cons@64": None}.items():
        assert samples_in(label) == samples


def test_tables_of_either_direction() -> None:
    across = "| Benchmark | # Shots | Foo-7B | Bar |\n|---|---|---|---|\n| GSM8K (EM) | 8 | 81.6 | **88.3** |\n"
    assert in_table(across) == [(("GSM8K", "Foo-7B", "81.6"), ("GSM8K", "Bar", "88.3"))]
    down = "| Model | Params | AIME 2024 | GPQA |\n|---|---|---|---|\n| Foo-7B | 7 | 55.5 | 49.1 |\n"
    down += "| Bar | 8 | 70.0% | 1 |\n"
    assert in_table(down) == [(("AIME 2024", "Foo-7B", "55.5"), ("AIME 2024", "Bar", "70.0%"))]
    (low,) = table_scores(Document("README.md", "| | Foo | Bar |\n|---|---|---|\n| AIME 2024 | 50.0 | 0.7 |\n"))
    assert [each.value for each in low] == [0.5, pytest.approx(0.007)]  # one scale for all
    shares = "| | Foo | Bar |\n|---|---|---|\n| HumanEval | 0.43 | 0.5 |\n"
    (group,) = table_scores(Document("README.md", shares))
    assert [each.value for each in group] == [0.43, 0.5] and group[0].unit == pytest.approx(0.01)
    assert len(in_table(f"{down}\n{'text' + chr(10) * 20}\n{down}")) == 2


@pytest.mark.parametrize(
    "row",
    ["| GSM8K | 1319 |", "| GSM8K | 7B |", "| GSM8K | - |", "| GSM8K | ~80 |", "| GSM8K | 81.6 / 3 |", "| GSM8K | 1 |"],
)
def test_figures_that_are_no_scores(row: str) -> None:
    assert in_table(f"| Benchmark | Foo |\n|---|---|\n{row}\n") == []


@pytest.mark.parametrize("column", ["# Shots", "Δ", "Questions: 1319 tokens", "Random", "61.2", "Std", "F1", ""])
def test_columns_that_are_no_model(column: str) -> None:
    assert in_table(f"| Benchmark | {column} |\n|---|---|\n| GSM8K | 81.6 |\n") == []


def test_counts_of_right_answers() -> None:
    def can(text: str, questions: int, samples: int = 1) -> bool:
        label = next(each.name for each in BENCHMARKS if each.questions == questions and not each.averaged)
        (group,) = table_scores(Document("README.md", f"| | Foo |\n|---|---|\n| {label} | {text} |\n"))
        return bool(group[0].counts(samples))

    for n in (30, 164, 500):
        for k in range(n // 50 + 2, n):
            share = 100 * k / n
            cut = f"{int(share * 10 + 1e-9) / 10:.1f}"
            assert can(f"{share:.1f}", n) and can(f"{share:.2f}", n) and can(cut, n), (k, n)
    assert not can("97.3", 500) and not can("55.5", 30) and not can("7.1", 30) and can("6.7", 30)
    assert can("55.5", 30, 64) and can("79.8", 30, 64)


def test_hugging_faces_own_model_index_is_read(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    results = [
        hub.EvalResult("text-generation", "openai/gsm8k", "GSM8K", "accuracy", 81.65, dataset_split="test"),
        hub.EvalResult("text-generation", "ai2_arc", "ARC", "acc_norm", 0.6459, dataset_config="ARC-Challenge"),
        hub.EvalResult("text-generation", "openai/gsm8k", "GSM8K", "f1", 0.5),
        hub.EvalResult("text-generation", "foo/bar", "Bar", "accuracy", 0.5),
        hub.EvalResult("text-generation", "cais/mmlu", "MMLU", "accuracy", 1.0),
    ]
    metadata = yaml.safe_load(hub.ModelCardData(model_name="Foo", eval_results=results).to_yaml())
    document = Document("README.md", "---\nmodel-index:\n---\n")
    found = list(index_scores(metadata, document))
    assert [(each.benchmark.name, each.value) for each in found] == [
        ("GSM8K", pytest.approx(0.8165)), ("ARC-Challenge", pytest.approx(0.6459)),
    ]  # fmt: skip
    assert found[0].evidence.where == "line 2" and not found[0].token


def test_hugging_faces_own_eval_results_are_read(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    entries = [
        hub.EvalResultEntry("Idavidrein/gpqa", "gpqa_diamond", 0.412, verify_token="abc"),
        hub.EvalResultEntry("MathArena/aime_2025", "default", 63.3, notes="avg@64"),
        hub.EvalResultEntry("cais/hle", "default", 20.9),
        hub.EvalResultEntry("openai/gsm8k", "gsm8k", {"accuracy": 3}),
    ]
    folder = tmp_path / ".eval_results"
    folder.mkdir()
    (folder / "all.yaml").write_text(yaml.dump(hub.eval_result_entries_to_yaml(entries)))
    for name, text in {
        "mapping.yaml": "a: b", "broken.yml": "- {", "bomb.yaml": "- &a [x]\n- *a",
        "words.yaml": "- dataset: gsm8k\n- 3", "long.yaml": "# " + "x" * 300_000,
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    found = list(file_scores(Folder(tmp_path)))
    assert [(each.benchmark.name, each.value, each.samples, each.token) for each in found] == [
        ("GPQA Diamond", pytest.approx(0.412), None, True), ("AIME 2025", pytest.approx(0.633), 64, False),
    ]  # fmt: skip


WORDS = st.sampled_from(["openai/gsm8k", "accuracy", "0.5", "GSM8K"])
KEYS = st.sampled_from(["results", "dataset", "metrics", "type", "value", "name", "args", "config", "verifyToken"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner),
    max_leaves=30,
)
CELLS = ["GSM8K", "AIME 2024", "Foo", "70.0", "0.5", "1", "", "100%", "999.9", "½", "٣", "(", "avg@64", "|", "\n"]


@given(JSON)
@settings(max_examples=150, deadline=None)
def test_any_metadata_is_read_or_left(index: object) -> None:
    for each in index_scores({"model-index": index}, Document("README.md", "---\n---\n")):
        assert isinstance(each, Score) and 0 <= each.value <= 1


@given(st.lists(st.lists(st.sampled_from(CELLS), max_size=5), max_size=6))
@settings(max_examples=150, deadline=None)
def test_any_table_is_read_or_left(rows: list[list[str]]) -> None:
    text = "| a | b | c |\n|---|---|---|\n" + "\n".join("|".join(["", *row, ""]) for row in rows)
    for group in table_scores(Document("README.md", text)):
        assert all(0 <= each.value <= 1 and each.unit > 0 for each in group)


def test_lists_of_yaml() -> None:
    assert read_yaml_list("- a: 1\n- 2", "x") == [{"a": 1}, 2]
    for text in ("a: 1", "", "- {", "- &a 1\n- *a"):
        with pytest.raises(UserError, match=r"^x"):
            read_yaml_list(text, "x")


@pytest.mark.parametrize("number", ["0x" + "f" * 5000, "0b" + "1" * 99999, "9" * 5000])
def test_a_number_that_nobody_can_write_out(number: str) -> None:
    """Python writes no whole number of more than 4,300 digits, and YAML has hexadecimal ones."""
    for text in (f"- value: {number}", f"- {{{number}: 1}}", f"- [{number}]"):
        with pytest.raises(UserError, match="not valid YAML"):
            read_yaml_list(text, "a file")
    with pytest.raises(UserError, match="not valid YAML"):
        read_yaml(f"{number}: 1", "a file")
