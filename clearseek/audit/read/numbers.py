"""Numbers of matrices, sampled in the same places of different checkpoints, so that their distances can be taken."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clearseek.audit.read.source import Source
from clearseek.errors import UserError
from clearseek.hub.safetensors import DTYPE_BYTES, Entry

Tensors = Mapping[str, tuple[str, Entry]]
"""Tensor -> its file and its entry."""
ELEMENTS: Final = 2_048
"""Read of a matrix at its beginning, its middle and its end."""
_PIECE: Final = 4_096
_AT_ONCE: Final = 1 << 26
"""Bytes of a tensor that are read where it is sampled, and at once where it is read whole."""
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
    count = entry.size // width
    starts = (0,) if count <= 3 * ELEMENTS else (0, count // 2, count - ELEMENTS)
    length = count if len(starts) == 1 else ELEMENTS
    raw = b"".join(source.read(file, length * width, entry.begin + start * width) for start in starts)
    return _decoded(raw[: len(raw) // width * width], entry.dtype)


def fingerprint(source: Source, tensors: Tensors, most: int | None = None) -> bytes:
    """A hash of what tensors hold, whatever they and their files are called. Raises UserError.

    With `most`, of pieces of that many of them, spread evenly from the largest to the smallest.
    """
    ordered = sorted(tensors.values(), key=lambda each: (-each[1].size, each[1].dtype, each[1].shape, each[1].name))
    chosen = ordered if most is None else ordered[:: max(1, -(-len(ordered) // most))]
    held = sorted(
        f"{entry.dtype} {entry.shape} {_hash(source, file, entry, most is not None)}" for file, entry in chosen
    )
    return hashlib.sha256("\n".join(held).encode()).digest()


def _hash(source: Source, file: str, entry: Entry, sampled: bool) -> str:
    """SHA-256 of a tensor's bytes, or of its beginning, middle and end."""
    digest = hashlib.sha256()
    for begin, end in _spans(entry, sampled):
        raw = source.read(file, end - begin, begin)
        if len(raw) != end - begin:
            raise UserError(f"{file}: {entry.name} is cut off")
        digest.update(raw)
    return digest.hexdigest()


def _spans(entry: Entry, sampled: bool) -> Iterator[tuple[int, int]]:
    """First byte and the byte after the last, in the file."""
    begin, end = entry.begin, entry.begin + entry.size
    if not sampled or entry.size <= 3 * _PIECE:
        for start in range(begin, end, _AT_ONCE):
            yield start, min(start + _AT_ONCE, end)
        return
    for start in (begin, begin + entry.size // 2, end - _PIECE):
        yield start, start + _PIECE


def _decoded(raw: bytes, dtype: str) -> NDArray[np.float32]:
    """FP32 values, NaN and infinity as 0."""
    if dtype == "BF16":
        values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(raw, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype(np.float32)
    return np.where(np.isfinite(values), values, np.float32(0))
