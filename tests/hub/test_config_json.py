from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clearseek.config import ModelConfig
from clearseek.errors import UserError
from clearseek.hub.config_json import fp8_scales, hf_config, parse_hf_config, quantization_config
from clearseek.recipe import load_recipe
from tests.hub.examples import CONFIGS, YARN
from tests.published import published

FILE = Path("config.json")


def raw(name: str = "v3", **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(hf_config(CONFIGS[name], "bfloat16", 0, 1, 2)))
    return content | changes


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_reads_what_it_writes(config: ModelConfig) -> None:
    assert parse_hf_config(hf_config(config, "float32", 0, 1, 2), FILE) == config


def test_head_dim_is_what_transformers_turns() -> None:
    config = CONFIGS["v3"].model_copy(update={"qk_nope_head_dim": 24, "qk_rope_head_dim": 8})
    content = hf_config(config, "bfloat16", 0, 1, 2)
    assert (content["head_dim"], content["qk_rope_head_dim"], content["qk_head_dim"]) == (8, 8, 32)


@pytest.mark.parametrize("name", ["v3-groups-yarn-mtp", "v2-lite", "v2-groups"])
@pytest.mark.parametrize("form", ["rope_parameters", "rope_scaling"])
def test_reads_either_form_of_the_rotary_settings(name: str, form: str) -> None:
    content = raw(name)
    if form == "rope_parameters":
        del content["rope_scaling"], content["rope_theta"]
    else:
        del content["rope_parameters"]
    assert parse_hf_config(content, FILE) == CONFIGS[name]


@pytest.mark.parametrize("name", ["v3", "v3-groups-yarn-mtp"])
def test_the_rotary_base_is_the_same_in_every_form(name: str) -> None:
    content = hf_config(CONFIGS[name].model_copy(update={"rope_theta": 54321.0}), "bfloat16", 0, 1, 2)
    assert content["rope_theta"] == content["rope_parameters"]["rope_theta"] == 54321.0


def test_has_every_value_published_with_v3() -> None:
    content = json.loads(published("deepseek-v3/config.json", original=True).read_text(encoding="utf-8"))
    ours = hf_config(load_recipe("v3-671b").model, "bfloat16", 0, 1, 2)
    # The released weights are FP8; aux_loss_alpha and seq_aux describe a training loss, and not DeepSeek's last one.
    assert set(content) - set(ours) == {"quantization_config", "aux_loss_alpha", "seq_aux"}
    # The report (section 4.2) says 0.006; the published file has transformers' default.
    different = {name for name in set(content) & set(ours) if content[name] != ours[name]}
    assert different == {"initializer_range"}


def test_published_v3_is_read() -> None:
    content = json.loads(published("deepseek-v3/config.json", original=True).read_text(encoding="utf-8"))
    recipe = load_recipe("v3-671b").model
    assert parse_hf_config(content, FILE) == recipe.model_copy(update={"initializer_range": 0.02})
    assert fp8_scales(content, FILE) == "float"
    assert quantization_config("float") == content["quantization_config"]


def test_scales_of_fp8_checkpoints() -> None:
    assert fp8_scales({}, FILE) is fp8_scales({"quantization_config": None}, FILE) is None
    for scales in ("float", "power-of-two"):
        assert fp8_scales({"quantization_config": quantization_config(scales)}, FILE) == scales
    short = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}
    assert fp8_scales({"quantization_config": short}, FILE) == "float"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"quant_method": "awq"}, "quant_method = 'awq'"),
        ({"quant_method": None}, "quant_method"),
        ({"weight_block_size": [64, 128]}, r"weight_block_size = \[64, 128\]"),
        ({"weight_block_size": None}, "weight_block_size"),
        ({"fmt": "e5m2"}, "fmt = 'e5m2'"),
        ({"activation_scheme": "static"}, "activation_scheme"),
        ({"scale_fmt": "e5m2"}, "scale_fmt"),
    ],
)
def test_other_quantisation_is_refused(changes: dict[str, Any], named: str) -> None:
    content = raw(quantization_config=quantization_config("float") | changes)
    with pytest.raises(UserError, match=named):
        fp8_scales(content, FILE)
    with pytest.raises(UserError, match=f"unsupported settings: quantization_config: .*{named}"):
        parse_hf_config(content, FILE)
    with pytest.raises(UserError, match="must be an object"):
        fp8_scales({"quantization_config": [1]}, FILE)


def test_absent_router_settings_are_those_of_the_model_type() -> None:
    content = raw("v3")
    del content["scoring_func"], content["topk_method"]
    assert parse_hf_config(content, FILE) == CONFIGS["v3"]


def test_absent_mscale_means_what_deepseeks_code_means() -> None:
    content = raw("v2-lite", rope_parameters=None)
    del content["rope_scaling"]["mscale"], content["rope_scaling"]["mscale_all_dim"]
    assert parse_hf_config(content, FILE).rope_scaling == YARN.model_copy(update={"mscale": 1.0, "mscale_all_dim": 0.0})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"moe_layer_freq": 2}, "moe_layer_freq"),
        ({"rope_interleave": False}, "rope_interleave"),
        ({"num_key_value_heads": 1}, "num_key_value_heads"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"model_type": "llama"}, "model_type"),
        ({"model_type": ["deepseek_v3"]}, "model_type"),
        ({"model_type": "deepseek_v2"}, "topk_method"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"rope_theta": [1]}, "contradict"),
        ({"rope_theta": 77}, "contradict"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}}, "contradict"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "linear"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "original_max_position_embeddings"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        (
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 2.0,
                    "original_max_position_embeddings": 8,
                    "attention_factor": 3.0,
                }
            },
            "attention_factor",
        ),
    ],
)
def test_refuses_what_the_model_does_not_do(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=rf"config\.json.*{named}"):
        parse_hf_config(raw(**changes), FILE)


def test_names_every_unsupported_setting_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse_hf_config(raw(attention_bias=True, hidden_act="gelu", quantization_config={"a": 1}), FILE)
    assert all(name in str(caught.value) for name in ("attention_bias", "hidden_act", "quantization_config"))
