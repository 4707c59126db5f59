"""Policy losses: equal to TRL's on recorded vectors, and right where TRL's form cannot be asked."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearseek.errors import UserError
from clearseek.posttrain.losses import Kind, LossSettings, advantages, policy_loss, token_weights
from tests.posttrain import trl_losses

RECORD: dict[str, Any] = json.loads(trl_losses.FIXTURE.read_text(encoding="utf-8"))
SEQUENCE = torch.repeat_interleave(torch.tensor(trl_losses.LENGTHS))
KINDS: tuple[Kind, ...] = ("grpo", "dr-grpo", "dapo", "gspo", "cispo")


def name(case: dict[str, Any]) -> str:
    return "-".join(str(value) for value in case.get("settings", case).values())


def tensors(data: dict[str, list[float]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logp, old, ref, advantage = (torch.tensor(data[key]) for key in ("logp", "old", "ref", "advantage"))
    return logp, old, ref, advantage


def of_kind(kind: Kind, **changes: Any) -> LossSettings:
    importance: Any = "sequence" if kind == "gspo" else "token"
    return LossSettings(**{"kind": kind, "importance": importance, "max_completion": 12, **changes})


def assert_equals_trl(case: dict[str, Any], data: dict[str, list[float]], expected: dict[str, Any]) -> None:
    logp, old, ref, advantage = tensors(data)
    weight, (loss, metrics) = token_weights(logp, old, advantage, SEQUENCE, LossSettings(**case), ref)
    assert weight.dtype == loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-6, rel=1e-6)
    torch.testing.assert_close(-weight.double(), torch.tensor(expected["gradient"]).double(), atol=1e-6, rtol=1e-6)
    theirs = expected["metrics"]
    if case["kind"] == "cispo":
        assert metrics["clip_high"] == pytest.approx(theirs["cispo_clip_ratio"])
    else:
        assert metrics["clip_low"] == pytest.approx(theirs["clip_ratio/low_mean"])
        assert metrics["clip_high"] == pytest.approx(theirs["clip_ratio/high_mean"])


@pytest.mark.parametrize("case", RECORD["cases"], ids=name)
def test_loss_and_gradient_equal_trl(case: dict[str, Any]) -> None:
    assert_equals_trl(case["settings"], RECORD["vectors"], case)


def test_the_record_holds_every_case_and_every_clip() -> None:
    assert [case["settings"] for case in RECORD["cases"]] == trl_losses.cases()
    assert RECORD["vectors"] == trl_losses.vectors() and tuple(RECORD["lengths"]) == trl_losses.LENGTHS
    for case in RECORD["cases"]:
        assert all(share > 0 for key, share in case["metrics"].items() if key.endswith(("_mean", "_ratio"))), name(case)
    masks = [case for case in RECORD["cases"] if case["settings"]["off_policy_threshold"]]
    logp, old, _, advantage = tensors(RECORD["vectors"])
    for case in masks:
        _, (_, metrics) = token_weights(logp, old, advantage, SEQUENCE, LossSettings(**case["settings"]), logp)
        assert 0 < metrics["masked"] < trl_losses.COMPLETIONS


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("case", trl_losses.cases(), ids=name)
def test_loss_and_gradient_equal_trl_live(case: dict[str, Any], seed: int) -> None:
    pytest.importorskip("trl")
    data = trl_losses.vectors(seed)
    assert_equals_trl(case, data, trl_losses.trl_loss(case, data))


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 999))
@settings(max_examples=10, deadline=None)
def test_order_of_tokens_changes_nothing(kind: Kind, seed: int) -> None:
    """Tokens of different completions may stand between each other."""
    logp, old, ref, advantage = tensors(trl_losses.vectors(seed))
    chosen = of_kind(kind, beta=0.1, off_policy_threshold=0.1)
    order = torch.randperm(len(logp), generator=torch.Generator().manual_seed(seed))
    whole, (loss, _) = token_weights(logp, old, advantage, SEQUENCE, chosen, ref)
    mixed, (other, _) = token_weights(logp[order], old[order], advantage, SEQUENCE[order], chosen, ref[order])
    torch.testing.assert_close(loss, other, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(whole[order], mixed, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_on_policy_weights_are_advantages_over_the_divisor(kind: Kind) -> None:
    """Every kind is the policy gradient where the policy has not moved."""
    logp, _, _, advantage = tensors(RECORD["vectors"])
    weight, (_, metrics) = token_weights(logp, logp, advantage, SEQUENCE, of_kind(kind))
    lengths = torch.tensor(trl_losses.LENGTHS)
    divisor = {"grpo": 8 * lengths, "gspo": 8 * lengths, "dr-grpo": torch.full((8,), 8 * 12)}.get(kind, lengths.sum())
    torch.testing.assert_close(weight, (advantage / divisor)[SEQUENCE])
    assert (metrics["clip_low"], metrics["clip_high"], metrics["kl_old"], metrics["ratio_max"]) == (0, 0, 0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_completion_without_tokens_counts_and_changes_no_other(kind: Kind) -> None:
    logp, old, _, advantage = tensors(RECORD["vectors"])
    weight, _ = token_weights(logp, old, advantage, SEQUENCE, of_kind(kind))
    more, _ = token_weights(logp, old, torch.cat([advantage, advantage.new_ones(1)]), SEQUENCE, of_kind(kind))
    torch.testing.assert_close(more * (1 if kind in ("dapo", "cispo") else 9 / 8), weight)
    nothing = torch.zeros(0)
    none, (loss, metrics) = token_weights(nothing, nothing, torch.ones(2), nothing.long(), of_kind(kind))
    assert none.shape == (0,) and loss.item() == 0 and metrics["ratio_mean"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rewards_give_exactly_no_weight(kind: Kind) -> None:
    logp, old, _, _ = tensors(RECORD["vectors"])
    flat = advantages(torch.full((8,), 0.1), 4, "std")
    weight, (loss, _) = token_weights(logp, old, flat, SEQUENCE, of_kind(kind))
    assert torch.count_nonzero(weight) == 0 and loss.item() == 0


def test_only_the_policy_gets_a_gradient_and_the_loss_can_be_differentiated_by_parameters() -> None:
    logp, old, ref, advantage = (each.requires_grad_() for each in tensors(RECORD["vectors"]))
    chosen = of_kind("dapo", beta=0.1, unbiased_kl=True)
    policy_loss(2 * logp, old, advantage, SEQUENCE, chosen, ref).loss.backward()
    assert old.grad is None and ref.grad is None and advantage.grad is None
    weight, _ = token_weights(2 * logp.detach(), old, advantage, SEQUENCE, chosen, ref)
    assert logp.grad is not None and not weight.requires_grad
    torch.testing.assert_close(logp.grad, -2 * weight)


def test_unbiased_divergence_has_the_right_mean_gradient() -> None:
    """Summed over what the *old* policy would sample, the corrected estimate's gradient is the divergence's own."""
    draw = torch.Generator().manual_seed(0)
    logits, old_logits, ref_logits = (torch.randn(6, generator=draw) for _ in range(3))
    logits.requires_grad_()
    logp = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((logp.exp() * (logp - ref_logits.log_softmax(0))).sum(), logits, retain_graph=True)
    found = {}
    for unbiased in (False, True):
        chosen = of_kind("dapo", beta=1.0, unbiased_kl=unbiased)
        old, mean = old_logits.log_softmax(0), torch.zeros(6)
        for token in range(6):
            part = [each[token : token + 1] for each in (logp, old, ref_logits.log_softmax(0))]
            loss = policy_loss(part[0], part[1], torch.zeros(1), torch.zeros(1).long(), chosen, part[2]).loss
            mean += old[token].exp() * torch.autograd.grad(loss, logits, retain_graph=True)[0]
        found[unbiased] = mean
    torch.testing.assert_close(found[True], exact, atol=1e-6, rtol=1e-5)
    assert (found[False] - exact).abs().max() > 0.01


def test_metrics_against_their_definitions() -> None:
    logp, old, ref, advantage = tensors(RECORD["vectors"])
    metrics = policy_loss(logp, old, advantage, SEQUENCE, of_kind("grpo"), ref).metrics
    ratio = (logp - old).exp()
    assert metrics["ratio_mean"] == pytest.approx(ratio.mean().item()) and metrics["ratio_max"] == ratio.max().item()
    assert metrics["kl_old"] == pytest.approx((ratio - 1 - ratio.log()).mean().item(), rel=1e-4)
    assert metrics["kl_reference"] == pytest.approx(((ref - logp).exp() - 1 - (ref - logp)).mean().item(), rel=1e-4)
    assert "masked" not in metrics and all(isinstance(value, float) for value in metrics.values())


def test_advantages_equal_trl() -> None:
    recorded = RECORD["advantages"]
    found = advantages(torch.tensor(recorded["rewards"], dtype=torch.float64), recorded["group"], "std")
    torch.testing.assert_close(found.double(), torch.tensor(recorded["std"]).double(), atol=1e-6, rtol=1e-6)


@given(
    group=st.integers(1, 9),
    groups=st.integers(0, 4),
    data=st.data(),
    scaling=st.sampled_from(["none", "std"]),
)
@settings(deadline=None)
def test_advantages_of_a_group_are_centred_and_exactly_zero_without_spread(
    group: int, groups: int, data: st.DataObject, scaling: Any
) -> None:
    rewards = data.draw(
        st.lists(
            st.sampled_from([0.0, 0.1, 1 / 3, 1.0, -2.5, 1e-7, 1e6]), min_size=group * groups, max_size=group * groups
        )
    )
    found = advantages(torch.tensor(rewards), group, scaling)
    assert found.dtype == torch.float32 and found.shape == (group * groups,)
    for first in range(0, len(rewards), group):
        part, own = rewards[first : first + group], found[first : first + group]
        if len(set(part)) == 1:
            assert torch.count_nonzero(own) == 0
        else:
            assert own.double().sum().item() == pytest.approx(0, abs=1e-6 * float(own.abs().max()) * group)
            assert bool((own[torch.tensor(part).argsort()].diff() >= 0).all())


def test_refusals() -> None:
    with pytest.raises(ValueError, match="whole groups of 4"):
        advantages(torch.ones(6), 4, "none")
    with pytest.raises(ValueError, match="finite"):
        advantages(torch.tensor([0.0, float("nan")]), 2, "none")
    for changes, words in (
        ({"kind": "gspo", "importance": "token"}, "importance"),
        ({"kind": "dr-grpo", "max_completion": 0}, "max_completion"),
        ({"kind": "ppo"}, "ppo"),
        ({"clip_low": 1.5}, "clip_low"),
        ({"clip_high": -0.1}, "clip_high"),
        ({"beta": float("nan")}, "beta"),
        ({"unbiased_kl": True}, "beta"),
        ({"off_policy_threshold": -1.0}, "off_policy_threshold"),
        ({"importance": "word"}, "importance"),
    ):
        with pytest.raises(UserError, match=words):
            replace(LossSettings(), **changes)  # type: ignore[arg-type]
