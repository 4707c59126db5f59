"""Dimensions of a model. Fields carry Hugging Face's names for ``deepseek_v3`` / ``deepseek_v2``.

The names, and DeepSeek-V3's own values, are in its report, section 4.2.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from clearseek.config.settings import NonNegativeInt, PositiveFloat, PositiveInt, Settings, refuse


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
        refuse(
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
