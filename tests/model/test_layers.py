"""The hand-written backwards and kernels against plain PyTorch autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearseek.config import ModelConfig
from clearseek.model.experts import Experts
from clearseek.ops import loss as loss_module
from clearseek.ops.attention import causal_attention
from clearseek.ops.dispatch import Routing, alignment_of, lay_out
from clearseek.ops.embedding import Embedding
from clearseek.ops.grouped import grouped_mm, grouped_mm_weight, parts
from clearseek.ops.loss import cross_entropy, token_losses
from clearseek.ops.norm import RMSNorm
from tests.model.test_parity import BASE


def same_gradients(ours: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Outputs and all input gradients agree to FP32 rounding."""
    results = []
    for function in (ours, plain):
        leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
        out = function(*leaves)
        weight = torch.linspace(-1, 1, out.numel()).view(out.shape)
        (out * weight).sum().backward()
        results.append((out.detach(), [x.grad for x in leaves if x.requires_grad]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-5)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_norm() -> None:
    norm = RMSNorm(24)

    def ours(x: Tensor, w: Tensor) -> Tensor:
        norm.weight = torch.nn.Parameter(w.detach())
        y: Tensor = torch.func.functional_call(norm, {"weight": w}, (x,))
        return y

    same_gradients(ours, lambda x, w: F.rms_norm(x, (24,), w, 1e-6), torch.randn(3, 5, 24), torch.randn(24))


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 7), (130, 130), (300, 300), (600, 600), (1, 40), (150, 400)])
def test_attention_core(queries: int, keys: int) -> None:
    visible = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.transpose(1, 2)).masked_fill(~visible, float("-inf"))
        return scores.softmax(-1) @ v

    inputs = torch.randn(4, queries, 8) * 0.5, torch.randn(4, keys, 8), torch.randn(4, keys, 6)

    def ours(*heads: Tensor) -> Tensor:
        out = causal_attention(*(x.unflatten(0, (2, 2)) for x in heads))
        return out.transpose(1, 2).flatten(0, 1)

    same_gradients(ours, plain, *inputs)


def routing_of(index_TK: Tensor, weight_TK: Tensor, experts: int) -> Routing:
    return Routing.of(index_TK, weight_TK, experts)


@pytest.mark.parametrize("pattern", ["random", "one expert takes all", "one token"])
def test_experts_equal_a_loop_over_tokens(pattern: str) -> None:
    config = ModelConfig(**(BASE | {"hidden_size": 12, "moe_intermediate_size": 10}))
    experts = Experts(config)
    tokens = 1 if pattern == "one token" else 9
    index = torch.stack([torch.randperm(8)[:3] for _ in range(tokens)])
    if pattern == "one expert takes all":
        index = torch.tensor([[5, 2, 7]] * tokens)

    def ours(x: Tensor, w: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        weights = {"gate_up_proj": gate_up, "down_proj": down}
        y: Tensor = torch.func.functional_call(experts, weights, (x, routing_of(index, w, 8)))
        return y

    def plain(x: Tensor, w: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        rows = []
        for t in range(tokens):
            terms = []
            for j in range(3):
                e = int(index[t, j])
                gate, up = (gate_up[e] @ x[t]).chunk(2)
                terms.append(w[t, j] * (down[e] @ (F.silu(gate) * up)))
            rows.append(torch.stack(terms).sum(0))
        return torch.stack(rows)

    shapes = (tokens, 12), (tokens, 3), (8, 20, 12), (8, 12, 10)
    same_gradients(ours, plain, *(torch.randn(shape) for shape in shapes))


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_grouped_products_with_any_block_sizes(counts: list[int]) -> None:
    rows, ends = sum(counts), torch.tensor(counts).cumsum(0).to(torch.int32)
    x, w, g = torch.randn(rows, 5), torch.randn(len(counts), 5, 4), torch.randn(rows, 4)
    y, dw = torch.empty(rows, 4), torch.zeros(len(counts), 4, 5)
    for part in parts(ends, rows):
        grouped_mm(x[part.rows], w[part.experts], part.ends_E, y, part.rows)
        grouped_mm_weight(g[part.rows], x[part.rows], part, dw)
    blocks = list(zip(torch.split(x, counts), torch.split(g, counts), strict=True))
    torch.testing.assert_close(y, torch.cat([a @ w[e] for e, (a, _) in enumerate(blocks)]))
    torch.testing.assert_close(dw, torch.stack([b.t() @ a for a, b in blocks]))


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(1, 200),
    experts=st.integers(2, 9),
    alignment=st.sampled_from([1, 8, 128]),
    padding=st.sampled_from([0, 7]),
    seed=st.integers(0, 99),
)
def test_layout_gives_every_pair_its_own_row_in_its_experts_block(
    tokens: int, experts: int, alignment: int, padding: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    index = torch.rand(tokens, experts, generator=draw).argsort(dim=1)[:, :2]
    weight = torch.rand(tokens, 2, generator=draw)
    routing = Routing.of(index, weight, experts)
    layout = lay_out(routing, alignment, padding)
    assert routing.load_E.tolist() == torch.bincount(index.flatten(), minlength=experts).tolist()
    assert layout.place_P.unique().numel() == 2 * tokens
    assert layout.pair_R[layout.place_P].tolist() == list(range(2 * tokens))
    assert layout.token_R[layout.place_P].tolist() == [t for t in range(tokens) for _ in range(2)]
    assert torch.equal(layout.weights(weight, torch.float32)[layout.place_P, 0], weight.flatten())
    blocks = torch.searchsorted(layout.ends_G, layout.place_P, right=True)
    assert blocks.tolist() == index.flatten().tolist()
    assert (layout.ends_G % alignment == 0).all() and layout.ends_G[-1] <= layout.token_R.numel()
    spare = torch.ones(layout.token_R.numel(), dtype=torch.bool).index_fill_(0, layout.place_P, False)
    assert (layout.token_R[spare] == padding).all() and not layout.weights(weight, torch.float32)[spare].any()
    rows = layout.place_P.view(tokens, 2)  # pairs of one expert stand in the order of their tokens
    assert all(rows[index == e].diff().gt(0).all() for e in range(experts))


@pytest.mark.parametrize(
    ("pairs", "device", "alignment"),
    [(1, "cpu", 1), (127, "cpu", 1), (128, "cpu", 8), (2047, "cpu", 8), (2048, "cpu", 128), (1, "cuda", 128)],
)
def test_blocks_are_padded_only_where_that_helps(pairs: int, device: str, alignment: int) -> None:
    """16 experts: on a CPU at most about as many rows of padding as pairs."""
    assert alignment_of(pairs, 16, torch.device(device)) == alignment


def mean(tokens: int) -> Tensor:
    return torch.full((tokens,), 1 / tokens)


@pytest.mark.parametrize("chunk", [640, 1 << 22])
@pytest.mark.parametrize("weights", ["masked", "any", "none"])
def test_tokens_count_in_the_cross_entropy_what_their_weights_say(
    weights: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", chunk)
    target, weight = torch.randint(0, 11, (201,)), torch.rand(201)
    weight = {"masked": (weight > 0.5) / 90.0, "any": weight / weight.sum(), "none": 0 * weight}[weights]
    hidden, head = torch.randn(201, 6), torch.randn(11, 6)

    def plain(h: Tensor, w: Tensor) -> Tensor:
        return (weight * F.cross_entropy(h @ w.t(), target, reduction="none")).sum()

    same_gradients(lambda h, w: cross_entropy(h, w, target, weight), plain, hidden, head)


@pytest.mark.parametrize("chunk", [1, 640, 1 << 22])
def test_cross_entropy_in_any_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", chunk)
    target = torch.randint(0, 11, (201,))
    hidden, head = torch.randn(201, 6), torch.randn(11, 6)

    def plain(h: Tensor, w: Tensor) -> Tensor:
        return 3.0 * F.cross_entropy(h @ w.t(), target)

    same_gradients(lambda h, w: 3.0 * cross_entropy(h, w, target, mean(201)), plain, hidden, head)
    expected = F.cross_entropy(hidden @ head.t(), target, reduction="none")
    torch.testing.assert_close(token_losses(hidden, head, target), expected)


def test_cross_entropy_never_holds_the_batch_of_logits() -> None:
    rows, vocabulary = 8192, 8192
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    with Watch():
        cross_entropy(
            torch.randn(rows, 4), torch.randn(vocabulary, 4), torch.zeros(rows, dtype=torch.int64), mean(rows)
        )
    assert largest <= loss_module.CHUNK_ELEMENTS < rows * vocabulary


def test_a_hopeless_prediction_saturates_and_nan_shows() -> None:
    hidden, head = torch.tensor([[1.0]]), torch.tensor([[500.0], [-500.0]])
    assert cross_entropy(hidden, head, torch.tensor([1]), mean(1)).item() == pytest.approx(87.336, abs=1e-2)
    assert cross_entropy(hidden * float("nan"), head, torch.tensor([1]), mean(1)).isnan()


def test_embedding_sums_many_occurrences_exactly() -> None:
    embedding = Embedding(5, 3).to(torch.bfloat16)
    torch.nn.init.ones_(embedding.weight)
    embedding(torch.full((2, 300), 4)).sum().backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.tolist() == [[0.0] * 3] * 4 + [[600.0] * 3]  # a BF16 running sum stops at 256
