"""Will other people's engines run this model? Asked of the dimensions, before training.

An architecture travels only as far as the assumptions inside each inference engine: llama.cpp tells DeepSeek's sizes
apart by their layer count, vLLM's latent-attention kernels are compiled for two cache widths, GGUF packs rows in blocks
of 32 or 256. Such an assumption costs nothing to meet before training and a retraining to meet after. What
``ModelConfig`` refuses by itself (no shared expert, groups that do not divide the experts or limit nothing) is not
repeated here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from clearseek.config import ModelConfig
from clearseek.tensors import tensors

LLAMA_CPP_LITE_LAYERS = (26, 27)
VLLM_MLA_WIDTHS = (320, 576)
LATENT_NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a tool will do with a model of these dimensions."""

    severity: Literal["error", "warning", "note"]
    """`error`: does not load, or computes something else. `warning`: needs a flag or gives numbers slightly off.
    `note`: works, with a cost."""
    tool: str
    """The tool or format."""
    message: str
    """What happens, and which setting avoids it."""


# Its function get_vocab_base_pre compares the SHA-256 of the ids of one text, so every vocabulary has another.
_UNKNOWN_TOKENIZER = Finding(
    "warning",
    "llama.cpp",
    "its convert_hf_to_gguf.py knows a tokenizer by a hash of token ids and stops at one trained here (BPE "
    'pre-tokenizer was not recognized): tell it that the pre-tokenizer is "deepseek-v3", as docs/export.md shows',
)


def check_portability(config: ModelConfig, own_tokenizer: bool = True) -> list[Finding]:
    """Findings for llama.cpp, GGUF, vLLM, transformers and FP8, in that order; an empty list means none known.

    Args:
        config: Dimensions.
        own_tokenizer: Whether the tokenizer is trained here, not a published one.
    """
    tokenizer = [_UNKNOWN_TOKENIZER] if own_tokenizer else []
    return [*_llama_cpp(config), *tokenizer, *_gguf(config), *_vllm(config), *_transformers(config), *_fp8(config)]


def _llama_cpp(config: ModelConfig) -> Iterator[Finding]:
    # 48 layers with this vocabulary is another published model that shares the architecture name.
    lite = config.num_hidden_layers in LLAMA_CPP_LITE_LAYERS
    lite = lite or (config.num_hidden_layers == 48 and config.vocab_size == 128256)
    if lite and config.q_lora_rank is not None:
        yield Finding(
            "error",
            "llama.cpp",
            f"takes a model of num_hidden_layers = {config.num_hidden_layers} for V2-Lite, without compressed queries, "
            f"but q_lora_rank = {config.q_lora_rank}: use another number of layers than 26 or 27",
        )
    if not lite and config.q_lora_rank is None:
        yield Finding(
            "error",
            "llama.cpp",
            "reads plain queries (no q_lora_rank) only in models of 26 or 27 layers, but num_hidden_layers = "
            f"{config.num_hidden_layers}: set q_lora_rank, or 26 or 27 layers",
        )
    if config.n_group > 1 and config.n_group >= config.n_routed_experts:
        yield Finding(
            "error",
            "llama.cpp",
            f"stops when n_group = {config.n_group} is not below n_routed_experts = {config.n_routed_experts}",
        )
    if config.rms_norm_eps != LATENT_NORM_EPS:
        yield _latent_norms("llama.cpp", config)


def _gguf(config: ModelConfig) -> Iterator[Finding]:
    """GGUF quantises along rows; kv_b_proj is stored transposed for keys, so a row there is qk_nope_head_dim long."""
    rows = {spec.shape[-1] for spec in tensors(config) if len(spec.shape) == 2} | {config.qk_nope_head_dim}
    for block, types in ((32, "Q8_0 and Q4_0"), (256, "the K-quants")):
        odd = sorted(size for size in rows if size % block)
        if odd:
            yield Finding(
                "warning" if block == 32 else "note",
                "GGUF",
                f"{types} pack rows in blocks of {block}, and rows of {', '.join(map(str, odd))} elements do not "
                "divide: those tensors need another type",
            )


def _vllm(config: ModelConfig) -> Iterator[Finding]:
    width = config.kv_lora_rank + config.qk_rope_head_dim
    if width not in VLLM_MLA_WIDTHS:
        yield Finding(
            "warning",
            "vLLM",
            f"its latent-attention kernels take kv_lora_rank + qk_rope_head_dim of 320 or 576, and this is {width}: "
            "use 256 + 64 or 512 + 64, or serve with VLLM_MLA_DISABLE=1",
        )
    if config.rms_norm_eps != LATENT_NORM_EPS:
        yield _latent_norms("vLLM", config)


def _latent_norms(tool: str, config: ModelConfig) -> Finding:
    return Finding(
        "warning",
        tool,
        f"uses rms_norm_eps = {config.rms_norm_eps} in the latent norms too, where this model has 1e-6: "
        "set rms_norm_eps = 1e-6 for the same numbers everywhere",
    )


def _transformers(config: ModelConfig) -> Iterator[Finding]:
    if config.model_type == "deepseek_v2" and config.norm_topk_prob:
        yield Finding(
            "error",
            "transformers",
            "ignores norm_topk_prob in deepseek_v2 and would weight the experts differently: "
            "set norm_topk_prob = false",
        )
    if config.model_type == "deepseek_v2" and config.hidden_size % config.num_attention_heads:
        yield Finding(
            "error",
            "transformers",
            f"refuses a deepseek_v2 whose hidden_size = {config.hidden_size} is not divisible by num_attention_heads = "
            f"{config.num_attention_heads}",
        )
    if config.num_nextn_predict_layers and config.num_hidden_layers != 61:
        yield Finding(
            "note",
            "transformers",
            "looks for the MTP layer at layer 61 only: it warns of unexpected tensors, runs the main model, and cannot "
            "use MTP to generate",
        )


def _fp8(config: ModelConfig) -> Iterator[Finding]:
    """Inputs of a matrix product are scaled in tiles of 128 channels (DeepSeek-V3 report, section 3.3.2)."""
    quantised = ("attention", "dense_mlp", "shared_expert", "expert")
    odd = sorted({s.shape[1] for s in tensors(config) if s.kind in quantised and s.shape[1] % 128})
    if odd:
        yield Finding(
            "note",
            "FP8",
            f"tiles are 128 channels wide, and inputs of {', '.join(map(str, odd))} channels leave a partly filled one",
        )
