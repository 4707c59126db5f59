"""Data, optimiser, length and arithmetic of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clearseek.config.settings import (
    Decay,
    Fraction,
    List,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    refuse,
)


class DataConfig(Settings):
    """Where the text comes from and how it becomes batches."""

    source: Literal["python-stdlib", "files", "jsonl", "csv", "parquet", "hub"] = "python-stdlib"
    """Kind of source. `parquet` and `hub` need the extra: pip install -e '.[data]'."""
    paths: Annotated[tuple[str, ...], List] = ()
    """Files or globs (`files`, `jsonl`, `csv`, `parquet`), or one dataset id `owner/name` (`hub`)."""
    exclude: Annotated[tuple[str, ...], List] = ()
    """Globs of files to leave out, among those that `paths` names."""
    text_field: str = "text"
    """Field or column that holds a document's text or messages (not `files`); inside another: `doc.body`."""
    unusable: Literal["refuse", "skip"] = "refuse"
    """What a document that is null, empty, too long or not UTF-8 does: stop all, or be left out and counted."""
    licence: str = "unknown"
    """SPDX licence id of the source, recorded in the manifest (`python-stdlib` is always PSF-2.0)."""
    held_out_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Share of documents kept out of training, chosen by the hash of each document's bytes."""
    include_tests: bool = False
    """Whether `python-stdlib` takes the interpreter's own test suite in, where it is installed."""
    tokenizer: str | None = None
    """Path of a tokenizer.json to use; leave out to train one of `model.vocab_size` on the training documents."""
    sequence_length: PositiveInt = 256
    """Tokens per training sequence."""
    fim_rate: Fraction = 0.0
    """Share of documents rearranged as prefix, suffix, middle (0.1 in the report, section 4.1)."""
    seed: NonNegativeInt = 0
    """Seed of the order of sequences."""


class Phase(Settings):
    """One stretch of the learning-rate schedule, as a multiple of the peak rate."""

    shape: Literal["linear", "cosine", "constant"]
    """How the multiplier moves from where the last phase ended to `to`; `constant` jumps there at once."""
    until: Annotated[float, Field(gt=0.0, le=1.0)]
    """Where the phase ends, as a share of all steps."""
    to: Annotated[float, Field(ge=0.0)]
    """Multiplier at the end of the phase."""


class OptimizerConfig(Settings):
    """AdamW, or Muon for the matrices inside the layers with AdamW for the rest."""

    name: Literal["adamw", "muon"] = "adamw"
    """Optimiser of the weight matrices inside the layers."""
    learning_rate: PositiveFloat = 2.2e-4
    """Peak rate of AdamW: of everything, or under Muon of embedding, head, router and norms."""
    muon_learning_rate: PositiveFloat = 0.02
    """Peak rate of Muon."""
    embedding_learning_rate: PositiveFloat | None = None
    """Peak rate of AdamW for the embedding, which then has no weight decay; leave out for `learning_rate` and decay."""
    betas: Annotated[tuple[Decay, Decay], List] = (0.9, 0.95)
    """AdamW's decay rates (report, section 4.2)."""
    eps: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    moments: Literal["fp32", "bf16"] = "fp32"
    """Type that AdamW's two moments are kept in (`bf16` in the report, section 3.3.3); needs betas up to 0.996."""
    momentum: Decay = 0.95
    """Muon's momentum."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay of matrices; vectors have none."""
    grad_clip: PositiveFloat = 1.0
    """Largest global gradient norm."""
    schedule: Annotated[tuple[Phase, ...], Field(min_length=1, strict=False)] = (
        Phase(shape="linear", until=0.0085, to=1.0),
        Phase(shape="constant", until=0.676, to=1.0),
        Phase(shape="cosine", until=0.966, to=0.1),
        Phase(shape="constant", until=0.989, to=0.1),
        Phase(shape="constant", until=1.0, to=0.0332),
    )
    """Learning-rate phases in order; the last ends at 1. The default has the proportions of the report, section 4.2."""

    @model_validator(mode="after")
    def _consistent(self) -> OptimizerConfig:
        ends = [phase.until for phase in self.schedule]
        refuse(
            (self.moments == "bf16" and max(self.betas) > 1 - 2**-8,
             f'moments = "bf16" with betas = {list(self.betas)}: a step of 1 - beta below 2^-8 is lost in BF16\'s '
             'rounding, and a moment then no longer falls: use betas up to 0.996, or moments = "fp32"'),
            (ends != sorted(set(ends)) or ends[-1] != 1.0,
             f"schedule: the phases' `until` must rise and end at 1.0, but they are {ends}"),
        )  # fmt: skip
        return self


class TrainConfig(Settings):
    """How long, how much at once, how often to look."""

    steps: PositiveInt
    """Optimiser steps."""
    batch_size: PositiveInt
    """Sequences per step."""
    micro_batch_size: PositiveInt | None = None
    """Sequences per forward pass; leave out for the whole batch."""
    lanes: PositiveInt | None = None
    """Equal runs of micro-batches, added by a fixed tree; leave out for the largest of 8, 4, 2, 1 that divides them."""
    expert_gradients: Literal["exact", "merged"] = "exact"
    """Experts on several processes: gradients in one process's order, or merged (less memory, other bits)."""
    precision: Literal["auto", "bf16", "fp32", "fp8"] = "auto"
    """Type of weights and activations in matrix products; `auto` is BF16 where this processor is faster in it."""
    recompute: Literal["none", "selective"] = "none"
    """What the backward computes again to save memory: nothing, or norms, MLA's up-projections, SwiGLU (same bits)."""
    kernels: Literal["auto", "torch", "numba", "compile"] = "auto"
    """Norms, attention, Muon by PyTorch, numba (FP32 on CPUs, extra `cpu`; `auto` takes it) or compiler: other bits."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights."""
    initial_weights: Literal["normal", "scaled"] = "normal"
    """All of `model.initializer_range` (`normal`), or by size, with layers that begin as the identity (`scaled`)."""
    threads: Annotated[int, Field(gt=0, le=1024)] | None = None
    """CPU threads; leave out for PyTorch's choice. Another number gives other bits."""
    bias_update_speed: Annotated[float, Field(ge=0)] = 0.001
    """Step of the router's balance bias (gamma in the report, section 2.1.2); 0 switches balancing off."""
    bias_update_until: Fraction = 0.966
    """Share of the steps after which the bias stays put (14.3T of 14.8T tokens in the report)."""
    balance_loss_weight: Annotated[float, Field(ge=0)] = 0.0001
    """Weight of the sequence-wise balance loss (alpha in the report, equations 17-20)."""
    mtp_loss_weight: Annotated[float, Field(ge=0)] = 0.3
    """Weight of the multi-token-prediction loss (lambda) at first."""
    mtp_loss_weight_final: Annotated[float, Field(ge=0)] = 0.1
    """Weight of that loss afterwards."""
    mtp_switch: Fraction = 0.676
    """Share of the steps after which the final weight holds (10T of 14.8T tokens in the report)."""
    eval_every: NonNegativeInt = 0
    """Steps between held-out evaluations while training; 0 for only the one at the end."""
    eval_sequences: PositiveInt = 64
    """Held-out sequences per evaluation while training (the one at the end takes every held-out byte)."""
    checkpoint_every: PositiveInt = 100
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints kept."""
    hash_every: PositiveInt = 50
    """Steps between SHA-256 hashes of all weights and optimiser state in the transcript."""

    @property
    def micro_batches(self) -> int:
        """Forward passes per step."""
        return self.batch_size // (self.micro_batch_size or self.batch_size)

    @property
    def summed_lanes(self) -> int:
        """`lanes`, or what stands for it where it is left out."""
        return self.lanes or next(lanes for lanes in (8, 4, 2, 1) if self.micro_batches % lanes == 0)

    @property
    def held_sums(self) -> int:
        """Sets of gradients that one process holds beside those of a micro-batch: one of each size in the tree, and a
        lane's own."""
        return self.summed_lanes.bit_length() - 1 + (self.micro_batches > self.summed_lanes)

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> TrainConfig:
        divides = self.micro_batch_size is None or self.batch_size % self.micro_batch_size == 0
        refuse(
            (not divides, f"micro_batch_size = {self.micro_batch_size} does not divide batch_size = {self.batch_size}"),
            (divides and self.lanes is not None and self.micro_batches % self.lanes,
             f"lanes = {self.lanes} does not divide the {self.micro_batches} micro-batches of a step (batch_size / "
             "micro_batch_size)"),
        )  # fmt: skip
        return self


class Fp8Config(Settings):
    """How matrix products are quantised under ``train.precision = "fp8"`` (DeepSeek-V3 report, section 3.3)."""

    scales: Literal["power-of-two", "deepseek-v3", "float"] = "power-of-two"
    """Scales: powers of two everywhere (V3.1), only where a tensor is quantised twice (V3), or nowhere."""
    backend: Literal["auto", "reference", "dequantised", "triton", "cublas", "deepgemm"] = "auto"
    """What multiplies; `clearseek doctor` shows which run here. Another one may give other bits."""
