"""An answer as blocks: stretches of thinking, of text, and calls of tools, each with a beginning and an end."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from clearseek.inference.answer import Delta
from clearseek.serve.worker import Update


@dataclass(eq=False)
class Block:
    """A stretch of one kind."""

    index: int
    kind: Literal["reasoning", "content", "call"]
    name: str = ""
    """Name of the tool that is called."""
    call: int = -1
    """Number of the call, from 0."""
    text: str = ""
    """Thinking, text, or a call's arguments."""
    id: str = field(default_factory=lambda: secrets.token_hex(12))


class Event(NamedTuple):
    """What happens to a block; `text` is new text, `last` tells that the answer ends with it."""

    what: Literal["begin", "text", "end"]
    block: Block
    text: str = ""
    last: bool = False


class Blocks:
    """Blocks of one answer, as its pieces come. A call begins when its name is whole."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self._open: Block | None = None
        self._name: tuple[int, str] | None = None
        """Number and name of a call whose arguments have not begun."""

    @property
    def calls(self) -> list[Block]:
        """Calls of tools, in order."""
        return [block for block in self.all if block.kind == "call"]

    def text(self, kind: str) -> str:
        """All text of one kind."""
        return "".join(block.text for block in self.all if block.kind == kind)

    def take(self, update: Update) -> Iterator[Event]:
        """What an update changes; the last block ends with the answer."""
        for delta in update.deltas:
            yield from self._add(delta)
        if update.finish is not None:
            for event in self._end():
                yield event._replace(last=True)

    def _add(self, delta: Delta) -> Iterator[Event]:
        if delta.part == "name":
            if self._name is None or self._name[0] != delta.call:
                yield from self._end()
                self._name = (delta.call, "")
            self._name = (delta.call, self._name[1] + delta.text)
            return
        kind: Literal["reasoning", "content", "call"] = "call" if delta.part == "arguments" else delta.part
        if self._name is not None and self._name[0] == delta.call and kind == "call":
            yield self._begin_call()
        elif self._open is None or self._open.kind != kind or (kind == "call" and self._open.call != delta.call):
            yield from self._end()
            yield self._begin(Block(len(self.all), kind, call=delta.call if kind == "call" else -1))
        assert self._open is not None
        self._open.text += delta.text
        yield Event("text", self._open, delta.text)

    def _begin(self, block: Block) -> Event:
        self.all.append(block)
        self._open = block
        return Event("begin", block)

    def _begin_call(self) -> Event:
        assert self._name is not None
        (number, name), self._name = self._name, None
        return self._begin(Block(len(self.all), "call", name, number))

    def _end(self) -> Iterator[Event]:
        if self._name is not None:
            yield self._begin_call()
        if self._open is not None:
            yield Event("end", self._open)
            self._open = None


def order(blocks: Sequence[Block], block: Block) -> int:
    """Place of a call among the calls of an answer, from 0."""
    return sum(each.kind == "call" for each in blocks[: block.index])
