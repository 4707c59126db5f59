"""One table of tensors: every name, shape and kind follows from the dimensions alone.

A DeepSeek checkpoint holds no secrets in its structure. Attention projects down to a latent and up again, a layer has
either one dense MLP or a router with experts, and one more layer predicts the token after next; so ``ModelConfig``
determines each tensor (DeepSeek-V3 report, sections 2 and 4.2; names are Hugging Face's). Export, import, conversion,
audit and planning read this table, so a parameter is counted in one place. Pure Python: nothing here needs torch.

Two views of the same parameters:

* :func:`tensors` is the released checkpoint: one tensor per expert projection, and a multi-token-prediction (MTP)
  layer that repeats the embedding and the head, because inference engines load it by itself.
* :func:`memory_tensors` is the running model: the experts of a layer stacked into two tensors, nothing repeated.

Shape legend: V vocabulary, H hidden size, I expert width, E experts. A linear weight is [out, in].
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

from clearseek.config import ModelConfig

TensorKind = Literal[
    "embedding", "head", "norm", "attention", "dense_mlp", "shared_expert", "expert", "router", "router_bias",
    "mtp_proj",
]  # fmt: skip

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FP8_KINDS: frozenset[TensorKind] = frozenset({"attention", "dense_mlp", "shared_expert", "expert"})
"""The matrices that a block-FP8 checkpoint holds in eight bits (DeepSeek-V3 report, section 3.3)."""
FP8_BLOCK = 128
"""Rows and columns of a block that shares one scale."""
SCALE_SUFFIX = "_scale_inv"
"""Ending of the name of a matrix's scales, which multiply it, whatever ``inv`` says."""
_FP8_NAME = re.compile(
    r"model\.layers\.\d+\.(?:self_attn\.(?:q_proj|q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|o_proj)"
    r"|mlp\.(?:experts\.\d+\.|shared_experts\.)?(?:gate_proj|up_proj|down_proj))\.weight"
)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a checkpoint, or of the model in memory."""

    name: str
    """Hugging Face's name."""
    shape: tuple[int, ...]
    """Sizes of the dimensions; a linear weight is [out, in]."""
    kind: TensorKind
    """Role of the tensor in the model."""
    layer: int | None = None
    """Decoder layer, 0-based (the MTP layer follows the last one); None for embedding, last norm and head."""
    mtp: bool = False
    """Whether the tensor belongs to the MTP layer."""
    duplicate_of: str | None = None
    """Name of the tensor that the MTP layer's embedding or head repeats; a duplicate holds no parameters of its own."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def dtype(self) -> Literal["BF16", "F32"]:
        """Type in a released BF16 checkpoint: F32 for the router's balance bias, else BF16."""
        return "F32" if self.kind == "router_bias" else "BF16"


def tensors(config: ModelConfig, mtp: bool = True, stacked: Collection[str] = ()) -> Iterator[TensorSpec]:
    """Yield the tensors of the Hugging Face checkpoint, in model order.

    Args:
        config: Dimensions.
        mtp: Whether to add the MTP layer, if the config has one.
        stacked: Names of :func:`memory_tensors` whose experts this checkpoint holds stacked.
    """
    for spec in _main_and_mtp(config, mtp):
        if spec.kind == "expert" and spec.name not in stacked:
            yield from _per_expert(spec)
        else:
            yield spec


def memory_tensors(config: ModelConfig, mtp: bool = True) -> Iterator[TensorSpec]:
    """Yield the tensors of the model in memory, in model order: experts stacked, duplicates left out.

    A layer's experts are ``mlp.experts.gate_up_proj`` [E, 2I, H] (an expert's gate rows, then its up rows) and
    ``mlp.experts.down_proj`` [E, H, I]. Every other name and shape is the checkpoint's.
    """
    return (spec for spec in _main_and_mtp(config, mtp) if spec.duplicate_of is None)


class StoredTensor(NamedTuple):
    """A tensor as a checkpoint stores it: name, type such as ``BF16``, shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def is_fp8_name(name: str) -> bool:
    """Whether a block-FP8 checkpoint holds the tensor of this name in eight bits: `FP8_KINDS`, told by the name."""
    return _FP8_NAME.fullmatch(name) is not None


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a matrix's scales: [out, in] -> [ceil(out / 128), ceil(in / 128)]."""
    return tuple(-(-size // FP8_BLOCK) for size in shape)


def fp8_tensors(config: ModelConfig, mtp: bool = True) -> Iterator[StoredTensor]:
    """Yield the tensors of the block-FP8 checkpoint in model order, each matrix followed by its scales.

    For DeepSeek-V3 these are the 91,991 tensors of the release.
    """
    for spec in tensors(config, mtp):
        if spec.kind in FP8_KINDS:
            yield StoredTensor(spec.name, "F8_E4M3", spec.shape)
            yield StoredTensor(spec.name + SCALE_SUFFIX, "F32", scale_shape(spec.shape))
        else:
            yield StoredTensor(spec.name, spec.dtype, spec.shape)


def _main_and_mtp(config: ModelConfig, mtp: bool) -> Iterator[TensorSpec]:
    """Yield all tensors, a layer's experts stacked."""
    V, H = config.vocab_size, config.hidden_size
    yield TensorSpec(EMBEDDING, (V, H), "embedding")
    for layer in range(config.num_hidden_layers):
        yield from _block(config, layer)
    yield TensorSpec("model.norm.weight", (H,), "norm")
    if not config.tie_word_embeddings:
        yield TensorSpec(HEAD, (V, H), "head")
    if not mtp:
        return
    for layer in range(config.num_hidden_layers, config.num_hidden_layers + config.num_nextn_predict_layers):
        at = f"model.layers.{layer}"
        head = EMBEDDING if config.tie_word_embeddings else HEAD
        yield TensorSpec(f"{at}.embed_tokens.weight", (V, H), "embedding", layer, True, EMBEDDING)
        yield TensorSpec(f"{at}.enorm.weight", (H,), "norm", layer, True)
        yield TensorSpec(f"{at}.hnorm.weight", (H,), "norm", layer, True)
        yield TensorSpec(f"{at}.eh_proj.weight", (H, 2 * H), "mtp_proj", layer, True)
        yield from _block(config, layer, mtp=True)
        yield TensorSpec(f"{at}.shared_head.norm.weight", (H,), "norm", layer, True)
        yield TensorSpec(f"{at}.shared_head.head.weight", (V, H), "head", layer, True, head)


def _block(config: ModelConfig, layer: int, mtp: bool = False) -> Iterator[TensorSpec]:
    """Yield the tensors of one decoder layer."""
    at, H = f"model.layers.{layer}", config.hidden_size

    def spec(name: str, shape: tuple[int, ...], kind: TensorKind) -> TensorSpec:
        return TensorSpec(f"{at}.{name}", shape, kind, layer, mtp)

    def swiglu(name: str, width: int, kind: TensorKind) -> Iterator[TensorSpec]:
        yield spec(f"{name}.gate_proj.weight", (width, H), kind)
        yield spec(f"{name}.up_proj.weight", (width, H), kind)
        yield spec(f"{name}.down_proj.weight", (H, width), kind)

    yield spec("input_layernorm.weight", (H,), "norm")
    for name, shape, kind in _attention(config):
        yield spec(f"self_attn.{name}.weight", shape, kind)
    yield spec("post_attention_layernorm.weight", (H,), "norm")
    if not config.is_moe_layer(layer):
        yield from swiglu("mlp", config.intermediate_size, "dense_mlp")
        return
    E, I = config.n_routed_experts, config.moe_intermediate_size  # noqa: E741
    yield spec("mlp.gate.weight", (E, H), "router")
    if config.topk_method == "noaux_tc":
        yield spec("mlp.gate.e_score_correction_bias", (E,), "router_bias")
    yield spec("mlp.experts.gate_up_proj", (E, 2 * I, H), "expert")
    yield spec("mlp.experts.down_proj", (E, H, I), "expert")
    yield from swiglu("mlp.shared_experts", I * config.n_shared_experts, "shared_expert")


def _attention(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...], TensorKind]]:
    """Multi-head latent attention (DeepSeek-V3 report, section 2.1.1): name, shape and kind."""
    H, heads = config.hidden_size, config.num_attention_heads
    if config.q_lora_rank is None:
        yield "q_proj", (heads * config.qk_head_dim, H), "attention"
    else:
        yield "q_a_proj", (config.q_lora_rank, H), "attention"
        yield "q_a_layernorm", (config.q_lora_rank,), "norm"
        yield "q_b_proj", (heads * config.qk_head_dim, config.q_lora_rank), "attention"
    yield "kv_a_proj_with_mqa", (config.kv_lora_rank + config.qk_rope_head_dim, H), "attention"
    yield "kv_a_layernorm", (config.kv_lora_rank,), "norm"
    yield "kv_b_proj", (heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank), "attention"
    yield "o_proj", (H, heads * config.v_head_dim), "attention"


def _per_expert(stacked: TensorSpec) -> Iterator[TensorSpec]:
    """Yield the checkpoint's tensors of one stacked tensor, expert by expert."""
    prefix, _, projection = stacked.name.rpartition(".")
    E, rows, columns = stacked.shape
    names, rows = (("gate_proj", "up_proj"), rows // 2) if projection == "gate_up_proj" else (("down_proj",), rows)
    for expert in range(E):
        for name in names:
            full = f"{prefix}.{expert}.{name}.weight"
            yield TensorSpec(full, (rows, columns), "expert", stacked.layer, stacked.mtp)
