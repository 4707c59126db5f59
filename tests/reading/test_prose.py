"""What a card forbids is found; what it advises against is not."""

from __future__ import annotations

import time

import pytest

from clearseek.reading.card import Document
from clearseek.reading.prose import said_of_use
from tests.licences.examples import published


def said(text: str) -> list[tuple[str, int]]:
    return [(clause.flag, clause.line) for clause in said_of_use(Document("README.md", text))]


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("This model is for non-commercial research purposes only.", "non_commercial"),
        ("This model is\nfor research purposes only.", "non_commercial"),
        ("Commercial use of the model is strictly prohibited.", "non_commercial"),
        ("The weights may be used only for academic research purposes.", "non_commercial"),
        ("The use of this model is restricted to research purposes.", "non_commercial"),
        ("本模型仅供学术研究使用。", "non_commercial"),
        ("## License\n\nCommercial use is not allowed.", "non_commercial"),
        ("## License\n\nYou may not use it in hospitals.", "field_of_use"),
        ("## Terms of use\n\nMilitary use is prohibited.", "field_of_use"),
        ("The rights under the license are not granted to individuals domiciled in the European Union.",
         "geo_exclusion"),
    ],
)  # fmt: skip
def test_restrictions_are_found(text: str, flag: str) -> None:
    found = said(f"# A model\n\nIt is good.\n\n{text}\n")
    assert [each for each, _ in found] == [flag]
    assert 5 <= found[0][1] <= 7


@pytest.mark.parametrize(
    "text",
    [
        "## Out-of-scope use\n\nThe model must not be used for medical advice. You may not use it to deceive.",
        "We do not recommend using this model in commercial settings.",
        "The model should not be used for military purposes.",
        "It is intended for research and educational use.",
        "The model supports commercial use.",
        "The model is free for commercial and non-commercial use; only attribution is required.",
        "The model may be used not only for non-commercial research.",
        "本模型支持商业用途。",
        "Unlike earlier models, which were for non-commercial use only, this model is under MIT.",
        "It was tuned on the Alpaca dataset, which is for non-commercial use only.",
        "## Training data\n\nSome of it is for non-commercial research purposes only.",
        "You cannot use flash attention with this model on old GPUs.",
        "Use of the model is not limited to research purposes.",
        "This model was created for research on interpretability, and not only for that.",
        "# License\n\nYou may not use this file except in compliance with the License.\n",
        "# License\n\nYou must not use our models in a manner that infringes or violates any third party's rights.\n",
        "# License\n\nYou may not use the model for anything that violates applicable laws.\n",
    ],
)
def test_advice_and_other_things_are_left_alone(text: str) -> None:
    assert said(f"# A model\n\n{text}\n") == []


@pytest.mark.parametrize("card", ["deepseek-v3/README.md", "deepseek-r1/README.md"])
def test_published_cards_restrict_nothing(card: str) -> None:
    assert said(published(card)) == []


@pytest.mark.parametrize(
    "text", ["only for non-commercial " * 100_000, "the model is\n" * 200_000, "commercial use " * 200_000]
)
def test_long_cards_are_quick(text: str) -> None:
    begun = time.process_time()
    said(text)
    assert time.process_time() - begun < 20
