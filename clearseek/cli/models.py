"""Tokenizers of the models that ``generate`` and ``import`` load."""

from __future__ import annotations

from pathlib import Path

from clearseek.config import ModelConfig
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError


def load_tokenizer(file: Path, config: ModelConfig) -> Tokenizer:
    """A model's tokenizer. Raises UserError when it has tokens that the model does not know."""
    tokenizer = Tokenizer.load(file)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{file}: {tokenizer.vocab_size} tokens, but the model has vocab_size = {config.vocab_size}: "
            "put the tokenizer.json there that the model was trained with"
        )
    return tokenizer
