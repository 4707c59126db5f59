"""Licences that are named in prose: "MIT-licensed", "unter der Apache-Lizenz 2.0", "Gemma Terms of Use".

All names of the table and of SPDX's list are looked for at once, the longest first, in words without punctuation. A
name of one plain word ("MIT", "Apache", "Gemma") counts only where the text speaks of a licence.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple
from urllib.parse import urlsplit

from clearseek.licences.names import told
from clearseek.licences.table import LICENCES, Licence, lookup, spdx

CONTEXT = re.compile(
    r"licen[cs]|lizen[sz]|licenz|licenç|лиценз|许可|許可|协议|協議|授权|授權|ライセンス|라이선스|라이센스"
    r"|\b(?:released|available|distributed|published|provided|covered|falls?|are|is|lies) under\b"
    r"|open[- ]source|terms of use|\bterms\b|quelloffen|开源",
    re.I,
)
"""Words that speak of a licence, in the languages of most cards."""
_TOKEN = re.compile(r"[a-z]+|\d+|\+")
_DROPPED = frozenset(
    ("the", "license", "licence", "agreement", "version", "v", "lizenz", "licencia", "licenza", "licença")
)
_CALLED = re.compile(r"licen[cs]|terms|agreement|rail|non-?commercial|research|\bnc\b|mnpl|mrl", re.I)
_CALLED_AFTER = re.compile(r"['\u2019s]{0,2}[\W_]*(?:community|model|research|open|public|own|模型|社区){0,2}[\W_]*"
                           r"(?:licen[cs]e|lizenz|terms|agreement|许可|协议|ライセンス)", re.I)  # fmt: skip
_CALLED_BEFORE = re.compile(r"(?:licen[cs]e|lizenz|licencia|licenza|许可证?|协议)\W{1,4}$", re.I)
_REPOSITORIES = re.compile(r"(?:^|\.)(?:github|gitlab|huggingface|hf|gitee|modelscope|githubusercontent)\.", re.I)
_COMMONS = re.compile(
    r"creativecommons\.org/(?:licenses/(?P<terms>[a-z-]{2,10})/(?P<version>\d\.\d)|publicdomain/zero)"
)
_OWN_TERMS = ("community", "research", "rail", "source-available")
"""Families of licences that are called after products."""
_LONGEST = 16
_LONGEST_TEXT = 20_000
_HEAD = 700
_MOST = 50


class Named(NamedTuple):
    """A licence's name in a text."""

    licence: Licence
    begin: int
    end: int


@cache
def _names() -> dict[str, dict[tuple[str, ...], Licence]]:
    """All names by their first word: those of several words, and single ones of the table."""
    names: dict[str, dict[tuple[str, ...], Licence]] = {}
    rows = [(name, row) for row in LICENCES for name in (row.id.removeprefix("LicenseRef-"), row.name, *row.aliases)]
    listed = [(name, row) for row in dict.fromkeys(spdx().values()) for name in (row.id, row.name)]
    for name, row in [*rows, *listed]:
        words = _words(name)
        if words and (len(words) > 1 or any(row is each for each in LICENCES)):
            names.setdefault(words[0], {}).setdefault(words, row)
    return names


def _words(name: str) -> tuple[str, ...]:
    return tuple(match[0] for match in _TOKEN.finditer(name.lower()) if match[0] not in _DROPPED)


def named(text: str, context: bool = False) -> list[Named]:
    """The licences that a text names, in order. `context`: what is around it speaks of a licence."""
    text = text[:_LONGEST_TEXT]
    lower = text.lower()
    tokens = [match for match in _TOKEN.finditer(lower) if match[0] not in _DROPPED]
    context = context or bool(CONTEXT.search(text))
    found: list[Named] = []
    at = 0
    while at < len(tokens) and len(found) < _MOST:
        choices = _names().get(tokens[at][0], {})
        words = tuple(token[0] for token in tokens[at : at + _LONGEST])
        size = next((size for size in range(len(words), 0, -1) if words[:size] in choices), 0)
        row = choices.get(words[:size])
        begin, end = tokens[at].start(), tokens[at + max(size, 1) - 1].end()
        if (
            row is not None and (size > 2 or context) and _is_whole(lower, begin, end)
            and (row.family not in _OWN_TERMS or _is_called_so(text, begin, end))
        ):  # fmt: skip
            found.append(Named(row, begin, end))
            at += size
        else:
            at += 1
    return found


def _is_called_so(text: str, begin: int, end: int) -> bool:
    """Whether a name that is also a product's is said to be a licence's: next to the word, or alone."""
    called = _CALLED.search(text[begin:end]) or _CALLED_AFTER.match(text[end : end + 40])
    return bool(called or _CALLED_BEFORE.search(text[max(0, begin - 30) : begin]) or (not text[end:].strip(" .)]*")
                and not text[:begin].strip(" ([*")))  # fmt: skip


def _is_whole(text: str, begin: int, end: int) -> bool:
    """Whether a name is not the middle of a longer word, a path or an address."""
    before, after = text[max(0, begin - 1) : begin], text[end : end + 1]
    return not (before.isalnum() or before in ("_", "/", "@")) and not (after.isalnum() and after.isascii()) and (
        after not in ("_", "/", "@")
    )  # fmt: skip


def by_name(text: str) -> tuple[Licence, ...]:
    """The licences that a text without any known one only names: at its head, or in a few words that add no rule."""
    head = tuple(dict.fromkeys(each.licence for each in named(text[:_HEAD], context=True)))
    restricted = tuple(licence for licence in head if licence.restricted)
    if restricted or len(text) > 4 * _HEAD or told(text).rules:
        return restricted[:1]
    return head


def by_url(url: str) -> Licence | None:
    """The licence that an address is of: a page of Creative Commons, or one whose path names a licence."""
    if match := _COMMONS.search(url[:300]):
        return lookup(f"cc-{match['terms']}-{match['version']}" if match["terms"] else "cc0-1.0")
    parts = urlsplit(url[:300])
    if _REPOSITORIES.search(parts.netloc) or not CONTEXT.search(url[:300]):
        return None
    words = re.sub(r"[/_.-]+", " ", f"{parts.netloc} {parts.path}")
    return next((each.licence for each in named(f"license: {words}", context=True)), None)
