"""Steps with rounded sizes, and as CUDA graphs where there is a GPU (the same operations: test_forward.py)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clearseek.inference.engine import Rows
from clearseek.inference.graphs import Graphed
from clearseek.inference.model import forward_of
from clearseek.inference.packed import pack
from clearseek.inference.plain import Plain
from clearseek.kernels import PAGE
from tests.inference.models import FORWARDS, SMALL, model_of, packed


def step(count: int, context: int, pages: int) -> Rows:
    """One token for each of some sequences, whose pages are apart."""
    at = np.arange(count)
    lists = np.arange(count * pages).reshape(count, pages)
    return Rows(at + 3, np.full(count, context), at, lists, at[::-1].copy())


def test_rounding_sizes_up_changes_neither_logits_nor_anothers_pages() -> None:
    model = packed(model_of(**SMALL))
    plain, graphs = (FORWARDS[name](model, 40, 64, 160) for name in ("plain", "graphs"))
    for context in range(20):
        for count in (5, 3, 1):
            rows = step(count, context, 2)
            assert (plain.step(rows) - graphs.step(rows)).abs().max() <= 1e-4
            assert [plain.experts(row) for row in range(count)] == [graphs.experts(row) for row in range(count)]
    assert isinstance(graphs, Graphed)
    assert torch.allclose(plain.cache, graphs.cache[:, : 40 * PAGE], atol=1e-5)
    assert len(graphs._graphs) == 3  # one for each size


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_graphs_compute_what_the_operations_compute() -> None:
    model = model_of(**SMALL)
    state = {name: tensor.cuda() for name, tensor in model.state_dict().items()}
    weights = pack(model.config, state.__getitem__, "BF16")
    graphs, plain = forward_of(weights, 40, 64, 160), Plain(weights, 40, 64, 160)
    assert isinstance(graphs, Graphed)
    for context in range(20):
        for count in (5, 3, 1):
            rows = step(count, context, 2)
            expected = plain.step(rows)
            for _ in range(2):  # the capture, and a replay
                assert (graphs.step(rows) - expected).abs().max() <= 0.05 * expected.std()
