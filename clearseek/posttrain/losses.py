"""Policy losses of the GRPO family as functions of log-probabilities.

Each is a scalar of the log-probabilities that the policy gives to the tokens it sampled, and of constants: the
log-probabilities at the time of sampling, an advantage for each completion, and perhaps a reference policy's. So the
gradient of a loss is one number for each token, and a model is trained by a cross-entropy whose tokens weigh that much:
no loss needs a tensor of the vocabulary's size, and none knows a model.

They differ in three choices:

========= ============================================= ==================== ========================================
kind      paper                                         ratio                sum over all tokens, divided by
========= ============================================= ==================== ========================================
grpo      arXiv:2402.03300, equation 3                  clipped              completions x tokens of the completion
dr-grpo   arXiv:2503.20783, section 3.2                 clipped              completions x `max_completion`
dapo      arXiv:2503.14476, equation 8                  clipped              tokens
gspo      arXiv:2507.18071, equations 5 and 7           a sequence's mean,   completions x tokens of the completion
                                                        clipped
cispo     arXiv:2506.13585, equations 4 and 5           a constant weight    tokens
                                                        of log-probability
========= ============================================= ==================== ========================================

DeepSeek-V3.2 (arXiv:2512.02556, section 3.1) adds an unbiased estimate of the divergence from the reference, and leaves
out completions with a negative advantage that the policy has moved too far away from.

Shapes: T tokens of all completions of a step, in any order; N completions; L tokens of the longest completion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from clearseek.errors import UserError

Kind = Literal["grpo", "dr-grpo", "dapo", "gspo", "cispo"]


@dataclass(frozen=True)
class LossSettings:
    """What a policy loss depends on besides its data. Raises UserError for settings that exclude each other."""

    kind: Kind = "dapo"
    clip_low: float = 0.2
    """Ratios below 1 - clip_low gain nothing more. CISPO has no such bound."""
    clip_high: float = 0.2
    """Ratios above 1 + clip_high gain nothing more. (TRL's `epsilon_high` is this, but 1 + clip_high for CISPO.)"""
    beta: float = 0.0
    """Weight of the divergence from the reference policy."""
    importance: Literal["token", "sequence"] = "token"
    """Whether a ratio is a token's, or the geometric mean of its completion's."""
    unbiased_kl: bool = False
    """Whether the divergence is weighted by the ratio, which makes the gradient's expectation right off policy."""
    off_policy_threshold: float | None = None
    """Nats a token by which a completion with a negative advantage may have become less likely; None: any number."""
    max_completion: int = 0
    """Most tokens of a completion, by which Dr. GRPO divides."""

    def __post_init__(self) -> None:
        faults = []
        if self.kind not in ("grpo", "dr-grpo", "dapo", "gspo", "cispo"):
            faults.append(f'kind = "{self.kind}": use grpo, dr-grpo, dapo, gspo or cispo')
        if self.importance not in ("token", "sequence"):
            faults.append(f'importance = "{self.importance}": use token or sequence')
        elif self.kind == "gspo" and self.importance != "sequence":
            faults.append('kind = "gspo" has the ratio of a sequence: set importance = "sequence"')
        if self.kind == "dr-grpo" and self.max_completion < 1:
            faults.append('kind = "dr-grpo" divides by max_completion: give the most tokens of a completion')
        if not 0 <= self.clip_low <= 1:
            faults.append(f"clip_low = {self.clip_low}: use 0 to 1")
        if not self.clip_high >= 0:
            faults.append(f"clip_high = {self.clip_high}: use a number of at least 0")
        if not 0 <= self.beta < float("inf"):
            faults.append(f"beta = {self.beta}: use a number of at least 0")
        if self.unbiased_kl and not self.beta:
            faults.append("unbiased_kl = true changes nothing at beta = 0: set beta or leave unbiased_kl out")
        if self.off_policy_threshold is not None and not self.off_policy_threshold >= 0:
            faults.append(f"off_policy_threshold = {self.off_policy_threshold}: use a number of at least 0")
        if faults:
            raise UserError("; ".join(faults))


class PolicyLoss(NamedTuple):
    """A loss and what is logged of it."""

    loss: Tensor
    """FP32 scalar."""
    metrics: dict[str, float]
    """`clip_low` and `clip_high`: share of ratios that the bound holds, of tokens or, by sequence, of completions.
    `ratio_mean` and `ratio_max`. `kl_old`: mean estimate (k3) of the nats a token from the sampling policy to this one;
    `kl_reference`: from this one to the reference, where one is given. `masked`: number of completions left out as off
    policy."""


class _Completions:
    """Tokens laid out as one row for each completion, so that sums have one order on every device."""

    def __init__(self, sequence_T: Tensor, completions: int) -> None:
        counts_N = torch.bincount(sequence_T, minlength=completions)
        assert len(counts_N) == completions, "sequence_T names a completion without advantage"
        order_T = torch.argsort(sequence_T, stable=True)
        first_N = counts_N.cumsum(0) - counts_N
        column_T = torch.empty_like(order_T)
        column_T[order_T] = torch.arange(len(order_T), device=order_T.device) - first_N[sequence_T[order_T]]
        self._place = (sequence_T, column_T)
        self._shape = (completions, int(counts_N.max()) if completions else 0)
        self.mask_NL = self.rows(torch.ones(len(order_T), device=order_T.device))
        self.length_N = counts_N.clamp(min=1).float()

    def rows(self, x_T: Tensor) -> Tensor:
        """Values as [N, L] in FP32, with 0 where a completion has ended."""
        return x_T.new_zeros(self._shape, dtype=torch.float32).index_put(self._place, x_T.float())

    def mean(self, x_NL: Tensor) -> Tensor:
        """Mean over each completion's tokens, [N, 1]."""
        return ((x_NL * self.mask_NL).sum(1) / self.length_N).unsqueeze(1)

    def token_mean(self, x_NL: Tensor) -> float:
        """Mean over all tokens."""
        return float((x_NL.detach() * self.mask_NL).sum() / self.mask_NL.sum().clamp(min=1.0))


def policy_loss(
    logp_T: Tensor,
    old_T: Tensor,
    advantage_N: Tensor,
    sequence_T: Tensor,
    settings: LossSettings,
    ref_T: Tensor | None = None,
) -> PolicyLoss:
    """Loss of all completions of a step, which must be given together, since their number divides.

    Args:
        logp_T: Log-probabilities in nats of the sampled tokens under the policy, of the distribution that was sampled
            (temperature and top-p included). The gradient reaches these alone.
        old_T: The same when they were sampled.
        advantage_N: Advantage of each completion; one without tokens counts as a completion.
        sequence_T: Index of each token's completion, int64.
        settings: Kind of loss and its numbers.
        ref_T: Log-probabilities under the reference policy; needed with `beta`.
    """
    assert logp_T.shape == old_T.shape == sequence_T.shape and logp_T.ndim == 1
    assert ref_T is not None or not settings.beta, "beta needs a reference policy"
    batch = _Completions(sequence_T, len(advantage_N))
    logp_NL, old_NL = batch.rows(logp_T), batch.rows(old_T.detach())
    advantage_N1 = advantage_N.detach().float().unsqueeze(1)
    log_ratio_NL = logp_NL - old_NL
    # One column where a completion has one ratio: all that follows spreads it over the row.
    ratio_NX = (batch.mean(log_ratio_NL) if settings.importance == "sequence" else log_ratio_NL).exp()
    loss_NX, clipped = _surrogate(logp_NL, ratio_NX, advantage_N1, settings)
    mean = batch.token_mean if settings.importance == "token" else _column_mean
    metrics = {f"clip_{side}": mean(hit_NX.float()) for side, hit_NX in clipped.items()}
    if settings.off_policy_threshold is not None:
        drift_N1 = batch.mean(-log_ratio_NL.detach())
        kept_N1 = (advantage_N1 >= 0) | (drift_N1 <= settings.off_policy_threshold)
        loss_NX = loss_NX * kept_N1
        metrics["masked"] = float((~kept_N1).sum())
    if ref_T is not None:
        kl_NL = _k3(batch.rows(ref_T.detach()) - logp_NL)
        metrics["kl_reference"] = batch.token_mean(kl_NL)
        if settings.beta:
            loss_NX = loss_NX + settings.beta * (kl_NL * ratio_NX if settings.unbiased_kl else kl_NL)
    loss = _normalised(loss_NX, batch, settings)
    with torch.no_grad():
        seen_X = ratio_NX[batch.mask_NL > 0] if settings.importance == "token" else ratio_NX.flatten()
        metrics["ratio_mean"] = float(seen_X.mean()) if len(seen_X) else 1.0
        metrics["ratio_max"] = float(seen_X.max()) if len(seen_X) else 1.0
        metrics["kl_old"] = batch.token_mean(_k3(log_ratio_NL))
    return PolicyLoss(loss, metrics)


def _column_mean(x_N1: Tensor) -> float:
    return float(x_N1.detach().mean()) if len(x_N1) else 0.0


def _surrogate(
    logp_NL: Tensor, ratio_NX: Tensor, advantage_N1: Tensor, settings: LossSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of each ratio before any divergence, and which ratios the lower and the upper bound hold."""
    low, high = 1 - settings.clip_low, 1 + settings.clip_high
    over_NX = (ratio_NX > high) & (advantage_N1 > 0)
    if settings.kind == "cispo":
        weight_NX = ratio_NX.detach().clamp(max=high)
        return -weight_NX * advantage_N1 * logp_NL, {"low": torch.zeros_like(over_NX), "high": over_NX}
    gain_NX = torch.min(ratio_NX * advantage_N1, ratio_NX.clamp(low, high) * advantage_N1)
    return -gain_NX, {"low": (ratio_NX < low) & (advantage_N1 < 0), "high": over_NX}


def _k3(log_ratio_NL: Tensor) -> Tensor:
    """Schulman's estimate k3 = r - 1 - ln r of a divergence: never negative, right on average (GRPO, equation 4)."""
    return torch.expm1(log_ratio_NL) - log_ratio_NL


def _normalised(loss_NX: Tensor, batch: _Completions, settings: LossSettings) -> Tensor:
    """The sum over tokens, divided as the kind of loss has it."""
    completions = max(1, len(batch.length_N))
    loss_NL = loss_NX * batch.mask_NL
    if settings.kind in ("grpo", "gspo"):
        return (loss_NL.sum(1) / batch.length_N).sum() / completions
    if settings.kind == "dr-grpo":
        return loss_NL.sum() / (completions * settings.max_completion)
    return loss_NL.sum() / batch.mask_NL.sum().clamp(min=1.0)


def token_weights(
    logp_T: Tensor,
    old_T: Tensor,
    advantage_N: Tensor,
    sequence_T: Tensor,
    settings: LossSettings,
    ref_T: Tensor | None = None,
) -> tuple[Tensor, PolicyLoss]:
    """Weights that give a weighted cross-entropy the gradient of :func:`policy_loss`, FP32 [T], and that loss.

    A token's weight is minus the derivative of the loss by its log-probability, so it is negative where the token is to
    become less likely. Arguments are those of :func:`policy_loss`; no gradient is recorded.
    """
    with torch.enable_grad():
        leaf_T = logp_T.detach().float().requires_grad_()
        loss, metrics = policy_loss(leaf_T, old_T, advantage_N, sequence_T, settings, ref_T)
        (gradient_T,) = torch.autograd.grad(loss, leaf_T)
    return -gradient_T, PolicyLoss(loss.detach(), metrics)


def entropy_weights(logp_T: Tensor, old_T: Tensor) -> Tensor:
    """Weights that give a weighted cross-entropy minus the gradient of the mean entropy of a token, FP32 [T].

    The gradient of an entropy is the mean of -log p times log p's gradient over tokens drawn from p, whatever constant
    is taken off the first factor. Tokens that an older policy drew count by their ratio.

    Args:
        logp_T: Log-probabilities in nats of the drawn tokens under the policy.
        old_T: The same when they were sampled.
    """
    logp_T, old_T = logp_T.detach().float(), old_T.detach().float()
    return (logp_T - old_T).exp() * (logp_T.mean() - logp_T) / len(logp_T)


def advantages(reward_N: Tensor, group: int, scaling: Literal["none", "std"]) -> Tensor:
    """Advantages of completions within their group, FP32 [N].

    Args:
        reward_N: Rewards; the completions of one prompt stand next to each other.
        group: Completions of one prompt.
        scaling: "none": reward less the group's mean (Dr. GRPO, section 3.2; DeepSeek-V3.2). "std": that, divided by
            the group's standard deviation (n - 1 in the divisor) plus 1e-4 (GRPO, section 4.1.2, as in TRL).

    Returns:
        Advantages; exactly 0 in a group whose rewards are all equal.

    Raises:
        ValueError: a group is not whole, or a reward is not finite.
    """
    if group < 1 or len(reward_N) % group:
        raise ValueError(f"{len(reward_N)} rewards are not whole groups of {group}")
    reward_GC = reward_N.double().view(-1, group)
    if not bool(reward_GC.isfinite().all()):
        raise ValueError("a reward is not finite")
    centred_GC = reward_GC - reward_GC.mean(1, keepdim=True)
    if scaling == "std" and 1 < group <= len(reward_N):
        centred_GC = centred_GC / (reward_GC.std(1, keepdim=True) + 1e-4)
    equal_G1 = (reward_GC == reward_GC[:, :1]).all(1, keepdim=True)  # a mean rounds, and would leave 1e-17
    return centred_GC.masked_fill(equal_G1, 0.0).float().flatten()
