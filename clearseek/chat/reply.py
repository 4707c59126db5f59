"""An answer's tokens taken apart as they come: thinking, text, and calls of tools."""
# ruff: noqa: RUF001

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError

Part = Literal["reasoning", "content", "name", "arguments"]

THINK, _THOUGHT = "<think>", "</think>"
_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, CALL_END, _SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"


@dataclass
class Reply:
    """Where a token belongs: told by the special tokens before it, never by their spelling in text."""

    tokenizer: Tokenizer
    thinking: bool
    """Whether the prompt ended with the token that begins thinking."""
    tools: bool = True
    """Whether tools were offered; without them their special tokens are text like any other."""
    call: int = -1
    """Number of the call that is being written."""
    _part: Part = "content"
    _ids: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._part = "reasoning" if self.thinking else "content"
        names = [THINK, _THOUGHT, *((_CALLS, _CALLS_END, _CALL, CALL_END, _SEPARATOR) if self.tools else ())]
        for name in names:
            try:
                self._ids[self.tokenizer.id_of(name)] = name
            except UserError:
                continue  # a tokenizer without the token never writes it

    def anew(self) -> Reply:
        """The same reply before its first token."""
        return Reply(self.tokenizer, self.thinking, self.tools)

    @property
    def part(self) -> Part:
        """The part that the next token belongs to, unless it divides."""
        return self._part

    def place(self, token: int) -> tuple[Part, int] | None:
        """The part, and the number of the call, that a token's text belongs to; None for a token that only divides."""
        name = self._ids.get(token)
        if name is None:
            return self._part, self.call
        if name == THINK:
            self._part = "reasoning"
        elif name in (_THOUGHT, _CALLS, _CALLS_END, CALL_END):
            self._part = "content"
        elif name == _CALL:
            self._part, self.call = "name", self.call + 1
        elif name == _SEPARATOR:
            self._part = "arguments"
        return None
