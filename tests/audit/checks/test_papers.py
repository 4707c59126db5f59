"""Whose paper it is that a card names: the words next to it, its row and its title decide."""

from __future__ import annotations

from pathlib import Path

import pytest

from clearseek.audit.checks.papers import own_papers, papers
from clearseek.reading.source import Folder
from clearseek.reading.subject import Subject

A = "https://arxiv.org/abs/2304.00001"
HUB = "[Weights](https://huggingface.co/foolab/Foo)"


def of_card(folder: Path, text: str) -> Subject:
    (folder / "README.md").write_text("# Foo\n\n" + text, encoding="utf-8")
    return Subject(Folder(folder))


@pytest.mark.parametrize(
    "text",
    [
        f"Paper: {A}\n\nFoo is a model.",
        f"📄 [Stirring at scale]({A}) | 🤗 {HUB}\n\nFoo is a model.",
        f"This is the official repository of [Stirring at scale]({A}).",
        f"| | |\n|---|---|\n| Technical report | [arXiv]({A}) |\n| Weights | {HUB} |\n",
        "## Links\n\n- **Technical report:** [PDF](https://foo.ai/foo-report.pdf)\n",
        "Read the [technical report](https://foo.ai/report) for details.",
        f"详见我们的[技术报告]({A})。",
        f"See the [Foo technical report]({A}).",
        f"## Introduction\n\nWe present Foo. More details can be found in the [paper]({A}).",
    ],
)
def test_the_models_own(tmp_path: Path, text: str) -> None:
    assert own_papers(of_card(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        f"Foo is inspired by [Bar]({A}).",
        f"Our tokenizer is that of [Baz: tokens]({A}).",
        f"We thank the authors of [Bar]({A}).",
        f"Foo builds on Bar [1].\n\n[1] A. Bar. The Bar model. {A}\n",
        f"The architecture is described in the [Bar paper]({A}).",
        f"Foo uses grouped-query attention ([Ainslie et al.]({A})).",
        f"Consider Q-LoRA (refer to the [paper]({A})) where memory is short.",
        f"| Model | Paper |\n|---|---|\n| Bar-7B | [paper]({A}) |\n",
        "The terms are in our [paper](https://foo.ai/license-agreement.pdf).",
    ],
)
def test_others(tmp_path: Path, text: str) -> None:
    assert not own_papers(of_card(tmp_path, text))


def test_a_paper_of_which_nothing_is_said_is_unclear(tmp_path: Path) -> None:
    subject = of_card(tmp_path, f"Foo is a model.\n\n## Notes\n\nThere is a [paper]({A}) too.")
    assert [each.own for each in papers(subject)] == [None]
