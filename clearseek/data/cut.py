"""A long text cut into documents, so that some of them can be held out.

A part ends at the first blank line after it has reached its size, or else after the first line past twice the size; a
longer line is cut between two characters. The parts together are exactly the text's bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO


def parts(file: IO[bytes], size: int) -> Iterator[tuple[str, bytes]]:
    """Parts of about `size` bytes, at most three times that.

    Yields:
        (Place where the part begins, bytes of the part): a line number, from 1, and ``+N`` for N bytes into the line.
    """
    part, start = bytearray(), "1"
    line, column = 1, 0  # of the next byte
    rest = b""
    while chunk := rest + file.readline(2 * size - len(rest)):
        whole = chunk.endswith(b"\n") or len(chunk) < 2 * size
        keep = len(chunk) if whole else _boundary(chunk)
        chunk, rest = chunk[:keep], chunk[keep:]
        part += chunk
        column += len(chunk)
        if chunk.endswith(b"\n"):
            line, column = line + 1, 0
        if not whole or (len(part) >= size and (not chunk.strip() or len(part) >= 2 * size)):
            yield start, bytes(part)
            part, start = bytearray(), f"{line}+{column}" if column else f"{line}"
    if part:
        yield start, bytes(part)


def _boundary(chunk: bytes) -> int:
    """Where to end a chunk: before its last character if that is incomplete, else after it."""
    for back in range(1, min(4, len(chunk) - 1) + 1):
        byte = chunk[-back]
        if byte >= 0xC0:  # the first byte of a character: its leading ones count the character's bytes
            return len(chunk) - back if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else len(chunk)
        if byte < 0x80:
            break
    return len(chunk)
