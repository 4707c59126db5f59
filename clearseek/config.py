"""Every setting of a run, in one place.

A *recipe* is one TOML file with tables such as ``[model]``, ``[data]`` and ``[train]``. It is read into
frozen pydantic models, so a setting has one name, one type, one default and one explanation (the text under the field).
Unknown keys are refused, with the nearest valid key; settings that contradict each other are refused together, in one
error that names them all. Nothing is changed behind the user's back. :mod:`clearseek.recipe` reads the files.

Model fields carry Hugging Face's names for ``deepseek_v3`` / ``deepseek_v2`` (DeepSeek-V3 report, section 4.2).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
List = Field(strict=False)  # for tuples, which TOML and JSON write as lists


class Settings(BaseModel):
    """A frozen group of settings that refuses keys it does not know and values of another type (``"5"`` for 5)."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def _refuse(*checks: tuple[object, str]) -> None:
    """Raise ValueError with the messages of all checks whose first part is true."""
    wrong = [message for contradiction, message in checks if contradiction]
    if wrong:
        raise ValueError("; ".join(wrong))


class RopeScaling(Settings):
    """YaRN context extension (DeepSeek-V3 report, section 4.3)."""

    factor: Annotated[float, Field(ge=1.0)] = 40.0
    """New context length over the original one."""
    original_max_position_embeddings: PositiveInt = 4096
    """Context length before extension, in tokens."""
    beta_fast: PositiveFloat = 32.0
    """Rotations above which a frequency is left alone."""
    beta_slow: PositiveFloat = 1.0
    """Rotations below which a frequency is fully interpolated."""
    mscale: Annotated[float, Field(ge=0)] = 1.0
    """Numerator of the cos/sin multiplier."""
    mscale_all_dim: Annotated[float, Field(ge=0)] = 1.0
    """Denominator of the cos/sin multiplier; its square scales the softmax."""

    def growth(self, mscale: float) -> float:
        """``0.1 * mscale * ln(factor) + 1``: how much YaRN magnifies for a context that is `factor` times as long."""
        return 1.0 if self.factor <= 1.0 else 0.1 * mscale * math.log(self.factor) + 1.0

    @property
    def magnitude(self) -> float:
        """Multiplier of cosines and sines."""
        return self.growth(self.mscale) / self.growth(self.mscale_all_dim)


class ModelConfig(Settings):
    """Dimensions of a DeepSeek-V2/V3 model. Sizes are in elements; names are those of Hugging Face's config.json."""

    vocab_size: PositiveInt
    """Rows of the embedding and of the output head; the tokenizer is trained to exactly this size."""
    hidden_size: PositiveInt
    """Width of the residual stream."""
    num_hidden_layers: PositiveInt
    """Decoder layers, the multi-token-prediction module not counted."""
    num_attention_heads: PositiveInt
    """Attention heads (keys and values have as many, once expanded from the latent)."""
    q_lora_rank: PositiveInt | None = None
    """Rank of the compressed queries; leave it out for plain queries, as in V2-Lite."""
    kv_lora_rank: PositiveInt
    """Rank of the latent that keys and values are expanded from: what a cache stores."""
    qk_nope_head_dim: PositiveInt
    """Channels per head without position."""
    qk_rope_head_dim: PositiveInt
    """Channels per head with rotary position; the key's are shared by all heads."""
    v_head_dim: PositiveInt
    """Value channels per head."""
    intermediate_size: PositiveInt
    """Width of the SwiGLU in the leading dense layers."""
    moe_intermediate_size: PositiveInt
    """Width of one expert."""
    n_routed_experts: PositiveInt
    """Routed experts per layer."""
    n_shared_experts: PositiveInt = 1
    """Shared experts per layer, fused into one MLP of this many times the expert width."""
    num_experts_per_tok: PositiveInt
    """Routed experts that each token visits."""
    n_group: PositiveInt = 1
    """Groups the experts are split into for group-limited routing."""
    topk_group: PositiveInt = 1
    """Groups each token may choose experts from."""
    first_k_dense_replace: NonNegativeInt = 1
    """Leading layers with a dense MLP instead of experts."""
    scoring_func: Literal["sigmoid", "softmax"] = "sigmoid"
    """Router scores: sigmoid (V3) or softmax (V2)."""
    topk_method: Literal["noaux_tc", "greedy", "group_limited_greedy"] = "noaux_tc"
    """Expert choice: V3's biased top-k, or V2's greedy ones."""
    norm_topk_prob: bool = True
    """Whether the chosen experts' weights are divided by their sum."""
    routed_scaling_factor: PositiveFloat = 2.5
    """Factor on the routed experts' weights."""
    rms_norm_eps: PositiveFloat = 1e-6
    """Epsilon of the block norms (the latent norms always use 1e-6)."""
    rope_theta: Annotated[float, Field(gt=1)] = 10000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """YaRN settings; leave out for plain rotary embeddings."""
    max_position_embeddings: PositiveInt
    """Longest sequence the model may be given, in tokens."""
    tie_word_embeddings: bool = False
    """Whether the output head is the embedding matrix."""
    initializer_range: PositiveFloat = 0.006
    """Standard deviation of the initial weights (0.006 in the report, section 4.2)."""
    num_nextn_predict_layers: NonNegativeInt = 0
    """Multi-token-prediction modules after the last layer (1 in V3)."""

    @property
    def qk_head_dim(self) -> int:
        """Query/key channels per head: without and with position."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def model_type(self) -> Literal["deepseek_v2", "deepseek_v3"]:
        """Hugging Face's model type: V3 is the one with the correction bias."""
        return "deepseek_v3" if self.topk_method == "noaux_tc" else "deepseek_v2"

    def is_moe_layer(self, layer: int) -> bool:
        """Whether decoder layer `layer` (0-based; MTP modules follow the last layer) has experts."""
        return layer >= self.first_k_dense_replace

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        experts, groups, taken = self.n_routed_experts, self.n_group, self.topk_group
        visited = self.num_experts_per_tok
        useless, unlimited = groups == 1 and taken != 1, groups > 1 and taken >= groups
        _refuse(
            (self.qk_rope_head_dim % 2,
             f"qk_rope_head_dim = {self.qk_rope_head_dim} is odd, but rotary channels come in pairs: make it even"),
            (visited > experts, f"num_experts_per_tok = {visited} exceeds n_routed_experts = {experts}"),
            (experts % groups, f"n_routed_experts = {experts} is not divisible by n_group = {groups}"),
            (useless, f"topk_group = {taken} needs n_group > 1 (n_group = 1): leave topk_group out"),
            (unlimited, f"topk_group = {taken} must be below n_group = {groups}, or nothing is limited: lower "
             "topk_group, or set both to 1"),
            (not useless and not unlimited and taken * (experts // groups) < visited,
             f"topk_group = {taken} groups of {experts // groups} experts hold fewer than num_experts_per_tok = "
             f"{visited}"),
            (self.topk_method == "noaux_tc" and groups > 1 and experts // groups < 2,
             f"n_group = {groups} leaves one expert a group, but groups are scored by their top two"),
            (self.topk_method == "greedy" and groups != 1,
             f'topk_method = "greedy" ignores groups: set n_group = 1 (it is {groups})'),
            ((self.topk_method == "noaux_tc") != (self.scoring_func == "sigmoid"),
             f'topk_method = "{self.topk_method}" with scoring_func = "{self.scoring_func}" belongs to no released '
             'model: use "noaux_tc" with "sigmoid" (V3) or a greedy method with "softmax" (V2)'),
            (self.model_type == "deepseek_v2" and self.num_nextn_predict_layers,
             "num_nextn_predict_layers needs a V3 model: set it to 0"),
            (self.first_k_dense_replace > self.num_hidden_layers,
             f"first_k_dense_replace = {self.first_k_dense_replace} exceeds num_hidden_layers = "
             f"{self.num_hidden_layers}"),
            (self.num_nextn_predict_layers > 1,
             f"num_nextn_predict_layers = {self.num_nextn_predict_layers}: only depths 0 and 1 are supported"),
        )  # fmt: skip
        return self


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
        _refuse(
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
    precision: Literal["auto", "bf16", "fp32", "fp8"] = "auto"
    """Type of weights and activations in matrix products; `auto` is BF16 where this processor is faster in it."""
    kernels: Literal["auto", "torch", "numba", "compile"] = "auto"
    """Norms, attention, Muon by PyTorch, numba (FP32 on CPUs, extra `cpu`; `auto` takes it) or compiler: other bits."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights."""
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
        _refuse(
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


class Recipe(Settings):
    """One run: the whole TOML file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    """Name of the run and of its default folder."""
    description: str = ""
    """One line for people."""
    model: ModelConfig
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig
    fp8: Fp8Config = Fp8Config()
    """Only read under ``train.precision = "fp8"``."""

    @property
    def tokens(self) -> int:
        """Tokens of all training steps."""
        return self.train.steps * self.train.batch_size * self.data.sequence_length

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        data, longest = self.data, self.model.max_position_embeddings
        _refuse(
            (data.sequence_length > longest,
             f"data.sequence_length = {data.sequence_length} is above model.max_position_embeddings = {longest}: lower "
             "the first or raise the second"),
            (data.source != "python-stdlib" and not data.paths,
             f'data.paths is empty, but data.source = "{data.source}" needs it'),
            *((self.train.precision == "fp8" and size % 128,
               f'model.{name} = {size} is not a multiple of 128, as train.precision = "fp8" needs it: gate and up are '
               "one product, and a block of 128 rows must not hold rows of both")
              for name in ("intermediate_size", "moe_intermediate_size") if (size := getattr(self.model, name))),
        )  # fmt: skip
        return self
