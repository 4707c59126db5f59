"""A long text cut into documents, so that some of them can be held out.

The cut comes at the first blank line after a part has reached its size; failing that, after the first line past twice
the size; and a line longer than that is cut between two characters. Put together, the parts give the text's bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO


def parts(file: IO[bytes], size: int) -> Iterator[tuple[str, bytes]]:
    """Parts of about `size` bytes, at most three times that.

    Yields:
        (where the part begins, its bytes): the number of a line, from 1, and ``+N`` for N bytes into that line.
    """
    part, start = bytearray(), "1"
    line, column = 1, 0  # of the byte that comes next
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
    """Where the last character of a chunk begins, unless it is whole."""
    for back in range(1, min(4, len(chunk) - 1) + 1):
        byte = chunk[-back]
        if byte >= 0xC0:  # the first byte of a character of several: the leading ones say of how many
            return len(chunk) - back if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else len(chunk)
        if byte < 0x80:
            break
    return len(chunk)
