"""Answers of a given form: JSON schemas, by llguidance (an extra)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError

LARGEST_SCHEMA = 64 << 10
"""Most characters of a schema."""


class Grammars:
    """Grammars over one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        try:
            from llguidance import LLTokenizer
        except ModuleNotFoundError:
            raise UserError("answers by a schema need llguidance: pip install 'clearseek[serve]'") from None
        self._size = vocab_size
        self._tokens = LLTokenizer(tokenizer.content.decode(), vocab_size, tokenizer.eos_id)

    def of_schema(self, schema: Any) -> Grammar:
        """A grammar of the JSON values that a schema allows. Raises UserError for a schema that cannot be followed."""
        from llguidance import LLMatcher

        text = schema if isinstance(schema, str) else json.dumps(schema)
        if len(text) > LARGEST_SCHEMA:
            raise UserError(f"the schema has {len(text)} characters: use at most {LARGEST_SCHEMA}")
        try:
            matcher = LLMatcher(self._tokens, LLMatcher.grammar_from_json_schema(text))
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

    def allow(self, logits_V: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits with those of forbidden tokens at minus infinity."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._mask)
        allowed = np.unpackbits(self._mask.view(np.uint8), bitorder="little")[: len(logits_V)].astype(bool)
        return np.where(allowed, logits_V, np.float32(-np.inf))

    def saw(self, token: int) -> bool:
        """Note a token; whether the value is whole and nothing may follow."""
        if not self._matcher.consume_token(token):
            raise UserError(f"the answer left its schema: {_first_line(self._matcher.get_error())}")
        return bool(self._matcher.is_stopped())


def _first_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
