"""A source file without what is not executed: comments, strings that nothing uses, and on request all strings.

A word in a comment is a word. What a file does is looked for in its code alone, so that neither a file of remarks nor a
program that searches for the same words passes for a trainer.
"""

from __future__ import annotations

import io
import json
import token
import tokenize

_PIECES = {
    number
    for name in ("STRING", "FSTRING_MIDDLE", "TSTRING_MIDDLE")
    if (number := getattr(token, name, None)) is not None
}
_BEGINNINGS = (token.NEWLINE, token.INDENT, token.DEDENT, tokenize.NL, tokenize.COMMENT, tokenize.ENCODING)


def code_of(path: str, text: str, strings: bool) -> str:
    """What of a file is code; empty where a file of Python is none.

    Args:
        path: Its name; only Python and notebooks are taken apart, other languages are given back whole.
        text: Its content.
        strings: Whether to keep strings that are part of an expression.
    """
    if path.lower().endswith(".ipynb"):
        text = _cells(text)
    elif not path.lower().endswith(".py"):
        return text
    lines = text.split("\n")
    before = tokenize.ENCODING
    try:
        for each in tokenize.generate_tokens(io.StringIO(text).readline):
            alone = each.type == token.STRING and before in _BEGINNINGS
            if each.type == tokenize.COMMENT or alone or (each.type in _PIECES and not strings):
                _blank(lines, each.start, each.end)
            before = each.type
    except (tokenize.TokenError, SyntaxError, ValueError, RecursionError):
        return ""
    return "\n".join(lines)


def _blank(lines: list[str], begin: tuple[int, int], end: tuple[int, int]) -> None:
    """Put spaces over a stretch of text."""
    for row in range(begin[0] - 1, min(end[0], len(lines))):
        first = begin[1] if row == begin[0] - 1 else 0
        last = end[1] if row == end[0] - 1 else len(lines[row])
        lines[row] = lines[row][:first] + " " * max(0, last - first) + lines[row][last:]


def _cells(text: str) -> str:
    """The code of a notebook, without lines for the shell."""
    try:
        cells = json.loads(text)["cells"]
        kept = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return "\n".join(line for line in "\n".join(kept).split("\n") if not line.lstrip().startswith(("%", "!")))
