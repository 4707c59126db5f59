"""One step of generation against the training model, which recomputes everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from clearseek.config import ModelConfig
from clearseek.inference.engine import Forward, Rows
from clearseek.inference.loops import Loops
from clearseek.inference.model import pages_for
from clearseek.inference.storage import Kind, Store, wide
from clearseek.kernels import PAGE
from clearseek.model.layers import MTPLayer
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.rope import places
from tests.inference.models import FORWARDS, model_of, packed
from tests.model.test_parity import CASES


def read(forward: Forward, tokens: Tensor, pieces: Sequence[int], pages: Sequence[int]) -> Tensor:
    """Logits of all positions, reading the tokens in pieces."""
    found, start = [], 0
    for n in pieces:
        rows = Rows(
            tokens[start : start + n].numpy(), np.arange(start, start + n), np.zeros(n, dtype=np.int64),
            np.array([pages]), np.arange(n),
        )  # fmt: skip
        found.append(forward.step(rows).clone())
        start += n
    return torch.cat(found)


def split(length: int, most: int) -> list[int]:
    return [most] * (length // most) + ([length % most] if length % most else [])


@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_training_models(case: str, name: str) -> None:
    changes, length = CASES[case]
    model = model_of(**changes)
    tokens = torch.randint(0, model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(3))
    expected = model.logits(tokens.unsqueeze(0))[0]
    pages = -(-length // PAGE)
    forward = FORWARDS[name](packed(model), pages + 2, 64, length)
    logits = read(forward, tokens, split(length, 64), [*range(pages + 1, 1, -1)])
    assert (logits - expected).abs().max() <= 1e-4
    best = expected.topk(2).values
    clear = best[:, 0] - best[:, 1] > 1e-3
    assert torch.equal(logits.argmax(-1)[clear], expected.argmax(-1)[clear])


@pytest.mark.parametrize("kind", ["F32", "BF16", "I8"])
@pytest.mark.parametrize("case", ["v3", "4 groups keep 2, odd length", "v2 lite"])
def test_bits_do_not_depend_on_the_pieces_or_the_threads(case: str, kind: Kind) -> None:
    changes, _ = CASES[case]
    model = model_of(**changes)
    tokens = torch.randint(0, model.config.vocab_size, (61,), generator=torch.Generator().manual_seed(3))
    before, found = torch.get_num_threads(), []
    try:
        for threads, pieces, pages in (
            (1, [61], [0, 1, 2, 3]),
            (2, [1] * 61, [9, 3, 5, 1]),
            (2, [7, 3, 11, 1, 1, 31, 7], [4, 2, 0, 6]),
            (3, [30, 31], [0, 1, 2, 3]),
        ):
            torch.set_num_threads(threads)
            found.append(read(Loops(packed(model, kind), 10, 61, 64), tokens, pieces, pages))
    finally:
        torch.set_num_threads(before)
    assert found[0].std() > 0.1
    assert all(torch.equal(found[0], each) for each in found[1:])


@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"q_lora_rank": None}])
def test_drafts_are_the_training_models(name: str, changes: dict[str, object]) -> None:
    model = model_of(**changes, num_nextn_predict_layers=1)
    tokens = torch.randint(0, model.config.vocab_size, (34,), generator=torch.Generator().manual_seed(3))
    expected = mtp_logits(model, tokens)
    forward = FORWARDS[name](packed(model), 4, 40, 64)
    found = []
    for start, n in ((0, 20), (20, 13)):
        at, ids = np.arange(start, start + n), tokens.numpy()
        same = np.zeros(n, dtype=np.int64), np.array([[2, 0, 3]]), np.arange(n)
        forward.step(Rows(ids[start : start + n], at, *same))
        found.append(forward.draft(Rows(ids[start + 1 : start + n + 1], at, *same), np.arange(n)).clone())
    assert (torch.cat(found) - expected).abs().max() <= 1e-4


def mtp_logits(model: DeepSeekModel, tokens: Tensor) -> Tensor:
    """Logits of the multi-token-prediction layer, as training computes them."""
    layer = model.model.layers[model.config.num_hidden_layers]
    assert isinstance(layer, MTPLayer)
    hidden = model(tokens[:-1].unsqueeze(0))
    at = places(model.config, 0, len(tokens) - 1, torch.device("cpu"))
    own: Tensor = layer(model.model.embed_tokens(tokens[1:].unsqueeze(0)), hidden, at)[0] @ model.head_weight.T
    return own[0]


def test_the_router_visits_the_training_models_experts() -> None:
    model = model_of(**CASES["4 groups keep 2, odd length"][0])
    tokens = torch.randint(0, model.config.vocab_size, (20,), generator=torch.Generator().manual_seed(3))
    seen: list[Tensor] = []
    for moe in model.moe_layers:
        moe.gate.register_forward_hook(lambda _, __, routing: seen.append(routing.index_TK))
    model(tokens.unsqueeze(0))
    for name in FORWARDS:
        forward = FORWARDS[name](packed(model), 2, 20, 32)
        read(forward, tokens, [20], [0, 1])
        found = [forward.experts(row) for row in range(20)]
        assert found == [tuple(tuple(layer[row].tolist()) for layer in seen) for row in range(20)]


def test_a_models_weights_are_held_once_and_the_cache_has_the_promised_size() -> None:
    model = model_of(kv_lora_rank=32, qk_rope_head_dim=16, num_nextn_predict_layers=1)
    forward = Loops(packed(model, "BF16"), 5, 8, 64)
    c: ModelConfig = model.config
    bytes_a_token = (c.num_hidden_layers + 1) * (c.kv_lora_rank + c.qk_rope_head_dim) * 4
    assert forward.cache.nbytes == 5 * PAGE * bytes_a_token


@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.parametrize("drafts", [False, True])
def test_pages_are_as_many_as_fit_the_memory(name: str, drafts: bool) -> None:
    weights = packed(model_of(kv_lora_rank=20, qk_rope_head_dim=6, num_nextn_predict_layers=1), "BF16")
    weights = weights if drafts else replace(weights, draft=None)
    forward = FORWARDS[name](weights, 7, 8, 64)
    memory = forward.cache.nbytes * 7 // (7 + getattr(forward, "spare", 0))
    assert [pages_for(weights, n) for n in (memory - 1, memory, memory + 1)] == [6, 7, 7]


def test_int8_keeps_each_row_within_half_a_step() -> None:
    weight = torch.randn(5, 20, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [[1.0], [10], [0], [1e-3], [5]]
    )
    stored = Store("I8").matrix(weight)
    assert stored.values.shape == (wide(5), wide(20)) and stored.scales is not None
    error = (stored.floats()[:5, :20] - weight).abs()
    assert (error <= stored.scales[:5].unsqueeze(1) * 0.5001).all()
