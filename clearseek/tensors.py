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
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

from clearseek.config import ModelConfig

Kind = Literal[
    "embedding",
    "head",
    "norm",
    "attention",
    "dense_mlp",
    "shared_expert",
    "expert",
    "router",
    "router_bias",
    "mtp_proj",
]

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FP8_KINDS: frozenset[Kind] = frozenset({"attention", "dense_mlp", "shared_expert", "expert"})
"""The matrices that a block-FP8 checkpoint holds in eight bits (DeepSeek-V3 report, section 3.3)."""
FP8_BLOCK = 128
"""Rows and columns that share a scale there."""
SCALE_SUFFIX = "_scale_inv"
"""Ends the name of the scales of a matrix, which multiply it, whatever the name says."""
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
    """Sizes; a linear weight is [out, in]."""
    kind: Kind
    """Its part in the model."""
    layer: int | None = None
    """Decoder layer, 0-based (the MTP layer follows the last one); None for embedding, last norm and head."""
    mtp: bool = False
    """Whether it belongs to the MTP layer."""
    duplicate_of: str | None = None
    """The tensor it repeats, for the MTP layer's embedding and head; such a tensor holds no parameters of its own."""

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def dtype(self) -> Literal["BF16", "F32"]:
        """Type in a released BF16 checkpoint; only the router's balance bias is F32."""
        return "F32" if self.kind == "router_bias" else "BF16"


def tensors(config: ModelConfig, mtp: bool = True, stacked: Collection[str] = ()) -> Iterator[TensorSpec]:
    """Yield the tensors of the Hugging Face checkpoint, in model order.

    Args:
        config: Dimensions.
        mtp: Whether to add the MTP layer, if there is one.
        stacked: Names of stacked experts (of :func:`memory_tensors`) that this checkpoint holds as they are.
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
    """A tensor as a checkpoint stores it."""

    name: str
    dtype: Literal["F8_E4M3", "BF16", "F32"]
    shape: tuple[int, ...]


def is_fp8_name(name: str) -> bool:
    """Whether a block-FP8 checkpoint holds the tensor of this name in eight bits: the kinds `FP8_KINDS`, by name."""
    return _FP8_NAME.fullmatch(name) is not None


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a matrix's scales: [out, in] -> [ceil(out / 128), ceil(in / 128)]."""
    return tuple(-(-size // FP8_BLOCK) for size in shape)


def fp8_tensors(config: ModelConfig, mtp: bool = True) -> Iterator[StoredTensor]:
    """Yield what the block-FP8 checkpoint stores, in model order, each matrix followed by its scales.

    For DeepSeek-V3 these are the 91,991 tensors of the release.
    """
    for spec in tensors(config, mtp):
        if spec.kind in FP8_KINDS:
            yield StoredTensor(spec.name, "F8_E4M3", spec.shape)
            yield StoredTensor(spec.name + SCALE_SUFFIX, "F32", scale_shape(spec.shape))
        else:
            yield StoredTensor(spec.name, spec.dtype, spec.shape)


def _main_and_mtp(config: ModelConfig, mtp: bool) -> Iterator[TensorSpec]:
    """All tensors with the experts still stacked."""
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
    """One decoder layer."""
    at, H = f"model.layers.{layer}", config.hidden_size

    def spec(name: str, shape: tuple[int, ...], kind: Kind) -> TensorSpec:
        return TensorSpec(f"{at}.{name}", shape, kind, layer, mtp)

    def swiglu(name: str, width: int, kind: Kind) -> Iterator[TensorSpec]:
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


def _attention(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...], Kind]]:
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
    """The checkpoint's tensors of one stacked one. Their order is expert by expert within each stacked tensor."""
    prefix, _, projection = stacked.name.rpartition(".")
    E, rows, columns = stacked.shape
    names, rows = (("gate_proj", "up_proj"), rows // 2) if projection == "gate_up_proj" else (("down_proj",), rows)
    for expert in range(E):
        for name in names:
            full = f"{prefix}.{expert}.{name}.weight"
            yield TensorSpec(full, (rows, columns), "expert", stacked.layer, stacked.mtp)


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Parameters of a model. Router biases are counted, as in the published 671,026,419,200 of DeepSeek-V3."""

    total: int
    """The main model, MTP left out."""
    mtp: int
    """The MTP layer's own; its embedding and head are the main model's."""
    checkpoint: int
    """Elements in the released checkpoint: main model, MTP and the MTP layer's repeated embedding and head."""
    embedding: int
    """The input embedding."""
    head: int
    """The output head; 0 when it is the embedding matrix."""
    activated: int
    """What one token visits in the main model, input embedding and output head included (V3: 37.55 billion)."""
    activated_without_embedding: int
    """The same without the embedding lookup; a tied matrix still counts, as the head (V3: 36.63 billion)."""
    activated_without_embedding_and_head: int
    """The same without both: the decoder layers and the last norm (V3: 35.70 billion)."""


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Count parameters from shapes alone."""
    stored = list(memory_tensors(config))
    main = [spec for spec in stored if not spec.mtp]
    total = sum(spec.size for spec in main)
    embedding = sum(spec.size for spec in main if spec.kind == "embedding")
    head = sum(spec.size for spec in main if spec.kind == "head")
    activated = sum(_visited(spec, config) for spec in main)
    return ParameterCount(
        total=total,
        mtp=sum(spec.size for spec in stored if spec.mtp),
        checkpoint=sum(spec.size for spec in _main_and_mtp(config, mtp=True)),
        embedding=embedding,
        head=head,
        activated=activated,
        activated_without_embedding=activated - (0 if config.tie_word_embeddings else embedding),
        activated_without_embedding_and_head=activated - embedding - head,
    )


def _visited(spec: TensorSpec, config: ModelConfig) -> int:
    """Elements one token uses: of the stacked experts, only the chosen ones."""
    return spec.size * config.num_experts_per_tok // config.n_routed_experts if spec.kind == "expert" else spec.size


def flops_per_token(config: ModelConfig, sequence_length: int, mtp: bool = True) -> int:
    """Floating-point operations to train on one token; backward costs twice forward.

    ``6 x`` the activated matrix parameters (head included, embedding lookup, norms and biases not), plus causal
    attention: a token sees half the sequence on average, with ``qk_head_dim`` channels for scores and ``v_head_dim``
    for values, so ``3 x sequence_length x heads x (qk + v)`` per layer. With `mtp`, the MTP layer and its second use
    of the head are in. DeepSeek-V3 at 4096: 250.4e9, and 260.6e9 with MTP (the report rounds to 250e9).
    """
    mtp_layers = config.num_nextn_predict_layers if mtp else 0
    matrices = sum(
        _visited(spec, config)
        for spec in memory_tensors(config, mtp)
        if spec.kind not in ("embedding", "head", "norm", "router_bias")
    )
    head_uses = 1 + mtp_layers
    matrices += head_uses * config.vocab_size * config.hidden_size
    attention = 3 * sequence_length * config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)
    return 6 * matrices + attention * (config.num_hidden_layers + mtp_layers)


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes that training holds for the whole run, over all devices; activations come on top."""

    weights: int
    """What the matrix products read: 2 bytes each in BF16, and 2 more for those in FP8; 0 in FP32, where they read
    the master weights."""
    master_weights: int
    """FP32 weights that the optimiser updates, and the router's bias: 4 bytes each."""
    gradients: int
    """FP32 gradients: 4 bytes for each parameter (the router's bias has none)."""
    optimizer: int
    """FP32 optimiser state: AdamW keeps two moments (8 bytes), Muon one (4 bytes) for the matrices it owns."""
    partial_sums: int = 0
    """More sets of gradients: those that the fixed binary tree over one process's micro-batches holds at once."""

    @property
    def total(self) -> int:
        """Bytes altogether, but for the partial sums, which depend on how the work is split."""
        return self.weights + self.master_weights + self.gradients + self.optimizer


MUON_KINDS: frozenset[Kind] = frozenset({"attention", "dense_mlp", "shared_expert", "expert", "mtp_proj"})
"""The weight matrices inside the layers, which Muon owns; AdamW has embedding, head, router and norms."""


def training_memory(
    config: ModelConfig,
    optimizer_name: Literal["adamw", "muon"],
    precision: Literal["bf16", "fp32", "fp8"],
    micro_batches: int = 1,
    moments: Literal["fp32", "bf16"] = "fp32",
) -> TrainingMemory:
    """Count the bytes of weights, gradients and optimiser state; the MTP layer is in if the config has one.

    With N parameters, Q of them multiplied in FP8 when training in it, B router biases and M of the N under Muon:
    weights ``2N`` (BF16), ``2N + 2Q`` (FP8: as they are and transposed) or 0 (FP32), master weights
    ``4(N + B)``, gradients ``4N``, as much again for each further sum that the fixed binary tree over
    `micro_batches` holds at once (the digits of that number in base two, less one), optimiser state ``8N`` (AdamW) or
    ``8(N - M) + 4M`` (Muon); moments of AdamW in BF16 take 4 bytes instead of 8.
    """
    return memory_of(memory_tensors(config), optimizer_name, precision, micro_batches, moments)


def memory_of(
    specs: Iterable[TensorSpec],
    optimizer_name: Literal["adamw", "muon"],
    precision: Literal["bf16", "fp32", "fp8"],
    micro_batches: int = 1,
    moments: Literal["fp32", "bf16"] = "fp32",
) -> TrainingMemory:
    """The same for these tensors of :func:`memory_tensors` alone, such as those of one pipeline stage."""
    stored = list(specs)
    bias = sum(spec.size for spec in stored if spec.kind == "router_bias")
    trained = sum(spec.size for spec in stored) - bias
    eight = sum(spec.size for spec in stored if spec.kind in FP8_KINDS) if precision == "fp8" else 0
    muon = sum(spec.size for spec in stored if spec.kind in MUON_KINDS) if optimizer_name == "muon" else 0
    return TrainingMemory(
        weights=0 if precision == "fp32" else 2 * (trained + eight),
        master_weights=4 * (trained + bias),
        gradients=4 * trained,
        partial_sums=4 * trained * (micro_batches.bit_length() - 1),
        optimizer=(8 if moments == "fp32" else 4) * (trained - muon) + 4 * muon,
    )
