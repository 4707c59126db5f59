"""Small files beside the weights: tokenizer settings and generation settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearseek.config import ModelConfig
from clearseek.data.tokenizer import BOS, EOS, PAD, Tokenizer
from clearseek.errors import UserError
from clearseek.filetypes import expect


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids of the special tokens that engines must know."""

    bos: int
    eos: int
    pad: int
    """Id of the padding token, or of the end-of-text token in a tokenizer without padding."""


def special_ids(tokenizer: Tokenizer, vocab_size: int) -> SpecialIds:
    """Look the ids up. Raises UserError when the tokenizer has ids beyond the `vocab_size` rows of the embedding."""
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, and the embedding vocab_size = {vocab_size} rows: "
            "export with the tokenizer that the model was trained with"
        )
    try:
        pad = tokenizer.id_of(PAD)
    except UserError:
        pad = tokenizer.eos_id
    return SpecialIds(bos=tokenizer.bos_id, eos=tokenizer.eos_id, pad=pad)


def load_tokenizer(file: Path, config: ModelConfig) -> Tokenizer:
    """A model's tokenizer. Raises UserError for a tokenizer with more tokens than the model knows."""
    tokenizer = Tokenizer.load(file)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{file}: {tokenizer.vocab_size} tokens, but the model has vocab_size = {config.vocab_size}: "
            "put the tokenizer.json there that the model was trained with"
        )
    return tokenizer


def refuse_without_tokenizer(folder: Path) -> None:
    """Raise UserError, before any weight is read, unless a checkpoint folder has a readable tokenizer.json."""
    file = folder / "tokenizer.json"
    if not folder.is_dir() or not (folder / "config.json").is_file():
        return  # the reader of the weights reports it
    if not file.is_file():
        others = [name for name in ("tokenizer.model", "tiktoken.model", "vocab.json") if (folder / name).is_file()]
        says = f" ({others[0]} is another form)" if others else ""
        raise UserError(
            f"{file}: no such file{says}: fetch it, or write it with transformers: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    expect(file, "a tokenizer.json", "UTF-8 BOM")


def tokenizer_config(ids: SpecialIds, max_length: int) -> dict[str, Any]:
    """Content of tokenizer_config.json; `max_length` is the model's longest sequence in tokens."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS if ids.pad == ids.eos else PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }


def generation_config(ids: SpecialIds) -> dict[str, Any]:
    """Content of generation_config.json."""
    return {"bos_token_id": ids.bos, "eos_token_id": [ids.eos], "pad_token_id": ids.pad}
