"""What is owed to a base: looked for in files and names, and told apart from what was not looked for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from clearseek.audit.audit import audit_release
from clearseek.audit.checks.lineage import MOST_MODELS, derived_models
from clearseek.audit.evidence import Grade, Row
from clearseek.licences.table import LICENCES
from clearseek.reading.source import Folder
from clearseek.reading.subject import Subject
from tests.licences.examples import LLAMA_3_1, MIT, published
from tests.releases import audited

AGREEMENT = LLAMA_3_1 + "\nAnd so on, as the agreement says." * 100


def upstream(folder: Path, base: str, tag: str = "mit", name: str = "Llama-Tiny", **files: str) -> Row:
    (folder / "README.md").write_text(f"---\nlicense: {tag}\nbase_model: {base}\n---\n# Tiny\n\nBuilt with Llama\n")
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    return audited(folder, name)["licence.upstream"]


def test_a_llama_with_all_that_it_owes(tmp_path: Path) -> None:
    notice = {each.id: each for each in LICENCES}["LicenseRef-Llama-3.1"].notice_text.replace("©", "(c)")
    base = "meta-llama/Llama-3.1-8B"
    row = upstream(tmp_path, base, "llama3.1", LICENSE=AGREEMENT, NOTICE=notice)
    assert (row.answer, row.grade) == ("yes", Grade.PRESENT) and "by their title" in row.reason
    assert "must begin" in upstream(tmp_path, base, "llama3.1", "Tiny").reason
    (tmp_path / "NOTICE").write_text("Thanks to all.")
    row = upstream(tmp_path, base, "llama3.1")
    assert row.answer == "no" and "a NOTICE must say" in row.reason
    row = upstream(tmp_path, base, "llama3.1", LICENSE=LLAMA_3_1.split("“Llama Materials”")[0] + "Llama Materials",
                   NOTICE=notice)  # fmt: skip
    assert row.answer == "no" and "a few words" in row.reason


@pytest.mark.parametrize(
    ("base", "why"),
    [
        ("Qwen/Qwen2.5-3B", "may not be used for commerce, and this is under MIT"),
        ("CohereForAI/c4ai-command-r-v01", "may not be used for commerce, and this is under MIT"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "Llama 3.1 Community License"),
        ("deepseek-ai/DeepSeek-V3", "restrictions must be passed on, and it is under MIT"),
    ],
)
def test_a_new_licence_does_not_undo_the_bases(tmp_path: Path, base: str, why: str) -> None:
    for files in ({}, {"LICENSE": MIT}):
        row = upstream(tmp_path, base, **files)
        assert row.answer == "no" and why in row.reason


def test_what_cannot_be_told_is_named(tmp_path: Path) -> None:
    row = upstream(tmp_path, "deepseek-ai/DeepSeek-V3", "deepseek", LICENSE=published("deepseek-v3/LICENSE-MODEL"))
    assert row.answer == "unknown" and "not checked: whether changed files say so" in row.reason
    (tmp_path / "LICENSE").unlink()
    row = upstream(tmp_path, "CohereForAI/aya-23-8B", "cc-by-nc-4.0")
    assert row.answer == "unknown" and "not checked: whether credit is given" in row.reason


def test_an_owner_owes_himself_nothing(tmp_path: Path) -> None:
    row = upstream(tmp_path, "meta-llama/Llama-3.1-8B", "llama3.1")
    assert row.answer == "no"
    source = Folder(tmp_path)
    source.name = "meta-llama/Llama-3.1-8B-Instruct"
    assert audit_release(source)["licence.upstream"].answer == "not applicable"


def test_an_open_reproduction_is_no_llama(tmp_path: Path) -> None:
    row = upstream(tmp_path, "openlm-research/open_llama_3b_v2", "apache-2.0", "Tiny")
    assert row.answer == "unknown" and "none of them is known" in row.reason


def test_very_many_bases_take_no_time(tmp_path: Path) -> None:
    names = "\n".join(f"- someone/model-{number}" for number in range(5_000))
    (tmp_path / "README.md").write_text(f"---\nbase_model:\n{names}\n---\n# Tiny\n")
    subject = Subject(Folder(tmp_path))
    assert subject.metadata.value is not None
    begun = time.process_time()
    derived = derived_models(subject)
    assert time.process_time() - begun < 20
    assert len(derived) == MOST_MODELS and derived[7].evidence.where == "line 10, key base_model"
    assert derived_models(subject) is derived
