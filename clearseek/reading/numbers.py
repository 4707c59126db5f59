"""Numbers of matrices, sampled in the same places of different checkpoints, so that their distances can be taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clearseek.hub.safetensors import DTYPE_BYTES, Entry, tensor_bytes
from clearseek.reading.source import Source

Tensors = Mapping[str, tuple[str, Entry]]
"""Tensor -> its file and its entry."""
ELEMENTS: Final = 2_048
"""Read of a matrix at its beginning, its middle and its end."""
_FLOATS = ("BF16", "F16", "F32", "F64")


def matrices(*held: Tensors, most: int) -> list[str]:
    """Up to `most` matrices that all of `held` have in the same shape and as plain floats, spread evenly."""
    first, *others = held
    names = [
        name
        for name, (_, entry) in first.items()
        if len(entry.shape) == 2
        and min(entry.shape) > 1
        and entry.dtype in _FLOATS
        and all(
            name in each and each[name][1].shape == entry.shape and each[name][1].dtype in _FLOATS for each in others
        )
    ]
    return names[:: max(1, -(-len(names) // max(most, 1)))]


def numbers(source: Source, tensors: Tensors, name: str) -> NDArray[np.float32]:
    """The sampled numbers of a matrix. Raises UserError where they cannot be read."""
    file, entry = tensors[name]
    width = DTYPE_BYTES[entry.dtype]
    raw = b"".join(tensor_bytes(source.read, file, entry, ELEMENTS * width))
    return _decoded(raw[: len(raw) // width * width], entry.dtype)


def _decoded(raw: bytes, dtype: str) -> NDArray[np.float32]:
    """FP32 values, NaN and infinity as 0."""
    if dtype == "BF16":
        values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(raw, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype(np.float32)
    return np.where(np.isfinite(values), values, np.float32(0))
