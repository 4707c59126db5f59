"""Documents packed into one sequence and told apart: each is what it would be alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from clearseek.config import ModelConfig, RopeScaling
from clearseek.kernels import launch, operations
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.compiled import Kernels, use_kernels
from tests.model.test_parity import BASE, YARN

LENGTHS = (1, 37, 70, 16, 9, 130, 3, 15, 48)
"""Of the documents: across tiles of 64 queries and lanes of 16 keys, of which whole tiles see none before theirs."""


@pytest.fixture(params=["torch", "numba"])
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    if request.param == "numba" and launch.unavailable() is not None:
        pytest.skip(str(launch.unavailable()))
    use_kernels(request.param)
    yield request.param


def packed(tokens: torch.Tensor) -> torch.Tensor:
    """First position of each token's document, in two sequences of the same text, cut at different places."""
    rows = []
    for lengths in (LENGTHS, LENGTHS[::-1]):
        starts = torch.tensor([sum(lengths[:i]) for i in range(len(lengths))])
        rows.append(starts.repeat_interleave(torch.tensor(lengths)))
    assert len(rows[0]) == tokens.shape[1]
    return torch.stack(rows)


def model_of(config: ModelConfig) -> DeepSeekModel:
    model = DeepSeekModel(config)
    model.initialise(3)
    return model


@pytest.mark.parametrize("scaling", [None, YARN], ids=["plain", "yarn"])
def test_a_packed_document_is_what_it_is_alone(kernels: Kernels, scaling: RopeScaling | None) -> None:
    size = {"initializer_range": 0.1, "max_position_embeddings": 2560}
    config = ModelConfig(**(BASE | size | {"rope_scaling": scaling}))
    model = model_of(config)
    tokens = torch.randint(0, config.vocab_size, (2, sum(LENGTHS)))
    start = packed(tokens)
    both = torch.cat([tokens, tokens[:, :1]], dim=1)  # the last token's target
    starts = torch.cat([start, start[:, -1:]], dim=1)
    weight = torch.rand(both.shape)
    packed_loss = model.loss(both, weight_BX=weight, start_BX=starts)
    packed_loss.total.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    model = model_of(config)
    alone = torch.zeros(())
    for row in range(2):
        for first in start[row].unique().tolist():
            last = int((start[row] == first).nonzero().max()) + 1
            part = slice(first, last + 1)
            alone = alone + model.loss(both[row : row + 1, part], weight_BX=weight[row : row + 1, part]).total
    alone.backward()
    assert packed_loss.total.item() == pytest.approx(alone.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        gradient = found[name]
        assert gradient is not None and parameter.grad is not None
        assert (gradient - parameter.grad).norm() <= 1e-4 * parameter.grad.norm(), name


def test_without_isolation_documents_see_each_other(kernels: Kernels) -> None:
    """Guards the test above."""
    model = model_of(ModelConfig(**(BASE | {"initializer_range": 0.1, "max_position_embeddings": 256})))
    tokens = torch.randint(0, model.config.vocab_size, (2, sum(LENGTHS)))
    assert model.loss(tokens).total.item() != model.loss(tokens, start_BX=packed(tokens)).total.item()


@pytest.mark.skipif(launch.unavailable() is not None, reason="numba's loops cannot be used")
@pytest.mark.parametrize("start", [-1, 3])
def test_a_document_that_starts_outside_is_refused(start: int) -> None:
    q, kv, rope = torch.randn(1, 3, 2, 6), torch.randn(1, 3, 2, 7), torch.randn(1, 3, 2)
    turn = torch.ones(3, 1, dtype=torch.complex64)
    with pytest.raises(IndexError, match="starts after"):
        operations.attention(q, kv, rope, turn, torch.tensor([[0, 0, start]]), 4, 1.0)


@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_document_that_starts_after_its_token_is_refused(kernels: Kernels, wrong: int) -> None:
    model = model_of(ModelConfig(**BASE))
    start = torch.zeros(1, 9, dtype=torch.int64)
    start[0, 4] = wrong
    with pytest.raises(ValueError, match="starts before its sequence, or after one of its tokens"):
        model.loss(torch.zeros(1, 9, dtype=torch.int64), start_BX=start)
