"""The next token from its logits: a function of the logits, the settings, the text so far, and nothing else.

A token is drawn by the Gumbel-max rule: the largest of ``logit / temperature + noise``, where each token's noise is a
function of seed, position and token. The draw at a position is therefore the same whether the position was reached
token by token or as the check of a draft. A draft that is drawn with the same noise often agrees, and never changes an
answer: speculative decoding here is exact in every token, not only in distribution (the coupling of Daliri et al.,
"Coupling without communication and drafter-invariant speculative decoding", arXiv 2408.07978).

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clearseek.errors import UserError
from clearseek.inference.request import Settings

Logits = NDArray[np.float32]
Numbers = NDArray[np.float64]
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit of a number depends on all of them."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def noise(seed: int, position: int, tokens: NDArray[np.int64]) -> Numbers:
    """Gumbel noise of some tokens at a position, FP64: ``-ln(-ln(u))`` for uniform u."""
    stream = np.array([seed * _GOLDEN & _MASK], dtype=np.uint64)
    place = _mixed(_mixed(stream) + np.uint64((position + 1) * _GOLDEN & _MASK))
    bits = _mixed(place + (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)) >> np.uint64(11)
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-53
    result: Numbers = -np.log(-np.log(uniform))
    return result


def adjusted(logits_V: Logits, settings: Settings, tokens: Sequence[int], begin: int) -> Logits:
    """Logits after penalties and biases; the array itself where there are none.

    `tokens` are the prompt's and, from `begin` on, the answer's.
    """
    s, size = settings, len(logits_V)
    plain = s.repetition_penalty == 1 and not s.presence_penalty and not s.frequency_penalty and not s.logit_bias
    if plain:
        return logits_V
    logits_V = logits_V.copy()
    if s.repetition_penalty != 1:
        seen = np.unique(np.array(tokens, dtype=np.int64))
        values = logits_V[seen]
        factor = np.float32(s.repetition_penalty)
        logits_V[seen] = np.where(values > 0, values / factor, values * factor)
    if s.presence_penalty or s.frequency_penalty:
        for token, times in Counter(tokens[begin:]).items():
            logits_V[token] -= np.float32(s.presence_penalty + s.frequency_penalty * times)
    for token, bias in s.logit_bias.items():
        if 0 <= token < size:
            logits_V[token] += np.float32(bias)
    return logits_V


def pick(logits_V: Logits, settings: Settings, position: int) -> int:
    """Draw the token of a position from its logits, which :func:`adjusted` has prepared.

    Raises UserError when no logit is finite or the largest is NaN.
    """
    most = logits_V.max()
    if not np.isfinite(most):
        raise UserError("the model's output is not finite: its weights are damaged or its training diverged")
    if settings.temperature == 0:
        return int(logits_V.argmax())
    kept, scaled = _kept((logits_V.astype(np.float64) - most) / settings.temperature, settings)
    return int(kept[np.argmax(scaled + noise(settings.seed, position, kept))])


def _kept(scaled_V: Numbers, settings: Settings) -> tuple[NDArray[np.int64], Numbers]:
    """Tokens that top-k, min-p and top-p leave, and their logits less the largest."""
    tokens = np.arange(len(scaled_V))
    if settings.min_p > 0:
        tokens = tokens[scaled_V >= np.log(settings.min_p)]
    if 0 < settings.top_k < len(tokens) or settings.top_p < 1:
        tokens = tokens[np.argsort(-scaled_V[tokens], kind="stable")]
        if settings.top_k:
            tokens = tokens[: settings.top_k]
        if settings.top_p < 1:
            p = np.exp(scaled_V[tokens])
            before = np.cumsum(p) - p
            tokens = tokens[before < settings.top_p * p.sum()]
    return tokens, scaled_V[tokens]


def log_probabilities(logits_V: Logits) -> Numbers:
    """Natural logarithms of the model's own probabilities, FP64 [V]."""
    wide_V = logits_V.astype(np.float64)
    wide_V -= wide_V.max()
    result: Numbers = wide_V - np.log(np.exp(wide_V).sum())
    return result
