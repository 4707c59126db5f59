"""Words and names that checks look for, such as those of test sets and of a card's sections: ``words.toml``, read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

WORDS: Final[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "words.toml").read_text("utf-8"))
_PARTS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")


@lru_cache(maxsize=50_000)
def words(name: str) -> frozenset[str]:
    """The words that a name is made of, in lower case: ``SFTTrainer.train_step`` has sft, trainer, train, step."""
    return frozenset(part.lower() for part in _PARTS.findall(name[:500]))


def any_of(words: Iterable[str], flags: re.RegexFlag = re.I, around: str = "{}") -> re.Pattern[str]:
    """The pattern of any of these words, within `around`."""
    return re.compile(around.replace("{}", f"(?:{'|'.join(words)})"), flags)


def cue(*kinds: str) -> re.Pattern[str]:
    """The pattern of the words of these kinds, a table of ``words.toml``."""
    words = (word for kind in kinds for word in WORDS["cues"][kind])
    pattern = "|".join(word if isinstance(word, str) else rf"\b(?:{'|'.join(word)})\b" for word in words)
    for part, meaning in WORDS["parts"].items():
        pattern = pattern.replace(f"<{part}>", meaning)
    return re.compile(pattern, re.I)


BENCHMARK: Final = any_of(WORDS["names"]["benchmarks"], around=r"(?<![a-z]){}(?![a-z])")
"""Test sets that anybody can have under these names."""
