from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.openness.card import Document
from clearseek.openness.claims import find_claims, is_this_model, normalise, read_quantity


def claims(text: str, name: str = "Tiny-V1") -> list[tuple[str, str]]:
    return [(claim.kind, claim.text) for claim in find_claims(Document("README.md", text), name)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A model with 671B total parameters with 37B activated.", [("total", "671B"), ("activated", "37B")]),
        ("- Total parameters: **671B**", [("total", "671B")]),
        ("- Activation parameters: **36.7B** (including 0.9B for Embedding)", [("activated", "36.7B")]),
        ("trained on 14.8 trillion diverse and high-quality tokens", [("tokens", "14.8 trillion")]),
        ("It took 2.788M H800 GPU hours.", [("gpu_hours", "2.788M")]),
        ("It took 1,460,000 GPU-hours.", [("gpu_hours", "1,460,000")]),
        (
            "The total cost of training is $5.576M at $2 per GPU hour.",
            [("dollars", "$5.576M"), ("dollars_per_hour", "$2")],
        ),
        ("Distilled into Tiny-32B and Tiny-8B.", []),
        ("See arXiv 2412.19437, page 12.", []),
        ("A gap of 0.3 is the same level.", []),
        ("```\n671B total parameters\n```", []),
    ],
)
def test_figures_are_found_by_their_words(line: str, expected: list[tuple[str, str]]) -> None:
    assert claims(line) == expected


def test_tables_speak_of_the_model_whose_name_they_have() -> None:
    rows = "| Model | #Total Params | #Activated Params | Context Length |\n|---|---|---|---|\n"
    text = rows + "| Other-V1 | 10B | 1B | 8K |\n| **Tiny-V1-Base** | 671B | 37B | 128K |\n"
    assert claims(text) == [("total", "671B"), ("activated", "37B"), ("context", "128K")]
    columns = "| | Other | Tiny V1 |\n|---|---|---|\n| # Activated Params | 5B | 37B |\n"
    assert claims(columns) == [("activated", "37B")]


def test_a_claim_knows_its_line_and_what_it_includes() -> None:
    text = "\n\n- Activation parameters: **36.7B** (including 0.9B for Embedding and 0.9B for the output Head).\n"
    (claim,) = find_claims(Document("a.md", text), "x")
    assert (claim.evidence.where, claim.includes) == ("line 3", "both")


@pytest.mark.parametrize(
    ("number", "scale", "actual", "agrees"),
    [
        ("37", "B", 36.63e9, True),
        ("37", "B", 37.55e9, False),
        ("36.7", "B", 36.63e9, False),
        ("36.6", "B", 36.63e9, True),
        ("671", "B", 671_026_419_200, True),
        ("685", "B", 684_531_386_000, True),
        ("1,460,000", None, 1_460_000, True),
    ],
)
def test_a_figure_is_as_precise_as_it_is_written(number: str, scale: str | None, actual: float, agrees: bool) -> None:
    value, tolerance = read_quantity(number, scale)
    assert (abs(actual - value) <= tolerance) is agrees


@given(st.integers(1, 999), st.integers(0, 999), st.integers(1, 3), st.sampled_from("KMBT"))
def test_reading_what_was_rounded_agrees_with_it(whole: int, fraction: int, decimals: int, scale: str) -> None:
    factor = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[scale]
    actual = (whole + fraction / 1000) * factor
    value, tolerance = read_quantity(f"{actual / factor:.{decimals}f}", scale)
    assert abs(value - actual) <= tolerance * (1 + 1e-6)


def test_names() -> None:
    wanted = normalise("DeepSeek-V3")
    assert is_this_model("DeepSeek V3", wanted)
    assert is_this_model("DeepSeek-V3-Base", wanted)
    assert not is_this_model("DeepSeek-V3.1", wanted)
    assert not is_this_model("DeepSeek-V2", wanted)
    assert not is_this_model("", wanted)
    assert not is_this_model("DeepSeek-V3", "")


@settings(max_examples=300)
@given(st.text(alphabet=st.sampled_from("0123456789.,BKMT$|#*-`[]()<> \n:activatedparamstokensGPUhours"), max_size=400))
def test_any_text_is_read(text: str) -> None:
    for claim in find_claims(Document("x", text), "m"):
        assert claim.value >= 0
        assert 1 <= int(claim.evidence.where.split()[1]) <= len(text.splitlines())
