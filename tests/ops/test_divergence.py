"""Divergences between teacher and student: against TRL, and against autograd on whole logits in FP64."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearseek.ops import loss as loss_module
from clearseek.ops.divergence import Teacher, TopK, divergence

RECORD = json.loads((Path(__file__).parent / "fixtures/divergence.json").read_text())


@pytest.mark.parametrize("case", RECORD["cases"], ids=lambda c: f"beta {c['beta']}, temperature {c['temperature']}")
def test_it_is_trls(case: dict[str, float | list[list[float]]]) -> None:
    """The head is the identity, so that hidden states are logits."""
    student, teacher = (torch.tensor(RECORD[side]) for side in ("student", "teacher"))
    tokens, vocabulary = student.shape
    weight = torch.full((tokens,), 1 / (tokens - len(RECORD["left_out"])))
    weight[RECORD["left_out"]] = 0.0
    student.requires_grad_()
    beta, temperature = case["beta"], case["temperature"]
    assert isinstance(beta, float) and isinstance(temperature, float)
    for given_teacher in (teacher.__getitem__, TopK.of(teacher, vocabulary - 1, temperature)):
        student.grad = None
        loss = divergence(student, torch.eye(vocabulary), given_teacher, weight, beta, temperature)
        loss.backward()
        assert loss.item() == pytest.approx(case["loss"], rel=1e-6)
        torch.testing.assert_close(student.grad, torch.tensor(case["gradient"]), rtol=1e-5, atol=1e-6)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (p / q).log(), 0.0).sum(-1)


def plain(hidden: Tensor, head: Tensor, q: Tensor, group: Tensor, weight: Tensor, beta: float, tau: float) -> Tensor:
    """By definition; `group` [T, V] numbers the outcomes that tokens are taken together as."""
    p = (hidden @ head.t() / tau).softmax(-1)
    outcomes = int(group.max()) + 1
    p, q = (torch.zeros(len(x), outcomes, dtype=x.dtype).scatter_add(1, group, x) for x in (p, q))
    if beta in (0, 1):
        losses = kl(q, p) if beta == 0 else kl(p, q)
    else:
        mixture = beta * q + (1 - beta) * p
        losses = beta * kl(q, mixture) + (1 - beta) * kl(p, mixture)
    return (losses * weight).sum()


@settings(max_examples=30, deadline=None)
@given(
    beta=st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.97, 1.0]), tau=st.sampled_from([0.5, 1.0, 3.0]),
    k=st.sampled_from([None, 1, 4, 12, 13]), squared=st.booleans(), size=st.sampled_from([0.1, 1.0, 6.0]),
    chunk=st.sampled_from([640, 1 << 22]), seed=st.integers(0, 999),
)  # fmt: skip
def test_loss_and_gradients_are_autograds(
    beta: float, tau: float, k: int | None, squared: bool, size: float, chunk: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    tokens, vocabulary, width = 130, 13, 6
    hidden, head = torch.randn(tokens, width, generator=draw), torch.randn(vocabulary, width, generator=draw)
    logits = size * torch.randn(tokens, vocabulary, generator=draw)
    weight = torch.rand(tokens, generator=draw) * (torch.rand(tokens, generator=draw) < 0.7) / tokens
    group = torch.arange(vocabulary).repeat(tokens, 1)
    teacher: Teacher = logits.__getitem__
    if k is not None:
        teacher = TopK.of(logits, k, tau)
        group = torch.full_like(group, k).scatter_(1, teacher.ids_TK, torch.arange(k).repeat(tokens, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "CHUNK_ELEMENTS", chunk)
        ours = [x.clone().requires_grad_() for x in (hidden, head)]
        found = divergence(ours[0], ours[1], teacher, weight, beta, tau, squared)
        found.backward()
    theirs = [x.double().requires_grad_() for x in (hidden, head)]
    q = (logits.double() / tau).softmax(-1)
    scale = tau**2 if squared else 1
    expected = plain(theirs[0], theirs[1], q, group, weight.double(), beta, tau) * scale
    expected.backward()
    # A token's loss is a difference of logarithms near 1: their rounding, 1e-7, does not shrink with it.
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-7 * scale)
    for mine, exact in zip(ours, theirs, strict=True):
        assert mine.grad is not None and exact.grad is not None
        # log-probabilities of 30 nats are rounded by 2e-6 each, and their differences cancel in a token's sum
        assert (mine.grad - exact.grad).abs().max() <= 3e-5 * exact.grad.abs().max().clamp(min=1e-3)


def test_a_student_like_its_teacher_has_nothing_to_learn() -> None:
    hidden, head, weight = torch.randn(7, 4), torch.randn(9, 4), torch.full((7,), 1 / 7)
    logits = hidden @ head.t()
    for beta in (0.0, 0.5, 1.0):
        for teacher in (logits.log_softmax(-1).__getitem__, TopK.of(logits, 3)):
            leaf = hidden.clone().requires_grad_()
            loss = divergence(leaf, head, teacher, weight, beta)
            loss.backward()
            assert abs(loss.item()) < 1e-6 and leaf.grad is not None and leaf.grad.abs().max() < 1e-6


def test_log_probabilities_and_logits_are_the_same_teacher() -> None:
    hidden, head, weight, logits = torch.randn(7, 4), torch.randn(9, 4), torch.full((7,), 1 / 7), torch.randn(7, 9)
    found = [
        divergence(hidden, head, given.__getitem__, weight, 0.3, 2.0).item()
        for given in (logits, logits.log_softmax(-1))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_the_head_of_a_frozen_student_gets_no_gradient() -> None:
    hidden, head = torch.randn(7, 4, requires_grad=True), torch.randn(9, 4)
    divergence(hidden, head, torch.randn(7, 9).__getitem__, torch.ones(7), 0.5).backward()
    assert hidden.grad is not None and head.grad is None


@pytest.mark.parametrize(
    ("ids", "logp", "rest", "what"),
    [
        ([[0, 0]], [[-1.0, -2.0]], [-1.0], "different in a row"),
        ([[0, 9]], [[-1.0, -2.0]], [-1.0], "below the vocabulary's 9"),
        ([[0, -1]], [[-1.0, -2.0]], [-1.0], "below the vocabulary's 9"),
        ([[0, 1], [0, 1]], [[-1.0, -2.0]] * 2, [-1.0] * 2, "for 1 tokens"),
        ([[0, 1]], [[-1.0]], [-1.0], "for 1 tokens"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    ids: list[list[int]], logp: list[list[float]], rest: list[float], what: str
) -> None:
    best = TopK(torch.tensor(ids), torch.tensor(logp), torch.tensor(rest))
    with pytest.raises(ValueError, match=what):
        divergence(torch.randn(1, 4), torch.randn(9, 4), best, torch.ones(1), 0.5)
    with pytest.raises(ValueError, match="of a teacher, for a student's"):
        divergence(torch.randn(1, 4), torch.randn(9, 4), torch.randn(1, 8).__getitem__, torch.ones(1), 0.5)


@pytest.mark.parametrize(("beta", "temperature"), [(-0.1, 1.0), (1.1, 1.0), (0.5, 0.0), (float("nan"), 1.0)])
def test_settings_out_of_range_are_refused(beta: float, temperature: float) -> None:
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        divergence(
            torch.randn(1, 4), torch.randn(9, 4), torch.randn(1, 9).__getitem__, torch.ones(1), beta, temperature
        )


@pytest.mark.slow
def test_it_is_that_of_the_trl_that_is_here() -> None:
    pytest.importorskip("trl")
    from trl.experimental.gkd import GKDTrainer  # type: ignore[import-not-found]

    student, teacher, weight = torch.randn(6, 9), torch.randn(6, 9), torch.full((6,), 1 / 6)
    for beta in (0.0, 0.2, 1.0):
        theirs = GKDTrainer.generalized_jsd_loss(student[None], teacher[None], None, beta, 1.7, "sum").item() / 6
        ours = divergence(student, torch.eye(9), teacher.__getitem__, weight, beta, 1.7)
        assert ours.item() == pytest.approx(theirs, rel=1e-5)
