"""What is owed to the licence of a base model."""

from __future__ import annotations

import pytest

from clearseek.licences import LICENCES, duties, lookup, naming_problem
from clearseek.licences.table import Licence
from clearseek.licences.upstream import BASES, licence_of


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
    assert [duty.check for duty in duties(row("mit"))] == ["copy"]
    assert duties(row("cc0-1.0")) == () == duties(row("0bsd"))


def test_duties_are_about_rows_of_the_table() -> None:
    for licence in LICENCES:
        owed = duties(licence)
        checks = {duty.check for duty in owed}
        assert ("shown" in checks, "name-prefix" in checks) == (bool(licence.shown), bool(licence.name_prefix)), (
            licence.id
        )


@pytest.mark.parametrize(
    ("base", "licence"),
    [
        ("meta-llama/Llama-3.1-8B", "Llama-3.1"), ("meta-llama/Meta-Llama-3-8B-Instruct", "Llama-3"),
        ("meta-llama/Llama-2-7b-hf", "Llama-2"), ("Llama-3.3-70B-Instruct", "Llama-3.3"),
        ("meta-llama/Llama-4-Scout-17B-16E", "Llama-4"), ("codellama/CodeLlama-7b-hf", "Llama-2"),
        ("NousResearch/Hermes-3-Llama-3.1-8B", "Llama-3.1"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "Llama-3.1"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "Llama-3.3"), ("google/gemma-2-9b-it", "Gemma"),
        ("Qwen/Qwen2.5-3B", "Qwen-Research"), ("Qwen/Qwen2.5-3B-Instruct", "Qwen-Research"),
        ("CohereForAI/c4ai-command-r-v01", "CC-BY-NC-4.0"), ("CohereLabs/aya-expanse-8b", "CC-BY-NC-4.0"),
        ("deepseek-ai/DeepSeek-V3", "DeepSeek-1.0"),
    ],
)  # fmt: skip
def test_known_bases(base: str, licence: str) -> None:
    found = licence_of(base)
    assert found is not None and found.id.removeprefix("LicenseRef-") == licence


@pytest.mark.parametrize(
    "base",
    [
        "openlm-research/open_llama_3b_v2", "openlm-research/open_llama_3b", "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "someone/llama-3b", "someone/llama-160m", "huggyllama/llama-7b", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-32B",
        "Qwen/Qwen2.5-30B", "deepseek-ai/DeepSeek-V3-0324", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "gemma", "",
        "google/gemma-4-9b", "meta-llama/", "someone/not-llama-like",
    ],
)  # fmt: skip
def test_other_names(base: str) -> None:
    assert licence_of(base) is None


def test_every_name_leads_to_a_licence() -> None:
    assert len(BASES) > 8
