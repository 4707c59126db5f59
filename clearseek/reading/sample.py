"""A look at the numbers: pieces of tensors, spread over a checkpoint, read as what they are.

A checkpoint of 700 GB cannot be read in seconds, but a damaged or padded one shows in samples: NaN or infinity, a
matrix that is one number, two matrices with the same content. Small releases are read whole. Needs NumPy alone.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from clearseek.hub.safetensors import DTYPE_BYTES, Entry, tensor_bytes
from clearseek.reading.evidence import Evidence
from clearseek.reading.subject import Subject, is_buffer

PIECE_BYTES = 65_536
"""Read of a tensor: this much at its beginning, its middle and its end, or all if it is smaller than the three."""


@dataclass(frozen=True)
class Sample:
    """What the look found."""

    tensors: int
    bytes: int
    whole: bool
    """Whether every number was read."""
    problems: tuple[str, ...]
    where: tuple[Evidence, ...]
    """Places of the problems, in their order."""
    places: tuple[tuple[str, int, int], ...]
    """File, first byte and the byte after the last, of some pieces."""


def take_sample(subject: Subject) -> Sample:
    """Read pieces of as many tensors as the source affords, spread evenly, or everything of a small release."""
    stored = list(subject.weights.tensors.values())
    whole = sum(entry.size for _, entry in stored) <= subject.source.whole_bytes
    piece = None if whole else PIECE_BYTES
    chosen = stored[:: 1 if whole else -(-len(stored) // subject.source.most_samples)]
    problems: list[tuple[str, Evidence]] = []
    seen: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    places: list[tuple[str, int, int]] = []
    read = 0
    for file, entry in chosen:
        raw, pieces = b"".join(tensor_bytes(subject.source.read, file, entry, piece)), entry.spans(piece)
        read += len(raw)
        what = "cut off"
        if len(raw) == sum(end - begin for begin, end in pieces):
            places += [(file, begin, end) for begin, end in pieces]
            what = _wrong(entry, raw) or _copied(entry, raw, seen)
        if what:
            place = Evidence(file, f"bytes {entry.begin}-{entry.begin + entry.size - 1}")
            problems.append((f"{entry.name}: {what}", place))
    messages, where = tuple(message for message, _ in problems), tuple(place for _, place in problems)
    return Sample(len(chosen), read, whole, messages, where, tuple(places))


_ENDS = re.compile(
    r".*(?:^|\.)(?:embed_tokens|shared_head\.head)\.weight"
    r"|(?:[a-z_]+\.)*(?:lm_head|wte|embed_in|embed_out|word_embeddings|tok_embeddings|output|shared|decoder)\.weight"
)
"""Embedding and head may be tied, and the MTP layer repeats both by design."""


def _copied(entry: Entry, raw: bytes, seen: dict[tuple[str, tuple[int, ...], bytes], str]) -> str:
    """What other tensor has these numbers, as a sentence."""
    if len(entry.shape) < 2 or entry.size < 512 or _may_be_plain(entry):
        return ""
    twin = seen.setdefault((entry.dtype, entry.shape, hashlib.sha256(raw).digest()), entry.name)
    tied = _ENDS.fullmatch(twin) and _ENDS.fullmatch(entry.name)
    return "" if twin == entry.name or tied else f"the same numbers as {twin}"


def _may_be_plain(entry: Entry) -> bool:
    """Whether it is no wonder that a tensor is one number: masks, scales, zero points, an adapter that begins at 0."""
    return is_buffer(entry) or entry.dtype == "BOOL" or re.search(r"lora_(?:embedding_)?B\b", entry.name) is not None


_EXPONENTS: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "F8_E4M3": (np.uint8, 0x7F), "F8_E5M2": (np.uint8, 0x7C), "BF16": (np.uint16, 0x7F80), "F16": (np.uint16, 0x7C00),
    "F32": (np.uint32, 0x7F800000), "F64": (np.uint64, 0x7FF0000000000000),
}  # fmt: skip
"""Bits that are all set in a NaN or an infinity, and only there."""


def _wrong(entry: Entry, raw: bytes) -> str:
    """What is wrong with these numbers; empty when nothing is."""
    width = DTYPE_BYTES[entry.dtype]
    if entry.dtype in _EXPONENTS:
        kind, bits = _EXPONENTS[entry.dtype]
        if bad := int(np.count_nonzero((np.frombuffer(raw, kind) & kind(bits)) == bits)):
            return f"{bad:,} of {len(raw) // width:,} numbers read are NaN or infinite"
    matrix = len(entry.shape) == 2 and min(entry.shape) > 1 and not _may_be_plain(entry)
    if matrix and len(raw) > width and raw == raw[:width] * (len(raw) // width):
        return "every number read is the same"
    return ""
