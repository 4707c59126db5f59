"""Logits against DeepSeek's own inference code, for those who have it.

Set CLEARSEEK_DEEPSEEK_V3 to a checkout of https://github.com/deepseek-ai/DeepSeek-V3 (its code is MIT-licensed); these
tests are skipped without it. `inference/model.py` runs unchanged and in FP32; its FP8 kernels, which need a GPU and are
not called in FP32, are replaced by an empty module. Weights and settings reach it through a folder that `export_hf`
wrote, under the names its `convert.py` gives them, so that the export is under test as well.

Three things the demo code fixes are undone or respected here: a router has a bias only at DeepSeek-V3's width of 7168
(given to every V3 model); YaRN holds once the longest sequence exceeds the original one; epsilon is 1e-6.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from clearseek.config import ModelConfig, RopeScaling
from clearseek.hub.write import export_hf
from clearseek.model.transformer import DeepSeekModel
from tests.hub.examples import tokenizer_file
from tests.model.test_parity import BASE, GROUPS, V2

CHECKOUT = os.environ.get("CLEARSEEK_DEEPSEEK_V3", "")
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="CLEARSEEK_DEEPSEEK_V3 names no checkout of DeepSeek-V3")

YARN = RopeScaling(factor=8.0, original_max_position_embeddings=48)
LONG = {"rope_scaling": YARN, "max_position_embeddings": 384}
NORM_OF = {"input": "attn_norm", "post_attention": "ffn_norm"}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "v3": ({}, 32),
    "plain queries": ({"q_lora_rank": None}, 32),
    "4 groups keep 2, odd length": (GROUPS, 37),
    "8 groups keep 3": ({"n_routed_experts": 32, "n_group": 8, "topk_group": 3, "num_experts_per_tok": 6}, 24),
    "groups, plain queries": (GROUPS | {"q_lora_rank": None}, 33),
    "YaRN": (LONG, 150),
    "YaRN, plain queries, groups": (LONG | GROUPS | {"q_lora_rank": None}, 201),
    "YaRN, mscale 0.707, other betas": (
        {"max_position_embeddings": 640, "rope_theta": 500.0, "rope_scaling": RopeScaling(
            factor=40.0, original_max_position_embeddings=16, beta_fast=2.0, mscale=0.707, mscale_all_dim=0.707)},
        130,
    ),
    "two shared experts": ({"n_shared_experts": 2}, 32),
    "no dense layer": ({"first_k_dense_replace": 0}, 32),
    "three dense, one token": ({"first_k_dense_replace": 3}, 1),
    "other route scale, one expert a token": ({"routed_scaling_factor": 0.7, "num_experts_per_tok": 1}, 32),
    "wide rotary part, narrow values": ({"qk_rope_head_dim": 24, "v_head_dim": 8, "rope_theta": 1e6}, 40),
    "several query blocks": ({"max_position_embeddings": 512}, 301),
    "v2 greedy": (V2, 32),
    "v2 groups, scaled": (V2 | GROUPS | {"topk_method": "group_limited_greedy", "routed_scaling_factor": 16.0}, 31),
    "v2 lite": (V2 | LONG | {"q_lora_rank": None, "n_shared_experts": 2}, 70),
}  # fmt: skip


@pytest.fixture(scope="module")
def deepseek() -> Any:
    """Their `inference/model.py`."""
    file = Path(CHECKOUT) / "inference/model.py"
    assert file.is_file(), f"CLEARSEEK_DEEPSEEK_V3={CHECKOUT}: no inference/model.py there"
    kernel = ModuleType("kernel")
    for name in ("act_quant", "weight_dequant", "fp8_gemm"):
        setattr(kernel, name, None)
    spec = importlib.util.spec_from_file_location("deepseek_inference_model", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "kernel", kernel)
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


def their_name(name: str) -> str:
    """Hugging Face's name of a tensor in their model."""
    name = name.removeprefix("model.").replace("self_attn", "attn").replace("mlp", "ffn")
    name = re.sub(r"\b(input|post_attention)_layernorm\b", lambda match: NORM_OF[match[1]], name)
    name = re.sub(r"\b(q|kv)_a_layernorm\b", r"\1_norm", name)
    name = name.replace("kv_a_proj_with_mqa", "wkv_a").replace("e_score_correction_bias", "bias")
    name = re.sub(r"\b(q|q_a|q_b|kv_b|o)_proj\b", r"w\1", name)
    name = name.replace("gate_proj", "w1").replace("down_proj", "w2").replace("up_proj", "w3")
    return name.replace("embed_tokens", "embed").replace("lm_head", "head")


def their_model(deepseek: Any, folder: Path, attention: str) -> Any:
    """Their model with an exported folder's settings and weights, in FP32."""
    config = json.loads((folder / "config.json").read_text())
    yarn = config["rope_scaling"] or {}
    deepseek.attn_impl = attention
    args = deepseek.ModelArgs(
        max_batch_size=2, max_seq_len=config["max_position_embeddings"], vocab_size=config["vocab_size"],
        dim=config["hidden_size"], inter_dim=config["intermediate_size"],
        moe_inter_dim=config["moe_intermediate_size"], n_layers=config["num_hidden_layers"],
        n_dense_layers=config["first_k_dense_replace"], n_heads=config["num_attention_heads"],
        n_routed_experts=config["n_routed_experts"], n_shared_experts=config["n_shared_experts"],
        n_activated_experts=config["num_experts_per_tok"], n_expert_groups=config["n_group"] or 1,
        n_limited_groups=config["topk_group"] or 1, score_func=config["scoring_func"],
        route_scale=config["routed_scaling_factor"], q_lora_rank=config["q_lora_rank"] or 0,
        kv_lora_rank=config["kv_lora_rank"], qk_nope_head_dim=config["qk_nope_head_dim"],
        qk_rope_head_dim=config["qk_rope_head_dim"], v_head_dim=config["v_head_dim"],
        rope_theta=config["rope_theta"], rope_factor=yarn.get("factor", 1.0),
        original_seq_len=yarn.get("original_max_position_embeddings", config["max_position_embeddings"]),
        beta_fast=yarn.get("beta_fast", 32), beta_slow=yarn.get("beta_slow", 1), mscale=yarn.get("mscale", 1.0),
    )  # fmt: skip
    model = deepseek.Transformer(args).float()
    if config["model_type"] == "deepseek_v3":
        for layer in model.layers[args.n_dense_layers :]:
            layer.ffn.gate.bias = nn.Parameter(torch.empty(args.n_routed_experts))
    weights = {their_name(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(weights)
    return model


def pair(deepseek: Any, changes: dict[str, Any], tmp_path: Path, attention: str) -> tuple[DeepSeekModel, Any]:
    """Our model and theirs with the same weights; norms away from one, router biases of both signs."""
    ours = DeepSeekModel(ModelConfig(**(BASE | {"vocab_size": 320} | changes)))
    ours.initialise(seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in [*(p for p in ours.parameters() if p.ndim == 1), *ours.buffers()]:
            tensor += 0.2 * torch.randn(tensor.shape, generator=generator)
    export_hf(ours.state_dict(), ours.config, tokenizer_file(tmp_path), tmp_path / "model", torch.float32)
    return ours, their_model(deepseek, tmp_path / "model", attention)


def all_logits(theirs: Any, tokens: Tensor) -> Tensor:
    """Their logits at every position; the code itself keeps the last one's."""
    hidden: list[Tensor] = []
    hook = theirs.norm.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    last = theirs(tokens)
    hook.remove()
    logits = F.linear(hidden[0], theirs.head.weight)
    torch.testing.assert_close(logits[:, -1], last)
    return logits


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("attention", ["naive", "absorb"])
def test_logits_are_deepseeks(case: str, attention: str, deepseek: Any, tmp_path: Path) -> None:
    changes, length = CASES[case]
    ours, theirs = pair(deepseek, changes, tmp_path, attention)
    tokens = torch.randint(0, 320, (2, length), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours.logits(tokens), all_logits(theirs, tokens), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("changes", [LONG | GROUPS, V2 | {"q_lora_rank": None}], ids=["v3", "v2"])
def test_writing_token_by_token_is_deepseeks(changes: dict[str, Any], deepseek: Any, tmp_path: Path) -> None:
    ours, theirs = pair(deepseek, changes, tmp_path, "absorb")
    tokens = torch.randint(0, 320, (2, 60), generator=torch.Generator().manual_seed(4))
    caches = ours.new_caches()
    at = 0
    for count in (40, 1, 1, 1, 1):
        piece = tokens[:, at : at + count]
        expected = theirs(piece, at)
        torch.testing.assert_close(ours.logits(piece, caches)[:, -1], expected, rtol=0, atol=1e-5)
        at += count
