"""The layers of the decoder: pre-norm attention and pre-norm SwiGLU, dense or with experts.

The multi-token-prediction module (:class:`MTPLayer`) is one more layer behind the last.

Shapes: B sequences, S positions, T = B * S tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from clearseek.config import ModelConfig
from clearseek.fp8.feed_forward import feed_forward_fp8
from clearseek.fp8.linear import Fp8, Linear, QuantisedWeight, linears
from clearseek.model.attention import LatentCache, MultiHeadLatentAttention
from clearseek.model.experts import Experts
from clearseek.model.router import Router
from clearseek.ops.dispatch import Routing
from clearseek.ops.linear import linear
from clearseek.ops.norm import RMSNorm
from clearseek.ops.recompute import through
from clearseek.ops.rope import Places
from clearseek.ops.swiglu import swiglu


class MLP(nn.Module):
    """SwiGLU: ``down(silu(gate(x)) * up(x))``."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden, width)
        self.up_proj = Linear(hidden, width)
        self.down_proj = Linear(width, hidden)
        self.fp8: Fp8 | None = None
        self.quantised = QuantisedWeight(), QuantisedWeight()
        self.recompute = False
        """Whether the backward computes the activation again instead of keeping it; with FP8 it does always."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        adapted = any(each.adapter is not None for each in (self.gate_proj, self.up_proj, self.down_proj))
        if self.fp8 is None or adapted:
            inputs = linears(x, (self.gate_proj, self.up_proj))
            y: Tensor = through(lambda *both: (swiglu(*both),), self.down_proj, inputs, self.recompute)
            return y
        x_TD, gate_up = x.reshape(-1, x.shape[-1]), (self.gate_proj.weight, self.up_proj.weight)
        y_TD = feed_forward_fp8(x_TD, None, None, self.fp8, self.quantised, gate_up, self.down_proj.weight)
        return y_TD.view(x.shape)


class MoE(nn.Module):
    """Shared experts for every token, plus each token's routed experts (DeepSeek-V3 report, equation 12)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = MLP(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def forward(
        self, x_BSD: Tensor, weight_B: Tensor | None = None, index_TK: Tensor | None = None,
        valid_T: Tensor | None = None, document_T: Tensor | None = None,
    ) -> tuple[Tensor, Routing]:  # fmt: skip
        """Return the layer's output [B, S, D] and its routing; arguments as for :class:`Router`."""
        x_TD = x_BSD.flatten(0, 1)
        routing: Routing = self.gate(x_TD, weight_B, index_TK, valid_T, document_T)
        y_TD = self.experts(x_TD, routing) + self.shared_experts(x_TD)
        return y_TD.view(x_BSD.shape), routing


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = MultiHeadLatentAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        moe = config.is_moe_layer(index)
        self.mlp: MoE | MLP = MoE(config) if moe else MLP(config.hidden_size, config.intermediate_size)
        self.recompute = False
        """Whether the backward computes the norms' outputs again instead of keeping them."""

    def forward(
        self, x_BSD: Tensor, places: Places, cache: LatentCache | None = None, weight_B: Tensor | None = None,
        index_TK: Tensor | None = None, valid_T: Tensor | None = None,
    ) -> tuple[Tensor, Routing | None]:  # fmt: skip
        """Return the residual stream [B, S, D] and, for a layer with experts, its routing."""
        attend = partial(self.self_attn, places=places, cache=cache)
        x_BSD = x_BSD + through(_one(self.input_layernorm), attend, (x_BSD,), self.recompute)
        if isinstance(self.mlp, MLP):
            return x_BSD + through(_one(self.post_attention_layernorm), self.mlp, (x_BSD,), self.recompute), None
        rest = {"weight_B": weight_B, "index_TK": index_TK, "valid_T": valid_T, "document_T": places.document_T}
        feed = partial(self.mlp, **rest)
        y_BSD, routing = through(_one(self.post_attention_layernorm), feed, (x_BSD,), self.recompute)
        return x_BSD + y_BSD, routing


def _one(norm: RMSNorm) -> Callable[[Tensor], tuple[Tensor]]:
    return lambda x: (norm(x),)


class MTPLayer(DecoderLayer):
    """Multi-token prediction: one more layer that predicts the token after next (DeepSeek-V3 report, section 2.2).

    At position i the module joins the embedding of token i+1 with the main model's final hidden state, in the order of
    the *released weights*, ``eh_proj([enorm(embedding); hnorm(hidden)])`` (the report's equation 21 has the other
    order), runs a full decoder layer and its own norm, and shares embedding and output head with the main model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.num_hidden_layers)
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.shared_head = nn.ModuleDict({"norm": RMSNorm(config.hidden_size, config.rms_norm_eps)})

    def forward(  # type: ignore[override]
        self, embedding_BSD: Tensor, hidden_BSD: Tensor, places: Places, weight_B: Tensor | None = None,
        index_TK: Tensor | None = None, valid_T: Tensor | None = None,
    ) -> tuple[Tensor, Routing | None]:  # fmt: skip
        """Return the module's hidden states behind its norm, [B, S, D], and its routing.

        Args:
            embedding_BSD: Embeddings of tokens i+1.
            hidden_BSD: Final hidden states of tokens i.
            places: Positions of tokens i.
            weight_B: As for :class:`Router`, like the arguments after it.
        """
        project = partial(linear, weight_NK=self.eh_proj.weight)
        x_BSD = through(self._join, project, (embedding_BSD, hidden_BSD), self.recompute)
        x_BSD, routing = super().forward(x_BSD, places, None, weight_B, index_TK, valid_T)
        return self.shared_head["norm"](x_BSD), routing

    def _join(self, embedding_BSD: Tensor, hidden_BSD: Tensor) -> tuple[Tensor]:
        return (torch.cat([self.enorm(embedding_BSD), self.hnorm(hidden_BSD)], dim=-1),)
