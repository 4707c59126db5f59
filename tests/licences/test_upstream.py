"""What is owed to the licence of a base model."""

from __future__ import annotations

import pytest

from clearseek.licences import LICENCES, duties, lookup, naming_problem
from clearseek.licences.table import Licence


def row(name: str) -> Licence:
    found = lookup(name)
    assert found is not None
    return found


def test_a_distilled_llama_must_be_called_llama() -> None:
    problem = naming_problem("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", row("llama3.1"))
    assert problem is not None and "begin with “Llama”" in problem and "DeepSeek-R1-Distill-Llama-8B" in problem
    assert naming_problem("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", row("llama3.3")) is not None
    assert naming_problem("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", row("apache-2.0")) is None


@pytest.mark.parametrize(
    ("name", "base", "good"),
    [
        ("meta-llama/Llama-3.1-8B", "llama3.1", True),
        ("llama-tutor", "llama3.1", True),
        ("org/Llama3-Med", "llama3", True),
        ("org/Llama_3_Med", "llama3", True),
        ("org/Llama-Med-3", "llama3", False),
        ("org/Llama-Med-3", "llama3.2", True),
        ("llama/Med", "llama3.2", False),
        ("org/Med-Llama/", "llama4", False),
        ("anything", "llama2", True),
        ("EXAONE-tuned", "exaone", True),
        ("tuned-EXAONE", "exaone", False),
        ("", "llama3.1", False),
    ],
)
def test_names(name: str, base: str, good: bool) -> None:
    assert (naming_problem(name, row(base)) is None) is good


def test_llama_duties() -> None:
    owed = {duty.check: duty for duty in duties(row("llama3.1"))}
    assert set(owed) == {"copy", "notice", "shown", "name-prefix"}
    assert owed["shown"].value == "Built with Llama" and owed["name-prefix"].value == "Llama"
    assert owed["notice"].value.startswith("Llama 3.1 is licensed under the Llama 3.1 Community License")
    three = {duty.check: duty.value for duty in duties(row("llama3"))}
    assert three["shown"] == "Built with Meta Llama 3" and three["name-prefix"] == "Llama 3"
    assert {duty.check for duty in duties(row("llama2"))} == {"copy", "notice"}


def test_restrictions_are_passed_on_and_copyleft_is_kept() -> None:
    deepseek = {duty.check for duty in duties(row("deepseek"))}
    assert deepseek == {"copy", "changes-marked", "restrictions-passed-on"}
    assert "licence-kept" in {duty.check for duty in duties(row("gpl-3.0"))}
    assert [duty.id for duty in duties(row("mit"))] == ["copy"]
    assert duties(row("cc0-1.0")) == () == duties(row("0bsd"))


def test_duties_are_about_rows_of_the_table() -> None:
    for licence in LICENCES:
        owed = duties(licence)
        assert len({duty.id for duty in owed}) == len(owed)
        checks = {duty.check for duty in owed}
        assert ("shown" in checks, "name-prefix" in checks) == (bool(licence.shown), bool(licence.name_prefix)), (
            licence.id
        )
