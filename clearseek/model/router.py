"""Which experts each token visits, and with which weights.

V3's router (DeepSeek-V3 report, equations 12-16): sigmoid scores; a per-expert bias is *added for the choice only*;
the experts form groups, a group's score is the sum of its two best biased scores, and all but the best groups are
masked with minus infinity (biases have both signs, so zero would not mask); the weights are the unbiased scores of the
chosen experts, normalised and scaled. V2's router (DeepSeek-V2 report, section 2.1.2): softmax
scores, the best experts outright (greedy) or within the groups with the best single expert (group-limited greedy).

Load is balanced without an auxiliary loss: after each step the bias of an overloaded expert goes down by a fixed step
and that of an underloaded one goes up (section 2.1.2). A tiny sequence-wise loss only guards against extremes
(equations 17-20).

Shapes: B sequences, S positions, T = B * S tokens, D hidden, E experts, G groups, K experts per
token, P = T * K pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clearseek.config import ModelConfig
from clearseek.kernels import operations
from clearseek.ops.compiled import loops_take
from clearseek.ops.dispatch import Routing
from clearseek.ops.linear import linear


def _best(scores: Tensor, k: int) -> Tensor:
    """Indices of the `k` largest along the last dimension, ties to the lowest index on every device."""
    if loops_take(scores):
        return operations.best(scores, k)
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def _limit_groups(choice_TE: Tensor, groups: int, kept: int, best_per_group: int) -> Tensor:
    """Mask with -inf every expert outside the `kept` best groups."""
    grouped_TGE = choice_TE.unflatten(-1, (groups, -1))
    group_TG = grouped_TGE.topk(best_per_group, dim=-1).values.sum(-1)
    keep_TG = torch.zeros_like(group_TG, dtype=torch.bool).scatter_(1, _best(group_TG, kept), True)
    masked_TE: Tensor = grouped_TGE.masked_fill(~keep_TG.unsqueeze(-1), float("-inf")).flatten(-2)
    return masked_TE


def sequence_balance_loss(scores_TE: Tensor, k: int, weight_B: Tensor, valid_T: Tensor | None = None) -> Tensor:
    """Weighted sum over sequences of sum_i f_i * P_i (DeepSeek-V3 report, equations 17-20), as an FP32 scalar.

    f_i counts how often expert i is among the top K *unbiased* scores, times E / (K * S); P_i is its mean score after
    normalising each token's scores to one. With `valid_T`, S are a sequence's valid tokens, and padding is left out.
    """
    scores_BSE = scores_TE.unflatten(0, (len(weight_B), -1))
    experts = scores_TE.shape[-1]
    with torch.no_grad():
        threshold = scores_BSE.topk(k, dim=-1).values[..., -1:]
        chosen_BSE = (scores_BSE >= threshold).float()
    share_BSE = scores_BSE / scores_BSE.sum(-1, keepdim=True)
    if valid_T is None:
        f_BE, p_BE = chosen_BSE.mean(1) * (experts / k), share_BSE.mean(1)
    else:
        valid_BS1 = valid_T.view(len(weight_B), -1, 1).float()
        count_B1 = valid_BS1.sum(1).clamp(min=1.0)  # of a sequence of padding the loss is 0
        f_BE = (chosen_BSE * valid_BS1).sum(1) / count_B1 * (experts / k)
        p_BE = (share_BSE * valid_BS1).sum(1) / count_B1
    loss: Tensor = ((f_BE * p_BE).sum(-1) * weight_B).sum()
    return loss


class Router(nn.Module):
    """The gate of one mixture-of-experts layer."""

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        if config.topk_method == "noaux_tc":
            bias = torch.zeros(config.n_routed_experts, dtype=torch.float32)
            self.register_buffer("e_score_correction_bias", bias)

    def forward(
        self, x_TD: Tensor, weight_B: Tensor | None = None, index_TK: Tensor | None = None,
        valid_T: Tensor | None = None, document_T: Tensor | None = None,
    ) -> Routing:  # fmt: skip
        """Route tokens.

        Args:
            x_TD: Hidden states; logits are FP32 whatever their type.
            weight_B: Weights of the equally long sequences in x_TD, for the balance loss; None leaves that loss out.
            index_TK: Experts to choose again, because a policy's gradient needs the routing of its rollouts ("rollout
                routing replay", arXiv 2510.11370). Their weights are computed anew.
            valid_T: False for padding, which visits experts but counts neither as load nor in the balance loss.
            document_T: Number of each token's document, ascending, where documents are told apart.
        """
        c = self.config
        scores_TE = self.scores(x_TD)
        if index_TK is None:
            index_TK = self.choose(scores_TE.detach())
        weight_TK = scores_TE.gather(1, index_TK)
        if c.norm_topk_prob:
            weight_TK = weight_TK / (weight_TK.sum(-1, keepdim=True) + 1e-20)
        if c.topk_method == "noaux_tc" or not c.norm_topk_prob:  # V2 normalises or scales, never both
            weight_TK = weight_TK * c.routed_scaling_factor
        balance = None
        if weight_B is not None:
            balance = sequence_balance_loss(scores_TE, c.num_experts_per_tok, weight_B, valid_T)
        return Routing.of(index_TK, weight_TK, c.n_routed_experts, balance, valid_T, document_T)

    def scores(self, x_TD: Tensor) -> Tensor:
        """Scores of all experts for each token, FP32 [T, E]."""
        logits_TE = linear(x_TD, self.weight, torch.float32)
        return logits_TE.sigmoid() if self.config.scoring_func == "sigmoid" else logits_TE.softmax(-1)

    def choose(self, scores_TE: Tensor) -> Tensor:
        """Experts of each token by their scores, [T, K]."""
        c = self.config
        choice_TE = scores_TE + self.e_score_correction_bias if c.topk_method == "noaux_tc" else scores_TE
        if c.n_group > 1:
            choice_TE = _limit_groups(choice_TE, c.n_group, c.topk_group, 2 if c.topk_method == "noaux_tc" else 1)
        return _best(choice_TE, c.num_experts_per_tok)

    @torch.no_grad()
    def update_bias(self, load_E: Tensor, speed: float) -> None:
        """Move the bias one step of `speed` against the load of a whole batch (DeepSeek-V3 report, section 2.1.2)."""
        load_E = load_E.to(self.e_score_correction_bias)
        self.e_score_correction_bias += speed * torch.sign(load_E.mean() - load_E)
