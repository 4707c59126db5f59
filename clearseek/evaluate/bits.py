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
    """A model of which this process has a part; all processes that have parts call alike."""

    def nats(self, input_BS: Tensor, target_BS: Tensor, /) -> float:
        """Summed cross-entropy of the targets that are not negative; both int64, on the CPU."""


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
    stride = max(1, window // 2)
    chosen = range(window_count(len(tokens), window)) if windows is None else windows
    of = model.nats if isinstance(model, Spread) else partial(nats_of, model)
    nats, predicted, told = 0.0, 0, progress or (lambda done, total: None)
    told(0, len(chosen))
    for first in range(0, len(chosen), batch):
        part = chosen[first : first + batch]
        inputs = np.zeros((len(part), window), dtype=np.int64)
        targets = np.full((len(part), window), -1, dtype=np.int64)
        for row, index in enumerate(part):
            start = index * stride
            piece = np.asarray(tokens[start : start + window + 1], dtype=np.int64)
            inputs[row, : len(piece) - 1] = piece[:-1]
            fresh = 0 if index == 0 else window - stride
            targets[row, fresh : len(piece) - 1] = piece[1 + fresh :]
        nats += of(torch.from_numpy(inputs), torch.from_numpy(targets))
        predicted += int((targets >= 0).sum())
        told(first + len(part), len(chosen))
    return nats / math.log(2), predicted


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
