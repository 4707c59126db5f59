from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.reading.card import Document
from clearseek.reading.claims import find_claims, is_this_model, normalise, read_quantity, settled


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
        ("trained on less than 1 billion tokens (12,345)", []),
        ("size: 1 billion to 10 trillion tokens", []),
        ("trained on over 15 trillion tokens", [("tokens", "15 trillion")]),
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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("(117B parameters with 5.1B active parameters)", [("total", "117B"), ("activated", "5.1B")]),
        ("It has 999,999,999 parameters.", [("total", "999,999,999")]),
        ("- Number of Parameters: 30.5B in total and 3.3B activated", [("total", "30.5B"), ("activated", "3.3B")]),
        ("- Number of Paramaters (Non-Embedding): 29.9B", [("total", "29.9B")]),
        ("- Number of Activated Parameters: 3.3B", [("activated", "3.3B")]),
        (
            "46.7B total parameters but only uses 12.9B parameters per token",
            [("total", "46.7B"), ("activated", "12.9B")],
        ),
        ("with 355B total, 32B active parameters", [("total", "355B"), ("activated", "32B")]),
        ("Each model saw 299,892,736,000 tokens.", [("tokens", "299,892,736,000")]),
        ("- **3B model** trained on 11T tokens", [("tokens", "11T")]),
        ("A context length of 128K.", [("context", "128K")]),
        ("It supports up to 1M tokens.", [("context", "1M")]),
        ("A 128K-token context window.", [("context", "128K")]),
        ("It supports up to 8K output tokens.", []),
        ("A vocabulary of 128K tokens.", []),
        ("We suggest at most 38,912 tokens.", []),
        (
            "- Context Length: 32,768 natively and [131,072 tokens with YaRN](#x).",
            [("context", "32,768"), ("context_extended", "131,072")],
        ),
        ("| | |\n|:---:|:---:|\n| **Total Parameters** | 1T |", [("total", "1T")]),
        ("| | |\n|---|---|\n| **Activated Parameters** | 32B |", [("activated", "32B")]),
        ("| | |\n|---|---|\n| **Context length** | 16K tokens |", [("context", "16K")]),
        ("| Item | Value |\n|---|---|\n| Architecture | 14B parameters, dense |", [("total", "14B")]),
        ("| | Tiny-V1 |\n|---|---|\n| InfiniteBench context | 27.3 |", []),
        ("activates 14B parameters out of a total of 142B", [("activated", "14B"), ("total", "142B")]),
        ("142B total, 14B active parameters", [("total", "142B"), ("activated", "14B")]),
        ("Of its 142B parameters, 14B are active.", [("total", "142B"), ("activated", "14B")]),
        ("activates only 14B of its 142B parameters per token", [("activated", "14B"), ("total", "142B")]),
        ("only 14B of 142B parameters are active", [("activated", "14B"), ("total", "142B")]),
        ("a total of 142B parameters with 14B activated", [("total", "142B"), ("activated", "14B")]),
        ("Parameters: 142B (14B activated)", [("total", "142B"), ("activated", "14B")]),
        ("We have verified its speed up to 7B parameters.", []),
        ("uses 7B of the 70B parameters", [("total", "70B")]),
        ("8 of 128 experts are active, of 30B parameters", [("total", "30B")]),
        ("An 8x7B mixture with 47B parameters, as Big3-235B-A22B.", [("total", "47B")]),
        ("a context length of 1\nmillion tokens", [("context", "1 million")]),
        ("has 355 billion total\nparameters", [("total", "355 billion")]),
    ],
)
def test_other_wordings_are_read(line: str, expected: list[tuple[str, str]]) -> None:
    assert claims(line) == expected


@pytest.mark.parametrize(
    ("line", "about"),
    [
        ("Tiny-V1 has 8B parameters.", "named"),
        ("Tiny V1 has 8B parameters.", "named"),
        ("It has 8B parameters.", "some"),
        ("Tiny comes in two sizes, 8B and 70B parameters.", "several"),
        ("A pair of 8B and 70B parameters.", "several"),
        ("Tiny-V1-Air has 12B parameters; Big-70B has 70B parameters.", "several"),
        ("Tiny-V1-Base has 12B parameters; Big-70B has 70B parameters.", "named"),
        ("Big-70B has 70B parameters.", "several"),
        ("The teacher has 405B parameters.", "several"),
        ("Tiny-V1 outperforms models with 70B parameters.", "several"),
        ("Tiny-V1 has activation parameters: 8B", "named"),
        ("Tiny-V1, unlike Big, saw 15T tokens.", "several"),
        ("Tiny-V1 is a language model with 8B parameters that outperforms Big.", "named"),
        ("It has 8 experts of 7B parameters each.", "several"),
        ("Our 12B parameter models are good.", "several"),
        ("Tiny-V1 has 355 billion total parameters, while Air has 106 billion total parameters.", "several"),
        ("Big-70B is another. It has 70B parameters.", "several"),
        ("Tiny-V1 Mini, an 880M parameter model.", "several"),
        ("Tiny-V1 Large has 2.3B parameters.", "several"),
        ("Tiny-V1 comes with a larger, 20B parameter chat model.", "several"),
        ("Tiny-V1 activates 18B~31B parameters.", "several"),
        ("# Tiny-V1\n\n## Big-70B\n\nIt has 70B parameters.", "several"),
        ("# Tiny-V1\n\n- Tiny-V1-Long: a context length of 200K", "several"),
    ],
)
def test_whose_figure_it_is(line: str, about: str) -> None:
    claim = next(find_claims(Document("README.md", line), "Tiny-V1"))
    assert claim.about == about


def test_figures_that_may_be_another_models_are_not_settled() -> None:
    def parts(text: str) -> tuple[list[str], list[str]]:
        own, others = settled(tuple(find_claims(Document("README.md", text), "Tiny-V1")))
        return [claim.text for claim in own], [claim.text for claim in others]

    assert parts("It has 8B parameters.\n\nAlso 8.1B parameters.") == (["8B", "8.1B"], [])
    assert parts("It has 8B parameters.\n\nIt has 70B parameters.") == ([], ["8B", "70B"])
    assert parts("Tiny-V1 has 8B parameters.\n\nIt has 70B parameters.") == (["8B"], ["70B"])
    assert parts("Tiny-V1 has 8B parameters.\n\nThe teacher has 70B parameters.") == (["8B"], [])
    assert parts("It has 30B parameters.\n\nNumber of parameters (non-embedding): 29B") == (["30B", "29B"], [])
    assert settled(()) == ((), ())


def test_a_number_written_out_is_as_precise_as_its_digits() -> None:
    (claim,) = find_claims(Document("a.md", "It has 7,000,000,000 parameters."), "x")
    assert claim.agrees(6.74e9) and not claim.agrees(8e9)
    (claim,) = find_claims(Document("a.md", "It has 6,738,415,616 parameters."), "x")
    assert claim.agrees(6_738_415_616) and not claim.agrees(6_738_415_617)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("2.4B", 2.35e9, 2.4999e9), ("37B", 36.5e9, 37.999e9), ("120B", 115e9, 125e9), ("671B", 670.5e9, 671.99e9)],
)
def test_a_figure_may_be_rounded_or_cut_off(text: str, low: float, high: float) -> None:
    (claim,) = find_claims(Document("a.md", f"It has {text} parameters."), "x")
    assert claim.agrees(low) and claim.agrees(high)
    assert not claim.agrees(low * 0.999) and not claim.agrees(high * 1.001)


@pytest.mark.parametrize(
    "piece",
    [
        "1B ",
        ",111",
        "1B parameters ",
        "1B, ",
        "128K context length of ",
        "1 GPU hours on 1 GPUs. ",
        "$1 train ",
        "total size ",
    ],
)
def test_no_line_of_figures_takes_long(piece: str) -> None:
    start = time.process_time()
    list(find_claims(Document("f", ("1" + piece * (4000 // len(piece)) + "\n") * 300), "Tiny"))
    assert time.process_time() - start < 20
