"""Logits and gradients against transformers' own DeepSeek implementations, in FP32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from clearseek.config import ModelConfig, RopeScaling
from clearseek.model.transformer import DeepSeekModel

transformers = pytest.importorskip("transformers")

BASE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.05,
}
V2: dict[str, Any] = {
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
}
YARN = RopeScaling(factor=40.0, original_max_position_embeddings=64, mscale=1.0, mscale_all_dim=1.0)
GROUPS = {"n_routed_experts": 16, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 4}

CASES: dict[str, tuple[dict[str, Any], int]] = {
    "v3": ({}, 32),
    "plain queries": ({"q_lora_rank": None}, 32),
    "4 groups keep 2, odd length": (GROUPS, 37),
    "YaRN factor 40": ({"rope_scaling": YARN, "max_position_embeddings": 2560}, 150),
    "YaRN with other mscale": ({"rope_scaling": YARN.model_copy(update={"mscale": 0.707})}, 33),
    "two shared experts": ({"n_shared_experts": 2}, 32),
    "tied embeddings": ({"tie_word_embeddings": True}, 17),
    "all experts": ({"first_k_dense_replace": 0}, 32),
    "three dense, one token": ({"first_k_dense_replace": 3}, 1),
    "long, several query blocks": (GROUPS | {"q_lora_rank": None, "qk_rope_head_dim": 16}, 301),
    "v2 greedy": (V2, 32),
    "v2 groups, scaled": (V2 | GROUPS | {"topk_method": "group_limited_greedy", "routed_scaling_factor": 16.0}, 31),
    "v2 lite": (V2 | {"q_lora_rank": None, "n_shared_experts": 2, "rope_scaling": YARN}, 70),
}


def peer_config(config: ModelConfig) -> Any:
    """The same dimensions in transformers' own words."""
    fields = config.model_dump(exclude={"scoring_func", "topk_method", "rope_scaling", "num_nextn_predict_layers"})
    rope: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if config.rope_scaling is not None:
        rope |= config.rope_scaling.model_dump() | {"rope_type": "yarn"}
    fields |= {"rope_parameters": rope, "num_key_value_heads": config.num_attention_heads}
    if config.model_type == "deepseek_v2":
        return transformers.DeepseekV2Config(**fields, topk_method=config.topk_method)
    return transformers.DeepseekV3Config(**fields)


def twins(config: ModelConfig) -> tuple[DeepSeekModel, Any]:
    """Our model and transformers' with the same weights; router biases of both signs."""
    ours = DeepSeekModel(config)
    ours.initialise(seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, buffer in ours.named_buffers():
        assert name.endswith("e_score_correction_bias")
        buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.3)
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.ndim == 1:
                parameter.copy_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    cls = (
        transformers.DeepseekV2ForCausalLM if config.model_type == "deepseek_v2" else transformers.DeepseekV3ForCausalLM
    )
    theirs = cls(peer_config(config)).eval()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if config.tie_word_embeddings else set())
    return ours, theirs


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_match_transformers(case: str) -> None:
    changes, length = CASES[case]
    config = ModelConfig(**(BASE | changes))
    ours, theirs = twins(config)
    tokens = torch.randint(0, config.vocab_size, (2, length + 1), generator=torch.Generator().manual_seed(3))

    logits = theirs(tokens[:, :length]).logits
    with torch.no_grad():
        difference = (ours.logits(tokens[:, :length]) - logits).abs().max().item()
    assert difference <= 1e-4

    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    losses = ours.loss(tokens)
    losses.total.backward()
    peers = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        expected = peers[name].grad
        assert parameter.grad is not None and expected is not None, name
        error = (parameter.grad - expected).norm() / expected.norm().clamp(min=1e-12)
        assert error <= 1e-4, f"{name}: relative error {error}"


def test_loss_equals_transformers_loss() -> None:
    config = ModelConfig(**BASE)
    ours, theirs = twins(config)
    tokens = torch.randint(0, config.vocab_size, (3, 21), generator=torch.Generator().manual_seed(4))
    expected = F.cross_entropy(theirs(tokens[:, :20]).logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert ours.loss(tokens).main.item() == pytest.approx(expected.item(), abs=1e-5)
