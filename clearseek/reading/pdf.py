"""The text of a PDF, by pypdf, in a process of its own: strangers' PDFs may ask for any time and memory.

``python -m clearseek.reading.pdf`` reads one from its input and prints its text; nothing in it is run.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from io import BytesIO
from typing import Final

from clearseek.errors import UserError
from clearseek.reading.source import Source

LARGEST: Final = 20_000_000
"""Bytes of a PDF that is read."""
MOST_PAGES: Final = 60
LONGEST: Final = 400_000
"""Characters that are kept."""
SECONDS: Final = 20
MEMORY: Final = 1 << 30


def pdf_lines(source: Source, path: str) -> list[str]:
    """The lines of a PDF of the release. Raises UserError where it cannot be read, or pypdf is not installed."""
    size = source.sizes[path]
    if size > LARGEST:
        raise UserError(f"{path}: {size:,} bytes; a PDF of more than {LARGEST:,} is not read")
    raw = source.read(path, LARGEST)
    try:
        ended = subprocess.run([sys.executable, "-m", __name__], input=raw, capture_output=True, timeout=2 * SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(f"{path}: reading its text takes longer than {2 * SECONDS} s") from None
    if ended.returncode == 3:
        raise UserError(f"{path}: reading a PDF needs pypdf: pip install -e '.[pdf]'")
    if ended.returncode:
        raise UserError(f"{path}: no text could be read from this PDF")
    return ended.stdout[: 4 * LONGEST].decode("utf-8", errors="replace")[:LONGEST].splitlines()


def _main() -> int:
    """Print the text of the PDF on standard input; 3 where pypdf is missing, 1 where it cannot be read."""
    try:
        import pypdf
    except ImportError:
        return 3
    with suppress(ImportError):  # Windows has no such limits, and the caller stops it after a while
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    room = LONGEST
    try:
        for page in pypdf.PdfReader(BytesIO(sys.stdin.buffer.read())).pages[:MOST_PAGES]:
            text = page.extract_text()[:room]
            sys.stdout.buffer.write(text.encode("utf-8", errors="replace") + b"\n")
            if (room := room - len(text)) <= 0:
                break
    except Exception:  # whatever a broken file makes pypdf raise, it cannot be read
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
