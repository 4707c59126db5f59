"""The safetensors format, read strictly: a header with the place of each tensor, then only numbers.

A file has the header's length (8 bytes, little-endian), the header (JSON: name -> dtype, shape, first and last byte)
and the tensors' bytes, one after the other. So a tensor, or a piece of one, can be read by itself, and a file can be
written front to back once its header is known. A damaged or forged header misleads its reader, so nothing in it is
trusted: keys may not repeat, sizes must agree with shapes, the tensors must fill the file without gap or overlap.
Format: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import prod
from pathlib import Path
from sys import intern
from typing import Any

from clearseek.errors import UserError
from clearseek.files import reading
from clearseek.filetypes import HEAD_BYTES, recognise
from clearseek.jsontext import strict_json
from clearseek.tensors import StoredTensor

LONGEST_HEADER = 100_000_000
"""Most bytes of JSON that the format allows in a header."""
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
AT_ONCE = 1 << 24
"""Most bytes of a tensor that are read at once."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in a file: an entry of its header."""

    name: str
    dtype: str
    """Type by the format's name, such as ``BF16`` or ``F8_E4M3``."""
    shape: tuple[int, ...]
    begin: int
    """First byte, counted from the file's start."""
    size: int
    """Number of bytes."""

    @property
    def shaped(self) -> StoredTensor:
        """The tensor without its place."""
        return StoredTensor(self.name, self.dtype, self.shape)

    def spans(self, piece: int | None = None) -> tuple[tuple[int, int], ...]:
        """Spans of the tensor in the file: pairs of the first byte and the byte after the last.

        Args:
            piece: Bytes (whole elements) of three samples, at the beginning, the middle and the end; without `piece`,
                and for a tensor not longer than three, the span of all.
        """
        begin, end = self.begin, self.begin + self.size
        if piece is None or self.size <= 3 * piece:
            return ((begin, end),)
        width = DTYPE_BYTES[self.dtype]
        middle = begin + self.size // 2 // width * width
        return tuple((start, start + piece) for start in (begin, middle, end - piece))


@dataclass(frozen=True, slots=True)
class Header:
    """Header of a file."""

    raw: bytes
    """First bytes of the file: length, JSON, padding."""
    entries: tuple[Entry, ...]
    """Tensors in the order of their bytes."""
    metadata: dict[str, str] | None
    """The format's free text fields."""

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return len(self.raw) + sum(entry.size for entry in self.entries)


def read_header(file: Path) -> Header:
    """Read and check a file's header. Raises UserError that names the file, and the tensor that is wrong."""
    with reading(file), file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        head = stream.read(HEAD_BYTES)
        first = head[:8]
        length = int.from_bytes(first, "little")
        if len(first) == 8 and 2 <= length <= min(LONGEST_HEADER, size - 8):
            stream.seek(8)
            first += stream.read(length)
    if not size:
        raise UserError(
            f"{file}: not a safetensors file: it has 0 bytes, as a copy to a full disk leaves it: fetch it again"
        )
    kind = recognise(head, file.name) if head[8:9] != b"{" else None  # a length may look like anything
    if kind is not None:
        raise UserError(f"{file}: not a safetensors file but {kind.phrase}: {kind.cure}")
    return parse_header(first, size, str(file))


def tensor_bytes(
    read: Callable[[str, int, int], bytes], file: str, entry: Entry, piece: int | None = None
) -> Iterator[bytes]:
    """Yield a tensor's bytes in order, at most :data:`AT_ONCE` at once; fewer bytes from a file that is cut off.

    Args:
        read: Function of a file, a number of bytes and a place, which reads that many bytes from the place on.
        file: The file's name for `read`.
        entry: The tensor.
        piece: Size of samples to read instead of all bytes; see :meth:`Entry.spans`.
    """
    for begin, end in entry.spans(piece):
        for start in range(begin, end, AT_ONCE):
            yield read(file, min(AT_ONCE, end - start), start)


def parse_header(raw: bytes, size: int | None, where: str) -> Header:
    """Check a header.

    Args:
        raw: The file's first bytes, up to the end of the header.
        size: Bytes of the whole file; None for a header without a file.
        where: Name of the file, with which the message of the UserError begins.
    """
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length < 2 or length > LONGEST_HEADER or len(raw) != 8 + length:
        raise UserError(
            f"{where}: not a safetensors file: its first 8 bytes should be the length of a header that follows, "
            f"at most {LONGEST_HEADER:,} bytes; the file is cut off or of another format"
        )
    if not raw.startswith(b"{", 8) or not raw.rstrip(b" ").endswith(b"}"):
        raise UserError(f"{where}: not a safetensors file: its header is not a JSON object padded with spaces")
    content = strict_json(raw[8:], where)
    metadata = content.pop("__metadata__", None)
    if not isinstance(metadata or {}, dict) or not all(isinstance(text, str) for text in (metadata or {}).values()):
        raise UserError(f"{where}: the header's __metadata__ must map names to text")
    found = (_entry(name, value, len(raw), where) for name, value in content.items())
    entries = sorted(found, key=lambda entry: (entry.begin, entry.size))
    end = len(raw)
    for entry in entries:
        if entry.begin != end:
            what = "overlaps the tensor before it" if entry.begin < end else "leaves a gap before it"
            raise UserError(f"{where}: {entry.name} {what}: its bytes should begin at {end - len(raw)}")
        end += entry.size
    if size is not None and size != end:
        what = "is cut off" if size < end else "has bytes after its last tensor"
        raise UserError(
            f"{where}: the file {what}: its header describes {end:,} bytes, and the file has {size:,}: fetch it again"
        )
    return Header(raw, tuple(entries), metadata)


def _entry(name: str, value: Any, data_start: int, where: str) -> Entry:
    """Check the header's entry of one tensor."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise UserError(f"{where}: {name}: the header must give dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise UserError(f"{where}: {name} has the unsupported dtype {str(dtype)[:40]!r}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise UserError(f"{where}: {name}: shape and data_offsets must be lists of whole numbers from 0 up")
    size = prod(shape) * DTYPE_BYTES[dtype]
    if offsets[1] - offsets[0] != size:
        raise UserError(
            f"{where}: {name} of {dtype} {shape} needs {size:,} bytes, but its data_offsets span "
            f"{offsets[1] - offsets[0]:,}"
        )
    # A checkpoint may have 92 thousand tensors of a handful of shapes, with the same names in its index.
    return Entry(intern(name), intern(dtype), _shared(tuple(shape)), data_start + offsets[0], size)


_shared: Callable[[tuple[int, ...]], tuple[int, ...]] = lru_cache(maxsize=4096)(tuple)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 2**63 for each in value)


def build_header(tensors: Iterable[StoredTensor], metadata: dict[str, str] | None) -> Header:
    """Make a header for tensors in this order, byte for byte as safetensors' own writer does.

    Readers map files into memory, so a tensor's bytes should begin at a multiple of its element size. Where this order
    would break that, wider elements go first.
    """
    ordered = list(tensors)
    ends = accumulate((prod(shape) * DTYPE_BYTES[dtype] for _, dtype, shape in ordered), initial=0)
    if any(begin % DTYPE_BYTES[tensor.dtype] for tensor, begin in zip(ordered, ends, strict=False)):
        ordered.sort(key=lambda tensor: -DTYPE_BYTES[tensor.dtype])
    content: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, dtype, shape in ordered:
        begin, end = end, end + prod(shape) * DTYPE_BYTES[dtype]
        content[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return parse_header(len(text).to_bytes(8, "little") + text, None, "a new header")
