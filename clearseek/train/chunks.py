"""Sums and hashes over fixed chunks of tensors, the same however the tensors are shared out among processes.

Every tensor is cut into chunks of 65,536 elements in its own order. What is added over all weights (the gradient's
norm) is added chunk by chunk, and what stands for all weights (their hash) is a tree whose leaves are the chunks: a
process that holds some of the chunks computes its part, and the whole has the same bits on one process or a hundred.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clearseek.parts import CHUNK

ALIGNED = 16
"""Bytes that a GPU's vector loads begin at a multiple of."""


def chunks(tensor: Tensor) -> Sequence[Tensor]:
    """The chunks of a tensor, views where it is contiguous; the last may be shorter."""
    parts: Sequence[Tensor] = tensor.detach().reshape(-1).split(CHUNK)
    return parts


def chunk_norms(gradients: Iterable[Tensor]) -> Tensor:
    """L2 norm of each chunk, FP32 [chunks].

    Views that begin anywhere in a memory are copied: a GPU adds what is not aligned to 16 bytes in another order.
    """
    aligned = (each.clone() if each.data_ptr() % ALIGNED else each for each in gradients)
    parts = [chunk for gradient in aligned for chunk in chunks(gradient)]
    return torch.stack(torch._foreach_norm(parts)) if parts else torch.zeros(0)


def total_norm(norms: NDArray[np.float32]) -> float:
    """Norm of the whole: the chunks' squares added in FP64, one after the other."""
    squares = norms.astype(np.float64)
    squares *= squares
    np.add.accumulate(squares, out=squares)  # a running sum, where `sum` would add in pairs
    return math.sqrt(squares[-1]) if len(squares) else 0.0


def gradient_norm(gradients: Iterable[Tensor]) -> float:
    """Global L2 norm: each chunk's norm in FP32, and their squares added in FP64, in order."""
    return total_norm(chunk_norms(gradients).cpu().numpy())


def hash_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of named tensors, which depends on their names and contents alone, not on order, layout or device.

    In the order of names, each gives a JSON line ``[name, dtype, shape]`` and then the SHA-256 of the little-endian
    bytes of each of its chunks. Works for every dtype, BF16 and FP8 included.
    """
    digest = hashlib.sha256()
    for described, tensor in _in_order(tensors):
        digest.update(described)
        digest.update(chunk_digests(tensor))
    return digest.hexdigest()


def chunk_digests(tensor: Tensor) -> bytes:
    """SHA-256 of each chunk's little-endian bytes, one after the other."""
    return b"".join(hashlib.sha256(_bytes(chunk)).digest() for chunk in chunks(tensor))


def describe(name: str, dtype: torch.dtype, shape: Sequence[int]) -> str:
    """The line that stands for a tensor in a hash, before its contents."""
    return json.dumps([name, str(dtype).removeprefix("torch."), list(shape)], separators=(",", ":")) + "\n"


def flat_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The hash of transcripts of format 1: the bytes of each tensor themselves instead of their chunks' hashes."""
    digest = hashlib.sha256()
    for described, tensor in _in_order(tensors):
        digest.update(described)
        digest.update(_bytes(tensor.detach().reshape(-1)))
    return digest.hexdigest()


def _in_order(tensors: Iterable[tuple[str, Tensor]]) -> Iterable[tuple[bytes, Tensor]]:
    assert sys.byteorder == "little"
    previous: str | None = None
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        assert name != previous, f"two tensors are called {name}"
        previous = name
        yield describe(name, tensor.dtype, tensor.shape).encode(), tensor


def _bytes(flat: Tensor) -> memoryview:
    return flat.cpu().contiguous().view(torch.uint8).numpy().data
