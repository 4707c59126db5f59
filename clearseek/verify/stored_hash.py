"""The hash that a transcript keeps of tensors, taken from files: without PyTorch, piece by piece.

The same as :func:`clearseek.train.chunks.hash_tensors`: in the order of names a line ``[name, dtype, shape]`` and then
the SHA-256 of each chunk of 65,536 elements; in transcripts of format 1 the bytes themselves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Final

from clearseek.errors import UserError
from clearseek.hub.safetensors import DTYPE_BYTES, Entry, tensor_bytes
from clearseek.reading.subject import Subject

_NAMES: Final = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "F16": "float16",
    "BF16": "bfloat16", "F32": "float32", "F64": "float64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
"""PyTorch's names of the format's types."""
_CHUNK: Final = 1 << 16
"""Elements; what is read at once is a whole number of chunks of any type."""


def hash_stored(subject: Subject, files: Iterable[str], version: int) -> str:
    """SHA-256 in hex over the tensors of these safetensors files, as transcripts of a format take it.

    Raises UserError where one cannot be read.
    """
    stored: dict[str, tuple[str, Entry]] = {}
    for file in files:
        for entry in subject.source.header(file).entries:
            if entry.name in stored:
                raise UserError(f"{file}: {entry.name} is also in {stored[entry.name][0]}")
            stored[entry.name] = file, entry
    digest = hashlib.sha256()
    for name in sorted(stored):
        file, entry = stored[name]
        line = [name, _NAMES.get(entry.dtype, entry.dtype), list(entry.shape)]
        digest.update(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        chunk = _CHUNK * DTYPE_BYTES[entry.dtype]
        for raw in tensor_bytes(subject.source.read, file, entry):
            parts = [raw[first : first + chunk] for first in range(0, len(raw), chunk)]
            digest.update(raw if version == 1 else b"".join(hashlib.sha256(part).digest() for part in parts))
    return digest.hexdigest()
