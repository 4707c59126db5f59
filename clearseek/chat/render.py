"""A conversation as token ids, and which of them a model must learn to write.

The template is run with a placeholder for each text of the conversation, so what comes out is the template's own words
and special tokens with the texts' places between them. Only special tokens that the *template* wrote become special
tokens: a user's text that spells ``<｜Assistant｜>`` stays plain text (encoding a rendered string would not keep them
apart).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from clearseek.chat.messages import Message, conversation, tool_list
from clearseek.chat.reply import THINK
from clearseek.data.tokenizer import BOS, EOS, SPECIAL_TOKENS, Tokenizer
from clearseek.errors import UserError

_START, _END = "\ue000", "\ue001"
"""Characters that enclose a placeholder's number, and, with a letter, a piece that the model writes."""
_MARK = re.compile(f"{_START}([0-9]+|g|e){_END}")
_SPECIAL = re.compile("(" + "|".join(map(re.escape, SPECIAL_TOKENS)) + ")")


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens."""

    ids: list[int]
    written: list[bool]
    """Of each token, whether an assistant's message holds it: what a model learns to write."""
    thinking: bool
    """Whether the tokens end with ``<think>``, so that thoughts follow. After a tool's result they do not."""


@functools.cache
def template() -> str:
    """The chat template, as an exported model carries it."""
    return resources.files("clearseek.chat").joinpath("template.jinja").read_text(encoding="utf-8")


@functools.cache
def _compiled() -> Any:
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %} … {% endgeneration %}``, which encloses what it holds in marks."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            marks = [nodes.Output([nodes.TemplateData(f"{_START}{kind}{_END}")]) for kind in "ge"]
            return [marks[0].set_lineno(line), *body, marks[1].set_lineno(line)]

    environment = ImmutableSandboxedEnvironment(extensions=[Generation], trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template())


def render(
    tokenizer: Tokenizer, messages: Any, tools: Any = None, thinking: bool = False, prompt: bool = True,
    continued: bool = False,
) -> Rendered:  # fmt: skip
    """Tokens of a conversation.

    Args:
        tokenizer: A tokenizer with the template's special tokens.
        messages: The conversation, as :func:`clearseek.chat.messages.conversation` takes it.
        tools: Functions that the model may call, in OpenAI's form.
        thinking: Whether the model thinks before it answers, or, in training, has thought.
        prompt: Whether an assistant's message is to follow.
        continued: Whether the last message, a text of the assistant, stays open, so that the answer goes on with it.

    Raises:
        UserError: a message or tool is of another form, the last one cannot be continued, or the tokenizer has no such
            special tokens.
    """
    checked = conversation(messages)
    if continued and (checked[-1]["role"] != "assistant" or "tool_calls" in checked[-1]):
        raise UserError(f"messages[{len(checked) - 1}]: give a text of the assistant to be continued, without calls")
    pieces = _pieces(checked, tool_list(tools), thinking, prompt and not continued)
    if continued:
        pieces.pop()  # the token that ends the message
    ids: list[int] = []
    written: list[bool] = []
    for text, special, own in pieces:
        new = (
            [tokenizer.id_of(text)] if special else tokenizer.encode_batch([text])[0]
        )  # encode() would stop all threads
        ids += new
        written += [own] * len(new)
    return Rendered(ids, written, pieces[-1][:2] == (THINK, True))


def _pieces(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], thinking: bool, prompt: bool
) -> list[tuple[str, bool, bool]]:
    """Pieces of text: whether a piece is a special token, and whether the model writes it."""
    texts: list[str] = []

    def placed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: value[key] if key == "role" else placed(value[key]) for key in value}
        if isinstance(value, list):
            return [placed(each) for each in value]
        if not isinstance(value, str) or not value:
            return value
        texts.append(value)
        return f"{_START}{len(texts) - 1}{_END}"

    skeleton = _compiled().render(
        messages=[placed(message) for message in messages], tools=[placed(tool) for tool in tools], thinking=thinking,
        add_generation_prompt=prompt, bos_token=BOS, eos_token=EOS,
    )  # fmt: skip
    pieces: list[tuple[str, bool, bool]] = []
    own, plain = False, ""
    for index, part in enumerate(_MARK.split(skeleton)):
        if index % 2:
            if part in "ge":
                pieces += [(plain, False, own)] if plain else []
                own, plain = part == "g", ""
            else:
                plain += texts[int(part)]
            continue
        for place, word in enumerate(_SPECIAL.split(part)):
            if place % 2:
                pieces += [(plain, False, own)] if plain else []
                pieces.append((word, True, own))
                plain = ""
            else:
                plain += word
    return pieces + ([(plain, False, own)] if plain else [])
