from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.config import ModelConfig
from clearseek.model.router import Router, sequence_balance_loss
from tests.model.test_parity import BASE, V2


def reference_v3(x: Any, w: Any, bias: Any, config: ModelConfig) -> tuple[Any, Any]:
    """The report's equations 12-16, one token at a time, in float64."""
    scores = 1 / (1 + np.exp(-(x.astype(np.float64) @ w.astype(np.float64).T)))
    chosen, weights = [], []
    size = config.n_routed_experts // config.n_group
    for s in scores:
        biased = s + bias
        groups = biased.reshape(config.n_group, size)
        value = np.sort(groups, axis=1)[:, -2:].sum(1) if config.n_group > 1 else np.zeros(1)
        kept = np.argsort(-value, kind="stable")[: config.topk_group]
        allowed = [e for e in range(config.n_routed_experts) if e // size in kept]
        best = sorted(allowed, key=lambda e: -biased[e])[: config.num_experts_per_tok]
        chosen.append(best)
        weights.append(s[best] / s[best].sum() * config.routed_scaling_factor)
    return np.array(chosen), np.array(weights)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), groups=st.sampled_from([(1, 1), (4, 2), (2, 1), (8, 4)]), shift=st.floats(-3, 3))
def test_v3_routing_follows_the_report_with_biases_of_any_sign(
    seed: int, groups: tuple[int, int], shift: float
) -> None:
    changes = {"n_routed_experts": 32, "n_group": groups[0], "topk_group": groups[1], "num_experts_per_tok": 4}
    config = ModelConfig(**(BASE | changes))
    generator = torch.Generator().manual_seed(seed)
    router = Router(config)
    router.weight.data = torch.randn(router.weight.shape, generator=generator) * 0.2
    router.e_score_correction_bias += torch.randn(32, generator=generator) * 0.3 + shift
    x = torch.randn(20, config.hidden_size, generator=generator)
    routing = router(x)
    index, weight = reference_v3(
        x.numpy(), router.weight.detach().numpy(), router.e_score_correction_bias.numpy(), config
    )
    assert routing.index_TK.tolist() == index.tolist()
    np.testing.assert_allclose(routing.weight_TK.detach().numpy(), weight, rtol=2e-5)
    assert routing.load_E.tolist() == np.bincount(index.ravel(), minlength=32).tolist()


def test_ties_go_to_the_lowest_expert() -> None:
    router = Router(ModelConfig(**BASE))
    torch.nn.init.zeros_(router.weight)
    assert router(torch.randn(3, 64)).index_TK.tolist() == [[0, 1, 2]] * 3


@pytest.mark.parametrize(("normalised", "scale", "total"), [(False, 1.0, None), (True, 16.0, 1.0), (False, 16.0, None)])
def test_v2_either_normalises_or_scales(normalised: bool, scale: float, total: float | None) -> None:
    changes = {"norm_topk_prob": normalised, "routed_scaling_factor": scale}
    router = Router(ModelConfig(**(BASE | V2 | changes)))
    torch.nn.init.normal_(router.weight, std=0.1)
    x = torch.randn(6, 64)
    routing = router(x)
    scores = torch.softmax(x @ router.weight.t(), -1)
    expected = scores.gather(1, routing.index_TK) * (1.0 if normalised else scale)
    if total is not None:
        expected = expected / expected.sum(1, keepdim=True)
    torch.testing.assert_close(routing.weight_TK, expected)


def test_bias_moves_against_the_load_and_touches_no_weight() -> None:
    router = Router(ModelConfig(**BASE))
    router.update_bias(torch.tensor([10, 0, 5, 5, 9, 1, 5, 5]), 0.25)
    assert router.e_score_correction_bias.tolist() == [-0.25, 0.25, 0, 0, -0.25, 0.25, 0, 0]
    router.update_bias(torch.tensor([33, 1, 1, 1, 1, 1, 1, 1]), 0.25)  # mean 5, median 1
    assert router.e_score_correction_bias.tolist() == [-0.5, 0.5, 0.25, 0.25, 0, 0.5, 0.25, 0.25]
    assert not router.e_score_correction_bias.requires_grad


def even_weights(sequences: int) -> torch.Tensor:
    return torch.full((sequences,), 1 / sequences)


def test_balance_loss_is_one_when_even_and_grows_when_not() -> None:
    k, experts = 2, 8
    even = torch.zeros(16, experts)
    for token in range(16):
        even[token, [(2 * token) % experts, (2 * token + 1) % experts]] = 1.0
    assert sequence_balance_loss(even + 1e-9, k, even_weights(2)).item() == pytest.approx(1.0, rel=1e-5)
    skewed = torch.full((16, experts), 1e-9)
    skewed[:, :k] = 1.0
    assert sequence_balance_loss(skewed, k, even_weights(2)).item() == pytest.approx(experts / k, rel=1e-5)


@pytest.mark.parametrize("changes", [{}, V2], ids=["v3", "v2"])
def test_logits_are_fp32_whatever_the_type_of_the_model(changes: dict[str, Any]) -> None:
    """Choices and weights are those of exact arithmetic on BF16 numbers: logits in BF16 would be off by 2^-9."""
    config = ModelConfig(**(BASE | changes))
    router = Router(config)
    router.weight.data = (torch.randn(router.weight.shape) * 0.2).bfloat16()
    x = torch.randn(400, config.hidden_size).bfloat16()
    routing = router(x)
    assert routing.weight_TK.dtype == torch.float32
    logits = x.double() @ router.weight.detach().double().t()
    scores = logits.sigmoid() if config.scoring_func == "sigmoid" else logits.softmax(-1)
    best = scores.topk(config.num_experts_per_tok)
    assert torch.equal(routing.index_TK, best.indices)
    expected = best.values * (config.routed_scaling_factor / best.values.sum(-1, keepdim=True) if not changes else 1.0)
    torch.testing.assert_close(routing.weight_TK.double(), expected, rtol=1e-5, atol=0)


def test_balance_loss_looks_at_each_sequence_by_itself() -> None:
    """Two sequences that each go to two experts of their own: even over the batch, and as skewed as can be in each."""
    scores = torch.full((32, 4), 1e-9)
    scores[:16, :2] = 1.0
    scores[16:, 2:] = 1.0
    assert sequence_balance_loss(scores, 2, even_weights(2)).item() == pytest.approx(2.0, rel=1e-5)
    assert sequence_balance_loss(scores, 2, even_weights(1)).item() == pytest.approx(1.0, rel=1e-5)


def test_balance_loss_is_equations_17_to_20() -> None:
    scores = torch.rand(3 * 20, 8) + 0.1
    total = 0.0
    for sequence in scores.double().view(3, 20, 8).numpy():
        best = np.argsort(-sequence, axis=1)[:, :3]
        f = 8 / (3 * 20) * np.bincount(best.ravel(), minlength=8)
        total += (f * (sequence / sequence.sum(1, keepdims=True)).mean(0)).sum() / 3
    assert sequence_balance_loss(scores, 3, even_weights(3)).item() == pytest.approx(total, rel=1e-5)


def test_a_sequence_counts_in_the_balance_loss_what_its_weight_says() -> None:
    scores = torch.rand(2 * 20, 8) + 0.1
    first, second = (sequence_balance_loss(part, 3, torch.ones(1)) for part in scores.split(20))
    both = sequence_balance_loss(scores, 3, torch.tensor([0.75, 0.25]))
    assert both.item() == pytest.approx(0.75 * first.item() + 0.25 * second.item(), rel=1e-6)


@pytest.mark.parametrize("changes", [{}, V2], ids=["v3", "v2"])
def test_replayed_experts_are_taken_and_weighed_anew(changes: dict[str, Any]) -> None:
    config = ModelConfig(**(BASE | changes))
    router = Router(config)
    torch.nn.init.normal_(router.weight, std=0.3)
    x = torch.randn(50, config.hidden_size)
    chosen = router(x)
    again = router(x, index_TK=chosen.index_TK)
    assert all(torch.equal(a, b) for a, b in zip(again[:4], chosen[:4], strict=True))
    other = (chosen.index_TK + 1) % config.n_routed_experts
    forced = router(x, index_TK=other)
    assert torch.equal(forced.index_TK, other)
    assert torch.equal(forced.load_E, torch.bincount(other.flatten(), minlength=config.n_routed_experts))
    forced.weight_TK.square().sum().backward()  # today's scores, so that the router learns
    assert router.weight.grad is not None and router.weight.grad.abs().sum() > 0
