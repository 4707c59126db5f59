"""Bits per byte: a measure of how well a model predicts text that does not depend on its tokenizer.

Bits per byte are the summed cross-entropy of every held-out token, in bits, over the bytes of the held-out documents:
the size to which an arithmetic coder driven by the model would compress them. So any compressor of the same bytes can
be compared (Gao et al., "The Pile", 2020, section 3.1); ``gzip`` and ``xz`` are the yardsticks.

Windows overlap by half, and only the second half of each counts (all of the first window), so that every token is
predicted from at least half a window of context.
"""

from __future__ import annotations

import gzip
import lzma
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.loss import token_losses


class Tokens(Protocol):
    """Stream of token ids: an array, or shards on the disk (`clearseek.data.loader.Stream`)."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> NDArray[Any]: ...


@runtime_checkable
class Spread(Protocol):
    """A model that several processes have, or have parts of; all call alike."""

    @property
    def at_once(self) -> int:
        """Batches that are computed side by side."""

    def nats(self, batch: Callable[[int], tuple[Tensor, Tensor]], count: int, /) -> list[float]:
        """Summed cross-entropy of each of at most `at_once` batches, given inputs and targets of each by its number."""


@torch.no_grad()
def nats_of(model: DeepSeekModel, input_BS: Tensor, target_BS: Tensor) -> float:
    """Summed cross-entropy of the targets that are not negative; both int64, on the CPU."""
    return target_nats(model, model(input_BS.to(model.head_weight.device)), target_BS)


def target_nats(model: DeepSeekModel, hidden_BSD: Tensor, target_BS: Tensor) -> float:
    """Summed cross-entropy of the targets that are not negative, from final hidden states."""
    target_T = target_BS.to(hidden_BSD.device).flatten()
    counted = (target_T >= 0).nonzero().squeeze(1)
    losses = token_losses(hidden_BSD.flatten(0, 1)[counted], model.head_weight, target_T[counted])
    return losses.double().sum().item()


def held_out_bits(
    model: DeepSeekModel | Spread,
    tokens: Tokens,
    window: int,
    batch: int = 32,
    windows: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, int]:
    """Total cross-entropy of a token stream.

    Args:
        model: The model, or a part of it.
        tokens: Token ids, read window by window; all but the first are predicted.
        window: Tokens the model sees at once.
        batch: Windows per forward pass.
        windows: Indices of the windows to take (see :func:`window_count`); all by default.
        progress: Called with the number of windows done and of all windows, before the first as well.

    Returns:
        Bits, and tokens predicted.
    """
    chosen = range(window_count(len(tokens), window)) if windows is None else windows
    batches = [chosen[first : first + batch] for first in range(0, len(chosen), batch)]
    at_once = model.at_once if isinstance(model, Spread) else 1
    nats, done, told = 0.0, 0, progress or (lambda done, total: None)
    told(0, len(chosen))
    for first in range(0, len(batches), at_once):
        these = batches[first : first + at_once]
        batch_of = partial(_batch, tokens, window, these)
        found = model.nats(batch_of, len(these)) if isinstance(model, Spread) else [nats_of(model, *batch_of(0))]
        for each in found:
            nats += each
        done += sum(map(len, these))
        told(done, len(chosen))
    return nats / math.log(2), sum(_fresh(index, len(tokens), window)[1] for index in chosen)


def _batch(tokens: Tokens, window: int, batches: Sequence[Sequence[int]], number: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of the windows of a batch, [windows, window]; targets that do not count are -1."""
    chosen = batches[number]
    inputs = np.zeros((len(chosen), window), dtype=np.int64)
    targets = np.full((len(chosen), window), -1, dtype=np.int64)
    for row, index in enumerate(chosen):
        start = index * max(1, window // 2)
        piece = np.asarray(tokens[start : start + window + 1], dtype=np.int64)
        inputs[row, : len(piece) - 1] = piece[:-1]
        fresh, _ = _fresh(index, len(tokens), window)
        targets[row, fresh : len(piece) - 1] = piece[1 + fresh :]
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def _fresh(index: int, tokens: int, window: int) -> tuple[int, int]:
    """First position of a window that counts, and how many do."""
    stride = max(1, window // 2)
    first = 0 if index == 0 else window - stride
    return first, max(0, min(window, tokens - 1 - index * stride) - first)


def bits_per_byte(
    model: DeepSeekModel | Spread, tokens: Tokens, size: int, window: int, windows: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> float:  # fmt: skip
    """Bits per byte of a token stream of `size` bytes, from some of its windows or all; see :func:`held_out_bits`."""
    return per_byte([held_out_bits(model, tokens, window, windows=windows, progress=progress)], tokens, size)


def every_window(model: DeepSeekModel, tokens: Tokens, window: int) -> list[tuple[float, int]]:
    """Bits and tokens predicted of each window by itself, so that anyone can check a single window."""
    return [held_out_bits(model, tokens, window, windows=[index]) for index in range(window_count(len(tokens), window))]


def per_byte(windows: Sequence[tuple[float, int]], tokens: Tokens, size: int) -> float:
    """Bits per byte of a token stream of `size` bytes, from bits and tokens predicted of some of its windows."""
    bits, predicted = sum(bits for bits, _ in windows), sum(number for _, number in windows)
    return bits / predicted * (len(tokens) - 1) / size


def window_count(tokens: int, window: int) -> int:
    """Number of half-overlapping windows that predict every token but the first of a stream of `tokens`."""
    stride = max(1, window // 2)
    if tokens < 2:
        return 0
    return 1 if tokens <= window + 1 else 1 + -(-(tokens - 1 - window) // stride)


def compressed_bits_per_byte(data: bytes) -> dict[str, float]:
    """Bits per byte of ``gzip -9`` and ``xz -9 -e`` on the same bytes; empty for no bytes."""
    if not data:
        return {}
    return {
        "gzip -9": 8 * len(gzip.compress(data, 9, mtime=0)) / len(data),
        "xz -9 -e": 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data),
    }
