"""What follows from the tensors' shapes by counting: parameters, operations, and the memory of training.

"37 billion activated" has three meanings, depending on whether the embedding lookup and the output head count; all
three are here (DeepSeek-V3 report, section 4.2). Pure Python: nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from clearseek.config import ModelConfig
from clearseek.tensors import FP8_KINDS, TensorKind, TensorSpec, memory_tensors


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Parameters of a model. Router biases are counted, as in the published 671,026,419,200 of DeepSeek-V3."""

    total: int
    """Parameters of the main model, MTP left out."""
    mtp: int
    """Parameters of the MTP layer, whose embedding and head are the main model's."""
    checkpoint: int
    """Elements in the released checkpoint: main model, MTP and the MTP layer's repeated embedding and head."""
    embedding: int
    """Parameters of the input embedding."""
    head: int
    """Parameters of the output head; 0 where the head is the embedding matrix."""
    activated: int
    """Parameters of the main model that one token visits, embedding and output head included (V3: 37.55 billion)."""
    activated_without_embedding: int
    """Activated parameters without the embedding lookup; a tied matrix counts as the head (V3: 36.63 billion)."""
    activated_without_embedding_and_head: int
    """Activated parameters of the decoder layers and the last norm alone (V3: 35.70 billion)."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Parameters of a model, as its configuration gives them."""

    total: int
    """Parameters of the main model, multi-token prediction left out."""
    embedding: int
    """Parameters of the input embedding."""
    head: int
    """Parameters of the output head; 0 where it is the embedding."""
    activated: int | None
    """Parameters that one token visits, embedding and head included; None where it is not known."""
    mtp: int = 0
    """Parameters of the multi-token-prediction module."""
    towers: int = 0
    """Parameters of parts that read something other than text."""
    lookups: int = 0
    """Parameters of embeddings beside the input's."""
    by: str = "ClearSeek's table of tensors"
    """What it was counted by."""
    defaults: tuple[str, ...] = ()
    """Sizes that config.json leaves out, with the value that was taken for each."""


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Count parameters from shapes alone."""
    stored = list(memory_tensors(config))
    main = [spec for spec in stored if not spec.mtp]
    total = sum(spec.size for spec in main)
    embedding = sum(spec.size for spec in main if spec.kind == "embedding")
    head = sum(spec.size for spec in main if spec.kind == "head")
    activated = sum(_visited(spec, config) for spec in main)
    mtp = sum(spec.size for spec in stored if spec.mtp)
    repeated = config.num_nextn_predict_layers * 2 * config.vocab_size * config.hidden_size
    return ParameterCount(
        total=total,
        mtp=mtp,
        checkpoint=total + mtp + repeated,
        embedding=embedding,
        head=head,
        activated=activated,
        activated_without_embedding=activated - (0 if config.tie_word_embeddings else embedding),
        activated_without_embedding_and_head=activated - embedding - head,
    )


def _visited(spec: TensorSpec, config: ModelConfig) -> int:
    """Elements that one token uses: of stacked experts, the chosen ones."""
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
    """Copies that matrix products read: 2 bytes a weight in BF16, 2 more in FP8; 0 in FP32, which reads the masters."""
    master_weights: int
    """FP32 weights that the optimiser updates, and the router's bias: 4 bytes each."""
    gradients: int
    """FP32 gradients: 4 bytes for each parameter (the router's bias has none)."""
    optimizer: int
    """FP32 optimiser state: AdamW keeps two moments (8 bytes), Muon one (4 bytes) for the matrices it owns."""
    partial_sums: int = 0
    """Further sets of gradients: sums over micro-batches that one process holds at once."""

    @property
    def total(self) -> int:
        """Bytes of all but the partial sums, which depend on how the work is split."""
        return self.weights + self.master_weights + self.gradients + self.optimizer


MUON_KINDS: frozenset[TensorKind] = frozenset({"attention", "dense_mlp", "shared_expert", "expert", "mtp_proj"})
"""The weight matrices inside the layers, which Muon owns; AdamW has embedding, head, router and norms."""


def training_memory(
    config: ModelConfig,
    optimizer_name: Literal["adamw", "muon"],
    precision: Literal["bf16", "fp32", "fp8"],
    held_sums: int = 0,
    moments: Literal["fp32", "bf16"] = "fp32",
    specs: Iterable[TensorSpec] | None = None,
) -> TrainingMemory:
    """Count the bytes of weights, gradients and optimiser state, of `specs` or else of every tensor of the model.

    With N parameters, Q of them multiplied in FP8 when training in it, B router biases and M of the N under Muon:
    weights ``2N`` (BF16), ``2N + 2Q`` (FP8: as they are and transposed) or 0 (FP32), master weights
    ``4(N + B)``, gradients ``4N``, as much again for each of the `held_sums` (``TrainConfig.held_sums``), optimiser
    state ``8N`` (AdamW) or ``8(N - M) + 4M`` (Muon); moments of AdamW in BF16 take 4 bytes instead of 8.
    """
    stored = list(memory_tensors(config) if specs is None else specs)
    bias = sum(spec.size for spec in stored if spec.kind == "router_bias")
    trained = sum(spec.size for spec in stored) - bias
    eight = sum(spec.size for spec in stored if spec.kind in FP8_KINDS) if precision == "fp8" else 0
    muon = sum(spec.size for spec in stored if spec.kind in MUON_KINDS) if optimizer_name == "muon" else 0
    return TrainingMemory(
        weights=0 if precision == "fp32" else 2 * (trained + eight),
        master_weights=4 * (trained + bias),
        gradients=4 * trained,
        partial_sums=4 * trained * held_sums,
        optimizer=(8 if moments == "fp32" else 4) * (trained - muon) + 4 * muon,
    )
