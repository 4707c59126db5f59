"""Counts of other people's models: published figures by the tables, and the tables against transformers' classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clearseek.errors import UserError
from clearseek.hub import parameters
from clearseek.hub.decoders import KINDS, decoder
from clearseek.hub.meta_device import count, plain
from clearseek.hub.parameters import count_config

CONFIG = Path("config.json")


def dense(model_type: str, V: int, H: int, I: int, L: int, heads: int, keys: int, **more: Any) -> dict[str, Any]:  # noqa: E741
    return {
        "model_type": model_type, "vocab_size": V, "hidden_size": H, "intermediate_size": I, "num_hidden_layers": L,
        "num_attention_heads": heads, "num_key_value_heads": keys, **more,
    }  # fmt: skip


GLM_4_5 = dense(
    "glm4_moe", 151552, 5120, 12288, 92, 96, 8, moe_intermediate_size=1536, head_dim=128, n_shared_experts=1,
    n_routed_experts=160, num_experts_per_tok=8, first_k_dense_replace=3, attention_bias=True, use_qk_norm=True,
    num_nextn_predict_layers=1,
)  # fmt: skip
V3_2 = dense(
    "deepseek_v32", 129280, 7168, 18432, 61, 128, 128, moe_intermediate_size=2048, n_shared_experts=1,
    n_routed_experts=256, num_experts_per_tok=8, kv_lora_rank=512, q_lora_rank=1536, qk_rope_head_dim=64,
    qk_nope_head_dim=128, v_head_dim=128, n_group=8, topk_group=4, first_k_dense_replace=3, norm_topk_prob=True,
    scoring_func="sigmoid", topk_method="noaux_tc", routed_scaling_factor=2.5, rope_theta=10000,
    max_position_embeddings=163840, index_n_heads=64, index_head_dim=128, index_topk=2048, num_nextn_predict_layers=1,
)  # fmt: skip
V4_FLASH: dict[str, Any] = {
    "model_type": "deepseek_v4", "vocab_size": 129280, "hidden_size": 4096, "moe_intermediate_size": 2048,
    "num_hidden_layers": 43, "num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 512, "q_lora_rank": 1024,
    "qk_rope_head_dim": 64, "num_experts_per_tok": 6, "n_routed_experts": 256, "n_shared_experts": 1, "hc_mult": 4,
    "o_groups": 8, "o_lora_rank": 1024, "index_n_heads": 64, "index_head_dim": 128, "num_hash_layers": 3,
    "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0], "num_nextn_predict_layers": 1, "expert_dtype": "fp4",
}  # fmt: skip
V4_PRO = V4_FLASH | {
    "hidden_size": 7168, "moe_intermediate_size": 3072, "num_hidden_layers": 61, "num_attention_heads": 128,
    "q_lora_rank": 1536, "n_routed_experts": 384, "o_groups": 16, "compress_ratios": [128, 128, *[4, 128] * 29, 4, 0],
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (dense("llama", 32000, 4096, 11008, 32, 32, 32), 6_738_415_616),
        (dense("mistral", 32000, 4096, 14336, 32, 32, 8), 7_241_732_096),
        (dense("qwen2", 151936, 896, 4864, 24, 14, 2, tie_word_embeddings=True), 494_032_768),
        (dense("qwen3", 151936, 1024, 3072, 28, 16, 8, head_dim=128, tie_word_embeddings=True), 596_049_920),
        (dense("phi3", 32064, 3072, 8192, 32, 32, 32), 3_821_079_552),
        (dense("olmo", 50304, 4096, 11008, 32, 32, 32), 6_888_095_744),
        (dense("smollm3", 128256, 2048, 11008, 36, 16, 4), 3_075_098_624),
        (dense("gemma", 256000, 2048, 16384, 18, 8, 1, head_dim=256), 2_506_172_416),
        (dense("gemma2", 256000, 2304, 9216, 26, 8, 4, head_dim=256), 2_614_341_888),
        (dense("gemma3_text", 262144, 1152, 6912, 26, 4, 1, head_dim=256), 999_885_952),
        (dense("mixtral", 32000, 4096, 14336, 32, 32, 8, num_local_experts=8, num_experts_per_tok=2), 46_702_792_704),
        (dense("olmoe", 50304, 2048, 1024, 16, 16, 16, num_experts=64, num_experts_per_tok=8), 6_919_161_856),
        (
            dense("qwen2_moe", 151936, 2048, 5632, 24, 16, 16, moe_intermediate_size=1408, num_experts=60,
                  shared_expert_intermediate_size=5632, num_experts_per_tok=4),
            14_315_784_192,
        ),
        (
            dense("qwen3_moe", 151936, 4096, 12288, 94, 64, 4, moe_intermediate_size=1536, head_dim=128,
                  num_experts=128, num_experts_per_tok=8, decoder_sparse_step=1, mlp_only_layers=[]),
            235_093_634_560,
        ),
        (
            dense("gpt_oss", 201088, 2880, 2880, 36, 64, 8, head_dim=64, num_local_experts=128, num_experts_per_tok=4),
            116_829_156_672,
        ),
    ],
)  # fmt: skip
def test_published_counts(config: dict[str, Any], total: int) -> None:
    assert count_config(config, CONFIG).total == total


def test_published_figures_of_mixtures_of_experts() -> None:
    """GLM-4.5: 355B without embedding and head, with the prediction module, and 32B; V4: 284B and 13B, 1.6T and 49B."""
    glm, flash, pro, v32 = (count_config(each, CONFIG) for each in (GLM_4_5, V4_FLASH, V4_PRO, V3_2))
    assert round((glm.total + glm.mtp - glm.embedding - glm.head) / 1e9) == 355
    assert glm.activated is not None and round((glm.activated - glm.embedding - glm.head) / 1e9) == 32
    assert (flash.activated or 0) // 10**9 == 13 and round(flash.total / 1e9) == 284
    assert (pro.activated or 0) // 10**9 == 49 and round(pro.total / 1e11) == 16
    assert v32.total - 671_026_419_200 == 61 * (1536 * 64 * 128 + 7168 * (128 + 64) + 2 * 128)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS, "deepseek_v32", "deepseek_v4"])
def test_tables_count_what_transformers_builds(name: str) -> None:
    pytest.importorskip("transformers")
    small = dense(name, 320, 64, 96, 4, 4, 2, head_dim=32, pad_token_id=0)
    if name in KINDS and (setting := KINDS[name].experts):
        small |= {setting: 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "n_shared_experts": 2,
                  "first_k_dense_replace": 1, "shared_expert_intermediate_size": 80}  # fmt: skip
    variants: list[dict[str, Any]] = [
        small, small | {"tie_word_embeddings": True}, small | {"attention_bias": True, "use_qk_norm": True},
        {**small, "head_dim": None},
    ]  # fmt: skip
    if name == "deepseek_v32":
        variants = [V3_2 | {"num_hidden_layers": 5}]
    elif name == "deepseek_v4":
        variants = [V4_FLASH | {"num_hidden_layers": 6}]
    if name in KINDS and KINDS[name].qk_norm == "full":  # transformers' classes do not agree on these
        variants = [{**each, "head_dim": None} for each in variants]
    for raw in variants:
        raw = {key: value for key, value in raw.items() if value is not None}
        ours, theirs = count_config(raw, CONFIG), count(raw)
        expected = (theirs["total"], theirs["embedding"], theirs["head"], theirs["activated"])
        assert (ours.total, ours.embedding, ours.head, ours.activated) == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 1_000_000}, "num_hidden_layers = 1000000 is"),
        ({"hidden_size": 10**12}, "hidden_size = 1000000000000 is"),
        ({"model_type": None}, "model_type"),
        ({"x": [0] * 30_000}, "values"),
        ({"text": "x" * 20_000}, "longer"),
    ],
)
def test_what_no_model_has_is_refused_before_anything_is_built(
    change: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameters.subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(UserError, match=words):
        count_config(dense("bloom", 320, 64, 96, 2, 4, 4) | change, CONFIG)


def test_no_key_that_names_code_reaches_a_class() -> None:
    text = {"model_type": "llama", "trust_remote_code": True, "_x": 1}
    raw = {"auto_map": {"AutoConfig": "x.Y"}, "_attn_implementation": "a/b", "hidden_size": 8, "text_config": text}
    assert plain(raw) == {"hidden_size": 8, "text_config": {"model_type": "llama"}}


def test_a_table_does_not_count_what_it_does_not_know() -> None:
    raw = dense("llama", 320, 64, 96, 2, 4, 4)
    assert decoder(raw) is not None
    for change in ({"mlp_bias": True}, {"auto_map": {}}, {"vocab_size": None}, {"architectures": ["LlamaForX"]}):
        assert decoder(raw | change) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "total", "words"),
    [
        (dense("falcon", 65024, 4544, 4 * 4544, 32, 71, 1), 6_921_720_704, ""),
        ({"model_type": "no_such_model", "hidden_size": 8}, None, "does not count it"),
        ({"model_type": "bert", "hidden_size": -8}, None, "does not count it"),
    ],
)
def test_other_architectures_are_counted_in_a_process_of_their_own(
    raw: dict[str, Any], total: int | None, words: str
) -> None:
    pytest.importorskip("transformers")
    if total is None:
        with pytest.raises(UserError, match=words):
            count_config(raw, CONFIG)
        return
    counted = count_config(raw, CONFIG)
    assert counted.total == counted.activated == total
    assert counted.by.startswith("transformers ")
    assert json.dumps(counted.defaults)
