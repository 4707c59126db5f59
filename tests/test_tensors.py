from __future__ import annotations

import subprocess
import sys
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.config import ModelConfig
from clearseek.counts import count_parameters, flops_per_token, training_memory
from clearseek.recipe import load_recipe
from clearseek.tensors import FP8_KINDS, fp8_tensors, is_fp8_name, memory_tensors, tensors
from tests.hub.examples import CONFIGS, small

V3 = load_recipe("v3-671b").model
V2_LITE = load_recipe("v2-lite-16b").model


def test_v3_has_the_published_counts() -> None:
    count = count_parameters(V3)
    assert count.total == 671_026_419_200
    assert count.checkpoint == 684_489_845_504
    assert round(count.mtp / 1e9, 3) == 11.610
    assert count.embedding == count.head == 129_280 * 7_168
    assert round(count.activated / 1e9, 2) == 37.55
    assert round(count.activated_without_embedding / 1e9, 2) == 36.63
    assert count.activated_without_embedding_and_head == count.activated - 2 * 129_280 * 7_168


def test_v3_attention_and_moe_layer_have_the_published_sizes() -> None:
    layer = [spec for spec in tensors(V3) if spec.layer == 3]
    assert sum(spec.size for spec in layer if spec.kind == "attention") == 187_105_280
    assert round(sum(spec.size for spec in layer if spec.kind not in ("attention", "norm")) / 1e9, 3) == 11.320
    assert sum(spec.size for spec in layer if ".experts.7." in spec.name) == 44_040_192


def test_v2_lite_has_the_published_counts() -> None:
    count = count_parameters(V2_LITE)
    assert count.total == count.checkpoint == 15_706_484_224
    assert count.mtp == 0
    assert round(count.activated_without_embedding / 1e9, 1) == 2.5
    assert round(count.activated_without_embedding_and_head / 1e9, 1) == 2.2


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.self_attn.q_a_proj.weight", (1536, 7168)),
        ("model.layers.0.self_attn.q_a_layernorm.weight", (1536,)),
        ("model.layers.0.self_attn.q_b_proj.weight", (24576, 1536)),
        ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", (576, 7168)),
        ("model.layers.0.self_attn.kv_a_layernorm.weight", (512,)),
        ("model.layers.0.self_attn.kv_b_proj.weight", (32768, 512)),
        ("model.layers.0.self_attn.o_proj.weight", (7168, 16384)),
        ("model.layers.2.mlp.down_proj.weight", (7168, 18432)),
        ("model.layers.3.mlp.gate.weight", (256, 7168)),
        ("model.layers.3.mlp.gate.e_score_correction_bias", (256,)),
        ("model.layers.60.mlp.experts.255.down_proj.weight", (7168, 2048)),
        ("model.layers.60.mlp.shared_experts.up_proj.weight", (2048, 7168)),
        ("model.layers.61.embed_tokens.weight", (129280, 7168)),
        ("model.layers.61.enorm.weight", (7168,)),
        ("model.layers.61.hnorm.weight", (7168,)),
        ("model.layers.61.eh_proj.weight", (7168, 14336)),
        ("model.layers.61.shared_head.norm.weight", (7168,)),
        ("model.layers.61.shared_head.head.weight", (129280, 7168)),
        ("model.layers.61.mlp.experts.0.gate_proj.weight", (2048, 7168)),
        ("lm_head.weight", (129280, 7168)),
    ],
)
def test_v3_has_the_released_tensor(name: str, shape: tuple[int, ...]) -> None:
    assert {spec.name: spec.shape for spec in tensors(V3)}[name] == shape


def test_v3_in_fp8_has_the_released_tensors() -> None:
    stored = {tensor.name: tensor for tensor in fp8_tensors(V3)}
    assert len(stored) == sum(1 for _ in fp8_tensors(V3)) == 91_991
    elements = dict.fromkeys(("F8_E4M3", "BF16", "F32"), 0)
    for tensor in stored.values():
        elements[tensor.dtype] += prod(tensor.shape)
    scales = sum(prod(tensor.shape) for tensor in stored.values() if tensor.name.endswith("_scale_inv"))
    assert scales == 41_540_496
    assert sum(elements.values()) == 684_489_845_504 + scales == 684_531_386_000
    assert elements["F32"] == scales + 59 * 256  # the router's bias in 58 layers and the MTP layer
    assert round(elements["F8_E4M3"] / 1e9, 2) == 680.57


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.61.self_attn.q_a_proj", (12, 56)),
        ("model.layers.0.self_attn.q_b_proj", (192, 12)),
        ("model.layers.0.self_attn.kv_a_proj_with_mqa", (5, 56)),  # 576 rows: the last block is half full
        ("model.layers.0.self_attn.kv_b_proj", (256, 4)),
        ("model.layers.0.self_attn.o_proj", (56, 128)),
        ("model.layers.0.mlp.gate_proj", (144, 56)),
        ("model.layers.2.mlp.down_proj", (56, 144)),
        ("model.layers.3.mlp.experts.255.gate_proj", (16, 56)),
        ("model.layers.61.mlp.experts.0.up_proj", (16, 56)),
        ("model.layers.60.mlp.experts.7.down_proj", (56, 16)),
        ("model.layers.61.mlp.shared_experts.down_proj", (56, 16)),
    ],
)
def test_v3_in_fp8_has_the_released_scales(name: str, shape: tuple[int, ...]) -> None:
    stored = {tensor.name: tensor for tensor in fp8_tensors(V3)}
    assert stored[f"{name}.weight"].dtype == "F8_E4M3"
    assert stored[f"{name}.weight_scale_inv"][1:] == ("F32", shape)


def test_v3_in_fp8_keeps_what_the_release_keeps() -> None:
    stored = {tensor.name: tensor.dtype for tensor in fp8_tensors(V3)}
    kept = ("embed_tokens", "eh_proj", "shared_head.head", "enorm", "input_layernorm", "mlp.gate")
    assert {stored[f"model.layers.61.{name}.weight"] for name in kept} == {"BF16"}
    assert stored["lm_head.weight"] == stored["model.embed_tokens.weight"] == "BF16"
    assert stored["model.layers.61.mlp.gate.e_score_correction_bias"] == "F32"


@pytest.mark.parametrize("config", [*CONFIGS.values(), V3, V2_LITE], ids=[*CONFIGS, "v3-671b", "v2-lite-16b"])
def test_names_tell_what_is_in_fp8(config: ModelConfig) -> None:
    for spec in tensors(config):
        assert is_fp8_name(spec.name) == (spec.kind in FP8_KINDS), spec.name


def test_v2_lite_has_plain_queries_and_no_bias() -> None:
    shapes = {spec.name: spec.shape for spec in tensors(V2_LITE)}
    assert shapes["model.layers.0.self_attn.q_proj.weight"] == (16 * 192, 2048)
    assert shapes["model.layers.1.mlp.shared_experts.gate_proj.weight"] == (2816, 2048)
    assert not any("q_a_" in name or "bias" in name for name in shapes)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_memory_tensors_are_those_of_transformers(config: ModelConfig) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from clearseek.hub.config_json import hf_config

    raw = hf_config(config, "bfloat16", 0, 1, 2)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**raw))
    theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del theirs["lm_head.weight"]  # an alias of the embedding
    assert theirs == {spec.name: spec.shape for spec in memory_tensors(config, mtp=False)}


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    size = st.integers(1, 40)
    layers = draw(st.integers(1, 5))
    experts = draw(st.integers(2, 9))
    return small(
        hidden_size=draw(size),
        num_hidden_layers=layers,
        q_lora_rank=draw(st.none() | size),
        kv_lora_rank=draw(size),
        moe_intermediate_size=draw(size),
        n_routed_experts=experts,
        n_shared_experts=draw(st.integers(1, 3)),
        num_experts_per_tok=draw(st.integers(1, experts)),
        first_k_dense_replace=draw(st.integers(0, layers)),
        tie_word_embeddings=draw(st.booleans()),
        num_nextn_predict_layers=draw(st.integers(0, 1)),
    )


@given(configs())
def test_both_views_hold_the_same_parameters(config: ModelConfig) -> None:
    released, stored, count = list(tensors(config)), list(memory_tensors(config)), count_parameters(config)
    assert len({spec.name for spec in released}) == len(released)
    duplicates = sum(spec.size for spec in released if spec.duplicate_of)
    assert sum(spec.size for spec in stored) == count.total + count.mtp == count.checkpoint - duplicates
    assert {spec.duplicate_of for spec in released} - {None} <= {spec.name for spec in stored}
    assert all(spec.mtp == (spec.layer == config.num_hidden_layers) for spec in released)
    for kind in {spec.kind for spec in stored}:
        assert sum(s.size for s in stored if s.kind == kind) == sum(
            s.size for s in released if s.kind == kind and not s.duplicate_of
        )


@given(configs())
def test_activated_parameters_lie_between_one_expert_and_all(config: ModelConfig) -> None:
    count = count_parameters(config)
    everyone = count_parameters(config.model_copy(update={"num_experts_per_tok": config.n_routed_experts}))
    assert count.activated <= everyone.activated == count.total
    assert count.activated_without_embedding_and_head == count.activated - count.embedding - count.head
    assert (count.head == 0) == config.tie_word_embeddings


def test_training_flops_of_v3() -> None:
    assert round(flops_per_token(V3, 4096, mtp=False) / 1e9, 1) == 250.4
    assert round(flops_per_token(V3, 4096) / 1e9, 1) == 260.6


def test_flops_do_not_depend_on_tying() -> None:
    tied, untied = CONFIGS["v3-tied-mtp"], CONFIGS["v3-mtp"]
    assert flops_per_token(tied, 64) == flops_per_token(untied, 64)


def test_training_memory_follows_its_formula() -> None:
    config = CONFIGS["v3-mtp"]
    stored = list(memory_tensors(config))
    bias = 3 * config.n_routed_experts  # two decoder layers and the MTP layer
    trained = sum(spec.size for spec in stored) - bias
    adamw = training_memory(config, "adamw", "bf16")
    assert adamw.total == (2 + 4 + 4 + 8) * trained + 4 * bias
    assert training_memory(config, "adamw", "fp32").total == adamw.total - 2 * trained
    eight = sum(spec.size for spec in stored if spec.kind in FP8_KINDS)
    assert 0 < eight < trained and training_memory(config, "adamw", "fp8").total == adamw.total + 2 * eight
    split = training_memory(config, "adamw", "bf16", held_sums=3)
    assert split.total == adamw.total and split.partial_sums == 3 * adamw.gradients
    vectors = ("embedding", "head", "norm", "router")
    rest = sum(spec.size for spec in stored if spec.kind in vectors)
    assert training_memory(config, "muon", "bf16").optimizer == 8 * rest + 4 * (trained - rest)


def test_layout_needs_no_torch() -> None:
    program = "import sys, clearseek.tensors, clearseek.hub.portability; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
