"""A step's gradient is that of the loss as it is written in the papers, by autograd through whole logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.grpo import PolicyOptimisation
from clearseek.posttrain.losses import entropy_weights
from clearseek.posttrain.rollouts import Rollouts
from clearseek.problems.questions import Questions
from clearseek.train.run import Run
from tests.posttrain.test_grpo import task_of
from tests.posttrain.tiny import easy, parent


def drawn_logp(model: DeepSeekModel, rollouts: Rollouts, temperature: float, keep_routing: bool = True) -> list[Tensor]:
    """Log-probabilities of each completion's tokens, each sequence by itself, over what filters left."""
    kept_ends, first, found, at = rollouts.kept_ends_C.tolist(), 0, [], 0
    for prompt, length in zip(rollouts.prompt_N.tolist(), rollouts.length_N.tolist(), strict=True):
        tokens = rollouts.token_T[at : at + length].long()
        routes = rollouts.route_LTK[:, at : at + length - 1].long().unsqueeze(1) if keep_routing else None
        logits = model(tokens[:-1].unsqueeze(0), None, routes)[0] @ model.head_weight.T / temperature
        logits = logits[prompt - 1 :]
        if kept_ends:
            mask = torch.full_like(logits, float("-inf"))
            for place in range(len(logits)):
                begin = kept_ends[first + place - 1] if first + place else 0
                mask[place, rollouts.kept_ids[begin : kept_ends[first + place]].long()] = 0.0
            logits = logits + mask
        found.append(logits.log_softmax(-1).gather(1, tokens[prompt:].unsqueeze(1)).squeeze(1))
        first, at = first + length - prompt, at + length
    return found


def paper_loss(
    task: PolicyOptimisation, logp: list[Tensor], old: list[Tensor], ref: list[Tensor] | None, advantage: list[float]
) -> Tensor:
    """The loss of all completions, term by term."""
    g = task.grpo
    terms, tokens = [], sum(map(len, logp))
    for number, (new, was, a) in enumerate(zip(logp, old, advantage, strict=True)):
        ratio = (new - was).exp()
        if g.loss == "gspo":
            ratio = (new - was).mean().exp().expand(len(new))
        if g.loss == "cispo":
            gain = ratio.detach().clamp(max=1 + g.clip_high) * a * new
        else:
            gain = torch.minimum(ratio * a, ratio.clamp(1 - g.clip_low, 1 + g.clip_high) * a)
        if g.off_policy_threshold is not None and a < 0 and float((was - new).detach().mean()) > g.off_policy_threshold:
            gain = gain * 0.0
        if ref is not None:
            k3 = (ref[number] - new).exp() - (ref[number] - new) - 1
            gain = gain - g.beta * (k3 * ratio if g.unbiased_kl else k3)
        divisor = {"grpo": len(new) * len(logp), "gspo": len(new) * len(logp), "dr-grpo": len(logp) * g.max_tokens}
        terms.append(-gain.sum() / divisor.get(g.loss, tokens))
    return torch.stack(terms).sum()


CASES: list[dict[str, Any]] = [
    {"loss": "dapo"},
    {"loss": "grpo", "advantage": "std", "temperature": 1.3},
    {"loss": "dr-grpo", "top_p": 0.9, "temperature": 0.7},
    {"loss": "gspo", "clip_low": 3e-4, "clip_high": 4e-4},
    {"loss": "cispo", "top_p": 0.7},
    {"loss": "dapo", "beta": 0.3, "top_p": 0.8},
    {"loss": "dapo", "beta": 0.3, "unbiased_kl": True, "off_policy_threshold": 1e-3},
    {"loss": "dapo", "clip_low": 0.02, "clip_high": 0.02, "max_tokens": 3},
    {"loss": "dapo", "entropy": 0.5, "temperature": 0.8},
]


@pytest.mark.parametrize("micro", [8, 2])
@pytest.mark.parametrize("settings", CASES, ids=lambda each: "-".join(map(str, each.values())))
def test_gradients_are_the_papers(
    settings: dict[str, Any], micro: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Questions, "score", easy)
    base = parent(tmp_path / "base")
    task, training = task_of(base, tmp_path / "run", micro, updates=2, **settings)
    model, temperature = training.model, task.grpo.temperature
    reference = Run(base.root).load_model(0)[0]
    for step in (1, 2, 3):
        batch = task.batch(step, model)
        gradients = training.work.sums(task, batch).gradients
        rollouts = Rollouts.read(task.file_of((step - 1) // 2))
        old = list(rollouts.logp_C.split(rollouts.drawn_n.tolist()))
        model.zero_grad()
        logp = drawn_logp(model, rollouts, temperature)
        if step % 2:
            torch.testing.assert_close(torch.cat(logp), rollouts.logp_C, atol=2e-5, rtol=0)
        ref = None
        if task.grpo.beta:
            with torch.no_grad():
                ref = drawn_logp(reference, rollouts, temperature, keep_routing=False)
        reward = rollouts.reward_N.double().view(-1, 4)
        advantage = reward - reward.mean(1, keepdim=True)
        if task.grpo.advantage == "std":
            advantage = advantage / (reward.std(1, keepdim=True) + 1e-4)
        loss = paper_loss(task, logp, old, ref, advantage.float().flatten().tolist())
        if task.grpo.entropy:
            new = torch.cat(logp)
            ratio = (new - rollouts.logp_C).exp().detach()
            loss = loss + task.grpo.entropy * (ratio * (new - new.mean()).detach() * new).mean()
        loss.backward()
        for name, found in zip(training.optimizer.names, gradients, strict=True):
            parameter = model.get_parameter(name)
            expected = torch.zeros_like(found) if parameter.grad is None else parameter.grad
            scale = max(float(expected.abs().max()), 1e-3)
            assert float((found - expected).abs().max()) / scale < 2e-3, (step, name)
        model.zero_grad()
        training.step = step - 1
        training.advance()


def test_the_reference_is_the_parent_with_its_own_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Questions, "score", easy)
    base = parent(tmp_path / "base")
    task, training = task_of(base, tmp_path / "run", beta=0.1)
    model, draw = training.model, torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.moe_layers:
            layer.gate.weight += torch.randn(layer.gate.weight.shape, generator=draw)
    found = task.batch(1, model).scalars["kl_reference"]
    rollouts, reference = Rollouts.read(task.file_of(0)), base.load_model(0)[0]
    kl = {}
    with torch.no_grad():
        for keep in (False, True):
            gap = torch.cat(drawn_logp(reference, rollouts, 1.0, keep)) - torch.cat(drawn_logp(model, rollouts, 1.0))
            kl[keep] = float((gap.exp() - gap - 1).mean())
    assert found == pytest.approx(kl[False], rel=1e-4)
    assert kl[True] < 0.9 * kl[False]  # with the policy's experts it would be another model


def test_weights_for_entropy_give_its_gradient() -> None:
    """In expectation over an older policy's draws, summed over the whole vocabulary."""
    draw = torch.Generator().manual_seed(0)
    logits, older = torch.randn(2, 5, generator=draw, dtype=torch.float64).unbind()
    logits.requires_grad_()
    logp, old = logits.log_softmax(0), older.log_softmax(0)
    (expected,) = torch.autograd.grad(-(logp.exp() * logp).sum(), logits, retain_graph=True)
    baseline = entropy_weights(logp, old) * len(logp)  # each token drawn once, less the mean of all
    (found,) = torch.autograd.grad((old.exp() * baseline * logp).sum(), logits)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_shares_are_of_the_completions_that_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups without spread are left out of a batch, and out of the mean that is logged of it."""
    base = parent(tmp_path / "base")
    _, training = task_of(base, tmp_path / "run", keep_routing=False, updates=2)
    written = Rollouts.of

    def shifted(*given: Any) -> Rollouts:
        made = written(*given)
        return replace(made, logp_C=made.logp_C - 0.25, route_LTK=(made.route_LTK + 1) % 8)

    monkeypatch.setattr(Rollouts, "of", shifted)
    monkeypatch.setattr(
        PolicyOptimisation, "rewards",
        lambda self, made: torch.cat([torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.zeros(len(made) - 4)]),
    )  # fmt: skip
    record, _ = training.advance()
    assert record.scalars["groups_without_spread"] == 0.5
    assert record.scalars["probability_gap"] == pytest.approx(0.25, abs=1e-5)
    assert record.scalars["routing_flips"] > 0.9
    record, _ = training.advance()
    assert "probability_gap" not in record.scalars  # the policy has moved: no gap between engine and trainer
