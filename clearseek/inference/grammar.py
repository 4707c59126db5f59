"""Answers of a given form: JSON schemas and calls of tools, by llguidance (an extra)."""
# ruff: noqa: RUF001 - full-width bars are meant

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearseek.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from clearseek.errors import UserError

LARGEST_SCHEMA = 64 << 10
"""Most characters of a schema."""
LARGEST_MULTIPLE = 10_000
"""Largest product of a schema's `multipleOf`: the automaton that checks a remainder has as many states."""
SPACES: Any = {"whitespace_pattern": " "}
"""At most one space between parts of a JSON value, so that an answer cannot go on with white space for ever."""
LARK = "start:"
"""Beginning of a grammar in Lark's form; every other text is a JSON schema."""
_NAME = re.compile("[A-Za-z0-9_.-]{1,64}")


class Grammars:
    """Grammars over one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        try:
            from llguidance import LLTokenizer
        except ModuleNotFoundError:
            raise UserError("answers by a schema need llguidance: pip install 'clearseek[serve]'") from None
        self._size, self._id_of = vocab_size, tokenizer.id_of
        spec = json.loads(tokenizer.content)
        for token in spec["added_tokens"]:  # the file lacks the flag for <think> and others, which are not text either
            token["special"] = token["special"] or token["content"] in SPECIAL_TOKENS
        self._tokens = LLTokenizer(json.dumps(spec), vocab_size, tokenizer.eos_id)

    def of_schema(self, schema: Any) -> Grammar:
        """A grammar of the JSON values that a schema allows. Raises UserError for a schema that cannot be followed."""
        return self.of_text(_checked(schema))

    def of_calls(self, tools: Sequence[tuple[str, Any]], several: bool) -> Grammar:
        """A grammar of calls of tools: names, and schemas of their arguments. Raises UserError as above."""
        begin, end, call, call_end, divide = (
            f"<[{self._id_of(f'<｜tool▁{name}｜>')}]>"
            for name in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep")
        )
        odd = [name for name, _ in tools if not _NAME.fullmatch(name)]
        if odd:
            raise UserError(
                f"tools: {odd[0][:80]!r}: a call can be required of names of letters, digits, _, - and . alone"
            )
        lines = [
            f"{LARK} {begin} call{'+' if several else ''} {end}",
            f"call: {call} ({' | '.join(f'call_{i}' for i in range(len(tools)))}) {call_end}",
        ]
        for index, (name, schema) in enumerate(tools):
            own = {"type": "object"} | schema | {"x-guidance": SPACES}
            lines.append(f"call_{index}: {json.dumps(name)} {divide} arguments_{index}")
            lines.append(f"arguments_{index}: %json {_checked(own)}")
        return self.of_text("\n".join(lines))

    def of_text(self, text: str) -> Grammar:
        """A grammar by its text, which a record keeps: a JSON schema, or Lark's form. Raises UserError as above."""
        from llguidance import LLMatcher

        if len(text) > LARGEST_SCHEMA:
            raise UserError(f"the schema has {len(text)} characters: use at most {LARGEST_SCHEMA}")
        try:
            if text.startswith(LARK):
                grammar = LLMatcher.grammar_from_lark(text)
            else:
                grammar = LLMatcher.grammar_from_json_schema(text, overrides=SPACES)
            matcher = LLMatcher(self._tokens, grammar, log_level=0)
        except ValueError as error:
            raise UserError(f"the schema cannot be followed: {_first_line(error)}") from None
        if matcher.is_error():
            raise UserError(f"the schema cannot be followed: {_first_line(matcher.get_error())}")
        return Grammar(matcher, text, self._size)


class Grammar:
    """Where an answer stands in its grammar."""

    def __init__(self, matcher: Any, schema: str, vocab_size: int) -> None:
        from llguidance.numpy import allocate_token_bitmask

        self.schema, self._matcher = schema, matcher
        self._mask = allocate_token_bitmask(1, vocab_size)

    def copy(self) -> Grammar:
        """The same grammar at the same place, for another answer."""
        other = copy.copy(self)
        other._matcher, other._mask = self._matcher.deep_copy(), self._mask.copy()
        return other

    def allow(self, logits_V: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits with those of forbidden tokens at minus infinity."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._mask)
        if self._matcher.is_error():
            raise UserError(f"the schema cannot be followed: {_first_line(self._matcher.get_error())}")
        allowed = np.unpackbits(self._mask.view(np.uint8), bitorder="little")[: len(logits_V)].astype(bool)
        return np.where(allowed, logits_V, np.float32(-np.inf))

    def saw(self, token: int) -> bool:
        """Note a token; whether the value is whole and nothing may follow."""
        if not self._matcher.consume_token(token):
            raise UserError(f"the answer left its schema: {_first_line(self._matcher.get_error())}")
        return bool(self._matcher.is_stopped())


def _checked(schema: Any) -> str:
    """The schema as JSON text. Raises UserError for numbers that are none, and for remainders that take for ever."""
    try:
        text = json.dumps(schema, allow_nan=False)
    except ValueError:
        raise UserError("the schema cannot be followed: a number in it is not finite") from None
    product = math.prod(_multiples(schema))
    if product > LARGEST_MULTIPLE:
        raise UserError(
            f"the schema cannot be followed: its multipleOf have the product {product}: use at most {LARGEST_MULTIPLE}"
        )
    return text


def _multiples(schema: Any) -> Iterator[int]:
    """Digits of each `multipleOf`, as a whole number."""
    if isinstance(schema, dict):
        value = schema.get("multipleOf")
        if isinstance(value, int | float) and value:
            number = abs(Decimal(str(value))).normalize()
            yield int(number.scaleb(max(0, -int(number.as_tuple().exponent))))
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _multiples(inner)


def _first_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
