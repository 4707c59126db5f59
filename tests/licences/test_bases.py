"""Which bases are known to ask something, and which names only look like theirs."""

from __future__ import annotations

import pytest

from clearseek.licences.bases import BASES, licence_of


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
