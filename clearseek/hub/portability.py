"""Portability: findings about how other engines run a model, by its dimensions, before training.

Each inference engine makes assumptions: llama.cpp tells DeepSeek's sizes apart by their layer count, vLLM's
latent-attention kernels are compiled for two cache widths, GGUF packs rows in blocks of 32 or 256. An assumption costs
nothing to meet before training, and a retraining after. Dimensions that ``ModelConfig`` refuses by itself are not
repeated here: no shared expert, groups that do not divide the experts or limit nothing, more than one
multi-token-prediction layer or one without experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from clearseek.config import ModelConfig
from clearseek.tensors import FP8_KINDS, tensors

LLAMA_CPP_LITE_LAYERS = (26, 27)
LLAMA_CPP_MOST_BLOCKS = 512
LLAMA_CPP_MOST_EXPERTS = 1024
LLAMA_CPP_YARN_BETAS = (32.0, 1.0)
VLLM_MLA_WIDTHS = (320, 576)
LATENT_NORM_EPS = 1e-6


Severity = Literal["error", "warning", "note"]
"""`error`: does not load, or computes something else. `warning`: needs a flag or gives numbers slightly off.
`note`: works, with a cost."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Behaviour of one tool with a model of given dimensions."""

    severity: Severity
    tool: str
    """The tool or format."""
    message: str
    """Behaviour, and the setting that avoids it."""


def check_portability(config: ModelConfig, own_tokenizer: bool = True) -> list[Finding]:
    """Findings for llama.cpp, GGUF, vLLM, transformers and FP8, in that order; an empty list means none known.

    Args:
        config: Dimensions.
        own_tokenizer: Whether the tokenizer is trained here, not a published one.
    """
    layers, rank, eps = config.num_hidden_layers, config.q_lora_rank, config.rms_norm_eps
    v2, width = config.model_type == "deepseek_v2", config.kv_lora_rank + config.qk_rope_head_dim
    # 48 layers with this vocabulary is another published model that shares the architecture name.
    lite = layers in LLAMA_CPP_LITE_LAYERS or (layers == 48 and config.vocab_size == 128256)
    norms = (
        eps != LATENT_NORM_EPS, f"uses rms_norm_eps = {eps} in the latent norms too, where this model has 1e-6: set "
        "rms_norm_eps = 1e-6 for the same numbers everywhere"
    )  # fmt: skip
    checks: list[tuple[Severity, str, object, str]] = [
        ("error", "llama.cpp", lite and rank is not None,
         f"takes a model of num_hidden_layers = {layers} for V2-Lite, without compressed queries, but q_lora_rank = "
         f"{rank}: use another number of layers than 26 or 27"),
        ("error", "llama.cpp", not lite and rank is None,
         "reads plain queries (no q_lora_rank) only in models of 26 or 27 layers, but num_hidden_layers = "
         f"{layers}: set q_lora_rank, or 26 or 27 layers"),
        *_llama_cpp(config),
        ("warning", "llama.cpp", *norms),
        # get_vocab_base_pre compares the SHA-256 of the ids of one text, which every vocabulary gives differently.
        ("note", "llama.cpp", own_tokenizer,
         "its convert_hf_to_gguf.py knows a tokenizer by a hash of token ids and stops at one trained here (BPE "
         "pre-tokenizer was not recognized): use clearseek export --format gguf"),
        *_gguf(config),
        ("warning", "vLLM", width not in VLLM_MLA_WIDTHS,
         f"its latent-attention kernels take kv_lora_rank + qk_rope_head_dim of 320 or 576, and this is {width}: "
         "use 256 + 64 or 512 + 64, or serve with VLLM_MLA_DISABLE=1"),
        ("warning", "vLLM", *norms),
        ("error", "transformers", v2 and config.norm_topk_prob,
         "ignores norm_topk_prob in deepseek_v2 and would weight the experts differently: set norm_topk_prob = false"),
        ("error", "transformers", v2 and config.hidden_size % config.num_attention_heads,
         f"refuses a deepseek_v2 whose hidden_size = {config.hidden_size} is not divisible by num_attention_heads = "
         f"{config.num_attention_heads}"),
        ("note", "transformers", config.num_nextn_predict_layers and layers != 61,
         "looks for the MTP layer at layer 61 only: it warns of unexpected tensors, runs the main model, and cannot "
         "use MTP to generate"),
        *_fp8(config),
    ]  # fmt: skip
    return [Finding(severity, tool, message) for severity, tool, true, message in checks if true]


def _llama_cpp(config: ModelConfig) -> Iterator[tuple[Severity, str, object, str]]:
    """Asserts of llama.cpp's loader, and what its graph for this architecture takes for granted."""
    blocks = config.num_hidden_layers + config.num_nextn_predict_layers
    yield (
        "error", "llama.cpp", config.n_group >= config.n_routed_experts,
        f"stops when n_group = {config.n_group} is not below n_routed_experts = {config.n_routed_experts}"
    )  # fmt: skip
    yield (
        "error", "llama.cpp", blocks > LLAMA_CPP_MOST_BLOCKS or config.n_routed_experts > LLAMA_CPP_MOST_EXPERTS,
        f"stops above {LLAMA_CPP_MOST_BLOCKS} layers or {LLAMA_CPP_MOST_EXPERTS} experts, and this model has {blocks} "
        f"and {config.n_routed_experts}"
    )  # fmt: skip
    yield (
        "error", "llama.cpp", config.topk_method == "group_limited_greedy" and config.n_group > 1,
        "scores a group of experts by its two best, as V3 does, and V2's group_limited_greedy by its best alone: other "
        "experts are chosen; set n_group = 1, or use noaux_tc"
    )  # fmt: skip
    yarn = config.rope_scaling
    betas = (yarn.beta_fast, yarn.beta_slow) if yarn else LLAMA_CPP_YARN_BETAS
    yield (
        "error", "llama.cpp", betas != LLAMA_CPP_YARN_BETAS,
        f"takes YaRN's beta_fast = 32 and beta_slow = 1 whatever the file says, but they are {betas[0]:g} and "
        f"{betas[1]:g}: train with 32 and 1"
    )  # fmt: skip
    yield (
        "warning", "llama.cpp", config.num_nextn_predict_layers and config.q_lora_rank is None,
        "drafts with an MTP layer (draft-mtp) only where queries are compressed, and stops otherwise: set q_lora_rank, "
        "or leave draft-mtp out"
    )  # fmt: skip


def _gguf(config: ModelConfig) -> Iterator[tuple[Severity, str, object, str]]:
    """GGUF quantises along rows; kv_b_proj is stored transposed for keys, so a row there is qk_nope_head_dim long."""
    rows = {spec.shape[-1] for spec in tensors(config) if len(spec.shape) == 2} | {config.qk_nope_head_dim}
    blocks: tuple[tuple[Severity, int, str], ...] = (("warning", 32, "Q8_0 and Q4_0"), ("note", 256, "the K-quants"))
    for severity, block, types in blocks:
        odd = sorted(size for size in rows if size % block)
        message = (
            f"{types} pack rows in blocks of {block}, and rows of {', '.join(map(str, odd))} elements do not divide"
        )
        yield severity, "GGUF", odd, f"{message}: those tensors need another type"


def _fp8(config: ModelConfig) -> Iterator[tuple[Severity, str, object, str]]:
    """Inputs of a matrix product are scaled in tiles of 128 channels (DeepSeek-V3 report, section 3.3.2)."""
    odd = sorted({s.shape[1] for s in tensors(config) if s.kind in FP8_KINDS and s.shape[1] % 128})
    inputs = f"inputs of {', '.join(map(str, odd))} channels"
    yield "note", "FP8", odd, f"tiles are 128 channels wide, and {inputs} leave a partly filled one"
