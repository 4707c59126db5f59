"""Source archives of a release, looked into without being unpacked.

An archive from a stranger may hold names that point elsewhere, links, devices, or gigabytes of zeros in kilobytes. So
members are streamed from memory, only regular files count, and both the compressed and the unpacked size are bounded.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator
from typing import Final

from clearseek.errors import UserError
from clearseek.filetypes import HEAD_BYTES, recognise
from clearseek.reading.source import Source

MOST_COMPRESSED: Final = 64_000_000
MOST_UNPACKED: Final = 256_000_000
MOST_MEMBERS: Final = 20_000


def members(source: Source, path: str, limit: int) -> Iterator[tuple[str, bytes]]:
    """Name and the first `limit` bytes of each regular file in a tar archive.

    Raises UserError when the archive is damaged or larger than the bounds.
    """
    if source.sizes[path] > MOST_COMPRESSED:
        raise UserError(f"{path}: larger than {MOST_COMPRESSED:,} bytes: not looked into")
    raw = source.read(path, MOST_COMPRESSED)
    kind = recognise(raw[:HEAD_BYTES])
    if kind and kind.name == "gzip":
        raw = _unpack(raw, path)
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as archive:
            for number, member in enumerate(archive):
                if number >= MOST_MEMBERS:
                    raise UserError(f"{path}: more than {MOST_MEMBERS:,} members: the rest is not looked at")
                if member.isreg():
                    file = archive.extractfile(member)
                    assert file is not None
                    yield member.name, file.read(limit)
    except RecursionError:  # headers that each describe the next, thousands of them
        raise UserError(f"{path}: not a sound tar archive: its headers are nested too deep") from None
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not a sound tar archive: {error}") from None


def _unpack(raw: bytes, path: str) -> bytes:
    """The bytes of a gzip file, bounded."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        out = unpacker.decompress(raw, MOST_UNPACKED)
    except zlib.error as error:
        raise UserError(f"{path}: not a sound gzip file: {error}") from None
    if unpacker.unconsumed_tail:
        raise UserError(f"{path}: unpacks to more than {MOST_UNPACKED:,} bytes: not looked into")
    return out
