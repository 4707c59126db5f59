"""An answer's tokens as text, while they come: characters split over tokens, and stop texts across their borders."""

from __future__ import annotations

import codecs
import functools
from collections.abc import Sequence

from clearseek.data.tokenizer import Tokenizer


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """Byte that each character of a byte-level vocabulary stands for (Radford et al., 2019)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class Bytes:
    """The bytes of each token of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_of, self._added = tokenizer.token_of, tokenizer.added
        self._known: dict[int, bytes] = {}

    def __call__(self, token: int) -> bytes:
        """Bytes of a token: of a special token, its name; of an id that has none, nothing."""
        if token not in self._known:
            name = self._token_of(token)
            if name is None:
                self._known[token] = b""
            elif token in self._added:
                self._known[token] = name.encode()
            else:
                self._known[token] = bytes(_byte_of_character()[character] for character in name)
        return self._known[token]


class Text:
    """The text of an answer, as far as it is certain."""

    def __init__(self, bytes_of: Bytes, stops: Sequence[str] = ()) -> None:
        """Texts in `stops` end the answer and are left out."""
        self._bytes_of, self._stops = bytes_of, [stop for stop in stops if stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped: str | None = None
        """The stop text that was found."""

    def add(self, token: int) -> str:
        """Text that became certain with a token; what may be the beginning of a stop text is held back."""
        if self.stopped is not None:
            return ""
        return self._search(self._decoder.decode(self._bytes_of(token)))

    def end(self) -> str:
        """The rest, at the end of the answer."""
        if self.stopped is not None:
            return ""
        certain = self._search(self._decoder.decode(b"", final=True))
        rest, self._held = self._held if self.stopped is None else "", ""
        return certain + rest

    def _search(self, new: str) -> str:
        text = self._held + new
        found = [(text.find(stop), stop) for stop in self._stops if stop in text]
        if found:
            place, self.stopped = min(found)
            self._held = ""
            return text[:place]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
