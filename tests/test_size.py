from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek import size
from clearseek.cli import main
from clearseek.config import Recipe
from clearseek.counts import ParameterCount, count_parameters
from clearseek.errors import UserError
from clearseek.recipe import load_recipe, recipe_json
from clearseek.train.run import Run

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "size_ladder.json"
ALL = range(size.SMALLEST, size.LARGEST + 1)


def sized(layers: int, *overrides: str, recipe: str | Path = "quickstart-small") -> Recipe:
    return load_recipe(recipe, [f"size={layers}", *overrides])


def counted(recipe: Recipe) -> ParameterCount:
    return count_parameters(recipe.model)


def refused(recipe: str | Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_recipe(recipe, overrides, lambda parent: load_recipe("ladder-base").model.model_dump(mode="json"))
    return str(error.value)


def test_the_constants_are_what_the_ladder_measured() -> None:
    """benchmarks/size_ladder.py prints the constants; without its result there is nothing to hold them."""
    found: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    assert tuple(found["settings"]["rungs"]) == size.RUNGS and len(set(size.RUNGS)) >= 4
    assert found["settings"]["tokens"] == size.TOKENS_PER_PARAMETER
    assert found["base"] == size.BASE
    assert found["lines"].keys() == size.LAWS.keys()
    for name, law in size.LAWS.items():
        line = found["lines"][name]
        assert law.scale == pytest.approx(line["scale"], rel=1e-4), name
        assert law.exponent == pytest.approx(line["exponent"], abs=1e-4), name
        for rung, over in zip(found["best"], line["value_over_line"], strict=True):  # residuals are of these laws
            assert rung[name] / law.at(rung["active"]) == pytest.approx(over, rel=2e-3), name


def test_the_ladder_had_the_dimensions_of_the_dial() -> None:
    runs = json.loads(RESULT.read_text(encoding="utf-8"))["runs"].values()
    for run in runs:
        count = counted(sized(run["layers"]))
        assert (run["active"], run["parameters"]) == (count.activated_without_embedding, count.total)


def test_every_dimension_and_cost_rises_with_size() -> None:
    recipes = [sized(layers) for layers in ALL]
    for few, many in pairwise(recipes):
        assert counted(few).activated_without_embedding < counted(many).activated_without_embedding
        assert counted(few).activated_without_embedding_and_head < counted(many).activated_without_embedding_and_head
        assert counted(few).total < counted(many).total
        assert few.tokens < many.tokens
        assert few.model.hidden_size < many.model.hidden_size


def test_widths_are_multiples_of_32_at_odd_sizes_and_of_128_at_every_eighth() -> None:
    names = ("hidden_size", "q_lora_rank", "kv_lora_rank", "intermediate_size", "moe_intermediate_size")
    for layers in ALL:
        made = size.dimensions(layers)
        assert not any(made[name] % (32 if layers % 2 else 16) for name in names)
        try:
            sized(layers, "train.precision=fp8")
            eighth = True
        except UserError as error:
            assert "is not a multiple of 128" in str(error)
            eighth = False
        assert eighth == (layers % 8 == 7), layers


@settings(deadline=None, max_examples=60)
@given(
    st.integers(size.SMALLEST, size.LARGEST),
    st.integers(2, 200_000),
    st.integers(1, 8192),
    st.sampled_from(["quickstart", "quickstart-small", "shakespeare", "gpu-2b", "ladder-base"]),
)
def test_any_size_of_any_recipe_is_a_recipe(layers: int, vocabulary: int, length: int, recipe: str) -> None:
    own = (f"data.sequence_length={length}", "model.max_position_embeddings=8192", f"model.vocab_size={vocabulary}")
    made = sized(layers, *own, "train.precision=auto", recipe=recipe)
    train, active = made.train, counted(made).activated_without_embedding
    assert (made.model.vocab_size, made.data.sequence_length) == (vocabulary, length)
    assert made.model.model_dump().items() >= size.dimensions(layers).items()
    assert train.batch_size & (train.batch_size - 1) == 0
    assert train.micro_batch_size is not None and train.micro_batch_size <= max(1, train.batch_size // 2)
    assert train.micro_batch_size * length <= max(size.MICRO_BATCH_TOKENS, length)
    step = train.batch_size * length
    assert abs(made.tokens - size.TOKENS_PER_PARAMETER * active) <= max(step / 2 + 1, step * (train.steps == 1))
    law = size.LAWS["batch_tokens"].at(active)
    assert train.batch_size == 1 or 2**-0.51 < step / law < 2**0.51
    base = size.BASE["optimizer"]
    rates = [name for name in base if name.endswith("learning_rate")]
    factors = [getattr(made.optimizer, name) / base[name] for name in rates]
    assert factors == pytest.approx([size.LAWS["factor"].at(active)] * len(rates), rel=1e-3)
    others = made.optimizer.model_dump(mode="json")
    assert all(others[name] == value for name, value in base.items() if name not in rates)


def test_the_file_gives_way_and_overrides_do_not(tmp_path: Path) -> None:
    file = tmp_path / "it.toml"
    file.write_text(
        'size = 3\nname = "it"\n[model]\nvocab_size = 500\nhidden_size = 7\nmax_position_embeddings = 64\n'
        '[data]\nsequence_length = 64\n[optimizer]\nname = "muon"\nlearning_rate = 9.0\nweight_decay = 0.3\n'
        "[train]\nbatch_size = 5\neval_every = 11\n",
        encoding="utf-8",
    )
    plain = load_recipe(file)
    assert plain.model.hidden_size == 128 and plain.optimizer.learning_rate < 1 and plain.train.batch_size != 5
    assert (plain.optimizer.weight_decay, plain.train.eval_every) == (0.3, 11)  # which the dial has no opinion of
    changed = ("size=5", "model.n_routed_experts=16", "optimizer.learning_rate=0.5", "train.steps=3")
    made = load_recipe(file, changed)
    assert made.model.model_dump().items() >= (size.dimensions(5) | {"n_routed_experts": 16}).items()
    assert (made.optimizer.learning_rate, made.train.steps) == (0.5, 3)
    assert made.train.batch_size == sized(5, "data.sequence_length=64").train.batch_size
    assert load_recipe(file, changed[::-1]) == made


def test_a_record_has_what_was_run_and_no_size() -> None:
    made = sized(4)
    record = json.loads(recipe_json(made))
    assert "size" not in record and Recipe.model_validate(record) == made
    assert record["model"]["hidden_size"] == 160


@pytest.mark.parametrize("layers", ["1", "65", "0", "-3", "4.0", "x", "true", "[4]", "''", "10000000000000000000000"])
def test_what_is_no_size_is_refused(layers: str) -> None:
    said = refused("quickstart-small", f"size={layers}")
    assert said.startswith(f"--set size={layers}: size = ")
    assert said.endswith("give a whole number of layers from 2 to 64")


def test_a_file_with_no_size_is_named(tmp_path: Path) -> None:
    file = tmp_path / "it.toml"
    file.write_text('size = 99\nname = "it"\n', encoding="utf-8")
    assert refused(file) == f"{file}: size = 99: give a whole number of layers from 2 to 64"


@pytest.mark.parametrize(
    ("recipe", "overrides", "said"),
    [
        ("ladder-grpo", ["size=3"], "--set size=3: size beside [parent]: the dimensions are the parent's"),
        ("v3-671b", ["size=8"], 'rates were measured with Muon: set optimizer.name = "muon"'),
        (
            "quickstart",
            ["size=3", "model.tie_word_embeddings=true"],
            "--set size=3: size: it was measured with an",
        ),
        ("quickstart", ["size=3", "train.batch_size=2", "data.sequence_length=x"], "data.sequence_length=x: "),
        ("quickstart", ["sise=8"], 'unknown key sise (did you mean "size"?)'),
        ("quickstart", ["size=8", "model=3"], "--set model=3: model = 3: must be a table of settings"),
        ("quickstart", ["size=8", "train.batch_size=12", "train.micro_batch_size=8"], "micro_batch_size = 8 does not"),
        ("quickstart", ["size=8", "model.hiden_size=4"], "--set model.hiden_size=4: unknown key model.hiden_size"),
    ],
)
def test_a_size_that_cannot_be(recipe: str, overrides: list[str], said: str) -> None:
    assert said in refused(recipe, *overrides)


@pytest.mark.parametrize("batch", [1, 2, 5, 6, 12])
def test_a_batch_of_ones_own_beside_a_size_is_split_too(batch: int) -> None:
    train = sized(3, f"train.batch_size={batch}").train
    assert train.micro_batch_size is not None and batch % train.micro_batch_size == 0


def test_all_faults_of_a_recipe_with_a_size_are_named(tmp_path: Path) -> None:
    file = tmp_path / "it.toml"
    file.write_text(
        'size = 3\nname = "it"\n[model]\nvocab_size = 500\nmax_position_embedings = 64\n'
        '[optimizer]\nname = "muon"\n[train]\nevalevery = 1\n',
        encoding="utf-8",
    )
    said = refused(file)
    assert "unknown key model.max_position_embedings" in said and "unknown key train.evalevery" in said
    assert "steps" not in said.replace("valid keys", "").split("evalevery")[0]


def test_training_with_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        words = " ".join(f"word{(number * index) % 17} of{index % 5}" for index in range(200))
        (tmp_path / f"{number}.txt").write_text(words, encoding="utf-8")
    (tmp_path / "it.toml").write_text(
        'name = "it"\n[model]\nvocab_size = 300\nmax_position_embeddings = 64\n'
        '[data]\nsource = "files"\npaths = ["*.txt"]\nlicence = "CC0-1.0"\nsequence_length = 32\n'
        'held_out_fraction = 0.2\n[optimizer]\nname = "muon"\n[train]\nprecision = "fp32"\n',
        encoding="utf-8",
    )
    short = ("--set", "train.steps=2", "--set", "train.batch_size=4", "--set", "train.micro_batch_size=2")
    assert main(["train", "it.toml", "--size", "2", *short, "--set", "train.threads=1"]) == 0
    record = json.loads((tmp_path / "runs" / "it" / "recipe.json").read_text(encoding="utf-8"))
    assert "size" not in record
    assert record["model"].items() >= size.dimensions(2).items()
    assert (record["train"]["steps"], record["train"]["batch_size"]) == (2, 4)
    assert Run(tmp_path / "runs" / "it").read_recipe() == Recipe.model_validate(record)
    assert main(["train", "it.toml", "--size", "many"]) == 2
    assert 'size = "many": give a whole number' in capfd.readouterr().err
