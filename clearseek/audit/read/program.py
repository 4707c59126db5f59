"""A source file without what is not executed: comments, strings that nothing uses, and on request all strings.

A word in a comment is a word. What a file does is looked for in its code alone, so that neither a file of remarks nor a
program that searches for the same words passes for a trainer.
"""

from __future__ import annotations

import io
import json
import re
import token
import tokenize
from typing import Final

_PIECES = {
    number
    for name in ("STRING", "FSTRING_MIDDLE", "TSTRING_MIDDLE")
    if (number := getattr(token, name, None)) is not None
}
LONGEST_LINE: Final = 10_000
"""Characters of a line of Python that is taken apart; a longer one is data."""
_C_LIKE = re.compile(
    r"(?P<remark>//[^\n]*|/\*.*?(?:\*/|\Z))"
    r"|(?P<string>\br(?P<hashes>#{0,3})\".*?(?:\"(?P=hashes)|\Z)|\"(?:\\.|[^\"\\])*(?:\"|\Z)|'(?:\\.[^'\n]{0,8}|[^'\\\n])')",
    re.S,
)
_SHELL = re.compile(
    r"(?P<remark>(?<![^\s;])\#[^\n]*)"
    r"|(?P<string><<-?[ ]?['\"]?(?P<end>\w{1,40})['\"]?[^\n]*\n.*?(?:^\s*(?P=end)\s*$|\Z)"
    r"|\"(?:\\.|[^\"\\])*(?:\"|\Z)|'[^']*(?:'|\Z))|\\.",
    re.S | re.M,
)
_JULIA = re.compile(
    r"(?P<remark>\#=.*?(?:=\#|\Z)|\#[^\n]*)"
    r"|(?P<string>\"\"\".*?(?:\"\"\"|\Z)|\"(?:\\.|[^\"\\])*(?:\"|\Z)|'(?:\\.[^'\n]{0,8}|[^'\\\n])')",
    re.S,
)
_LANGUAGES: Final = {".sh": _SHELL, ".jl": _JULIA, ".rs": _C_LIKE, ".cu": _C_LIKE, ".cpp": _C_LIKE}
"""Remarks and strings of other languages; each pattern consumes what it begins, so that a text is gone over once."""
_BEGINNINGS = (token.NEWLINE, token.INDENT, token.DEDENT, tokenize.NL, tokenize.COMMENT, tokenize.ENCODING)


def code_of(path: str, text: str, strings: bool) -> str:
    """What of a file is code; empty where a file of Python is none.

    Args:
        path: Its name; a language that is not known is given back whole.
        text: Its content.
        strings: Whether to keep strings that are part of an expression.
    """
    if path.lower().endswith(".ipynb"):
        text = _cells(text)
    elif not path.lower().endswith(".py"):
        return _other(path, text, strings)
    lines = [line if len(line) <= LONGEST_LINE else " " * len(line) for line in text.split("\n")]
    before = tokenize.ENCODING
    hidden: list[tuple[tuple[int, int], tuple[int, int]]] = []
    try:
        for each in tokenize.generate_tokens(io.StringIO("\n".join(lines)).readline):
            alone = each.type == token.STRING and before in _BEGINNINGS
            if each.type == tokenize.COMMENT or alone or (each.type in _PIECES and not strings):
                hidden.append((each.start, each.end))
            before = each.type
    except (tokenize.TokenError, SyntaxError, ValueError, RecursionError):
        return ""
    return _blanked(lines, hidden)


def _other(path: str, text: str, strings: bool) -> str:
    """A text of another language without its remarks, and on request without its strings."""
    pattern = _LANGUAGES.get("." + path.lower().rpartition(".")[2])
    if pattern is None:
        return text

    def blank(match: re.Match[str]) -> str:
        hide = match["remark"] is not None or (match["string"] is not None and not strings)
        return re.sub(r"[^\n]", " ", match[0]) if hide else match[0]

    return pattern.sub(blank, text)


def _blanked(lines: list[str], hidden: list[tuple[tuple[int, int], tuple[int, int]]]) -> str:
    """The lines with spaces over these stretches, which are in order."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for begin, end in hidden:
        for row in range(begin[0] - 1, min(end[0], len(lines))):
            first = begin[1] if row == begin[0] - 1 else 0
            last = end[1] if row == end[0] - 1 else len(lines[row])
            spans.setdefault(row, []).append((first, last))
    for row, stretches in spans.items():
        pieces, place = [], 0
        for first, last in stretches:
            pieces += [lines[row][place:first], " " * max(0, last - max(first, place))]
            place = max(place, last)
        lines[row] = "".join((*pieces, lines[row][place:]))
    return "\n".join(lines)


def _cells(text: str) -> str:
    """The code of a notebook, without lines for the shell."""
    try:
        cells = json.loads(text)["cells"]
        kept = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return "\n".join(line for line in "\n".join(kept).split("\n") if not line.lstrip().startswith(("%", "!")))
