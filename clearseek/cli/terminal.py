"""Standard output for any character and any file name, also where a shell closed it.

A terminal that is not UTF-8 lacks most of the signs that ClearSeek prints. A plain ``?`` would say "unknown" where an
audit said "yes", so signs are spelt. A name that is not UTF-8 is written as its own bytes, so that a printed command
can be pasted.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from pathlib import Path

_SPELT = {
    "\N{CHECK MARK}": "yes", "\N{CIRCLE WITH LEFT HALF BLACK}": "partly", "\N{BALLOT X}": "no",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"', "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
    "\N{LEFT SINGLE QUOTATION MARK}": "'", "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{HORIZONTAL ELLIPSIS}": "...", "\N{EN DASH}": "-", "\N{MINUS SIGN}": "-", "\N{RIGHTWARDS ARROW}": "->",
    "\N{MULTIPLICATION SIGN}": "x", "\N{MIDDLE DOT}": "-",
}  # fmt: skip


def open_output() -> None:
    """Prepare standard output and standard error."""
    codecs.register_error("clearseek-spell", _spell)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell
            setattr(sys, name, io.TextIOWrapper(io.FileIO(Path(os.devnull), "w"), encoding="utf-8"))
        elif name == "stdout" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="clearseek-spell")


def say(text: str) -> None:
    """Print a stage of the work on standard error."""
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, style="dim", markup=False)


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replacement of a character that the output lacks; and its inverse, for an output that is read again."""
    if isinstance(error, UnicodeDecodeError):
        return chr(0xDC00 + error.object[error.start]), error.start + 1
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return _SPELT.get(character, "?"), error.start + 1
