"""A step of generation in PyTorch's own operations: where numba is not installed, and on GPUs.

The same packed weights, pages and interface as :class:`clearseek.inference.loops.Loops`. PyTorch chooses an order of
sums by the number of rows, so here an answer's last bits may depend on what else was in its steps. On a GPU,
:class:`clearseek.inference.graphs.Graphed` replays these operations.

Shapes: T tokens of a step, D hidden, H heads, N channels without position, P rotary channels, R latent rank, V value
channels, C = R + P numbers cached, S positions, K experts per token, E experts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clearseek.inference.engine import Rows, Whole
from clearseek.inference.packed import FeedForward, Layer, Packed
from clearseek.inference.storage import Matrix, padded, wide
from clearseek.kernels import BLOCK, PAGE
from clearseek.model.router import Router
from clearseek.ops.dispatch import Routing
from clearseek.ops.rope import rotate, rotations, softmax_scale

_AT_ONCE = 2**24
"""Most numbers of the cache that are gathered at a time."""


class RowsOnDevice(NamedTuple):
    """:class:`clearseek.inference.engine.Rows` as tensors of a device."""

    tokens: Tensor
    positions: Tensor
    sequences: Tensor
    pages: Tensor
    wanted: Tensor

    @staticmethod
    def on(device: torch.device, rows: Rows) -> RowsOnDevice:
        return RowsOnDevice(*(torch.from_numpy(numbers).to(device) for numbers in rows))


class Done(NamedTuple):
    """What reading tokens gives."""

    logits: Tensor
    """FP32 [wanted, V]."""
    hidden: Tensor
    """FP32 [T, D]: after the last norm."""
    routing: Tensor
    """int64 [layers with experts, T, K]."""


class Plain:
    """A packed model with its cache."""

    spare = 0
    """Pages of the cache beside those that requests have."""

    def __init__(self, model: Packed, pages: int, rows: int, longest: int) -> None:
        c = self.config = model.config
        self.vocabulary = c.vocab_size
        self.model, self.rows, self.longest, self.page_count = model, rows, longest, pages
        self.device = model.embedding.device
        self.heads = wide(c.num_attention_heads, 4)
        self.rank, self.rope = wide(c.kv_lora_rank), wide(c.qk_rope_head_dim)
        layers = len(model.layers) + (model.draft is not None)
        self.cache = torch.zeros(layers, (pages + self.spare) * PAGE, self.rank + self.rope, device=self.device)
        self.turns = rotations(c, 0, longest, self.device)
        self.scale = softmax_scale(c)
        self.grouped = self.device.type == "cuda" and model.kind == "BF16"
        drafting = [] if model.draft is None else [model.draft.layer]
        self.routers = {
            id(layer): self._router(layer) for layer in [*model.layers, *drafting] if layer.router is not None
        }
        self._done = Done(torch.empty(0), torch.empty(0), torch.empty(0))
        self._visited: list[list[list[int]]] | None = None

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
        self._done, self._visited = self._read(rows), None
        return self._done.logits.cpu()

    @torch.no_grad()
    def draft(self, rows: Rows, sources: Whole) -> Tensor:
        """Logits of the token after the next, FP32 [wanted, V], from rows `sources` of the last :meth:`step`."""
        assert self.model.draft is not None, "the model has no multi-token-prediction layer"
        return self._read(rows, self._done.hidden[torch.from_numpy(sources).to(self.device)]).logits.cpu()

    def experts(self, row: int) -> tuple[tuple[int, ...], ...]:
        """Experts that a row of the last step visited, in each layer with experts."""
        if self._visited is None:
            self._visited = self._done.routing.tolist()
        return tuple(tuple(layer[row]) for layer in self._visited)

    def routes(self, count: int) -> Whole:
        """Experts that the first rows of the last step visited, [layers with experts, rows, experts per token]."""
        return self._done.routing[:, :count].cpu().numpy().astype(np.int64)

    def copy_pages(self, sources: Whole, targets: Whole) -> None:
        """Copy pages of the cache."""
        pages = self.cache.unflatten(1, (-1, PAGE))
        pages[:, torch.from_numpy(targets)] = pages[:, torch.from_numpy(sources)]

    def _read(self, rows: Rows, hidden_TD: Tensor | None = None) -> Done:
        """Read tokens; with hidden states of the tokens before them, by the multi-token-prediction layer."""
        return self._forward(RowsOnDevice.on(self.device, rows), int(rows.positions.max()) + 1, hidden_TD)

    def _forward(self, at: RowsOnDevice, seen: int, hidden_TD: Tensor | None) -> Done:
        """Read tokens of which none sees more than `seen` positions; nothing here waits for a GPU."""
        layers, norm, first = self.model.layers, self.model.norm, 0
        x_TD = self._embed(at.tokens)
        if hidden_TD is not None:
            draft = self.model.draft
            assert draft is not None
            halves = self._norm(x_TD, draft.token_norm), self._norm(hidden_TD, draft.hidden_norm)
            width = draft.join.values.shape[1] // 2
            x_TD = self._hidden(draft.join, torch.cat([padded(half, width) for half in halves], dim=-1))
            layers, norm, first = [draft.layer], draft.norm, len(layers)
        routing = []
        for index, layer in enumerate(layers, first):
            x_TD = x_TD + self._attention(layer, index, self._norm(x_TD, layer.norm), at, seen)
            normed_TD = self._norm(x_TD, layer.mlp_norm)
            x_TD = x_TD + self._swiglu(layer.dense, 0, normed_TD)
            if layer.routed is not None:
                choice = self.routers[id(layer)](normed_TD)
                routing.append(choice.index_TK)
                x_TD = x_TD + self._routed(layer.routed, normed_TD, choice)
        hidden_TD = self._norm(x_TD, norm)
        logits = self._times(self.model.head, hidden_TD[at.wanted])[:, : self.config.vocab_size]
        return Done(logits, hidden_TD, torch.stack(routing) if routing else torch.empty(0, len(x_TD), 0))

    def _embed(self, tokens_T: Tensor) -> Tensor:
        return self.model.embedding[tokens_T].float()

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

    def _attention(self, layer: Layer, index: int, x_TD: Tensor, rows: RowsOnDevice, seen: int) -> Tensor:
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

    def _routed(self, w: FeedForward, x_TD: Tensor, choice: Routing) -> Tensor:
        if self.grouped:
            return self._grouped(w, x_TD, choice)
        y_TD = torch.zeros_like(x_TD)
        for expert in choice.index_TK.unique().tolist():
            token, k = (choice.index_TK == expert).nonzero(as_tuple=True)
            y_TD[token] += self._swiglu(w, expert, x_TD[token]) * choice.weight_TK[token, k].unsqueeze(1)
        return y_TD

    def _grouped(self, w: FeedForward, x_TD: Tensor, choice: Routing) -> Tensor:
        """All experts in one product of groups of rows, without asking a GPU which experts have any."""
        k = choice.index_TK.shape[1]
        ends_E = choice.load_E.cumsum(0).to(torch.int32)
        gate_up_EID, down_EDI = (matrix.values.unflatten(0, (w.experts, -1)) for matrix in (w.gate_up, w.down))
        x_PD = padded(x_TD, gate_up_EID.shape[2])[choice.order_P // k].to(gate_up_EID.dtype)
        inner = F.grouped_mm(x_PD, gate_up_EID.mT, offs=ends_E)
        gate, up = inner.float().unflatten(1, (-1, 2, BLOCK)).unbind(2)
        act_PI = (F.silu(gate) * up).flatten(1).to(down_EDI.dtype)
        y_PD = F.grouped_mm(act_PI, down_EDI.mT, offs=ends_E).float() * choice.weight_TK.flatten()[choice.order_P, None]
        parts_PD = torch.empty_like(y_PD).index_copy_(0, choice.order_P, y_PD)
        y_TD: Tensor = parts_PD.unflatten(0, (-1, k)).sum(1)[:, : self.config.hidden_size]
        return y_TD
