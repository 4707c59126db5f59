"""The texts that are known: the index of all, and the words of those that are shipped.

``texts/index.json`` has, for each, its source and hash, a sketch of its phrases by which it is found, and its
slots: words that SPDX's list says may differ in copies. ``benchmarks/licence_texts.py`` writes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from clearseek.licences.table import Licence, lookup
from clearseek.licences.words import Text, phrases, read


@dataclass(frozen=True, slots=True)
class Known:
    """A known text: what the index says of it."""

    id: str
    size: int
    words: str
    sketch: tuple[int, ...]
    slots: tuple[tuple[int, int, frozenset[str], bool, bool], ...]
    """First word, word after the last, words allowed there, whether names are, and whether it may be left out."""
    shipped: bool

    @property
    def licence(self) -> Licence:
        found = lookup(self.id.partition("~")[0])
        assert found is not None, self.id
        return found


@cache
def known() -> tuple[Known, ...]:
    """What the index of texts says."""
    folder = files(__package__) / "texts"
    content: dict[str, Any] = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    shipped = {path.name.removesuffix(".txt") for path in folder.iterdir()}
    return tuple(
        Known(
            id, entry["size"], entry["words"], tuple(entry["sketch"]),
            tuple((i, j, frozenset(words.split()), bool(wild), bool(optional))
                  for i, j, words, wild, optional in entry.get("slots", ())), id in shipped,
        )
        for id, entry in content.items()
    )  # fmt: skip


@cache
def standard(id: str) -> Text:
    """The words of a shipped text."""
    return read((files(__package__) / "texts" / f"{id}.txt").read_text(encoding="utf-8"))


@cache
def words_of(id: str) -> tuple[str, ...]:
    return tuple(word.text for word in standard(id).words)


@cache
def sketch_places(id: str) -> dict[int, int]:
    places: dict[int, int] = {}
    for at, phrase in enumerate(phrases(words_of(id))):
        places.setdefault(phrase, at)
    return places
