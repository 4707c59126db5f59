"""A card's figures against configuration, weights and each other: no false one passes, no honest one is accused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clearseek.audit.evidence import Audit, Grade
from clearseek.hub.safetensors import build_header
from clearseek.tensors import StoredTensor
from tests.releases import audited, card, edit_json


def weights(file: Path, *shapes: tuple[str, str, tuple[int, ...]]) -> None:
    header = build_header([StoredTensor(name, dtype, shape) for name, dtype, shape in shapes], None)
    size = sum(entry.size for entry in header.entries)
    file.write_bytes(bytes(header.raw) + np.random.default_rng(0).bytes(size))


def of_card(folder: Path, text: str, name: str = "Tiny", config: dict[str, object] | None = None) -> Audit:
    (folder / "README.md").write_text(f"# {name}\n\n{text}\n", encoding="utf-8")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return audited(folder, name)


EIGHT_MILLION = ("embed.weight", "F16", (2000, 1000)), ("layers.0.weight", "F16", (3000, 2000))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Tiny has 8M parameters.", "yes"),
        ("Tiny has 8,000,000 parameters.", "yes"),
        ("Tiny has 900M parameters.", "no"),
        ("Tiny has 999,999,999 parameters.", "no"),
        ("(900M parameters with 1M active parameters)", "no"),
        ("| | |\n|---|---|\n| **Total Parameters** | 900M |", "no"),
        ("Number of Parameters: 900M in total", "no"),
        ("It comes in two sizes, 8M and 70M parameters.", "unknown"),
        ("The teacher has 405M parameters, our student 8M parameters.", "unknown"),
        ("Tiny has 8M parameters. It was compared with one of 70M parameters.", "yes"),
        ("Tiny has 8M parameters.\n\nAfter that, there are 900M parameters.", "unknown"),
        ("Number of Parameters (Non-Embedding): 6M", "unknown"),
    ],
)
def test_totals_against_weights_of_any_architecture(tmp_path: Path, text: str, answer: str) -> None:
    weights(tmp_path / "model.safetensors", *EIGHT_MILLION)
    row = of_card(tmp_path, text, config={"model_type": "llama"})["parameters.total"]
    assert row.answer == answer, row.reason
    assert (row.grade == Grade.CHECKED) == (answer == "yes")


def test_what_packs_copies_or_masks_parameters_accuses_nobody(tmp_path: Path) -> None:
    def row() -> str:
        return of_card(tmp_path, "Tiny has 8M parameters.", config={"model_type": "llama"})["parameters.total"].answer

    weights(tmp_path / "model.safetensors", *EIGHT_MILLION, ("layers.0.bias", "BOOL", (300, 300)))
    assert row() == "yes"
    weights(tmp_path / "consolidated.safetensors", *EIGHT_MILLION)
    assert row() == "yes"
    weights(tmp_path / "model.safetensors", ("layers.0.qweight", "I32", (500, 2000)))
    assert row() == "unknown"


def test_parameters_without_embedding_are_their_own_count(release: Path) -> None:
    count = 0.0
    for text, answer in (("(Non-Embedding): 0.001M", "no"), ("(Non-Embedding): 9.999M", "no")):
        (release / "README.md").write_text(card(extra=f"Number of Parameters {text}"))
        row = audited(release)["parameters.total"]
        assert row.answer in (answer, "partly"), row.reason
        count = float(row.reason.partition("M without the input embedding")[0].split()[-1])
    (release / "README.md").write_text(card(extra=f"Number of Parameters (Non-Embedding): {count:.2f}M"))
    assert audited(release)["parameters.total"].answer == "yes"


@pytest.mark.parametrize(
    "text",
    [
        "Tiny comes in two sizes, 8B and 70B parameters. It was trained on 15T tokens in 7.7M H100 GPU hours.",
        "Tiny has 46.7B total parameters but only uses 12.9B parameters per token. It has 8 experts of 7B parameters.",
        "GLM has 355B total, 32B active parameters, and Air 106B total, 12B active parameters.",
        "The teacher has 405B parameters, our student 8B parameters.",
        "Tiny was trained on 2T tokens.\n\nIn fact it was trained on 15T tokens.",
        "Tiny has 8B parameters and is trained on 1T tokens, Big saw 15T tokens. It took 50,000 H100 GPU hours.",
    ],
)
def test_figures_of_several_models_are_neither_wrong_nor_shown(tmp_path: Path, text: str) -> None:
    found = of_card(tmp_path, text)
    for id in ("claims.consistent", "cost.compute", "parameters.total", "cost.threshold"):
        assert found[id].answer != "no", found[id]
        assert found[id].grade < Grade.CHECKED, found[id]


def test_figures_of_one_model_that_differ_are_inconsistent(tmp_path: Path) -> None:
    row = of_card(tmp_path, "Tiny has 8B parameters.\n\nTiny has 10B parameters.")["claims.consistent"]
    assert (row.answer, row.grade) == ("no", Grade.CLAIMED)
    row = of_card(tmp_path, "Tiny has 8B parameters.\n\nTiny has 8.1B parameters.")["claims.consistent"]
    assert (row.answer, row.grade) == ("yes", Grade.CHECKED)


def test_thresholds_from_words_alone_are_claimed(tmp_path: Path) -> None:
    row = of_card(tmp_path, "Tiny has 8B parameters. It was trained on 2T tokens.")["cost.threshold"]
    assert (row.answer, row.grade) == ("yes", Grade.CLAIMED)


LLAMA = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    ("text", "positions", "scaling", "answer"),
    [
        ("", 131072, LLAMA, "unknown"),
        ("A context length of 128K.", 131072, LLAMA, "yes"),
        ("A context length of 128K.", 131072, LLAMA | {"rope_type": "longrope"}, "yes"),
        ("", 32768, YARN, "yes"),
        ("", 131072, YARN, "partly"),
        ("It supports up to 1M tokens.", 2048, None, "partly"),
        ("A context length of 1M.", 2048, None, "partly"),
        ("Context Length: 32,768", 32768, None, "yes"),
        ("Context Length: 32,768", 2048, None, "partly"),
        ("Context Length: 32,768 natively and [131,072 tokens with YaRN](#x).", 32768, None, "yes"),
        ("Context Length: 1M tokens with YaRN.", 2048, None, "unknown"),
        ("Trained on 4K context and supports up to 64K tokens.", 65536, None, "unknown"),
        ("Context Length: 32,768", None, None, "unknown"),
    ],
)
def test_context_lengths(
    tmp_path: Path, text: str, positions: int | None, scaling: dict[str, object] | None, answer: str
) -> None:
    config = {"model_type": "llama", "max_position_embeddings": positions, "rope_scaling": scaling}
    row = of_card(tmp_path, text, config=config)["context.length"]
    assert row.answer == answer, row.reason


def test_an_extended_length_is_said_not_to_be_checked(release: Path) -> None:
    (release / "README.md").write_text(card(extra="Context length: 1,024 tokens."))
    assert audited(release)["context.length"].answer == "partly"
    edit_json(release / "config.json", lambda c: c.update(max_position_embeddings=1024))
    edit_json(release / "tokenizer_config.json", lambda c: c.update(model_max_length=1024))
    (release / "README.md").write_text(card(extra="Context length: 1,024 natively and 900K tokens with YaRN."))
    row = audited(release)["context.length"]
    assert row.answer == "yes"
    assert "900K, which may be by extension or of another model: not checked" in row.reason


HOURS = "Training took 7.7M GPU hours on H100-80GB (TDP of 700W)."


@pytest.mark.parametrize(
    "text",
    [
        f"{HOURS} Its energy was 5,390 MWh.",
        f"{HOURS} Its energy was 5.39 GWh.",
        f"{HOURS} Emissions were 2290 tCO2eq.",
        "Training took 433 MWh and emitted 25 tonnes of CO\u2082.",
        "## Environmental impact\n\n| Model | kg CO2eq |\n|---|---|\n| Tiny | 17 kgCO2 |",
    ],
)
def test_stated_energy_is_a_claim_that_is_shown(tmp_path: Path, text: str) -> None:
    row = of_card(tmp_path, text)["cost.energy"]
    assert (row.answer, row.grade) == ("yes", Grade.CLAIMED), row.reason


def test_other_energy_is_not_shown(tmp_path: Path) -> None:
    assert of_card(tmp_path, "The lamp of our office takes 12 kWh a day.").get("cost.energy") is None


def test_what_nobody_states_has_no_row(tmp_path: Path) -> None:
    found = of_card(tmp_path, "Training took long.")
    for id in ("cost.energy", "cost.devices", "cost.operations", "cost.price"):
        assert found.get(id) is None


SCORE = "## Benchmarks\n\n| Benchmark | Tiny |\n|---|---|\n| AIME 2024 | 55.5 |\n\n"


def test_a_protocols_words_count_where_evaluation_is_spoken_of(tmp_path: Path) -> None:
    chat = "## Usage\n\nWe suggest a temperature of 0.6, seed: 7, max tokens 100, and zero-shot prompts.\n"
    row = of_card(tmp_path, f"{SCORE}\n{chat}")["claims.protocol"]
    assert "; stated" not in row.reason
    assert row.answer == "no"
    row = of_card(tmp_path, f"{SCORE}\nA temperature of 0.6, zero-shot.\n\n{chat}")["claims.protocol"]
    assert row.reason.endswith("stated: shots, temperature")
    row = of_card(tmp_path, SCORE.replace("| Benchmark |", "| Benchmark (5-shot) |"))["claims.protocol"]
    assert row.reason.endswith("stated: shots")
