"""Bits per byte of a text, passage by passage, so that models with different tokenizers are asked the same questions.

A question is a passage of some 512 bytes, which ends with a line; the passage before it is its context, as far as the
model's sequences reach. The task's figure is the sum of the passages' bits over the sum of their bytes. It is a little
higher than that of whole windows (:mod:`clearseek.evaluate.bits`), whose context is longer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from clearseek.errors import UserError
from clearseek.evaluate.tasks.task import Asking, Question, Task
from clearseek.problems.rewards import Scored

VERSION = 1


def bits_per_byte(asking: Asking, passage: int = 512, text: str = "", sha256: str = "") -> Task:
    """How well the model predicts text that it has not seen.

    `text` and `sha256` are not chosen: they say what was read, and must be those of the texts that are here.
    """
    if type(passage) is not int or not 16 <= passage <= 1 << 16:
        raise UserError(f"bits-per-byte: passage = {passage!r}: use a whole number of bytes from 16 to {1 << 16}")
    if not asking.texts:
        raise UserError("bits-per-byte: no text is here to read: give one with --text FILE")
    digest = hashlib.sha256()
    for name, content in asking.texts:
        digest.update(f"{len(content)} {name} {content}\n".encode())
    found = {"text": _named(asking.texts), "sha256": digest.hexdigest()}
    if sha256 and sha256 != found["sha256"]:
        raise UserError(f"bits-per-byte: the text that was read, {text}, has another SHA-256 than {found['text']} here")
    every = list(_questions(asking, passage))
    if not every:
        raise UserError(
            f"bits-per-byte: {found['text']}: too short for two passages of {passage} bytes: give more text, or "
            "bits-per-byte:passage=64"
        )
    count = min(len(every), asking.questions)
    chosen = tuple(every[number * len(every) // count] for number in range(count))
    return Task("bits-per-byte", VERSION, {"passage": passage, **found}, chosen, _bits, in_chat=False)


def _questions(asking: Asking, passage: int) -> Iterator[Question]:
    for name, content in asking.texts:
        parts = list(_passages(content, passage))
        for number in range(1, len(parts)):
            yield Question(f"{name}:{number}", parts[number - 1], target=parts[number])


def _passages(text: str, size: int) -> Iterator[str]:
    """Parts of at least so many bytes that end with a line; a rest that is shorter is left out."""
    part, length = list[str](), 0
    for line in text.splitlines(keepends=True):
        while len(line) > 4 * size:  # a line without an end, such as minified code
            yield "".join([*part, line[:size]])
            part, length, line = [], 0, line[size:]
        part.append(line)
        length += len(line.encode())
        if length >= size:
            yield "".join(part)
            part, length = [], 0


def _named(texts: Sequence[tuple[str, str]]) -> str:
    names = [name for name, _ in texts]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more"


def _bits(question: Question, output: str, ended: bool) -> Scored:
    raise AssertionError("a task that reads is scored by its log-probabilities")
