"""PEFT's adapters read, ours read by PEFT, and what is neither refused."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from clearseek.config import LoraConfig, ModelConfig
from clearseek.errors import UserError
from clearseek.hub.write import export_hf
from clearseek.model.lora import adapters_of, merge
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.lora import adapter_parameters, add_lora
from clearseek.posttrain.peft import CONFIG, PICKLE, WEIGHTS, export_peft, load_peft
from tests.hub.examples import small, tokenizer_file
from tests.model.test_parity import BASE
from tests.posttrain.peft_fixtures import CONFIG as SIZES
from tests.posttrain.peft_fixtures import FOLDER, TARGETS, adapted, frozen, tokens_of

EXPECTED = json.loads((FOLDER / "logits.json").read_text(encoding="utf-8"))["logits"]
LORA = {
    "all": LoraConfig(rank=3, alpha=5.0),
    "experts": LoraConfig(rank=2, alpha=2.0, targets=("experts",)),
    "one stack": LoraConfig(rank=2, alpha=7.5, targets=("attention", "experts.gate_up_proj")),
    "other stack": LoraConfig(rank=5, alpha=2.0, targets=("shared", "experts.down_proj")),
    "dense": LoraConfig(rank=1, alpha=2.0, targets=("dense", "down_proj")),
}


def learnt(model: DeepSeekModel, settings: LoraConfig) -> DeepSeekModel:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in add_lora(model, settings, seed=2):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model


def logits_of(model: DeepSeekModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model.logits(tokens)


def peft_logits(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(tokens).logits
    return logits


def parameters(model: DeepSeekModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in adapter_parameters(model)}


@pytest.mark.parametrize("name", TARGETS)
def test_recorded_adapters_of_peft_give_its_logits(name: str) -> None:
    model = frozen()
    before = logits_of(model, tokens_of())[:, -1]
    trained = load_peft(model, FOLDER / name)
    expected = torch.tensor(EXPECTED[name])
    assert float((expected - before).abs().max()) > 0.1
    torch.testing.assert_close(logits_of(model, tokens_of())[:, -1], expected, rtol=0, atol=2e-5)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [n for n, _ in trained]
    torch.testing.assert_close(logits_of(merge(model), tokens_of())[:, -1], expected, rtol=0, atol=2e-5)


def test_patterns_give_ranks_and_factors() -> None:
    model = frozen()
    load_peft(model, FOLDER / "patterns")
    found = {name.removeprefix("model.layers."): (each.rank, each.alpha) for name, each in adapters_of(model)}
    assert found["0.self_attn.o_proj.weight"] == (4, 4)
    assert found["1.self_attn.o_proj.weight"] == (4, 9)
    assert found["1.self_attn.q_b_proj.weight"] == (3, 4)
    assert found["2.self_attn.q_b_proj.weight"] == (2, 4)
    assert found["1.mlp.experts.gate_up_proj"] == (3, 2.5)
    assert found["1.mlp.experts.down_proj"] == (1, 4)


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_read_is_written_the_same(name: str, tmp_path: Path) -> None:
    model = frozen()
    load_peft(model, FOLDER / name)
    export_peft(model, tmp_path / "out")
    ours, theirs = load_file(tmp_path / "out" / WEIGHTS), load_file(FOLDER / name / WEIGHTS)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    again = frozen()
    load_peft(again, tmp_path / "out")
    assert torch.equal(logits_of(again, tokens_of()), logits_of(model, tokens_of()))


@pytest.mark.parametrize("settings", LORA.values(), ids=LORA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_with_an_mtp_layer(settings: LoraConfig, dtype: torch.dtype, tmp_path: Path) -> None:
    config = ModelConfig(**(BASE | {"num_nextn_predict_layers": 1}))
    model = learnt(frozen(config).set_dtype(dtype), settings)
    export_peft(model, tmp_path / "out", base="owner/name")
    again = frozen(config).set_dtype(dtype)
    load_peft(again, tmp_path / "out")
    before, after = parameters(model), parameters(again)
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    alphas = {name: each.alpha for name, each in adapters_of(again)}
    assert set(alphas.values()) == {settings.alpha}
    assert json.loads((tmp_path / "out" / CONFIG).read_text())["base_model_name_or_path"] == "owner/name"


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": None, "moe_intermediate_size": 16}, {"n_routed_experts": 6}])
def test_live_adapters_of_peft(targets: dict[str, Any], changes: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    if changes.get("q_lora_rank", 1) is None:
        names = [name for name in targets["target_modules"] if "q_a_proj" not in name]
        targets = targets | {"target_modules": [name.replace("q_b_proj", "q_proj") for name in names]}
    model = frozen(SIZES.model_copy(update=changes))
    theirs = adapted(model, **targets)
    theirs.save_pretrained(tmp_path / "adapter")
    load_peft(model, tmp_path / "adapter")
    torch.testing.assert_close(logits_of(model, tokens_of()), peft_logits(theirs, tokens_of()), rtol=0, atol=2e-5)


@pytest.mark.parametrize("settings", LORA.values(), ids=LORA)
@pytest.mark.parametrize("changes", [{}, {"num_nextn_predict_layers": 1, "q_lora_rank": None}])
def test_peft_loads_ours_over_our_export(settings: LoraConfig, changes: dict[str, Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    config = small(**changes, initializer_range=0.1)
    model = frozen(config)
    tokens = torch.randint(0, config.vocab_size, (2, 15), generator=torch.Generator().manual_seed(3))
    export_hf(model.state_dict(), config, tokenizer_file(tmp_path), tmp_path / "base", torch.float32)
    before = logits_of(model, tokens)
    export_peft(learnt(model, settings), tmp_path / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns of matrices that it misses
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    expected = logits_of(model, tokens)
    assert float((expected - before).abs().max()) > 0.05
    torch.testing.assert_close(peft_logits(theirs, tokens), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(peft_logits(theirs.merge_and_unload(), tokens), expected, rtol=0, atol=2e-5)


def changed(folder: Path, name: str = "both", **changes: Any) -> Path:
    """A copy of a recorded adapter with another configuration."""
    shutil.copytree(FOLDER / name, folder / "adapter")
    file = folder / "adapter" / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return folder / "adapter"


def refused(folder: Path, says: str, model: DeepSeekModel | None = None) -> None:
    model = frozen() if model is None else model
    with pytest.raises(UserError, match=says) as error:
        load_peft(model, folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    assert not list(adapters_of(model)) and all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "IA3"}, r"adapter_config.json: peft_type = .IA3"),
        ({"peft_type": None}, "peft_type = null"),
        ({"use_dora": True}, "use_dora = true: this variant of LoRA is not read"),
        ({"use_rslora": True}, "use_rslora = true"),
        ({"bias": "all"}, "bias = .all"),
        ({"lora_bias": True}, "lora_bias = true"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save = "),
        ({"fan_in_fan_out": True}, "fan_in_fan_out = true"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"use_something_of_next_year": {"a": 1}}, "use_something_of_next_year"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = .pissa.: this start changes the frozen matrices"),
        ({"r": 2}, r"adapter_model.safetensors: .*o_proj.lora_A.weight is \[3, 16\].* rank 2 needs \[2, 16\]"),
        ({"r": "3"}, "r = .3"),
        ({"r": True}, "r = true"),
        ({"r": 0}, "r = 0"),
        ({"lora_alpha": -1}, "lora_alpha = -1"),
        ({"lora_alpha": None}, "lora_alpha = null"),
        ({"rank_pattern": {"o_proj": 2}}, r"o_proj.lora_A.weight is \[3, 16\]"),
        ({"rank_pattern": {"(o|q)_proj": 2}}, "rank_pattern = .*other expressions are not evaluated"),
        ({"rank_pattern": {"(a+)+$": 2}}, "rank_pattern"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"alpha_pattern": {"o_proj": "8"}}, "alpha_pattern"),
        ({"target_modules": 3}, "target_modules = 3"),
        ({"target_parameters": "mlp.experts.down_proj"}, "target_parameters = .*must be a list"),
        ({"target_modules": ["o_proj"]}, "has matrices for model.layers.0.*q_a_proj.weight, which .* not target"),
        ({"target_modules": ["q_a_proj", "o_proj", "kv_b_proj"]}, "lacks the matrices of model.layers.0.*kv_b_proj"),
    ],
)  # fmt: skip
def test_other_settings_are_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    refused(changed(tmp_path, **changes), says)


def test_settings_without_effect_are_read(tmp_path: Path) -> None:
    model = frozen()
    load_peft(model, changed(tmp_path, lora_dropout=0.1, init_lora_weights="gaussian", task_type="CAUSAL_LM"))
    torch.testing.assert_close(
        logits_of(model, tokens_of())[:, -1], torch.tensor(EXPECTED["both"]), rtol=0, atol=2e-5
    )  # fmt: skip


@pytest.mark.parametrize("parameters", [["gate_up_proj", "down_proj"], ["shared_experts.gate_proj.weight"]])
def test_a_lone_wrapper_needs_one_target(parameters: list[str], tmp_path: Path) -> None:
    refused(changed(tmp_path, "down", target_parameters=parameters), "belongs to gate_up_proj or to down_proj")


def test_the_lone_wrapper_is_not_taken_for_the_other_stack(tmp_path: Path) -> None:
    refused(
        changed(tmp_path, "down", target_parameters=["gate_up_proj"]), r"lora_A.weight is \[12, 12\].* needs \[12, 16\]"
    )


Edit = Callable[[dict[str, Tensor]], dict[str, Tensor]]
FIRST = "base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight"
EDITS: dict[str, tuple[Edit, str]] = {
    "a tensor is missing": (lambda t: {k: v for k, v in t.items() if k != FIRST}, "o_proj.lora_B.weight: the other"),
    "a layer is missing": (
        lambda t: {k: v for k, v in t.items() if ".layers.2.self_attn.o_proj" not in k},
        "lacks the matrices of model.layers.2.self_attn.o_proj.weight",
    ),
    "another width": (lambda t: t | {FIRST: torch.zeros(3, 20)}, r"lora_A.weight is \[3, 20\]"),
    "transposed": (lambda t: t | {FIRST: t[FIRST].T.contiguous()}, r"lora_A.weight is \[16, 3\]"),
    "not finite": (lambda t: t | {FIRST: t[FIRST] * float("nan")}, "o_proj.lora_A.weight holds NaN"),
    "whole numbers": (lambda t: t | {FIRST: t[FIRST].int()}, "o_proj.lora_A.weight is I32"),
    "nothing": (lambda t: {}, "holds no tensors"),
    "DoRA": (
        lambda t: t | {FIRST.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(16)},
        "lora_magnitude_vector: DoRA is not read",
    ),
    "a bias": (lambda t: t | {FIRST.replace("A.weight", "B.bias"): torch.ones(16)}, "lora_B.bias: biases"),
    "a whole module": (
        lambda t: t | {"base_model.model.lm_head.modules_to_save.weight": torch.ones(3)},
        "modules_to_save.weight: modules trained whole",
    ),
    "a foreign name": (lambda t: t | {"q_proj.\x1b[1mlora_A": torch.ones(3)}, r"\\x1b\[1mlora_A: no LoRA matrix"),
    "the router": (
        lambda t: t | {FIRST.replace("self_attn.o_proj", "mlp.gate"): torch.ones(3, 16)},
        "mlp.gate.lora_A.weight: this model has no such matrix",
    ),
    "an expert by itself": (
        lambda t: t | {FIRST.replace("self_attn.o_proj", "mlp.experts.0.up_proj"): torch.ones(3, 16)},
        "experts.0.up_proj.lora_A.weight: one expert by itself, as in transformers 4",
    ),
    "a layer too many": (
        lambda t: t | {FIRST.replace("layers.0", "layers.3"): torch.ones(3, 16)},
        "layers.3.self_attn.o_proj.lora_A.weight: this model has no such matrix",
    ),
}


@pytest.mark.parametrize(("edit", "says"), EDITS.values(), ids=EDITS)
def test_other_tensors_are_refused(edit: Edit, says: str, tmp_path: Path) -> None:
    folder = changed(tmp_path)
    save_file(edit(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    refused(folder, says)


def test_another_base_is_refused(tmp_path: Path) -> None:
    for changes in ({"hidden_size": 24}, {"n_routed_experts": 8}, {"moe_intermediate_size": 16}):
        refused(FOLDER / "both", "the adapter is of another model or rank", frozen(SIZES.model_copy(update=changes)))
    shallow = frozen(SIZES.model_copy(update={"num_hidden_layers": 2}))
    refused(FOLDER / "both", "layers.2.*no such matrix", shallow)
    deep = frozen(SIZES.model_copy(update={"num_hidden_layers": 4}))
    refused(FOLDER / "both", "lacks the matrices of model.layers.3", deep)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    folder = changed(tmp_path)
    (folder / WEIGHTS).unlink()
    (folder / PICKLE).write_bytes(b"cos\nsystem\n(S'touch never'\ntR.")
    refused(folder, f"{PICKLE}: a pickle can run code")
    (folder / PICKLE).rename(folder / WEIGHTS)
    refused(folder, "not a safetensors file")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"r": 1, "r": 2}', '{"peft_type": "LORA", "r": NaN}'])
def test_damaged_files_are_refused(content: str, tmp_path: Path) -> None:
    folder = changed(tmp_path)
    (folder / CONFIG).write_text(content, encoding="utf-8")
    refused(folder, CONFIG)
    shutil.copy(FOLDER / "both" / CONFIG, folder / CONFIG)
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-5])
    refused(folder, "cut off")
    refused(tmp_path, CONFIG)


def test_no_second_adapter_and_no_overwriting(tmp_path: Path) -> None:
    model = frozen()
    with pytest.raises(UserError, match="no adapters to export"):
        export_peft(model, tmp_path / "out")
    load_peft(model, FOLDER / "both")
    with pytest.raises(UserError, match="merge them first"):
        load_peft(model, FOLDER / "both")
    export_peft(model, tmp_path / "out")
    with pytest.raises(UserError, match="out"):
        export_peft(model, tmp_path / "out")
