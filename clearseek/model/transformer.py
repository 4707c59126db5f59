"""The DeepSeek-V2/V3 decoder: only tensors and maths.

Embedding, then layers of pre-norm attention and pre-norm SwiGLU (dense in the first layers, experts after that), a
final norm and the output head. Parameter names are Hugging Face's, except that routed experts are stacked. A
multi-token-prediction module (:class:`MTPLayer`) may follow the last layer.

Shapes: B sequences, S positions, T = B * S tokens, D hidden, E experts, L mixture-of-experts layers.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clearseek.config import ModelConfig
from clearseek.fp8.linear import Fp8, Linear
from clearseek.model.attention import LatentCache, MultiHeadLatentAttention
from clearseek.model.experts import Experts
from clearseek.model.layers import MLP, DecoderLayer, MoE, MTPLayer
from clearseek.ops.dispatch import Routing
from clearseek.ops.embedding import Embedding
from clearseek.ops.loss import Kept, counted, cross_entropy, cross_entropy_of_tokens
from clearseek.ops.norm import RMSNorm
from clearseek.ops.rope import Places, places


class Held(NamedTuple):
    """The part of a model that a process holds, where layers are spread over several."""

    layers: Collection[int]
    """Numbers of layers, the MTP module's after the last layer's."""
    embedding: bool
    head: bool
    """Whether the final norm and the output head are held."""


class Decoder(nn.Module):
    """Embedding, layers and final norm: Hugging Face's ``model.``. What is not held has no parameters."""

    def __init__(self, config: ModelConfig, held: Held | None = None) -> None:
        super().__init__()
        main = config.num_hidden_layers
        total = main + config.num_nextn_predict_layers
        held = held or Held(range(total), embedding=True, head=True)
        if held.embedding:
            self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        layers = [
            (DecoderLayer(config, i) if i < main else MTPLayer(config)) if i in held.layers else nn.Identity()
            for i in range(total)
        ]
        self.layers = nn.ModuleList(layers)
        if held.head:
            self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class States(NamedTuple):
    """What the layers make of a training batch of S inputs."""

    main_BSD: Tensor
    """Final hidden states, from which the output head predicts the next token."""
    mtp_BSD: Tensor | None
    """The MTP module's, from which the same head predicts the token after next; None if it was left out."""
    routings: list[Routing]
    """Of each layer with experts that was run, the MTP module's last."""


class Losses(NamedTuple):
    """Losses of one training batch: sums over its tokens by their weights."""

    total: Tensor
    """Loss to differentiate, FP32 scalar."""
    main: Tensor
    """Next-token cross-entropy in nats, FP32 scalar."""
    mtp: Tensor | None
    """Cross-entropy of the token after next in nats, FP32 scalar; None without an MTP module, or if left out."""
    load_LE: Tensor
    """Tokens per expert in each layer with experts (an MTP layer last, zero if left out), int64, without padding."""
    tokens_T: Tensor | None = None
    """Next-token cross-entropy of every token before its weight, FP32 without graph; None unless asked for."""


def generator_of(seed: int, name: str, number: int) -> torch.Generator:
    """The CPU generator that draws matrix `number` of parameter `name`."""
    digest = hashlib.sha256(f"{seed} {name} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def drawn(seed: int, name: str, number: int, shape: Sequence[int], deviation: float) -> Tensor:
    """Initial values of matrix `number` of parameter `name`, FP32 on the CPU.

    Each matrix has its own generator, so a process that holds a part of the model draws that part alone.
    """
    return torch.empty(*shape, dtype=torch.float32).normal_(0.0, deviation, generator=generator_of(seed, name, number))


def deviation(config: ModelConfig, name: str, shape: Sequence[int], scaled: bool) -> float:
    """Standard deviation of a parameter's initial matrices of a shape [outputs, inputs].

    It is `initializer_range` (DeepSeek-V3 report, section 4.2). Where `scaled`, it is one for the embedding, zero for
    what writes to the residual stream and for the head, so that every layer begins as the identity, and 1 /
    sqrt(inputs) for all else but the router, which keeps `initializer_range`.
    """
    if not scaled or name.endswith("mlp.gate.weight"):
        return config.initializer_range
    if name.endswith("embed_tokens.weight"):
        return shape[-1] ** -0.5 if config.tie_word_embeddings else 1.0
    if name.endswith(("lm_head.weight", "o_proj.weight", "down_proj.weight", "experts.down_proj")):
        return 0.0
    return float(shape[-1] ** -0.5)


class DeepSeekModel(nn.Module):
    """A causal language model of DeepSeek-V2's or V3's architecture, or the part of one that is `held`."""

    def __init__(self, config: ModelConfig, held: Held | None = None) -> None:
        super().__init__()
        self.config = config
        self.fp8: Fp8 | None = None
        self.model = Decoder(config, held)
        if not config.tie_word_embeddings and (held is None or held.head):
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def head_weight(self) -> Tensor:
        """The output head [V, D]: the embedding where the two are tied."""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    @property
    def moe_layers(self) -> list[MoE]:
        """The feed-forwards with experts, in the order of layers, the MTP module's last."""
        layers = (layer for layer in self.model.layers if isinstance(layer, DecoderLayer))
        return [layer.mlp for layer in layers if isinstance(layer.mlp, MoE)]

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.parameters()).device

    @torch.no_grad()
    def initialise(self, seed: int, scaled: bool = False) -> None:
        """Draw matrices from normal distributions (:func:`deviation`), set norms to one and biases to zero.

        Each matrix, also each of stacked experts, is drawn by itself (:func:`drawn`).
        """
        if any(parameter.is_meta for parameter in self.parameters()):  # without memory there is nothing to draw
            return
        shared = [module for module in self.modules() if isinstance(module, Experts)]
        firsts = {id(parameter): module.first for module in shared for parameter in module.parameters(recurse=False)}
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
                continue
            stack = parameter if parameter.ndim == 3 else parameter.unsqueeze(0)
            for number, matrix in enumerate(stack, firsts.get(id(parameter), 0)):
                width = deviation(self.config, name, matrix.shape, scaled)
                matrix.copy_(drawn(seed, name, number, matrix.shape, width))
        for buffer in self.buffers():
            buffer.zero_()

    def set_dtype(self, dtype: torch.dtype) -> DeepSeekModel:
        """Convert all weights to `dtype`; the routers' balance biases stay FP32. Returns the model."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)
        return self

    def use_fp8(self, fp8: Fp8 | None) -> DeepSeekModel:
        """Compute the products of attention projections and feed-forwards in FP8, or again in the weights' type.

        Embedding, output head, router, norms, attention core and `eh_proj` do not change (DeepSeek-V3 report,
        section 3.3.1). Gradients of the FP8 products' weights are FP32. Returns the model.
        """
        self.fp8 = fp8
        for module in self.modules():
            if isinstance(module, (Linear, Experts, MLP)):
                module.fp8 = fp8
                for parameter in module.parameters(recurse=False):
                    parameter.grad_dtype = None if fp8 is None else torch.float32
        return self

    def use_recompute(self, recompute: bool) -> DeepSeekModel:
        """Compute norms, MLA's up-projections and SwiGLU again in the backward, instead of keeping their results.

        In FP8 products keep norms' outputs as eight-bit tiles, which are not computed again. Returns the model.
        """
        for module in self.modules():
            if isinstance(module, (DecoderLayer, MultiHeadLatentAttention, MLP)):
                module.recompute = recompute and not (self.fp8 and isinstance(module, DecoderLayer))
        return self

    def _run(
        self, tokens_BS: Tensor, places: Places, caches: list[LatentCache] | None = None,
        weight_B: Tensor | None = None, replayed: Sequence[Tensor | None] = (), valid_T: Tensor | None = None,
    ) -> tuple[Tensor, list[Routing]]:  # fmt: skip
        x_BSD = self.model.embed_tokens(tokens_BS)
        routings: list[Routing] = []
        for i in range(self.config.num_hidden_layers):
            index_TK = replayed[len(routings)] if replayed and self.config.is_moe_layer(i) else None
            cache = caches[i] if caches else None
            x_BSD, routing = self.model.layers[i](x_BSD, places, cache, weight_B, index_TK, valid_T)
            if routing is not None:
                routings.append(routing)
        return self.model.norm(x_BSD), routings

    def forward(
        self, tokens_BS: Tensor, caches: list[LatentCache] | None = None, routing_LBSK: Tensor | None = None
    ) -> Tensor:
        """Final hidden states [B, S, D] of token ids [B, S], after the last norm.

        Args:
            tokens_BS: Token ids, int64.
            caches: One cache a layer (see :meth:`new_caches`), with the positions before these tokens.
            routing_LBSK: Experts to choose again in each layer with experts.
        """
        start = caches[0].length if caches else 0
        at = places(self.config, start, tokens_BS.shape[1], tokens_BS.device)
        replayed = [] if routing_LBSK is None else [index_BSK.flatten(0, 1) for index_BSK in routing_LBSK]
        return self._run(tokens_BS, at, caches, None, replayed)[0]

    def logits(self, tokens_BS: Tensor, caches: list[LatentCache] | None = None) -> Tensor:
        """Next-token logits [B, S, V], in the model's type."""
        return F.linear(self(tokens_BS, caches), self.head_weight)

    def new_caches(self) -> list[LatentCache]:
        """Empty caches for :meth:`forward`."""
        return [LatentCache() for _ in range(self.config.num_hidden_layers)]

    def states(
        self, tokens_BX: Tensor, mtp: bool = True, weight_B: Tensor | None = None, start_BX: Tensor | None = None,
        routing_LBSK: Tensor | None = None, valid_BX: Tensor | None = None,
    ) -> States:  # fmt: skip
        """Hidden states of a training batch, for :meth:`loss` or another one.

        Args:
            tokens_BX: Token ids [B, S + 1], or [B, S + 2] where the MTP module is run.
            mtp: Whether to run the MTP module of a model that has one.
            weight_B: Weights of the sequences' balance losses; None leaves those out.
            start_BX: First position of each token's document (see :func:`clearseek.ops.rope.places`).
            routing_LBSK: Experts to choose again in each layer with experts that is run, the MTP layer last.
            valid_BX: False for padding, which the load and the balance losses leave out. The MTP layer's leave out also
                tokens whose next token is padding, or another document's.

        Raises ValueError: routing of another number of layers, or documents that start after one of their tokens.
        """
        depth = self.config.num_nextn_predict_layers if mtp else 0
        length = tokens_BX.shape[1] - 1 - depth
        starts = None if start_BX is None else start_BX[:, :length]
        at = places(self.config, 0, length, tokens_BX.device, starts)
        replayed = [] if routing_LBSK is None else [index_BSK.flatten(0, 1) for index_BSK in routing_LBSK]
        layers = sum(map(self.config.is_moe_layer, range(self.config.num_hidden_layers + depth)))
        if routing_LBSK is not None and len(replayed) != layers:
            raise ValueError(f"routing of {len(replayed)} layers for {layers} with experts")
        valid_T = None if valid_BX is None else valid_BX[:, :length].flatten()
        main_BSD, routings = self._run(tokens_BX[:, :length], at, None, weight_B, replayed, valid_T)
        if not depth:
            return States(main_BSD, None, routings)
        layer: MTPLayer = self.model.layers[self.config.num_hidden_layers]  # type: ignore[assignment]
        followed_BS = _followed(1, length, start_BX, valid_BX)
        valid_T = None if followed_BS is None else followed_BS.flatten()
        if valid_T is not None and at.document_T is not None:
            # A document's last input is joined with another's first token, which must change nothing either.
            changes_T = torch.stack([at.document_T, valid_T.long()]).diff().any(0)
            at = at._replace(document_T=F.pad(changes_T, (1, 0)).cumsum(0))
        embedding_BSD = self.model.embed_tokens(tokens_BX[:, 1 : length + 1])
        index_TK = replayed[-1] if replayed else None
        mtp_BSD, routing = layer(embedding_BSD, main_BSD, at, weight_B, index_TK, valid_T)
        routings += [routing] if routing is not None else []
        return States(main_BSD, mtp_BSD, routings)

    def loads(self, routings: list[Routing]) -> Tensor:
        """Tokens per expert in every layer with experts [L, E], int64, without padding; 0 where no layer was run."""
        layers = len(self.moe_layers)
        load_LE = torch.zeros(
            layers, self.config.n_routed_experts if layers else 0, dtype=torch.int64, device=self.device
        )
        for load_E, routing in zip(load_LE, routings, strict=False):
            load_E.copy_(routing.counted_E)
        return load_LE

    def loss(
        self, tokens_BX: Tensor, balance_weight: float = 0.0, mtp_weight: float | None = 0.0,
        weight_BX: Tensor | None = None, start_BX: Tensor | None = None, routing_LBSK: Tensor | None = None,
        valid_BX: Tensor | None = None, *, temperature: float = 1.0, kept: Kept | None = None, per_token: bool = False,
    ) -> Losses:  # fmt: skip
        """Training loss of a batch.

        Args:
            tokens_BX: Token ids [B, S + 1], or [B, S + 2] with an MTP module: inputs and shifted targets.
            balance_weight: Factor alpha of the sequence-wise balance loss; 0 leaves it out. A sequence is a row of the
                batch, however many documents are packed into it.
            mtp_weight: Factor lambda of the MTP loss; None leaves the module out, and its token of look-ahead.
            weight_BX: Weight of predicting each token, FP32; by default equal weights of all tokens that are not
                padding, with the sum 1. A sequence's balance loss has the weight of its tokens. The MTP loss weighs
                its targets alike, except that a target has no weight where it is padding, or in another document than
                the token that it is predicted from.
            start_BX: First position of each token's document (see :func:`clearseek.ops.rope.places`).
            routing_LBSK: Experts to choose again in each layer with experts, the MTP layer last (:class:`Router`).
            valid_BX: False for padding (see :meth:`states`); its weight must be 0.
            temperature: Divisor of the next-token logits; the MTP module's keep theirs.
            kept: The ids that each of the B * S next tokens was sampled from (:class:`~clearseek.ops.loss.Kept`).
            per_token: Whether to return the tokens' own losses, too.

        Raises ValueError as :meth:`states` does, and where a token with weight is not among the kept ids.
        """
        depth = self.config.num_nextn_predict_layers if mtp_weight is not None else 0
        length = tokens_BX.shape[1] - 1 - depth
        if weight_BX is None:
            weight_BX = _equal_weights(tokens_BX, length, valid_BX)
        weight_B = weight_BX[:, 1 : length + 1].sum(1) if balance_weight > 0 else None
        states = self.states(tokens_BX, depth > 0, weight_B, start_BX, routing_LBSK, valid_BX)
        return self.losses(
            states, tokens_BX, weight_BX, balance_weight, mtp_weight, start_BX, valid_BX, temperature, kept, per_token
        )

    def losses(
        self, states: States, tokens_BX: Tensor, weight_BX: Tensor, balance_weight: float, mtp_weight: float | None,
        start_BX: Tensor | None = None, valid_BX: Tensor | None = None, temperature: float = 1.0,
        kept: Kept | None = None, per_token: bool = False,
    ) -> Losses:  # fmt: skip
        """Losses of a batch whose hidden states are known; arguments as for :meth:`loss`."""
        length, head_VD, mtp = states.main_BSD.shape[1], self.head_weight, None
        read = tokens_BX[:, 1 : length + 1].flatten(), weight_BX[:, 1 : length + 1].flatten()
        given = states.main_BSD.flatten(0, 1), *read
        some = (
            valid_BX is not None and kept is None and not per_token
        )  # else all tokens have a weight, or are asked for
        given = counted(*given) if some else given
        main, tokens_T = cross_entropy_of_tokens(given[0], head_VD, *given[1:], temperature, kept)
        total = main
        if states.mtp_BSD is not None and mtp_weight is not None:
            weight_BS, followed_BS = weight_BX[:, 2 : length + 2], _followed(2, length, start_BX, valid_BX)
            weight_BS = weight_BS if followed_BS is None else weight_BS * followed_BS
            given = states.mtp_BSD.flatten(0, 1), tokens_BX[:, 2 : length + 2].flatten(), weight_BS.flatten()
            given = given if valid_BX is None else counted(*given)
            mtp = cross_entropy(given[0], head_VD, *given[1:])
            total = total + mtp_weight * mtp
        for routing in states.routings:
            if routing.balance_loss is not None:
                total = total + balance_weight * routing.balance_loss
        mtp = None if mtp is None else mtp.detach()
        return Losses(total, main.detach(), mtp, self.loads(states.routings), tokens_T if per_token else None)

    def update_biases(self, load_LE: Tensor, speed: float) -> None:
        """Move every layer's balance bias one step against the load of a whole batch, [L, E]."""
        for layer, load_E in zip(self.moe_layers, load_LE, strict=True):
            layer.gate.update_bias(load_E, speed)


def _followed(ahead: int, length: int, start_BX: Tensor | None, valid_BX: Tensor | None) -> Tensor | None:
    """Whether the token `ahead` of each of the first S is in the same document, and no padding; None where all are."""
    now, then = slice(length), slice(ahead, ahead + length)
    tests = [] if start_BX is None else [start_BX[:, then] == start_BX[:, now]]
    tests += [] if valid_BX is None else [valid_BX[:, then] & valid_BX[:, now]]
    return functools.reduce(torch.logical_and, tests) if tests else None


def _equal_weights(tokens_BX: Tensor, length: int, valid_BX: Tensor | None) -> Tensor:
    """The same weight for every token that is no padding; 1 is their sum over the next tokens."""
    if valid_BX is None:
        share = 1.0 / (len(tokens_BX) * length)
        return torch.full(tokens_BX.shape, share, dtype=torch.float32, device=tokens_BX.device)
    return valid_BX.float() / valid_BX[:, 1 : length + 1].sum().clamp(min=1)
