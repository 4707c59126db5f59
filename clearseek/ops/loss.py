"""Next-token cross-entropy that never holds a batch of logits.

The logits of a batch are by far its largest tensor (tokens x vocabulary). Here hidden states pass through the output
head a chunk at a time: logits, softmax, loss and *gradient* of the chunk are finished while they are in cache, so that
nothing of size tokens x vocabulary is kept for the backward, which only scales the gradient. DeepSeek-V3 keeps the
output head in high precision (report, section 3.3.1): the softmax is FP32, and so are logits on a GPU, whose BF16
product can return its FP32 sums; a CPU's product rounds logits to the model's type.

Shapes: T tokens, C tokens of a chunk, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from clearseek.kernels import operations
from clearseek.ops.compiled import compiled_from

CHUNK_ELEMENTS = 1 << 22
"""Logits held at once on a CPU (16 MiB in FP32, about a last-level cache); at least those of 64 tokens are."""
GPU_CHUNK_ELEMENTS = 1 << 27
"""Logits held at once on a GPU (512 MiB in FP32): enough to fill it."""


def _negative_log(probability_C1: Tensor) -> Tensor:
    # -log p saturates at 87.3 nats, where p leaves FP32's normal range; the gradient stays exact.
    return -probability_C1.squeeze(1).clamp(min=torch.finfo(torch.float32).tiny).log()


def _token_losses(probability_CV: Tensor, target_C1: Tensor) -> Tensor:
    return _negative_log(probability_CV.gather(1, target_C1))


def _formula(logits_CV: Tensor, target_C1: Tensor, space_CV: Tensor) -> tuple[Tensor, Tensor]:
    p_CV = logits_CV.float().softmax(dim=-1)
    hit_CV = torch.arange(logits_CV.shape[1], device=logits_CV.device) == target_C1
    return (p_CV - hit_CV.float()).to(logits_CV.dtype), _token_losses(p_CV, target_C1)


def _loop(logits_CV: Tensor, target_C1: Tensor, space_CV: Tensor) -> tuple[Tensor, Tensor]:
    gradient_CV, hit_C1 = operations.softmax_loss(logits_CV, target_C1)
    return gradient_CV, _negative_log(hit_C1)


@compiled_from(_formula, _loop)
def _softmax_loss(logits_CV: Tensor, target_C1: Tensor, space_CV: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient of the logits, perhaps in their memory; loss per token [C] FP32). `space_CV` is FP32 scratch."""
    p_CV = torch.softmax(logits_CV, dim=-1, dtype=torch.float32, out=space_CV)
    losses_C = _token_losses(p_CV, target_C1)
    p_CV.scatter_add_(1, target_C1, p_CV.new_full(target_C1.shape, -1.0))  # one index a row: order is free
    return logits_CV.copy_(p_CV), losses_C


def _has_wide_logits(hidden_TD: Tensor) -> bool:
    """Whether logits have a wider type than hidden states."""
    return hidden_TD.is_cuda and hidden_TD.dtype != torch.float32


def _logits(hidden_CD: Tensor, head_VD: Tensor, space_CV: Tensor | None = None) -> Tensor:
    """Logits [C, V]."""
    if _has_wide_logits(hidden_CD):
        return torch.mm(hidden_CD, head_VD.t(), out_dtype=torch.float32)
    return torch.mm(hidden_CD, head_VD.t(), out=space_CV)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, head_VD: Tensor, target_T: Tensor, weight_T: Tensor) -> Tensor:
        tokens, vocabulary = hidden_TD.shape[0], head_VD.shape[0]
        d_hidden_TD = torch.empty_like(hidden_TD)
        d_head_VD = torch.zeros(head_VD.shape, dtype=torch.float32, device=head_VD.device)
        total = torch.zeros((), dtype=torch.float32, device=hidden_TD.device)
        largest = weight_T.max().clamp(min=torch.finfo(torch.float32).tiny)
        share_T1 = (weight_T / largest).unsqueeze(1)  # all 1 for equal weights: nothing is rounded
        chunk = min(tokens, chunk_tokens(vocabulary, hidden_TD.device))
        # All chunks share one space for logits and one for probabilities, which stay in cache.
        logits_space = None if _has_wide_logits(hidden_TD) else hidden_TD.new_empty(chunk, vocabulary)
        p_space = torch.empty(chunk, vocabulary, dtype=torch.float32, device=hidden_TD.device)
        for start in range(0, tokens, chunk):
            h_CD = hidden_TD[start : start + chunk]
            target_C1 = target_T[start : start + chunk].unsqueeze(1)
            logits_CV = _logits(h_CD, head_VD, None if logits_space is None else logits_space[: len(h_CD)])
            d_logits_CV, losses_C = _softmax_loss(logits_CV, target_C1, p_space[: len(h_CD)])
            d_logits_CV = d_logits_CV.to(head_VD.dtype)
            share_C1 = share_T1[start : start + chunk]
            total += (losses_C * share_C1.squeeze(1)).sum()
            torch.mm(d_logits_CV, head_VD, out=d_hidden_TD[start : start + chunk])
            d_head_VD += d_logits_CV.t() @ (h_CD * share_C1).to(h_CD.dtype)
        ctx.save_for_backward(d_hidden_TD, d_head_VD, share_T1, largest)
        ctx.head_dtype = head_VD.dtype
        return total * largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden_TD, d_head_VD, share_T1, largest = ctx.saved_tensors
        scale = g * largest
        # In FP32, rounded once: a scale rounded to BF16 would be off for all tokens alike.
        d_hidden_TD = (d_hidden_TD * (share_T1 * scale)).to(d_hidden_TD.dtype)
        return d_hidden_TD, (d_head_VD * scale).to(ctx.head_dtype), None, None


def chunk_tokens(vocabulary: int, device: torch.device) -> int:
    """Tokens per chunk of logits for a vocabulary of this size."""
    return max(64, (CHUNK_ELEMENTS if device.type == "cpu" else GPU_CHUNK_ELEMENTS) // vocabulary)


def cross_entropy(hidden_TD: Tensor, head_VD: Tensor, target_T: Tensor, weight_T: Tensor) -> Tensor:
    """Weighted sum of the tokens' cross-entropies in nats, as an FP32 scalar.

    Final hidden states (after the last norm) and output head have the same type; targets are int64 token ids; weights
    are FP32 and at least 0, 1 / T each for the mean.
    """
    loss: Tensor = _CrossEntropy.apply(hidden_TD, head_VD, target_T, weight_T)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_losses(hidden_TD: Tensor, head_VD: Tensor, target_T: Tensor) -> Tensor:
    """Cross-entropy of each token in nats, FP32 [T], a chunk at a time, without gradients."""
    chunk = chunk_tokens(head_VD.shape[0], head_VD.device)
    parts = []
    for start in range(0, hidden_TD.shape[0], chunk):
        logits_CV = _logits(hidden_TD[start : start + chunk], head_VD)
        p_CV = torch.softmax(logits_CV, dim=-1, dtype=torch.float32)
        parts.append(_token_losses(p_CV, target_T[start : start + chunk].unsqueeze(1)))
    return torch.cat(parts)
