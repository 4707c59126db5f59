"""Soft labels: a teacher's likeliest next tokens with their probabilities, computed once for every window of the data.

A whole distribution a token is vocabulary x 4 bytes, while a few tokens hold nearly all of it. So for each position
the likeliest K tokens are kept, with the natural logarithms of their probabilities at the distillation's temperature,
and that of all others together (:class:`clearseek.ops.divergence.TopK`). Epochs then never run the teacher again.

``teacher-00000.safetensors`` and on hold ``ids`` (uint16, or int32 for more than 65,536 tokens) and ``logp`` (FP32),
both [windows, S, K], and ``rest`` (FP32) [windows, S], of windows in the order of the stream
(:mod:`clearseek.data.loader`).

Shapes: W windows, S positions, K tokens kept, V vocabulary, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from clearseek.data.loader import Ints, Stream
from clearseek.errors import UserError
from clearseek.files import atomic_file
from clearseek.ops.divergence import TopK
from clearseek.ops.loss import chunk_tokens
from clearseek.posttrain.teacher import Network

SHARD_BYTES = 256 * 2**20
"""Size at which a file is full."""
_TOKENS = 4096
"""Tokens that the teacher reads at once."""


def window_bytes(length: int, top_k: int, vocab_size: int) -> int:
    """Bytes of a window's soft labels."""
    return length * (top_k * (4 + (2 if vocab_size <= 1 << 16 else 4)) + 4)


def file_name(number: int) -> str:
    """Name of a file of soft labels."""
    return f"teacher-{number:05d}.safetensors"


@torch.no_grad()
def write_soft_labels(
    folder: Path, network: Network, stream: Stream, windows: int, length: int, top_k: int, temperature: float,
    progress: Callable[[int, int], None],
) -> list[str]:  # fmt: skip
    """Ask the teacher for the soft labels of every window; names of the files, each of which is whole or missing.

    Args:
        folder: Where to write; files that are there are taken as they are.
        network: The teacher.
        stream: Tokens of the training documents.
        windows: Number of windows of the stream.
        length: Tokens of a window (S).
        top_k: Likeliest tokens to keep (K).
        temperature: Divisor of the logits.
        progress: Called with the windows done, and with their number.
    """
    vocab_size, device = network.head_weight.shape[0], network.head_weight.device
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.int32
    per_file = max(1, SHARD_BYTES // window_bytes(length, top_k, vocab_size))
    names = []
    for number, first in enumerate(range(0, windows, per_file)):
        size, file = min(per_file, windows - first), folder / file_name(number)
        names.append(file.name)
        if not file.exists():
            ids_WSK, logp_WSK = np.empty((size, length, top_k), dtype), np.empty((size, length, top_k), np.float32)
            rest_WS = np.empty((size, length), np.float32)
            for rows in _parts(size, max(1, _TOKENS // length)):
                tokens_WS = np.stack([stream[(first + row) * length : (first + row + 1) * length] for row in rows])
                hidden_TD = network(torch.from_numpy(tokens_WS).to(device)).flatten(0, 1)
                best = likeliest(hidden_TD, network.head_weight, top_k, temperature)
                for kept, found in zip((ids_WSK, logp_WSK, rest_WS), best, strict=True):
                    part = kept[rows.start : rows.stop]
                    part[...] = found.cpu().numpy().reshape(part.shape)
                progress(first + rows.stop, windows)
            _save(file, {"ids": ids_WSK, "logp": logp_WSK, "rest": rest_WS})
        progress(first + size, windows)
    return names


@torch.no_grad()
def likeliest(hidden_TD: Tensor, head_VD: Tensor, top_k: int, temperature: float) -> TopK:
    """The likeliest next tokens by final hidden states and an output head, a chunk of tokens at a time."""
    chunk = chunk_tokens(head_VD.shape[0], head_VD.device)
    parts = [TopK.of(h_CD @ head_VD.T, top_k, temperature) for h_CD in hidden_TD.split(chunk)]
    return TopK(*map(torch.cat, zip(*parts, strict=True)))


class SoftLabels:
    """Soft labels on the disk, read window by window."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        """Open files that :func:`write_soft_labels` made. Raises UserError where one cannot be read."""
        self._files: list[list[Any]] = []
        starts = [0]
        for name in sorted(names):
            try:
                file: Any = safe_open(folder / name, framework="numpy")
                self._files.append([file.get_slice(part) for part in ("ids", "logp", "rest")])
            except (OSError, SafetensorError) as error:
                raise UserError(f"{folder / name}: not a readable file of soft labels: {error}") from None
            starts.append(starts[-1] + self._files[-1][0].get_shape()[0])
        self._starts = np.array(starts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, windows_B: Ints, device: torch.device) -> TopK:
        """Soft labels of some windows, one after the other."""
        numbers_B = np.searchsorted(self._starts, windows_B, side="right") - 1
        places = zip(numbers_B.tolist(), (windows_B - self._starts[numbers_B]).tolist(), strict=True)
        found = [[part[row] for part in self._files[number]] for number, row in places]
        ids_TK, logp_TK, rest_T = (np.concatenate(parts) for parts in zip(*found, strict=True))
        numbers = (torch.from_numpy(each) for each in (ids_TK.astype(np.int64), logp_TK, rest_T))
        return TopK(*(each.to(device) for each in numbers))


def _parts(size: int, most: int) -> Iterator[range]:
    for first in range(0, size, most):
        yield range(first, min(first + most, size))


def _save(file: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with atomic_file(file, sum(array.nbytes for array in arrays.values())) as out:
        out.write(save(arrays))
