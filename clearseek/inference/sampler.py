"""Text generation, one token at a time, with a cache of latents.

The prompt goes through the model once; then each step feeds one token, and the layers read from their caches a latent
and one rotary key per earlier token (DeepSeek-V2 report, section 2.1).

Shapes: S prompt tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clearseek.errors import UserError
from clearseek.model.transformer import DeepSeekModel


@dataclass(frozen=True)
class Sampling:
    """Settings by which the next token is drawn."""

    temperature: float = 0.8
    """Divisor of the logits; 0 takes the likeliest token."""
    top_p: float = 0.95
    """Probability that the fewest likeliest tokens, which are drawn from, must hold."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature = {self.temperature}: use a number from 0 up")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p = {self.top_p}: use a number above 0 and up to 1")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed = {self.seed}: use a whole number from 0 to 2^63 - 1")


@torch.no_grad()
def generate(
    model: DeepSeekModel, prompt: Sequence[int], max_tokens: int, sampling: Sampling, stop: frozenset[int] = frozenset()
) -> Iterator[int]:
    """Yield up to `max_tokens` new tokens, ending before one in `stop` or at the model's longest sequence.

    Args:
        model: The model.
        prompt: Token ids, at least one, shorter than the model's `max_position_embeddings`.
        max_tokens: Most tokens to draw.
        sampling: How to draw.
        stop: Tokens that end the text; they are not yielded.

    Raises:
        UserError: the prompt is empty or fills the model's context.
    """
    longest = model.config.max_position_embeddings
    if not prompt:
        raise UserError("the prompt is empty: give at least one token")
    if len(prompt) >= longest:
        raise UserError(f"the prompt has {len(prompt)} tokens, but the model sees at most {longest}: shorten it")
    device = model.head_weight.device
    draw = torch.Generator().manual_seed(sampling.seed)
    caches = model.new_caches()
    tokens = torch.tensor([list(prompt)], dtype=torch.int64, device=device)
    for _ in range(min(max_tokens, longest - len(prompt))):
        hidden_D = model(tokens, caches)[0, -1]
        token = pick((model.head_weight @ hidden_D).float().cpu(), sampling, draw)
        if token in stop:
            return
        yield token
        tokens = torch.tensor([[token]], dtype=torch.int64, device=device)


def pick(logits_V: Tensor, sampling: Sampling, draw: torch.Generator) -> int:
    """Draw one token from FP32 logits [V] by temperature and top-p.

    Raises UserError when a logit is NaN or none is finite.
    """
    most = logits_V.max()
    if not most.isfinite():
        raise UserError("the model's output is not finite: its weights are damaged or its training diverged")
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    # FP64, less the largest logit, in falling order: no temperature overflows, and long sums stay exact enough.
    p_V = ((logits_V.double() - most) / sampling.temperature).softmax(-1)
    p_V, index_V = p_V.sort(descending=True, stable=True)
    if sampling.top_p < 1:
        p_V[1:].masked_fill_(p_V.cumsum(-1)[:-1] >= sampling.top_p, 0.0)
    return int(index_V[torch.multinomial(p_V, 1, generator=draw)])
