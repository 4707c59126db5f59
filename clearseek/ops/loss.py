"""Next-token cross-entropy that never holds a batch of logits.

The logits of a batch are by far its largest tensor (tokens x vocabulary). Here hidden states pass through the output
head a chunk at a time: logits, softmax, loss and *gradient* of the chunk are finished while they are in cache, so that
nothing of size tokens x vocabulary is kept for the backward, which only scales the gradient. DeepSeek-V3 keeps the
output head in high precision (report, section 3.3.1): the softmax is FP32, and so are logits on a GPU, whose BF16
product can return its FP32 sums; a CPU's product rounds logits to the model's type.

What was sampled at a temperature, or from some of the tokens (top-k, top-p), has other probabilities than the model's
softmax. A policy's gradient needs those of the distribution that was sampled: the same temperature, and the softmax
over the same tokens ("keep sampling mask", DeepSeek-V3.2 report, arXiv 2512.02556, section 3.1).

Shapes: T tokens, C tokens of a chunk, D hidden, V vocabulary, N kept ids of all tokens together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from clearseek.kernels import operations
from clearseek.ops.apply import apply
from clearseek.ops.compiled import compiled_from

CHUNK_ELEMENTS = 1 << 22
"""Logits held at once on a CPU (16 MiB in FP32, about a last-level cache); at least those of 64 tokens are."""
GPU_CHUNK_ELEMENTS = 1 << 27
"""Logits held at once on a GPU (512 MiB in FP32): enough to fill it."""


class Kept(NamedTuple):
    """The ids that each token was sampled from, one token's after the other's."""

    ids_N: Tensor
    """Token ids, int64."""
    ends_T: Tensor
    """End of each token's ids, int64, ascending; a token without ids was sampled from the whole vocabulary."""

    def of(self, first: int, end: int) -> Kept:
        """The same of tokens first .. end - 1."""
        before = int(self.ends_T[first - 1]) if first else 0
        last = int(self.ends_T[end - 1]) if end > first else before
        return Kept(self.ids_N[before:last], self.ends_T[first:end] - before)

    def mask_left_out(self, logits_CV: Tensor) -> Tensor:
        """Write minus infinity to the logits of what each token was not sampled from, and return them."""
        counts_C = self.ends_T.diff(prepend=self.ends_T.new_zeros(1))
        row_N = torch.arange(len(counts_C), device=counts_C.device).repeat_interleave(counts_C)
        left_out_CV = (counts_C > 0).unsqueeze(1).repeat(1, logits_CV.shape[1])
        left_out_CV[row_N, self.ids_N] = False
        return logits_CV.masked_fill_(left_out_CV, float("-inf"))


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


def _passes(logits_CV: Tensor, target_C1: Tensor, space_CV: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient of the logits, perhaps in their memory; loss per token [C] FP32). `space_CV` is FP32 scratch."""
    p_CV = torch.softmax(logits_CV, dim=-1, dtype=torch.float32, out=space_CV)
    losses_C = _token_losses(p_CV, target_C1)
    p_CV.scatter_add_(1, target_C1, p_CV.new_full(target_C1.shape, -1.0))  # one index a row: order is free
    return logits_CV.copy_(p_CV), losses_C


_softmax_loss = compiled_from(_formula, _loop)(_passes)


def _has_wide_logits(hidden_TD: Tensor) -> bool:
    """Whether logits have a wider type than hidden states."""
    return hidden_TD.is_cuda and hidden_TD.dtype != torch.float32


def _logits(hidden_CD: Tensor, head_VD: Tensor, space_CV: Tensor | None = None) -> Tensor:
    """Logits [C, V]."""
    if _has_wide_logits(hidden_CD):
        return torch.mm(hidden_CD, head_VD.t(), out_dtype=torch.float32)
    return torch.mm(hidden_CD, head_VD.t(), out=space_CV)


def _sampled_logits(logits_CV: Tensor, temperature: float, kept: Kept | None) -> Tensor:
    """Logits of the distribution that was sampled: the same tensor by default, else FP32."""
    if temperature != 1.0:
        logits_CV = logits_CV.float().div_(temperature)
    return logits_CV if kept is None else kept.mask_left_out(logits_CV.float())


def _check(target_T: Tensor, weight_T: Tensor, temperature: float, kept: Kept | None) -> None:
    if not temperature > 0.0:
        raise ValueError(f"temperature {temperature}: must be above 0")
    if kept is None:
        return
    counts_T = kept.ends_T.diff(prepend=kept.ends_T.new_zeros(1))
    if len(counts_T) != len(target_T) or int(kept.ends_T[-1]) != len(kept.ids_N) or bool((counts_T < 0).any()):
        raise ValueError(
            f"kept ids of {len(counts_T)} tokens that end at {int(kept.ends_T[-1])}, for {len(target_T)} tokens and "
            f"{len(kept.ids_N)} ids: each token's ids must end where the next token's begin"
        )
    token_N = torch.arange(len(counts_T), device=counts_T.device).repeat_interleave(counts_T)
    found_T = counts_T == 0
    found_T[token_N[kept.ids_N == target_T[token_N]]] = True
    if bool(missing := (~found_T & (weight_T != 0)).nonzero().numel()):
        token = int((~found_T & (weight_T != 0)).nonzero()[0])
        raise ValueError(f"{missing} tokens are not among the ids that they were sampled from, the first is {token}")


Passes = Callable[[slice, Tensor], tuple[Tensor, Tensor]]
"""Of a chunk's tokens and its logits: their gradient before the scale, perhaps in their memory, and losses FP32 [C]."""


class _ThroughHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, head_VD: Tensor, weight_T: Tensor, scale: float, passes: Passes
    ) -> tuple[Tensor, Tensor]:
        for_hidden, for_head, *_ = ctx.needs_input_grad
        tokens, vocabulary = hidden_TD.shape[0], head_VD.shape[0]
        d_hidden_TD = torch.empty_like(hidden_TD) if for_hidden else None
        d_head_VD = torch.zeros(head_VD.shape, dtype=torch.float32, device=head_VD.device) if for_head else None
        total = torch.zeros((), dtype=torch.float32, device=hidden_TD.device)
        losses_T = torch.empty(tokens, dtype=torch.float32, device=hidden_TD.device)
        largest = weight_T.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        share_T1 = (weight_T / largest).unsqueeze(1)  # all 1 for equal weights: nothing is rounded
        chunk = min(tokens, chunk_tokens(vocabulary, hidden_TD.device))
        # All chunks share one space for logits, which stays in cache.
        logits_space = None if _has_wide_logits(hidden_TD) else hidden_TD.new_empty(chunk, vocabulary)
        for start in range(0, tokens, chunk):
            rows = slice(start, min(start + chunk, tokens))
            h_CD, share_C1 = hidden_TD[rows], share_T1[rows]
            logits_CV = _logits(h_CD, head_VD, None if logits_space is None else logits_space[: len(h_CD)])
            d_logits_CV, losses_T[rows] = passes(rows, logits_CV)
            d_logits_CV = d_logits_CV.to(head_VD.dtype)
            total += (losses_T[rows] * share_C1.squeeze(1)).sum()
            if d_hidden_TD is not None:
                torch.mm(d_logits_CV, head_VD, out=d_hidden_TD[rows])
            if d_head_VD is not None:
                d_head_VD += d_logits_CV.t() @ (h_CD * share_C1).to(h_CD.dtype)
        ctx.save_for_backward(d_hidden_TD, d_head_VD, share_T1, largest)
        ctx.head_dtype, ctx.scale = head_VD.dtype, scale
        ctx.mark_non_differentiable(losses_T)
        return total * largest, losses_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden_TD, d_head_VD, share_T1, largest = ctx.saved_tensors
        scale = g * largest * ctx.scale
        if d_hidden_TD is not None:
            # In FP32, rounded once: a scale rounded to BF16 would be off for all tokens alike.
            d_hidden_TD = (d_hidden_TD * (share_T1 * scale)).to(d_hidden_TD.dtype)
        if d_head_VD is not None:
            d_head_VD = (d_head_VD * scale).to(ctx.head_dtype)
        return d_hidden_TD, d_head_VD, None, None, None


def through_head(
    hidden_TD: Tensor, head_VD: Tensor, weight_T: Tensor, scale: float, passes: Passes
) -> tuple[Tensor, Tensor]:
    """(Weighted sum of a loss on logits, FP32 scalar; the tokens' own losses, FP32 [T] without graph).

    Args:
        hidden_TD: Final hidden states, of the head's type.
        head_VD: Output head.
        weight_T: Weights of the tokens, FP32; a negative one makes its token less likely.
        scale: Factor on the gradients of the logits that `passes` returns, which is applied in FP32.
        passes: The loss of a chunk.
    """
    both: tuple[Tensor, Tensor] = apply(_ThroughHead, hidden_TD, head_VD, weight_T, scale, passes)
    return both


def chunk_tokens(vocabulary: int, device: torch.device) -> int:
    """Tokens per chunk of logits for a vocabulary of this size."""
    return max(64, (CHUNK_ELEMENTS if device.type == "cpu" else GPU_CHUNK_ELEMENTS) // vocabulary)


def cross_entropy_of_tokens(
    hidden_TD: Tensor, head_VD: Tensor, target_T: Tensor, weight_T: Tensor, temperature: float = 1.0,
    kept: Kept | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(:func:`cross_entropy`; the tokens' own cross-entropies before their weights, FP32 [T] without graph)."""
    _check(target_T, weight_T, temperature, kept)
    tokens, vocabulary = len(hidden_TD), len(head_VD)
    chunk = min(tokens, chunk_tokens(vocabulary, hidden_TD.device))
    p_space = torch.empty(chunk, vocabulary, dtype=torch.float32, device=hidden_TD.device)

    def passes(rows: slice, logits_CV: Tensor) -> tuple[Tensor, Tensor]:
        some = None if kept is None else kept.of(rows.start, rows.stop)
        logits_CV = _sampled_logits(logits_CV, temperature, some)
        arguments = logits_CV, target_T[rows].unsqueeze(1), p_space[: len(logits_CV)]
        return _softmax_loss(*arguments) if kept is None else _passes(*arguments)  # the loop takes no infinities

    return through_head(hidden_TD, head_VD, weight_T, 1.0 / temperature, passes)


def counted(hidden_TD: Tensor, target_T: Tensor, weight_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of the tokens with a weight, or of one token where none has any.

    A token of weight 0 changes neither the loss nor a gradient, and costs as much in the head as any other.
    """
    row_C = weight_T.nonzero().squeeze(1)
    if len(row_C) == len(weight_T):
        return hidden_TD, target_T, weight_T
    row_C = row_C if len(row_C) else row_C.new_zeros(1)
    return hidden_TD[row_C], target_T[row_C], weight_T[row_C]


def cross_entropy(
    hidden_TD: Tensor, head_VD: Tensor, target_T: Tensor, weight_T: Tensor, temperature: float = 1.0,
    kept: Kept | None = None,
) -> Tensor:  # fmt: skip
    """Weighted sum of the tokens' cross-entropies in nats, as an FP32 scalar.

    Args:
        hidden_TD: Final hidden states (after the last norm), of the head's type.
        head_VD: Output head.
        target_T: Token ids, int64.
        weight_T: Weights, FP32; a negative one makes its token less likely; 1 / T each for the mean.
        temperature: Divisor of the logits, in FP32.
        kept: The ids over which each token's softmax is taken; None for the whole vocabulary.

    Raises ValueError: a temperature that is not above 0, or a token with weight that is not among its kept ids.
    """
    return cross_entropy_of_tokens(hidden_TD, head_VD, target_T, weight_T, temperature, kept)[0]


@torch.no_grad()
def token_losses(
    hidden_TD: Tensor, head_VD: Tensor, target_T: Tensor, temperature: float = 1.0, kept: Kept | None = None
) -> Tensor:
    """Cross-entropy of each token in nats, FP32 [T], a chunk at a time, without gradients.

    Arguments as for :func:`cross_entropy`; a token that is not among its kept ids has 87.3 nats.
    """
    chunk = chunk_tokens(head_VD.shape[0], head_VD.device)
    parts = []
    for start in range(0, hidden_TD.shape[0], chunk):
        rows = slice(start, min(start + chunk, len(hidden_TD)))
        some = None if kept is None else kept.of(rows.start, rows.stop)
        logits_CV = _sampled_logits(_logits(hidden_TD[rows], head_VD), temperature, some)
        p_CV = torch.softmax(logits_CV, dim=-1, dtype=torch.float32)
        parts.append(_token_losses(p_CV, target_T[rows].unsqueeze(1)))
    return torch.cat(parts)
