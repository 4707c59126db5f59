"""Text to token ids: a byte-level BPE with DeepSeek-V3's split pattern and special tokens.

Byte-level BPE starts from the 256 bytes and merges the most frequent pair of neighbours until the vocabulary is full,
so any text can be encoded, and decoding returns its exact bytes (Sennrich et al., 2016, arXiv:1508.07909; Radford et
al., 2019). Merges never cross the pieces that a *split pattern* cuts the text into: runs of up to three digits, runs of
Chinese characters or kana, then words with a leading space or punctuation mark, punctuation with the line ends after
it, and white space. Pattern and special tokens are those of the released DeepSeek-V3 tokenizer (report
arXiv:2412.19437, section 4.1), which is what lets other engines recognise a ClearSeek vocabulary.

The time of training grows with the square of the pieces' length, because a merge walks through every piece that holds
the pair, and a piece can have any length (Chinese without punctuation, DNA, base64). For training alone, pieces are cut
after `LONGEST_LEARNT` characters; encoding does not cut them.

*Text never becomes a special token.* A document that contains ``<｜end▁of▁sentence｜>`` mentions the token; only code
that calls `id_of` puts the token itself into a sequence.
"""
# ruff: noqa: RUF001 - full-width bars and kana are meant

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from clearseek.errors import UserError
from clearseek.files import reading, sha256_bytes, write_atomic
from clearseek.filetypes import HEAD_BYTES, UTF8_BOM, recognise

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
FIM_HOLE = "<｜fim▁hole｜>"
FIM_BEGIN = "<｜fim▁begin｜>"
FIM_END = "<｜fim▁end｜>"
CONTROL_TOKENS = (BOS, EOS, PAD)
"""Special tokens that decoding may leave out; all others are part of a chat model's answers."""
SPECIAL_TOKENS = (
    *CONTROL_TOKENS,
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    FIM_HOLE,
    FIM_BEGIN,
    FIM_END,
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜tool▁sep｜>",
)
"""Special tokens in the order of their ids, from 0."""
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256

SPLIT_PATTERNS = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
)
"""Regular expressions of the released tokenizer.json, each applied to the pieces of the one before it."""
LONGEST_LEARNT = 256
"""Most characters of a piece while a vocabulary is trained."""


class Tokenizer:
    """An immutable tokenizer: the bytes of one tokenizer.json."""

    def __init__(self, content: bytes, where: str = "tokenizer.json") -> None:
        """Read the bytes of a tokenizer.json; `where` starts the message of the UserError for other bytes."""
        kind = recognise(content[:HEAD_BYTES])
        if kind and kind.name != "UTF-8 BOM":
            raise UserError(f"{where}: this is {kind.phrase}, not a tokenizer.json: {kind.cure}")
        content = content.removeprefix(UTF8_BOM)
        try:
            spec = json.loads(content)
            self._decoder = tokenizers.Tokenizer.from_str(content.decode())
            # `encode_special_tokens` encodes tokens flagged special as plain text. DeepSeek's file lacks the flag for
            # <think> and others, so a copy has the flag set for all of SPECIAL_TOKENS.
            for token in spec["added_tokens"]:
                token["special"] = token["special"] or token["content"] in SPECIAL_TOKENS
            self._encoder = tokenizers.Tokenizer.from_str(json.dumps(spec))
        except Exception as error:  # the library raises plain Exception
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{where}: not a tokenizer.json that this version of tokenizers reads: {reason}") from None
        self._encoder.encode_special_tokens = True
        for each in (self._encoder, self._decoder):
            each.no_truncation()
            each.no_padding()
        self.content = content
        self.sha256 = sha256_bytes(content)
        """SHA-256 (hex) of the file's bytes."""
        self.vocab_size = 1 + max(self._decoder.get_vocab(with_added_tokens=True).values())
        """Number of ids: one more than the largest."""
        if spec["model"].get("dropout"):
            raise UserError(f"{where}: BPE dropout gives other tokens each time: set model.dropout to null")
        missing = [name for name in CONTROL_TOKENS[:2] if self._decoder.token_to_id(name) is None]
        if missing:
            raise UserError(
                f"{where}: no token {' and '.join(missing)}: use a tokenizer of the DeepSeek family, "
                "or leave data.tokenizer out to train one"
            )
        self.added = frozenset(self._decoder.get_added_tokens_decoder())
        """Ids of tokens that are not made of bytes."""
        self.bos_id = self.id_of(BOS)
        self.eos_id = self.id_of(EOS)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer.json. Raises UserError when it is missing, damaged, or has no BOS or EOS token."""
        with reading(path):
            return cls(Path(path).read_bytes(), str(path))

    def save(self, path: str | Path) -> None:
        """Write the tokenizer.json atomically, byte for byte as it was read or trained."""
        write_atomic(Path(path), self.content)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, nothing added; special tokens inside it are encoded as the plain text they are."""
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text as `encode` gives them, computed on all cores."""
        return [encoding.ids for encoding in self._encoder.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_marked(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts in which special tokens are spelled out, as Hugging Face's tokenizers read them.

        For texts that a program has put together, such as a rendered conversation; nobody else's words may be in them
        if special tokens are to be trusted.
        """
        return [encoding.ids for encoding in self._decoder.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], skip_control: bool = False) -> str:
        """Text of `ids`, with BOS, EOS and padding left out if `skip_control`; bytes not UTF-8 become U+FFFD."""
        text: str = self._decoder.decode(list(ids), skip_special_tokens=skip_control)
        return text

    def token_of(self, identity: int) -> str | None:
        """Name of a token in the vocabulary, or None where the id has none."""
        name: str | None = self._decoder.id_to_token(identity)
        return name

    def find(self, token: str) -> int | None:
        """Id of a token, or None where the vocabulary has none of that name."""
        identity: int | None = self._decoder.token_to_id(token)
        return identity

    def id_of(self, token: str) -> int:
        """Id of a token, such as ``FIM_BEGIN``. Raises UserError when the vocabulary has no such token."""
        identity = self.find(token)
        if identity is None:
            raise UserError(f"the tokenizer has no token {token}")
        return identity


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE of `vocab_size` tokens, or of as many as the texts have repeated pairs for.

    The same texts in the same order give the same bytes. Raises UserError when `vocab_size` is below the special tokens
    and bytes.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(
            f"model.vocab_size = {vocab_size} is below {SMALLEST_VOCABULARY}: {len(SPECIAL_TOKENS)} special tokens "
            "and 256 bytes"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _split_into(*SPLIT_PATTERNS, rf"[\s\S]{{{LONGEST_LEARNT}}}")
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    _interruptible(lambda: tokenizer.train_from_iterator(texts, trainer))
    tokenizer.pre_tokenizer = _split_into(*SPLIT_PATTERNS)
    return Tokenizer(_release_flags(json.loads(tokenizer.to_str())))


def trained_here(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer looks like one of :func:`train`: its special tokens have the first ids, in order."""
    found = json.loads(tokenizer.content)
    return [token["content"] for token in found.get("added_tokens", ())][: len(SPECIAL_TOKENS)] == list(SPECIAL_TOKENS)


def _split_into(*patterns: str) -> Any:
    """A pre-tokenizer that cuts text at each pattern in turn and maps every byte of the pieces to a letter."""
    splits = (pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns)
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _interruptible(work: Callable[[], None]) -> None:
    """Run work that ignores Ctrl-C in a thread, which ends with the program when Ctrl-C breaks off the wait."""
    failed: list[BaseException] = []

    def attempt() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=attempt, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)  # without a time limit, a signal would wait for the end of the work
    if failed:
        raise failed[0]


def _release_flags(spec: dict[str, Any]) -> bytes:
    """The tokenizer.json with only the control tokens flagged special, as in DeepSeek's: servers leave flagged tokens
    out of their answers, and ``</think>`` must stay in.
    """
    for token in spec["added_tokens"]:
        token["special"] = token["content"] in CONTROL_TOKENS
    return (json.dumps(spec, ensure_ascii=False, indent=1) + "\n").encode()
