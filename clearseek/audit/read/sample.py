"""A look at the numbers: pieces of tensors, spread over a checkpoint, read as what they are.

A checkpoint of 700 GB cannot be read in seconds, but a damaged or padded one shows in samples: NaN or infinity, a
matrix that is one number, two matrices with the same content. Small releases are read whole. Needs NumPy alone.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import numpy as np

from clearseek.audit.evidence import Evidence
from clearseek.audit.read.subject import Subject, is_buffer
from clearseek.hub.safetensors import DTYPE_BYTES, Entry, tensor_bytes

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
    step = 1 if whole else -(-len(stored) // subject.source.most_samples)
    problems: list[tuple[str, Evidence]] = []
    seen: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    places: list[tuple[str, int, int]] = []
    count = read = 0
    for file, entry in stored[::step]:
        piece = None if whole else PIECE_BYTES
        raw, pieces = b"".join(tensor_bytes(subject.source.read, file, entry, piece)), entry.spans(piece)
        place = Evidence(file, f"bytes {entry.begin}-{entry.begin + entry.size - 1}")
        count, read = count + 1, read + len(raw)
        if len(raw) != sum(end - begin for begin, end in pieces):
            problems.append((f"{entry.name}: cut off", place))
            continue
        places += [(file, begin, end) for begin, end in pieces]
        what = _wrong(entry, raw)
        if what:
            problems.append((f"{entry.name}: {what}", place))
        elif len(entry.shape) > 1 and entry.size >= 512 and not _may_be_plain(entry):
            key = entry.dtype, entry.shape, hashlib.sha256(raw).digest()
            twin = seen.setdefault(key, entry.name)
            if twin != entry.name and not _may_repeat(twin, entry.name):
                problems.append((f"{entry.name}: the same numbers as {twin}", place))
    messages = tuple(message for message, _ in problems)
    return Sample(count, read, whole, messages, tuple(place for _, place in problems), tuple(places))


_ENDS = re.compile(
    r".*(?:^|\.)(?:embed_tokens|shared_head\.head)\.weight"
    r"|(?:[a-z_]+\.)*(?:lm_head|wte|embed_in|embed_out|word_embeddings|tok_embeddings|output|shared|decoder)\.weight"
)


def _may_repeat(one: str, other: str) -> bool:
    """Embedding and head may be tied, and the MTP layer repeats both by design."""
    return bool(_ENDS.fullmatch(one) and _ENDS.fullmatch(other))


def _may_be_plain(entry: Entry) -> bool:
    """Whether it is no wonder that a tensor is one number: masks, scales, zero points, an adapter that begins at 0."""
    return is_buffer(entry) or entry.dtype == "BOOL" or re.search(r"lora_(?:embedding_)?B\b", entry.name) is not None


def _wrong(entry: Entry, raw: bytes) -> str:
    """What is wrong with these numbers; empty when nothing is."""
    bad = _not_finite(entry.dtype, raw)
    if bad:
        return f"{bad:,} of {len(raw) // DTYPE_BYTES[entry.dtype]:,} numbers read are NaN or infinite"
    width = DTYPE_BYTES[entry.dtype]
    matrix = len(entry.shape) == 2 and min(entry.shape) > 1 and not _may_be_plain(entry)
    if matrix and len(raw) > width and raw == raw[:width] * (len(raw) // width):
        return "every number read is the same"
    return ""


def _not_finite(dtype: str, raw: bytes) -> int:
    """How many numbers are NaN or infinite."""
    if dtype in ("F8_E4M3", "F8_E5M2"):
        magnitude = np.frombuffer(raw, np.uint8) & 0x7F
        return int(np.count_nonzero(magnitude == 0x7F if dtype == "F8_E4M3" else magnitude >= 0x7C))
    if dtype == "F64":
        return int(np.count_nonzero(~np.isfinite(np.frombuffer(raw, np.float64))))
    if dtype == "F32":
        return int(np.count_nonzero((np.frombuffer(raw, np.uint32) & 0x7F800000) == 0x7F800000))
    if dtype not in ("BF16", "F16"):
        return 0
    exponent = 0x7F80 if dtype == "BF16" else 0x7C00
    return int(np.count_nonzero((np.frombuffer(raw, np.uint16) & exponent) == exponent))
