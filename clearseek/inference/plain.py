"""A step of generation in PyTorch's own operations: where numba is not installed, and on GPUs.

The same packed weights, pages and interface as :class:`clearseek.inference.loops.Loops`. PyTorch chooses an order of
sums by the number of rows, so here an answer's last bits may depend on what else was in its steps.

Shapes: T tokens of a step, D hidden, H heads, N channels without position, P rotary channels, R latent rank, V value
channels, C = R + P numbers cached, S positions, K experts per token, E experts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clearseek.inference.engine import Rows, Whole
from clearseek.inference.packed import FeedForward, Layer, Packed
from clearseek.inference.storage import Matrix, padded, wide
from clearseek.kernels import BLOCK, PAGE
from clearseek.model.router import Router
from clearseek.ops.rope import rotate, rotations, softmax_scale

_AT_ONCE = 2**24
"""Most numbers of the cache that are gathered at a time."""


class _Rows(NamedTuple):
    """:class:`clearseek.inference.engine.Rows` as tensors of a device."""

    tokens: Tensor
    positions: Tensor
    sequences: Tensor
    pages: Tensor
    wanted: Tensor

    @staticmethod
    def on(device: torch.device, rows: Rows) -> _Rows:
        return _Rows(*(torch.from_numpy(numbers).to(device) for numbers in rows))


class Plain:
    """A packed model with its cache."""

    def __init__(self, model: Packed, pages: int, rows: int, longest: int) -> None:
        c = self.config = model.config
        self.vocabulary = c.vocab_size
        self.model, self.rows, self.longest, self.page_count = model, rows, longest, pages
        self.device = model.embedding.device
        self.heads = wide(c.num_attention_heads, 4)
        self.rank, self.rope = wide(c.kv_lora_rank), wide(c.qk_rope_head_dim)
        layers = len(model.layers) + (model.draft is not None)
        self.cache = torch.zeros(layers, pages * PAGE, self.rank + self.rope, device=self.device)
        self.turns = rotations(c, 0, longest, self.device)
        self.scale = softmax_scale(c)
        drafting = [] if model.draft is None else [model.draft.layer]
        self.routers = {
            id(layer): self._router(layer) for layer in [*model.layers, *drafting] if layer.router is not None
        }
        self.hidden = torch.empty(0)
        self.routing: list[Tensor] = []

    def _router(self, layer: Layer) -> Router:
        """The training module, over the same weights."""
        assert layer.router is not None
        with torch.device("meta"):
            router = Router(self.config)
        weight = layer.router.values[: self.config.n_routed_experts, : self.config.hidden_size]
        router.weight = nn.Parameter(weight, requires_grad=False)
        if layer.bias is not None:
            router.e_score_correction_bias = layer.bias
        return router

    @torch.no_grad()
    def step(self, rows: Rows) -> Tensor:
        """Logits of the wanted rows, FP32 [wanted, V]; the tokens' latents are in the cache afterwards."""
        at = _Rows.on(self.device, rows)
        self.routing = []
        x_TD = self._embed(at.tokens)
        for index, layer in enumerate(self.model.layers):
            x_TD = self._layer(layer, index, x_TD, at)
        self.hidden = self._norm(x_TD, self.model.norm)
        return self._logits(self.hidden, at)

    @torch.no_grad()
    def draft(self, rows: Rows, sources: Whole) -> Tensor:
        """Logits of the token after the next, FP32 [wanted, V], from rows `sources` of the last :meth:`step`."""
        draft = self.model.draft
        assert draft is not None, "the model has no multi-token-prediction layer"
        at = _Rows.on(self.device, rows)
        halves = (
            self._norm(self._embed(at.tokens), draft.token_norm),
            self._norm(self.hidden[torch.from_numpy(sources)], draft.hidden_norm),
        )
        width = draft.join.values.shape[1] // 2
        x_TD = self._hidden(draft.join, torch.cat([padded(half, width) for half in halves], dim=-1))
        routing, self.routing = self.routing, []
        x_TD = self._layer(draft.layer, len(self.model.layers), x_TD, at)
        self.routing = routing
        return self._logits(self._norm(x_TD, draft.norm), at)

    def experts(self, row: int) -> tuple[tuple[int, ...], ...]:
        """Experts that a row of the last step visited, in each layer with experts."""
        return tuple(tuple(chosen[row].tolist()) for chosen in self.routing)

    def _embed(self, tokens_T: Tensor) -> Tensor:
        return self.model.embedding[tokens_T].float()

    def _logits(self, hidden_TD: Tensor, rows: _Rows) -> Tensor:
        return self._times(self.model.head, hidden_TD[rows.wanted])[:, : self.config.vocab_size].cpu()

    def _times(self, w: Matrix, x: Tensor) -> Tensor:
        """w x in FP32, rows of padding included; on a GPU the product is of the stored type."""
        x = padded(x, w.values.shape[1])
        if x.is_cuda and w.values.dtype == torch.bfloat16:
            return F.linear(x.to(torch.bfloat16), w.values).float()
        return F.linear(x, w.floats())

    def _hidden(self, w: Matrix, x: Tensor) -> Tensor:
        """w x, of the residual stream's size."""
        return self._times(w, x)[:, : self.config.hidden_size]

    def _norm(self, x: Tensor, weight: Tensor, eps: float | None = None) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.config.rms_norm_eps if eps is None else eps)

    def _layer(self, layer: Layer, index: int, x_TD: Tensor, rows: _Rows) -> Tensor:
        x_TD = x_TD + self._attention(layer, index, self._norm(x_TD, layer.norm), rows)
        normed_TD = self._norm(x_TD, layer.mlp_norm)
        x_TD = x_TD + self._swiglu(layer.dense, 0, normed_TD)
        return x_TD if layer.routed is None else x_TD + self._routed(layer, normed_TD)

    def _attention(self, layer: Layer, index: int, x_TD: Tensor, rows: _Rows) -> Tensor:
        c = self.config
        count, cache = len(x_TD), self.cache[index]
        turn_TP2 = self.turns[rows.positions]
        first = self._times(layer.first, x_TD)
        query, latent, key = first.split([first.shape[1] - self.rank - self.rope, self.rank, self.rope], dim=1)
        places_T = rows.pages[rows.sequences, rows.positions // PAGE] * PAGE + rows.positions % PAGE
        cache[places_T, : c.kv_lora_rank] = self._norm(latent[:, : c.kv_lora_rank], layer.kv_norm, 1e-6)
        cache[places_T, self.rank : self.rank + c.qk_rope_head_dim] = rotate(key[:, : c.qk_rope_head_dim], turn_TP2)

        source = x_TD if layer.q_norm is None else self._norm(query[:, : len(layer.q_norm)], layer.q_norm, 1e-6)
        queries = self._times(layer.queries, source)
        nope_THN, rope_THP = (
            part.unflatten(1, (self.heads, -1))
            for part in queries.split([queries.shape[1] - self.heads * self.rope, self.heads * self.rope], dim=1)
        )
        keys_HRN = layer.keys.floats().unflatten(0, (self.heads, -1))
        turned_THP = rotate(rope_THP[..., : c.qk_rope_head_dim], turn_TP2.unsqueeze(1))
        q_THC = torch.cat([torch.einsum("thn,hrn->thr", nope_THN, keys_HRN), padded(turned_THP, self.rope)], dim=-1)
        mixed_THR = torch.empty(count, self.heads, self.rank, device=self.device)
        seen = int(rows.positions.max()) + 1
        at_S = torch.arange(seen, device=self.device)
        step = max(1, _AT_ONCE // (seen * cache.shape[1]))
        for start in range(0, count, step):
            part = slice(start, start + step)
            past_TSC = cache[rows.pages[rows.sequences[part]][:, at_S // PAGE] * PAGE + at_S % PAGE]
            scores_THS = torch.einsum("thc,tsc->ths", q_THC[part], past_TSC) * self.scale
            hidden_TS = at_S > rows.positions[part].unsqueeze(1)
            p_THS = scores_THS.masked_fill(hidden_TS.unsqueeze(1), float("-inf")).softmax(-1)
            mixed_THR[part] = torch.einsum("ths,tsr->thr", p_THS, past_TSC[..., : self.rank])
        values_HVR = layer.values.floats().unflatten(0, (self.heads, -1))
        return self._hidden(layer.out, torch.einsum("thr,hvr->thv", mixed_THR, values_HVR).flatten(1))

    def _swiglu(self, w: FeedForward, expert: int, x_TD: Tensor) -> Tensor:
        gate_up, down = (matrix.part(expert, w.experts) for matrix in (w.gate_up, w.down))
        gate, up = self._times(gate_up, x_TD).unflatten(1, (-1, 2, BLOCK)).unbind(2)
        return self._hidden(down, (F.silu(gate) * up).flatten(1))

    def _routed(self, layer: Layer, x_TD: Tensor) -> Tensor:
        assert layer.routed is not None
        index_TK, weight_TK, *_ = self.routers[id(layer)](x_TD)
        self.routing.append(index_TK)
        y_TD = torch.zeros_like(x_TD)
        for expert in index_TK.unique().tolist():
            token, k = (index_TK == expert).nonzero(as_tuple=True)
            y_TD[token] += self._swiglu(layer.routed, expert, x_TD[token]) * weight_TK[token, k].unsqueeze(1)
        return y_TD
