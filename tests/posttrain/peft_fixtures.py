"""Adapters as PEFT itself writes them, with the logits that PEFT gets from them; run by hand where PEFT is installed.

    python -m tests.posttrain.peft_fixtures

The frozen model follows from a seed (:func:`frozen`). A and B are random, so that a swapped axis would show.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from clearseek.config import ModelConfig
from clearseek.model.transformer import DeepSeekModel
from tests.model.test_parity import BASE, peer_config

FOLDER = Path(__file__).parent / "fixtures" / "peft"
CONFIG = ModelConfig(
    **BASE
    | {
        "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "q_lora_rank": 12,
        "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "intermediate_size": 20,
        "moe_intermediate_size": 12, "n_routed_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
)  # fmt: skip
TARGETS: dict[str, dict[str, Any]] = {
    "both": {
        "target_modules": ["q_a_proj", "o_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    },
    "gate_up": {"target_modules": ["kv_b_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]},
    "down": {"target_modules": [], "target_parameters": ["experts.down_proj"]},
    "one-layer": {
        "target_modules": ["model.layers.1.self_attn.q_b_proj"],
        "target_parameters": ["layers.1.mlp.experts.down_proj", "layers.2.mlp.experts.gate_up_proj"],
    },
    "mlps": {
        "target_modules": [],
        "target_parameters": ["mlp.gate_proj.weight", "shared_experts.down_proj.weight", "mlp.experts.down_proj"],
    },
    "converted": {"target_modules": ["gate_proj", "up_proj", "down_proj", "kv_a_proj_with_mqa"]},
    "patterns": {
        "target_modules": ["q_a_proj", "q_b_proj", "o_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        "rank_pattern": {"o_proj": 4, r".*\.down_proj": 1, r"layers\.2\.self_attn\.q_b_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.o_proj": 9, "gate_up_proj": 2.5},
    },
}
"""Arguments of PEFT's LoraConfig by the name of the fixture."""


def frozen(config: ModelConfig = CONFIG) -> DeepSeekModel:
    """The model that the adapters are of."""
    model = DeepSeekModel(config)
    model.initialise(seed=11)
    for layer in model.moe_layers:
        bias = layer.gate.e_score_correction_bias
        bias.copy_(torch.linspace(-0.1, 0.1, len(bias)))
    return model


def tokens_of(config: ModelConfig = CONFIG) -> torch.Tensor:
    """Two sequences of 13 tokens."""
    return torch.arange(26).view(2, 13) * 7 % config.vocab_size


def twin(model: DeepSeekModel) -> Any:
    """transformers' model with the same weights."""
    import transformers

    theirs = transformers.DeepseekV3ForCausalLM(peer_config(model.config)).eval()
    _, unexpected = theirs.load_state_dict(model.state_dict(), strict=False)
    assert all(f"layers.{model.config.num_hidden_layers}." in name for name in unexpected)  # an MTP layer
    return theirs


def adapted(model: DeepSeekModel, **targets: Any) -> Any:
    """PEFT's model with random A and B."""
    import peft

    theirs = peft.get_peft_model(twin(model), peft.LoraConfig(r=3, lora_alpha=4, **targets))
    generator = torch.Generator().manual_seed(12)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return theirs.eval()


def main() -> None:
    import peft
    import transformers

    versions = {"peft": peft.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    logits: dict[str, Any] = {}
    for name, targets in TARGETS.items():
        theirs = adapted(frozen(), **targets)
        theirs.save_pretrained(FOLDER / name)
        (FOLDER / name / "README.md").unlink()
        with torch.no_grad():
            last = theirs(tokens_of()).logits[:, -1]
        logits[name] = [[round(value, 6) for value in row] for row in last.tolist()]
    text = json.dumps({"versions": versions, "logits": logits}, indent=None, separators=(",", ":"))
    (FOLDER / "logits.json").write_text(text.replace("]],", "]],\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
