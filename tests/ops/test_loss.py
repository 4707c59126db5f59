"""The loss of what was sampled at a temperature, or from some of the tokens; and what nobody asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearseek.config import ModelConfig
from clearseek.kernels import launch
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops import loss as loss_module
from clearseek.ops.compiled import Kernels, use_kernels
from clearseek.ops.loss import Kept, counted, cross_entropy, cross_entropy_of_tokens, token_losses
from tests.model.test_parity import BASE

TOKENS, VOCABULARY = 150, 23


@pytest.fixture(params=["torch", "numba"])
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    if request.param == "numba" and launch.unavailable() is not None:
        pytest.skip(str(launch.unavailable()))
    use_kernels(request.param)
    yield request.param


def some_kept(target: Tensor, share: float, generator: torch.Generator) -> tuple[Kept, Tensor]:
    """Kept ids in any order, with their masks; tokens now and then keep all."""
    mask = torch.rand(len(target), VOCABULARY, generator=generator) < share
    mask[torch.arange(len(target)), target] = True
    whole = torch.rand(len(target), generator=generator) < 0.2
    ids = [row.nonzero().flatten().flip(0) if not w else row.new_zeros(0, dtype=torch.int64)
           for row, w in zip(mask, whole, strict=True)]  # fmt: skip
    ends = torch.tensor([len(each) for each in ids]).cumsum(0)
    return Kept(torch.cat(ids), ends), mask | whole.unsqueeze(1)


@settings(max_examples=20, deadline=None)
@given(
    temperature=st.sampled_from([0.25, 0.7, 1.0, 1.5]), share=st.sampled_from([None, 0.0, 0.3, 1.0]),
    chunk=st.sampled_from([640, 1 << 22]), seed=st.integers(0, 999), kind=st.sampled_from(["torch", "numba"]),
)  # fmt: skip
def test_probabilities_are_those_that_were_sampled(
    temperature: float, share: float | None, chunk: int, seed: int, kind: Kernels
) -> None:
    use_kernels("torch" if launch.unavailable() is not None else kind)
    draw = torch.Generator().manual_seed(seed)
    hidden, head = torch.randn(TOKENS, 6, generator=draw), torch.randn(VOCABULARY, 6, generator=draw)
    target = torch.randint(0, VOCABULARY, (TOKENS,), generator=draw)
    weight = torch.rand(TOKENS, generator=draw) * (torch.rand(TOKENS, generator=draw) < 0.7) / TOKENS
    kept, mask = (None, torch.tensor(True)) if share is None else some_kept(target, share, draw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "CHUNK_ELEMENTS", chunk)
        ours = [x.clone().requires_grad_() for x in (hidden, head)]
        total, losses = cross_entropy_of_tokens(ours[0], ours[1], target, weight, temperature, kept)
        total.backward()
        again = token_losses(hidden, head, target, temperature, kept)
    theirs = [x.double().requires_grad_() for x in (hidden, head)]
    logits = (theirs[0] @ theirs[1].t() / temperature).masked_fill(~mask, float("-inf"))
    exact = F.cross_entropy(logits, target, reduction="none")
    (exact * weight).sum().backward()
    torch.testing.assert_close(losses.double(), exact.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again, losses, rtol=1e-6, atol=1e-6)
    assert not losses.requires_grad
    assert total.item() == pytest.approx((exact * weight).sum().item(), rel=1e-5, abs=1e-7)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None and other.grad is not None
        assert (mine.grad - other.grad).abs().max() <= 1e-5 * other.grad.abs().max()


def test_defaults_change_no_bit(kernels: Kernels) -> None:
    hidden, head, target = torch.randn(70, 6), torch.randn(11, 6), torch.randint(0, 11, (70,))
    weight = torch.full((70,), 1 / 70)
    everything = Kept(torch.zeros(0, dtype=torch.int64), torch.zeros(70, dtype=torch.int64))
    plain = cross_entropy(hidden, head, target, weight)
    assert torch.equal(plain, cross_entropy(hidden, head, target, weight, 1.0, None))
    assert torch.equal(plain, cross_entropy_of_tokens(hidden, head, target, weight)[0])
    assert cross_entropy(hidden, head, target, weight, kept=everything).item() == pytest.approx(plain.item(), rel=1e-6)


def test_what_was_left_out_has_no_gradient(kernels: Kernels) -> None:
    head = torch.randn(5, 3, requires_grad=True)
    kept = Kept(torch.tensor([1, 4, 4, 0]), torch.tensor([2, 4]))
    cross_entropy(torch.randn(2, 3), head, torch.tensor([4, 0]), torch.ones(2), 0.9, kept).backward()
    assert head.grad is not None
    assert head.grad.abs().sum(1).gt(0).tolist() == [True, True, False, False, True]


def test_a_single_kept_token_is_certain(kernels: Kernels) -> None:
    hidden = torch.randn(2, 3, requires_grad=True)
    kept = Kept(torch.tensor([4, 0]), torch.tensor([1, 2]))
    loss = cross_entropy(hidden, torch.randn(5, 3), torch.tensor([4, 0]), torch.ones(2), 1.0, kept)
    loss.backward()
    assert loss.item() == 0 and hidden.grad is not None and not hidden.grad.any()


def test_a_token_that_was_not_kept_is_refused_where_it_counts() -> None:
    hidden, head, kept = torch.randn(3, 4), torch.randn(9, 4), Kept(torch.tensor([1, 2, 3]), torch.tensor([1, 2, 3]))
    target = torch.tensor([1, 5, 3])
    with pytest.raises(ValueError, match="1 tokens are not among the ids that they were sampled from, the first is 1"):
        cross_entropy(hidden, head, target, torch.ones(3), kept=kept)
    assert cross_entropy(hidden, head, target, torch.tensor([1.0, 0.0, 1.0]), kept=kept).item() == 0
    with pytest.raises(ValueError, match="temperature 0"):
        cross_entropy(hidden, head, target, torch.ones(3), 0.0)
    for ends in ([1, 2], [1, 2, 4], [2, 1, 3]):
        with pytest.raises(ValueError, match="each token's ids must end where"):
            cross_entropy(hidden, head, target, torch.ones(3), kept=Kept(kept.ids_N, torch.tensor(ends)))


@pytest.mark.parametrize("frozen", ["hidden", "head", "both", "no_grad"])
def test_a_gradient_that_nobody_wants_is_not_computed(
    frozen: str, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = torch.randn(70, 6, requires_grad=frozen == "head")
    head = torch.randn(11, 6, requires_grad=frozen == "hidden")
    if frozen == "no_grad":
        hidden.requires_grad_(), head.requires_grad_()
    products = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal products
            products += "aten.mm" in str(func)
            return func(*args, **(kwargs or {}))

    with Watch(), torch.set_grad_enabled(frozen != "no_grad"):
        cross_entropy(hidden, head, torch.zeros(70, dtype=torch.int64), torch.ones(70))
    assert products == (2 if frozen in ("hidden", "head") else 1)


@pytest.mark.parametrize("weights", [[0.0, -0.7, 0.3, 0.0, 1e-9], [0.0] * 5, [-1.0] * 5])
def test_what_has_no_weight_is_left_out_and_what_has_a_negative_one_is_not(weights: list[float]) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(5, 6, generator=draw), torch.randn(VOCABULARY, 6, generator=draw)
    target, weight = torch.randint(0, VOCABULARY, (5,), generator=draw), torch.tensor(weights)
    given = counted(hidden.requires_grad_(), target, weight)
    assert len(given[0]) == max(1, sum(each != 0 for each in weights))
    loss = cross_entropy(given[0], head, *given[1:])
    exact = (F.cross_entropy(hidden @ head.T, target, reduction="none") * weight).sum()
    found, expected = (torch.autograd.grad(each, hidden)[0] for each in (loss, exact))
    torch.testing.assert_close(loss, exact)
    torch.testing.assert_close(found, expected)


def test_the_models_loss_takes_temperature_and_kept_ids(kernels: Kernels) -> None:
    model = DeepSeekModel(ModelConfig(**(BASE | {"num_nextn_predict_layers": 1})))
    model.initialise(1)
    tokens = torch.randint(0, 160, (2, 12))
    plain = model.loss(tokens, 0.0, 0.3)
    target = tokens[:, 1:11].flatten()
    kept = Kept(torch.stack([target, (target + 1) % 160], 1).flatten(), torch.arange(2, 42, 2))
    changed = model.loss(tokens, 0.0, 0.3, temperature=0.5, kept=kept, per_token=True)
    assert plain.tokens_T is None and plain.mtp == changed.mtp
    logits = F.linear(model.states(tokens).main_BSD.flatten(0, 1), model.head_weight) / 0.5
    pairs = logits.gather(1, kept.ids_N.view(20, 2))
    expected = pairs.logsumexp(1) - pairs[:, 0]
    assert changed.tokens_T is not None
    torch.testing.assert_close(changed.tokens_T, expected.detach(), rtol=1e-5, atol=1e-5)
    assert changed.main.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    changed.total.backward()
