"""Documents packed into one sequence and told apart: each is what it would be alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from clearseek.config import ModelConfig, RopeScaling
from clearseek.kernels import launch, operations
from clearseek.model.transformer import DeepSeekModel, Losses
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


def full_model() -> DeepSeekModel:
    """Experts, and an MTP module."""
    size = {"initializer_range": 0.1, "num_nextn_predict_layers": 1}
    return model_of(ModelConfig(**(BASE | size)))


class Row(NamedTuple):
    """A row of documents, padded at its end and in its look-ahead; no document's first token is predicted."""

    tokens_1X: torch.Tensor
    weight_1X: torch.Tensor
    start_1X: torch.Tensor
    valid_1X: torch.Tensor

    def losses(self, model: DeepSeekModel) -> Losses:
        return model.loss(
            self.tokens_1X, 0.0, 0.5, self.weight_1X, self.start_1X, valid_BX=self.valid_1X, per_token=True
        )


def row_of(documents: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], padding: int) -> Row:
    lengths = torch.tensor([*map(len, documents), padding])
    starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    weight = torch.cat([*(F.pad(w[1:], (1, 0)) for w in weights), torch.zeros(padding)])
    tokens = torch.cat([*documents, torch.randint(0, 160, (padding,))])
    valid = torch.arange(len(tokens)) < len(tokens) - padding
    return Row(*(x.unsqueeze(0) for x in (tokens, weight, starts, valid)))


def gradients_of(model: DeepSeekModel, losses: Losses) -> dict[str, torch.Tensor]:
    model.zero_grad()
    losses.total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_packed_equals_separate_with_experts_and_mtp(kernels: Kernels) -> None:
    model = full_model()
    documents = [torch.randint(0, 160, (length,)) for length in LENGTHS]
    weights = [torch.rand(length) / sum(LENGTHS) for length in LENGTHS]
    packed_losses = row_of(documents, weights, 2 + 5).losses(model)
    found = gradients_of(model, packed_losses)
    alone = [row_of([d], [w], 2).losses(model) for d, w in zip(documents, weights, strict=True)]
    together = Losses(sum(losses.total for losses in alone), *alone[0][1:])  # type: ignore[arg-type]
    expected = gradients_of(model, together)
    assert packed_losses.total.item() == pytest.approx(together.total.item(), rel=1e-6)
    mtp = sum(losses.mtp.item() for losses in alone if losses.mtp is not None)
    assert packed_losses.mtp is not None and packed_losses.mtp.item() == pytest.approx(mtp, rel=1e-6) and mtp > 0
    assert torch.equal(packed_losses.load_LE, sum(losses.load_LE for losses in alone))
    tokens = sum(LENGTHS)
    assert packed_losses.load_LE.sum(1).tolist() == [3 * tokens, 3 * tokens, 3 * (tokens - len(LENGTHS))]
    ours, first = packed_losses.tokens_T, 0
    assert ours is not None
    for losses, length in zip(alone, LENGTHS, strict=True):
        assert losses.tokens_T is not None
        torch.testing.assert_close(ours[first : first + length - 1], losses.tokens_T[:-1], rtol=0, atol=1e-5)
        first += length
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max().clamp(min=1e-2), name


@pytest.mark.parametrize("changed", [(0,), (4,), (0, 1, 3, 4)], ids=["before", "after", "both"])
def test_another_document_changes_no_bit(kernels: Kernels, changed: tuple[int, ...]) -> None:
    """Neither a token's loss, nor, where only this document has weights, any parameter's gradient."""
    model, one = full_model(), 2
    documents = [torch.randint(0, 160, (length,)) for length in LENGTHS]
    weights = [torch.rand(length) * (number == one) for number, length in enumerate(LENGTHS)]
    first = sum(LENGTHS[:one])
    here = slice(first, first + LENGTHS[one] - 1)
    before = row_of(documents, weights, 6).losses(model)
    expected = gradients_of(model, before)
    for number in changed:
        documents[number] = torch.randint(0, 160, documents[number].shape)
    after = row_of(documents, weights, 6).losses(model)
    found = gradients_of(model, after)
    assert before.tokens_T is not None and after.tokens_T is not None
    assert not torch.equal(before.tokens_T, after.tokens_T)
    assert torch.equal(before.tokens_T[here], after.tokens_T[here])
    assert torch.equal(before.total, after.total) and before.mtp == after.mtp
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_where_others_begin_changes_no_bit(kernels: Kernels) -> None:
    model = full_model()
    tokens, weight = torch.randint(0, 160, (1, 102)), torch.zeros(1, 102)
    weight[:, 41:70] = torch.rand(29)
    results = []
    for others in ([0], [0, 1, 2, 3, 20], [0, 33]):
        bounds = torch.tensor([*others, 40, 70, 102])
        start = bounds[:-1].repeat_interleave(bounds.diff()).unsqueeze(0)
        results.append(gradients_of(model, model.loss(tokens, 0.0, 0.5, weight, start)))
    assert all(torch.equal(results[0][name], other[name]) for other in results[1:] for name in other)


def test_padding_counts_nowhere(kernels: Kernels) -> None:
    """Losses, loads and gradients of a padded row are those of the row alone, whatever the padding's tokens are."""
    model = full_model()
    tokens = torch.randint(0, 160, (1, 30))
    valid = torch.ones(1, 30, dtype=torch.bool)
    alone = model.loss(tokens, 1e-2, 0.5)
    padded = model.loss(
        torch.cat([tokens, torch.randint(0, 160, (1, 12))], 1), 1e-2, 0.5,
        torch.cat([torch.full((1, 30), 1 / 28), torch.zeros(1, 12)], 1), valid_BX=F.pad(valid, (0, 12)),
    )  # fmt: skip
    # the padded row has two more inputs: those that the row alone only predicts
    more = model.loss(
        torch.cat([tokens, tokens[:, :2]], 1), 1e-2, 0.5,
        torch.cat([torch.full((1, 30), 1 / 28), torch.zeros(1, 2)], 1), valid_BX=F.pad(valid, (0, 2)),
    )  # fmt: skip
    assert torch.equal(padded.load_LE, more.load_LE)
    assert padded.load_LE.sum(1).tolist() == [90, 90, 87]
    assert padded.main.item() == pytest.approx(more.main.item(), rel=1e-6)
    assert padded.mtp is not None and more.mtp is not None
    assert padded.mtp.item() == pytest.approx(more.mtp.item(), rel=1e-6)
    expected, found = gradients_of(model, more), gradients_of(model, padded)
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    assert alone.load_LE.sum(1).tolist() == [84, 84, 84]


def test_weights_are_equal_over_what_is_no_padding() -> None:
    model = full_model()
    tokens, valid = torch.randint(0, 160, (2, 12)), torch.ones(2, 12, dtype=torch.bool)
    valid[1, 7:] = False
    given = valid / valid[:, 1:11].sum()
    assert model.loss(tokens, valid_BX=valid).main == model.loss(tokens, weight_BX=given, valid_BX=valid).main
    everything = model.loss(tokens, 1e-2, 0.3, valid_BX=torch.ones_like(valid))
    plain = model.loss(tokens, 1e-2, 0.3)
    torch.testing.assert_close(everything.total, plain.total, rtol=1e-6, atol=0)
    assert torch.equal(everything.load_LE, plain.load_LE)


def test_the_mtp_module_may_be_left_out() -> None:
    model = full_model()
    tokens = torch.randint(0, 160, (2, 12))
    losses = model.loss(tokens[:, :11], mtp_weight=None)
    assert losses.mtp is None and losses.total == losses.main
    assert losses.load_LE.shape == (3, 8) and not losses.load_LE[2].any()
    assert losses.main.item() == pytest.approx(model.loss(tokens).main.item(), rel=1e-6)
    losses.total.backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    assert idle == {name for name, _ in model.named_parameters() if name.startswith("model.layers.3.")}
