"""The next token from its logits: a function of the logits, the settings, the text so far, and nothing else.

A token is drawn by the Gumbel-max rule: the largest of ``logit / temperature + noise``, where each token's noise is a
function of seed, position and token. The draw at a position is therefore the same whether the position was reached
token by token or as the check of a draft. A draft that is drawn with the same noise often agrees, and never changes an
answer: speculative decoding here is exact in every token, not only in distribution (the coupling of Daliri et al.,
"Coupling without communication and drafter-invariant speculative decoding", arXiv 2408.07978).

Exponentials and logarithms are those of :mod:`clearseek.kernels.draws`, which have the same bits on every processor.
Without numba they are NumPy's, whose bits depend on the processor's instructions (:func:`draws`).

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from clearseek.errors import UserError
from clearseek.inference.request import Settings
from clearseek.kernels import launch

Logits = NDArray[np.float32]
Numbers = NDArray[np.float64]
Whole = NDArray[np.int64]
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_NOT_FINITE = "the model's output is not finite: its weights are damaged or its training diverged"
_DEPTHS = 3.0, 6.0, 12.0
"""How far below the largest logit top-p looks first, so that it sorts few tokens; they change no result."""


def draws() -> str:
    """What decides the bits of exponentials and logarithms here, besides their argument."""
    if launch.unavailable() is None:
        return "loops-1"
    try:
        from numpy.lib.introspect import opt_func_info
    except ImportError:  # before NumPy 2.1
        return f"numpy {np.__version__}, unknown instructions"
    found = opt_func_info(func_name="^(exp|log)$", signature="float64")
    codes = sorted({code["current"] for kinds in found.values() for code in kinds.values()})
    return f"numpy {np.__version__}, {' '.join(codes) or 'baseline'}"


def _loop(name: str, *arguments: NDArray[Any] | float) -> None:
    """Run a loop on this thread alone: a second thread would take longer to wake than it saves."""
    words = (each.ctypes.data if isinstance(each, np.ndarray) else each for each in arguments)
    launch.run([launch.Call(f"draws.{name}", 1, *words)], threads=1)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit of a number depends on all of them."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def noise(seed: int, position: int, tokens: Whole) -> Numbers:
    """Gumbel noise of some tokens at a position, FP64: ``-ln(-ln(u))`` for uniform u."""
    if launch.unavailable() is None:
        tokens = np.ascontiguousarray(tokens, dtype=np.int64)
        result: Numbers = np.empty(len(tokens))
        _loop("noise", seed, position, tokens, result, len(tokens))
        return result
    stream = np.array([seed * _GOLDEN & _MASK], dtype=np.uint64)
    place = _mixed(_mixed(stream) + np.uint64((position + 1) * _GOLDEN & _MASK))
    bits = _mixed(place + (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)) >> np.uint64(11)
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-53
    result = -np.log(-np.log(uniform))
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
        raise UserError(_NOT_FINITE)
    if settings.temperature == 0:
        return int(logits_V.argmax())
    scaled_V = (logits_V.astype(np.float64) - most) / settings.temperature
    kept = _kept(scaled_V, settings)
    scaled = scaled_V if kept is None else scaled_V[kept]
    index = _largest(scaled, settings.seed, position, kept)
    return index if kept is None else int(kept[index])


class Draws(NamedTuple):
    """Tokens drawn for several rows."""

    tokens: Whole
    logp: Numbers
    """Natural logarithms of their probabilities in the distributions that they were drawn from."""
    kept: list[Whole] | None
    """Tokens that filters left in each row; None where there are no filters."""


def draw_rows(
    logits_UV: Logits, settings: Settings, seed_R: Whole, position_R: Whole, row_R: Whole | None = None
) -> Draws:
    """Draw a token for each row, as :func:`pick` does with the row's own seed and position.

    Where several draws have the same logits, `row_R` is the number in `logits_UV` of each draw's; those of a row side
    by side share its exponentials.

    Raises UserError where logits are not finite.
    """
    s, rows, size = settings, len(seed_R), logits_UV.shape[1]
    row_R = np.arange(rows) if row_R is None else row_R
    assert not rows or 0 <= row_R.min() <= row_R.max() < len(logits_UV)
    if s.temperature == 0 or s.top_p < 1 or s.top_k or s.min_p or launch.unavailable() is not None:
        each = [
            _draw_row(logits_UV[row], replace(s, seed=int(seed)), position)
            for row, seed, position in zip(row_R, seed_R, position_R, strict=True)
        ]
        filtered = s.temperature == 0 or s.top_p < 1 or s.top_k or s.min_p
        tokens, logp = np.array([one[0] for one in each]), np.array([one[1] for one in each])
        return Draws(tokens, logp, [one[2] for one in each] if filtered else None)
    tokens, logp = np.empty(rows, dtype=np.int64), np.empty(rows)
    threads = torch.get_num_threads()
    scratch = np.empty((threads, 2, size))
    words = [
        np.ascontiguousarray(seed_R),
        np.ascontiguousarray(position_R),
        np.ascontiguousarray(row_R),
        np.ascontiguousarray(logits_UV),
        size,
        float(s.temperature),
        scratch,
        tokens,
        logp,
    ]
    found = [each.ctypes.data if isinstance(each, np.ndarray) else each for each in words]
    launch.run([launch.Call("draws.rows", rows, *found)], threads)
    if not np.isfinite(logp).all():
        raise UserError(_NOT_FINITE)
    return Draws(tokens, logp, None)


def _draw_row(logits_V: Logits, settings: Settings, position: int) -> tuple[int, float, Whole]:
    """A row's token, its log-probability, and the tokens that it was drawn from."""
    token = pick(logits_V, settings, int(position))
    if settings.temperature == 0:
        return token, 0.0, np.array([token])
    scaled_V = (logits_V.astype(np.float64) - logits_V.max()) / settings.temperature
    kept = _kept(scaled_V, settings)
    kept = np.arange(len(scaled_V)) if kept is None else np.sort(kept)
    return token, float(scaled_V[token]) - _logarithm(_exponentials(scaled_V[kept])[1]), kept


def _largest(scaled: Numbers, seed: int, position: int, kept: Whole | None) -> int:
    """Index of the largest sum of logit and noise."""
    if launch.unavailable() is None:
        found: Whole = np.empty(1, dtype=np.int64)
        _loop("pick", seed, position, 0 if kept is None else kept, scaled, len(scaled), found)
        return int(found[0])
    return int(np.argmax(scaled + noise(seed, position, np.arange(len(scaled)) if kept is None else kept)))


def _kept(scaled_V: Numbers, settings: Settings) -> Whole | None:
    """Tokens that min-p, top-k and top-p leave, of logits less the largest; None for all."""
    kept = None
    if settings.min_p > 0:
        kept = np.flatnonzero(scaled_V >= _logarithm(settings.min_p))
    if 0 < settings.top_k < (len(scaled_V) if kept is None else len(kept)):
        best = likeliest(scaled_V if kept is None else scaled_V[kept], settings.top_k)
        kept = best if kept is None else kept[best]
    if settings.top_p < 1:
        best = _nucleus(scaled_V if kept is None else scaled_V[kept], settings.top_p)
        kept = best if kept is None else kept[best]
    return kept


def likeliest(numbers: Numbers, count: int) -> Whole:
    """Indices of the largest numbers, falling; of equal numbers the first comes first."""
    few = np.arange(len(numbers))
    if 0 < count < len(numbers):
        place = len(numbers) - count
        few = np.flatnonzero(numbers >= np.partition(numbers, place)[place])
    return few[np.argsort(-numbers[few], kind="stable")[:count]]


def _nucleus(scaled: Numbers, top_p: float) -> Whole:
    """Indices of the fewest likeliest tokens that hold this probability, falling."""
    p, total = _exponentials(scaled)
    for depth in (*_DEPTHS, np.inf):
        few = np.flatnonzero(scaled >= -depth)
        few = few[np.argsort(-scaled[few], kind="stable")]
        held = np.cumsum(p[few])
        if held[-1] >= top_p * total:
            break
    return few[: np.searchsorted(held, top_p * total) + 1]


def _exponentials(x: Numbers) -> tuple[Numbers, float]:
    """e^x for x <= 0, and the sum."""
    if launch.unavailable() is not None:
        p: Numbers = np.exp(x)
        return p, float(p.sum())
    p, total = np.empty(len(x)), np.empty(1)
    _loop("exponentials", x, p, total, len(x))
    return p, float(total[0])


def _logarithm(x: float) -> float:
    if launch.unavailable() is not None:
        return float(np.log(x))
    found = np.array([x])
    _loop("logarithms", found, found, 1)
    return float(found[0])


def log_probabilities(logits_V: Logits) -> Numbers:
    """Natural logarithms of the model's own probabilities, FP64 [V]."""
    if launch.unavailable() is None:
        logits_V = np.ascontiguousarray(logits_V, dtype=np.float32)
        result, scratch = np.empty((2, len(logits_V)))
        _loop("log_probabilities", logits_V, float(logits_V.max()), result, scratch, len(logits_V))
        return result
    wide_V = logits_V.astype(np.float64)
    wide_V -= wide_V.max()
    wide_V -= np.log(np.exp(wide_V).sum())
    return wide_V


def weigh_rows(logits_WV: Logits, row_C: Whole, token_C: Whole) -> tuple[Numbers, NDArray[np.bool_]]:
    """Log-probability of each token in its row of logits, as :func:`log_probabilities` gives it, and whether the token
    is the row's likeliest, of equals the first. Tokens of a row stand side by side, which saves time.

    Raises UserError where logits are not finite.
    """
    logp, first = np.empty(len(row_C)), np.empty(len(row_C), dtype=np.int64)
    if launch.unavailable() is None:
        threads, size = torch.get_num_threads(), logits_WV.shape[1]
        words = [
            np.ascontiguousarray(row_C), np.ascontiguousarray(token_C), np.ascontiguousarray(logits_WV), size,
            np.empty((threads, 2, size)), logp, first,
        ]  # fmt: skip
        found = [each.ctypes.data if isinstance(each, np.ndarray) else each for each in words]
        launch.run([launch.Call("draws.weigh", len(row_C), *found)], threads)
    else:
        for row in np.unique(row_C):
            of, logits_V = row_C == row, logits_WV[row]
            first[of] = logits_V.argmax()
            logp[of] = log_probabilities(logits_V)[token_C[of]] if np.isfinite(logits_V.max()) else np.nan
    if np.isnan(logp).any():
        raise UserError(_NOT_FINITE)
    return logp, first == token_C
