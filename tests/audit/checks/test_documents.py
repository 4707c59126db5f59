"""Documents: what is named like one counts if something stands in it, in whatever language and form of table."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from clearseek.audit.checks import code, data, documents
from clearseek.audit.evidence import Grade
from clearseek.reading.source import Folder
from clearseek.reading.subject import Subject
from tests.releases import audited

WORDS = (
    "This report describes how the model was trained, on which data, and how it was evaluated. Its architecture is a "
    "transformer with attention in every layer and experts chosen for each token; parameters, learning rates, batch "
    "sizes and schedules are given below, together with ablations, failures that we met, hardware used, energy drawn "
    "and questions left open. We thank everybody who read drafts, ran baselines or collected texts from libraries, "
    "newspapers, encyclopedias and mailing lists under licences permitting redistribution."
)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("data_card.md", "documents.data_card"),
        ("report.pdf", "documents.report"),
        ("results/r.json", "documents.evaluation"),
        ("opt-out.md", "documents.copyright_policy"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"  \n", b"{}"])
def test_a_file_that_holds_nothing_is_named_and_is_none(release: Path, name: str, row: str, content: bytes) -> None:
    (release / "README.md").write_text("# x\n")
    (release / name).parent.mkdir(exist_ok=True)
    (release / name).write_bytes(content)
    found = audited(release)[row]
    assert (found.answer, found.grade) == ("no", Grade.CLAIMED)
    assert f"named like one and holds nothing: {name}" in found.reason


@pytest.mark.parametrize(
    ("name", "content", "row"),
    [
        ("datasheet.png", b"\x89PNG" + bytes(20_000), "documents.data_card"),
        ("weather-report.md", b"sunny", "documents.report"),
        ("weather-report.md", b"sunny and warm " * 100, "documents.report"),
        ("report.pdf", b"%PDF-1.7 " + bytes(500), "documents.report"),
        ("report.pdf", b"PK" + bytes(20_000), "documents.report"),
        ("plots/model_paper.pdf", b"%PDF-1.7 " + bytes(20_000), "documents.report"),
        ("src/opt-out.py", b"copyright = 1", "documents.copyright_policy"),
    ],
)
def test_other_things_of_the_same_name_are_none(release: Path, name: str, content: bytes, row: str) -> None:
    (release / name).parent.mkdir(exist_ok=True)
    (release / name).write_bytes(content)
    assert audited(release)[row].answer == "no"


@pytest.mark.parametrize(
    ("name", "content", "row"),
    [
        ("report.pdf", b"%PDF-1.7 " + bytes(20_000), "documents.report"),
        ("technical_report.md", WORDS.encode(), "documents.report"),
        ("data_card.md", WORDS.encode(), "documents.data_card"),
        ("croissant.json", json.dumps({"@type": "sc:Dataset"}).encode(), "documents.data_card"),
        ("results/r.json", b'{"mmlu": 0.5}', "documents.evaluation"),
        ("results/r.csv", b"task,accuracy\nmmlu,0.5\n", "documents.evaluation"),
        ("opt-out.md", WORDS.encode(), "documents.copyright_policy"),
    ],
)
def test_what_is_what_it_is_called_is_there(release: Path, name: str, content: bytes, row: str) -> None:
    (release / name).parent.mkdir(exist_ok=True)
    (release / name).write_bytes(content)
    found = audited(release)[row]
    assert (found.answer, found.grade) == ("yes", Grade.PRESENT)


def test_a_file_that_only_points_elsewhere_is_unknown(release: Path) -> None:
    (release / "report.pdf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert audited(release)["documents.report"].answer == "unknown"


def test_a_card_of_headings_alone_has_no_sections(release: Path) -> None:
    heads = "# Overview\n## Usage\n## Evaluation\n## Training\n## Limitations\n## License\n"
    (release / "README.md").write_text(heads)
    row = audited(release)["documents.model_card"]
    assert row.answer == "partly" and "nothing stands in them" in row.reason
    (release / "README.md").write_text("\n")
    row = audited(release)["documents.model_card"]
    assert (row.answer, row.grade) == ("no", Grade.CLAIMED)


@pytest.mark.parametrize(
    "titles",
    ["模型介绍 使用方法 评测结果 训练数据 局限性 许可证", "模型簡介 使用 評測 訓練 限制 授權",
     "Présentation Utilisation Évaluation Entraînement Limites Licence",
     "Introducción Uso Evaluación Entrenamiento Limitaciones Licencia",
     "Beschreibung Verwendung Auswertung Trainingsdaten Einschränkungen Lizenz"],
)  # fmt: skip
def test_cards_in_other_languages_have_sections(release: Path, titles: str) -> None:
    text = "".join(f"## {title}\n\n{WORDS}\n\n" for title in titles.split())
    (release / "README.md").write_text("# x\n" + text, encoding="utf-8")
    row = audited(release)["documents.model_card"]
    assert row.answer == "yes" and "none on" not in row.reason


def test_scores_in_html_tables_count(release: Path) -> None:
    for table in (
        "<table><tr><td>MMLU</td><td>66.6</td></tr></table>",
        "<table>\n<tr>\n<th>Benchmark</th>\n<th>Tiny</th>\n</tr>\n<tr>\n<td><b>MMLU</b></td>\n<td>\n66.6\n</td>\n</tr>",
    ):
        (release / "README.md").write_text("# x\n" + table + "\n")
        found = audited(release)
        row = found["documents.evaluation"]
        assert (row.answer, row.grade) == ("yes", Grade.CLAIMED)
        assert found["data.evaluation"].reason == "public benchmarks by name: MMLU"


@pytest.mark.parametrize(
    "text",
    ["<td>" * 250_000, "<table><tr>" * 90_000, "<" * 500_000, "<tr " * 250_000,
     ("| " + "a" * 3000 + " | a " + "| 1 " * 200 + "|\n") * 250,
     ("https://arxiv.org/abs/1 https://github.com/a/b " * 80 + "\n") * 250],
)  # fmt: skip
def test_no_card_takes_long(release: Path, text: str) -> None:
    (release / "README.md").write_text("# x\n" + text)
    subject = Subject(Folder(release), "Tiny")
    assert subject.documents[0].headings and subject.claims is not None
    start = time.process_time()
    for check in (code, data, documents):
        list(check.rows(subject))
    assert time.process_time() - start < 20
