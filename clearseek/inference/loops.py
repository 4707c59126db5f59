"""A step of generation by compiled loops: the calls of every layer, prepared once.

Shapes: T tokens of a step, D hidden, H heads, C numbers cached per token and layer, E experts, K experts per token.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clearseek.inference.engine import Rows, Whole
from clearseek.inference.packed import FeedForward, Layer, Packed
from clearseek.inference.storage import DTYPES, Matrix, wide
from clearseek.kernels import BLOCK, PAGE
from clearseek.kernels.launch import Call, run
from clearseek.ops.rope import rotations, softmax_scale


def _kind(matrix: Matrix) -> int:
    return [*DTYPES].index(matrix.kind)


class Loops:
    """A packed model with its cache and buffers for steps of at most `rows` tokens."""

    def __init__(self, model: Packed, pages: int, rows: int, longest: int) -> None:
        c = self.config = model.config
        self.vocabulary = c.vocab_size
        self.model, self.rows, self.page_count = model, rows, pages
        self.heads = wide(c.num_attention_heads, 4)
        self.nope, self.rope, self.rank, self.value = (
            wide(n) for n in (c.qk_nope_head_dim, c.qk_rope_head_dim, c.kv_lora_rank, c.v_head_dim)
        )
        self.cached = self.rank + self.rope
        self.hidden = wide(c.hidden_size)
        layers = len(model.layers) + (model.draft is not None)
        self.cache = torch.zeros(layers, pages, PAGE, self.cached)
        self.longest = longest
        turns = torch.view_as_real(rotations(c, 0, longest, torch.device("cpu"))).flatten(1)
        self.turns = turns.contiguous()
        self.rotary = c.qk_rope_head_dim
        self.scale = softmax_scale(c)
        self._buffers()
        self.routing: list[Tensor] = []
        self.verdicts: list[Tensor] = []
        self.calls = self._calls()
        self._visited = [chosen.numpy() for chosen in self.routing]
        self._judged = [verdict.numpy() for verdict in self.verdicts]
        self.draft_calls = self._draft_calls()
        # the same memory, in the form that is quick for a few numbers
        given = (self.count, self.wanted_count, self.tokens, self.positions, self.places, self.lists, self.wanted)
        self._numbers = [tensor.numpy() for tensor in given]

    def _buffers(self) -> None:
        c, rows = self.config, self.rows
        threads = self.threads = torch.get_num_threads()
        whole = {"dtype": torch.int64}
        self.count, self.wanted_count = torch.zeros(1, **whole), torch.zeros(1, **whole)  # type: ignore[call-overload]
        self.tokens = torch.zeros(rows, **whole)  # type: ignore[call-overload]
        self.positions, self.places = torch.zeros(rows, **whole), torch.zeros(rows, **whole)  # type: ignore[call-overload]
        self.lists, self.wanted = torch.zeros(rows, **whole), torch.zeros(rows, **whole)  # type: ignore[call-overload]
        k = c.num_experts_per_tok
        self.identity = torch.arange(max(rows * max(k, 1), 4))  # attention takes four heads at a time
        first = self.rank + self.rope + (wide(c.q_lora_rank) if c.q_lora_rank else 0)
        self.x, self.normed = torch.zeros(rows, self.hidden), torch.zeros(rows, self.hidden)
        self.first = torch.zeros(rows, first)
        self.queries = torch.zeros(rows, self.heads * (self.nope + self.rope))
        self.absorbed = torch.zeros(rows, self.heads, self.cached)
        self.latents = torch.zeros(rows, self.heads, self.rank)
        self.mixed = torch.zeros(rows, self.heads, self.value)
        self.added = torch.zeros(rows, self.hidden)
        self.line = wide(self.longest) + 16
        self.scores = torch.zeros(threads, 4, self.line)
        self.inner = torch.zeros(threads, rows, 2 * BLOCK)
        self.router = torch.zeros(rows, wide(c.n_routed_experts))
        self.weights = torch.zeros(rows * k)
        self.pair_tokens, self.pairs = torch.zeros(rows * k, **whole), torch.zeros(rows * k, **whole)  # type: ignore[call-overload]
        self.ends = torch.zeros(c.n_routed_experts, **whole)  # type: ignore[call-overload]
        self.margin = torch.zeros(1)
        self.routed_act = torch.zeros(rows * k, wide(c.moe_intermediate_size))
        self.parts = torch.zeros(rows * k, self.hidden)
        self.logits = torch.zeros(rows, self.model.head.values.shape[0])

    def _calls(self) -> list[Call]:
        layers = self.model.layers
        calls = [self._embed(), self._norm(self.x, layers[0].norm, self.normed, self.hidden)]
        for index, layer in enumerate(layers):
            after = layers[index + 1].norm if index + 1 < len(layers) else self.model.norm
            calls += self._layer(layer, index, after)
        return [*calls, self._head()]

    def _draft_calls(self) -> list[Call]:
        draft = self.model.draft
        if draft is None:
            return []
        self.joined, self.given = torch.zeros(self.rows, 2 * self.hidden), torch.zeros(self.rows, self.hidden)
        return [
            self._embed(),
            self._norm(self.x, draft.token_norm, self.joined, 2 * self.hidden),
            self._norm(self.given, draft.hidden_norm, self.joined.view(-1)[self.hidden :], 2 * self.hidden),
            self._matrix(draft.join, self.joined, self.x),
            self._norm(self.x, draft.layer.norm, self.normed, self.hidden),
            *self._layer(draft.layer, len(self.model.layers), draft.norm),
            self._head(),
        ]

    def _head(self) -> Call:
        return self._matrix(self.model.head, self.normed, self.logits, self.wanted_count, self.wanted)

    def _layer(self, layer: Layer, index: int, after: Tensor) -> list[Call]:
        """A layer's calls; it ends with the norm that comes `after` it."""
        parts, k = (self.parts, self.config.num_experts_per_tok) if layer.routed else (None, 0)
        return [
            *self._attention(layer, index),
            self._add_and_norm(layer.mlp_norm, None, 0),
            *self._feed_forward(layer),
            self._add_and_norm(after, parts, k),
        ]

    def _embed(self) -> Call:
        table = self.model.embedding
        narrow = int(table.dtype == torch.bfloat16)
        return Call(
            "decoder.embed", 0, self.count, narrow, self.config.hidden_size, table.data_ptr(), self.tokens, self.x,
            self.hidden,
        )  # fmt: skip

    def _norm(self, x: Tensor, weight: Tensor, y: Tensor, y_row: int) -> Call:
        return Call(
            "decoder.norm", 0, self.count, self.config.hidden_size, x, self.hidden, weight, self.config.rms_norm_eps,
            y, y_row,
        )  # fmt: skip

    def _add_and_norm(self, weight: Tensor, parts: Tensor | None, k: int) -> Call:
        return Call(
            "decoder.add_and_norm", 0, self.count, self.config.hidden_size, self.x, self.hidden, weight,
            self.config.rms_norm_eps, self.normed, parts, k, self.added,
        )  # fmt: skip

    def _matrix(
        self, w: Matrix, x: Tensor, y: Tensor, count: Tensor | None = None, index: Tensor | None = None
    ) -> Call:
        rows, inner = w.values.shape
        count, index = self.count if count is None else count, self.identity if index is None else index
        return Call(
            "decoder.matrix", rows, count, _kind(w), inner, w.values.data_ptr(), w.scales, x, x[0].numel(), index,
            y, y[0].numel(), self.identity,
        )  # fmt: skip

    def _heads(self, w: Matrix, x: Tensor, x_head: int, y: Tensor, y_head: int) -> Call:
        rows, inner = w.values.shape
        return Call(
            "decoder.heads", self.heads, self.count, _kind(w), inner, rows // self.heads, w.values.data_ptr(), w.scales,
            x, x[0].numel(), x_head, y, y[0].numel(), y_head, self.identity,
        )  # fmt: skip

    def _attention(self, layer: Layer, index: int) -> list[Call]:
        c, eps = self.config, 1e-6
        q_rank = c.q_lora_rank or 0
        cache = self.cache[index]
        rope_at = self.queries.view(-1)[self.heads * self.nope :]
        return [
            self._matrix(layer.first, self.normed, self.first),
            Call(
                "decoder.remember", 0, self.count, self.positions, self.first, self.first.shape[1], q_rank,
                wide(q_rank), layer.q_norm, c.kv_lora_rank, self.rank, layer.kv_norm, eps, self.rotary, self.turns,
                cache, self.cached, self.places,
            ),
            self._matrix(layer.queries, self.first if q_rank else self.normed, self.queries),
            self._heads(layer.keys, self.queries, self.nope, self.absorbed, self.cached),
            Call(
                "decoder.turn_queries", 0, self.count, self.positions, rope_at, self.queries.shape[1], self.rope,
                self.heads, self.rotary, self.turns, 1.0, self.absorbed.view(-1)[self.rank :], self.cached,
                self.heads * self.cached,
            ),
            Call(
                "decoder.attend", self.heads // 4, self.count, self.positions, self.lists, cache, self.cached,
                self.rank, self.absorbed, self.heads * self.cached, self.latents, self.heads * self.rank, self.scores,
                self.line, self.identity, self.scale,
            ),
            self._heads(layer.values, self.latents, self.rank, self.mixed, self.value),
            self._matrix(layer.out, self.mixed, self.added),
        ]  # fmt: skip

    def _swiglu(self, w: FeedForward, tokens: Tensor, pairs: Tensor, ends: Tensor, weights: Tensor | None, act: Tensor,
                out: Tensor) -> list[Call]:  # fmt: skip
        return [
            Call(
                "decoder.gate", w.experts, _kind(w.gate_up), w.gate_up.values.shape[1], w.width,
                w.gate_up.values.data_ptr(), w.gate_up.scales, self.normed, self.hidden, tokens, pairs, ends, weights,
                act, act.shape[1], self.inner, self.rows, self.identity,
            ),
            Call(
                "decoder.down", w.experts, _kind(w.down), w.down.values.shape[1], self.hidden,
                w.down.values.data_ptr(), w.down.scales, act, act.shape[1], pairs, ends, out, self.hidden,
            ),
        ]  # fmt: skip

    def _feed_forward(self, layer: Layer) -> list[Call]:
        c = self.config
        dense = layer.dense
        act = torch.zeros(self.rows, dense.down.values.shape[1])
        calls = self._swiglu(dense, self.identity, self.identity, self.count, None, act, self.added)
        if layer.routed is None or layer.router is None:
            return calls
        chosen = torch.zeros(self.rows, c.num_experts_per_tok, dtype=torch.int64)
        self.routing.append(chosen)
        self.verdicts.append(torch.zeros(self.rows, dtype=torch.int64))
        factor = c.routed_scaling_factor if c.topk_method == "noaux_tc" or not c.norm_topk_prob else 1.0
        route = Call(
            "decoder.route", 1, self.count, c.n_routed_experts, c.num_experts_per_tok, self.router,
            self.router.shape[1], layer.bias, int(c.scoring_func == "softmax"), c.n_group, c.topk_group,
            2 if c.topk_method == "noaux_tc" else 1, int(c.norm_topk_prob), float(factor), chosen, self.weights,
            self.pair_tokens, self.pairs, self.ends, self.margin, self.verdicts[-1],
        )  # fmt: skip
        routed = self._swiglu(
            layer.routed, self.pair_tokens, self.pairs, self.ends, self.weights, self.routed_act, self.parts
        )
        return [self._matrix(layer.router, self.normed, self.router), route, *calls, *routed]

    def step(self, rows: Rows) -> Tensor:
        """Logits of the wanted rows, FP32 [wanted, V], until the next call; the tokens' latents are in the cache."""
        return self._run(rows, self.calls)

    def step_told(self, rows: Rows, told_LTK: Whole, margin: float) -> tuple[Tensor, Whole]:
        """As :meth:`step`, by experts that are told, which must exist.

        The second result [layers with experts, T] is 0 where the router would choose the same ones, 1 where it might if
        scores were others by `margin`, and else 2.
        """
        count = len(rows.tokens)
        for chosen, told_TK in zip(self._visited, told_LTK, strict=True):
            chosen[:count] = told_TK
        self.margin.fill_(margin)
        try:
            logits = self._run(rows, self.calls)
        finally:
            self.margin.zero_()
        return logits, np.array([verdict[:count] for verdict in self._judged])

    def draft(self, rows: Rows, sources: Whole) -> Tensor:
        """Logits of the token after the next, FP32 [wanted, V], by the multi-token-prediction layer.

        Row t of `rows` holds the token that follows row `sources[t]` of the last :meth:`step`, and that row's position.
        """
        self.given[: len(sources)] = self.normed[torch.from_numpy(sources)]
        return self._run(rows, self.draft_calls)

    def _run(self, rows: Rows, calls: list[Call]) -> Tensor:
        count, wanted = len(rows.tokens), len(rows.wanted)
        assert 0 < count <= self.rows, "a step has more tokens than its buffers"
        count_, wanted_, tokens, positions, places, lists, wanted_rows = self._numbers
        count_[0], wanted_[0] = count, wanted
        tokens[:count], positions[:count], wanted_rows[:wanted] = rows.tokens, rows.positions, rows.wanted
        pages = np.ascontiguousarray(rows.pages)
        places[:count] = pages[rows.sequences, rows.positions // PAGE] * PAGE + rows.positions % PAGE
        lists[:count] = pages.ctypes.data + 8 * pages.shape[1] * rows.sequences
        run(calls, self.threads)
        return self.logits[:wanted, : self.config.vocab_size]

    def experts(self, row: int) -> tuple[tuple[int, ...], ...]:
        """Experts that a row of the last step visited, in each layer with experts, the drafting one left out."""
        return tuple(tuple(chosen[row].tolist()) for chosen in self._visited)

    def routes(self, count: int) -> Whole:
        """Experts that the first rows of the last step visited, [layers with experts, rows, experts per token]."""
        if not self._visited:
            return np.empty((0, count, 0), dtype=np.int64)
        return np.stack([chosen[:count] for chosen in self._visited])

    def copy_pages(self, sources: Whole, targets: Whole) -> None:
        """Copy pages of the cache."""
        self.cache[:, torch.from_numpy(targets)] = self.cache[:, torch.from_numpy(sources)]
