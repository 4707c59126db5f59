"""Distillation on logits: how far a student's next-token distribution is from a teacher's, a chunk of tokens at a time.

The forward divergence KL(teacher || student) makes a student cover all that its teacher does, the reverse one
KL(student || teacher) makes it prefer what the teacher prefers, and the generalised Jensen-Shannon divergence lies
between: with the mixture m = beta * teacher + (1 - beta) * student it is beta * KL(teacher || m) + (1 - beta) *
KL(student || m) (Agarwal et al., "On-Policy Distillation of Language Models", arXiv 2306.13649, section 3). Near its
ends it vanishes instead of becoming either KL, so beta = 0 and 1 stand for the two KLs themselves, as in TRL.

A teacher's logits may be too many to keep. Its k most probable tokens and the mass of the rest are k + 1 outcomes, and
the student's are grouped alike: within the rest the student is free. Grouping never enlarges a divergence.

As in :mod:`clearseek.ops.loss`, the gradient of a chunk is finished in the forward, and the softmaxes are FP32.

Shapes: T tokens, C tokens of a chunk, D hidden, V vocabulary, K tokens of the teacher, O outcomes (V, or K + 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from clearseek.ops.loss import through_head


class TopK(NamedTuple):
    """A teacher's most probable next tokens, and the rest."""

    ids_TK: Tensor
    """Token ids, int64, different in a row."""
    logp_TK: Tensor
    """Their log-probabilities at the temperature of the distillation, FP32."""
    rest_T: Tensor
    """Log-probability of all other tokens together, FP32; minus infinity if they have none."""

    @classmethod
    def of(cls, logits_TV: Tensor, k: int, temperature: float = 1.0) -> TopK:
        """The k best of a teacher's logits, and the rest."""
        logp_TV = _log_softmax(logits_TV, temperature)
        logp_TK, ids_TK = logp_TV.topk(k)
        return cls(ids_TK, logp_TK, _rest(logp_TV, ids_TK))


Teacher = Callable[[slice], Tensor] | TopK
"""Logits or log-probabilities [C, V] at temperature 1 of some tokens, by a function of their slice, or the best k."""


def _log_softmax(logits_CV: Tensor, temperature: float) -> Tensor:
    return (logits_CV.float() / temperature).log_softmax(-1)


def _rest(logp_CV: Tensor, ids_CK: Tensor) -> Tensor:
    """Log-probability of all tokens but these, [C]."""
    return logp_CV.scatter(1, ids_CK, float("-inf")).logsumexp(-1)


def _terms(p_CO: Tensor, log_ratio_CO: Tensor) -> Tensor:
    """p log(p / ...), which is 0 where p is."""
    return torch.where(p_CO == 0, 0.0, p_CO * log_ratio_CO)


def _between(student_CO: Tensor, teacher_CO: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Of log-probabilities: (divergence [C]; its derivative by the student's log-probabilities [C, O]).

    The derivative leaves out a multiple of the student's probabilities, which normalising them takes away again.
    """
    if beta == 0:
        q_CO = teacher_CO.exp()
        return _terms(q_CO, teacher_CO - student_CO).sum(-1), -q_CO
    p_CO = student_CO.exp()
    if beta == 1:
        terms_CO = _terms(p_CO, student_CO - teacher_CO)
        return terms_CO.sum(-1), terms_CO
    shares = torch.tensor([beta, 1 - beta], dtype=torch.float64).log().tolist()
    mixture_CO = torch.logaddexp(teacher_CO + shares[0], student_CO + shares[1])
    of_teacher_CO = _terms(teacher_CO.exp(), teacher_CO - mixture_CO)
    of_student_CO = _terms(p_CO, student_CO - mixture_CO) * (1 - beta)
    return beta * of_teacher_CO.sum(-1) + of_student_CO.sum(-1), of_student_CO


def _full(student_CV: Tensor, teacher_CV: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """(gradient of the student's logits over the temperature, divergence [C])."""
    losses_C, slope_CV = _between(student_CV, teacher_CV, beta)
    return slope_CV - slope_CV.sum(-1, keepdim=True) * student_CV.exp(), losses_C


def _grouped(student_CV: Tensor, best: TopK, beta: float) -> tuple[Tensor, Tensor]:
    """The same for a teacher's best tokens and the rest."""
    rest_C1 = _rest(student_CV, best.ids_TK).unsqueeze(1)
    picked_CK = student_CV.gather(1, best.ids_TK)
    outcomes_CO = torch.cat([picked_CK, rest_C1], 1)
    losses_C, slope_CO = _between(outcomes_CO, torch.cat([best.logp_TK, best.rest_T.unsqueeze(1)], 1).float(), beta)
    sum_C1 = slope_CO.sum(-1, keepdim=True)
    within_CV = (student_CV - rest_C1.clamp(min=torch.finfo(torch.float32).min)).exp()  # each token's share of the rest
    gradient_CV = slope_CO[:, -1:] * within_CV - sum_C1 * student_CV.exp()
    return gradient_CV.scatter_(1, best.ids_TK, slope_CO[:, :-1] - sum_C1 * picked_CK.exp()), losses_C


def divergence(
    hidden_TD: Tensor, head_VD: Tensor, teacher: Teacher, weight_T: Tensor, beta: float, temperature: float = 1.0,
    squared: bool = False,
) -> Tensor:  # fmt: skip
    """Weighted sum of the tokens' divergences between teacher and student in nats, as an FP32 scalar.

    Args:
        hidden_TD: The student's final hidden states (after the last norm), of the head's type.
        head_VD: The student's output head.
        teacher: Its distributions; they get no gradient.
        weight_T: Weights, FP32 and at least 0; 1 / T each for the mean, which is TRL's ``generalized_jsd_loss``.
        beta: 0 for KL(teacher || student), 1 for KL(student || teacher), between them the generalised Jensen-Shannon
            divergence, whose mixture has this share of the teacher.
        temperature: Divisor of both sides' logits.
        squared: Whether to multiply by the square of the temperature, so that gradients keep their size (Hinton et
            al., arXiv 1503.02531, section 2). TRL does not.

    Raises ValueError: beta or temperature out of range, or a teacher of other tokens or another vocabulary.
    """
    if not (0 <= beta <= 1 and temperature > 0):
        raise ValueError(f"beta {beta} must be from 0 to 1, and temperature {temperature} above 0")
    if isinstance(teacher, TopK):
        _check(teacher, len(hidden_TD), len(head_VD))

    def passes(rows: slice, logits_CV: Tensor) -> tuple[Tensor, Tensor]:
        student_CV = _log_softmax(logits_CV, temperature)
        if isinstance(teacher, TopK):
            return _grouped(student_CV, TopK(*(each[rows] for each in teacher)), beta)
        teacher_CV = teacher(rows)
        if teacher_CV.shape != student_CV.shape:
            raise ValueError(f"logits {[*teacher_CV.shape]} of a teacher, for a student's {[*student_CV.shape]}")
        return _full(student_CV, _log_softmax(teacher_CV, temperature), beta)

    total = through_head(hidden_TD, head_VD, weight_T, 1.0 / temperature, passes)[0]
    return total * temperature**2 if squared else total


def _check(best: TopK, tokens: int, vocabulary: int) -> None:
    shapes = [tuple(each.shape) for each in best]
    if len(shapes[0]) != 2 or shapes != [(tokens, shapes[0][1]), (tokens, shapes[0][1]), (tokens,)]:
        raise ValueError(f"a teacher's ids, log-probabilities and rest {shapes} for {tokens} tokens")
    sorted_TK = best.ids_TK.sort(-1).values
    outside = (best.ids_TK < 0) | (best.ids_TK >= vocabulary)
    if bool(outside.any()) or bool((sorted_TK.diff() == 0).any()):
        raise ValueError(f"a teacher's ids must be different in a row, and below the vocabulary's {vocabulary}")
