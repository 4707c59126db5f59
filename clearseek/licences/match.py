"""Which licence a text is: known texts are found in it, taken out, and what is left is read for rules.

Copies of one licence differ in ways that mean nothing: a heading, a product line, another holder, a list of authors,
the licences of parts that are bundled. And two licences differ in one word: CC-BY-NC-4.0 shares 98 % of its words with
CC-BY-4.0. So a text is first *covered* with known ones (`cover.py`). A difference then counts only where it can rule:
where it has operative words, names a place, is in another language, or is a sentence that says something else than
what belongs to whom (`names.py`). It is quoted as a `Change`; all else is told as added and harmless. Terms of
companies are not shipped; they are recognised by a sketch of their phrases, and said to be word for word theirs where
all words give the same hash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from clearseek.licences.clauses import RESTRICTING, Clause, restrictions
from clearseek.licences.cover import MOST_CHANGES, Change, Part, Search, cover, nearest
from clearseek.licences.named import by_name, named
from clearseek.licences.names import told
from clearseek.licences.table import Licence
from clearseek.licences.words import read, shorten

_ABROAD = re.compile(r"[\u2e80-\uffef]+")
_LEAST_LATIN = 3
"""Words of a sentence that is read in a text of another script."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a text is."""

    licence: Licence | None
    """None where no known text is near and no licence is named."""
    similarity: float
    """Share of `nearest`'s phrases that the text has."""
    exact: bool
    """All of it was compared, and nothing that rules differs from what is known."""
    nearest: Licence | None
    """The known text of which most is there."""
    basis: Literal["text", "title", "none"]
    """``text``: compared with `licence`. ``title``: it is only named."""
    changes: tuple[Change, ...]
    copyright: tuple[tuple[int, str], ...]
    """Copyright lines with their numbers."""
    clauses: tuple[Clause, ...]
    """What restricts, quoted; of open licences that stand there unchanged none."""
    is_cut: bool = False
    """There is more than was compared."""
    added: str = ""
    """What stands there besides and adds no condition: ``a heading``."""
    others: tuple[Licence, ...] = ()
    """Further licences in the same text."""
    bundled: tuple[Licence, ...] = ()
    """Licences of parts that are included."""
    unread: bool = False
    """A text in another language follows, which was not read."""

    @property
    def label(self) -> str:
        """``MIT``, ``BSD-3-Clause, with a heading added``, ``modified MIT`` or ``unknown``."""
        if self.licence is None:
            return "unknown"
        name = " and ".join(licence.id for licence in (self.licence, *self.others))
        if self.basis == "title":
            return f"{name} (by its title)"
        if self.changes:
            return f"modified {name}"
        if self.unread:
            return f"{name}, with a text in another language that was not read"
        if self.is_cut:
            return f"{name} as far as it was compared"
        if not self.exact:
            return f"{name}, nearly word for word"
        return f"{name}, with {self.added} added" if self.added else name

    @property
    def licences(self) -> tuple[Licence, ...]:
        """All that cover what the text is for."""
        return (() if self.licence is None else (self.licence,)) + self.others


def identify(text: str) -> Match:
    """Say which licence a text is, what of it differs in a way that rules, and what it restricts. Never raises."""
    found = read(text)
    search = Search(found, tuple(word.text for word in found.words))
    share, near = nearest(search)
    parts = cover(search)
    clauses = restrictions(text)
    if not parts:
        licences = by_name(text) if found.words else ()
        basis: Literal["title", "none"] = "title" if licences else "none"
        main, others = (licences[0], licences[1:]) if licences else (None, ())
        return Match(main, share, False, near, basis, (), found.copyright, clauses, others=others)
    rest_of_it = _rest(search, parts)
    parts = [_bundle(part, rest_of_it.bundled) for part in parts]
    added = rest_of_it.added
    changes = tuple(
        sorted(
            [*rest_of_it.changes, *(change for part in parts for change in part.changes)], key=lambda each: each.line
        )
    )
    first, *rest = sorted(parts, key=lambda part: (part.bundled, part.begin))
    others = tuple(dict.fromkeys(part.licence for part in rest if not part.bundled and part.licence != first.licence))
    bundled = tuple(dict.fromkeys(part.licence for part in rest if part.bundled))
    if bundled:
        added = [*added, "the licences of bundled parts"]
    is_cut = found.cut or rest_of_it.unread
    exact = not changes and not is_cut and all(part.exact for part in parts if not part.bundled)
    return Match(
        first.licence, share, exact, first.licence, "text", changes[:MOST_CHANGES], found.copyright,
        _beside(clauses, search, parts), is_cut, " and ".join(dict.fromkeys(added)), others, bundled,
        rest_of_it.unread,
    )  # fmt: skip


def _beside(clauses: tuple[Clause, ...], search: Search, parts: list[Part]) -> tuple[Clause, ...]:
    """The clauses that do not stand in the text of a licence which restricts nothing."""
    free = [
        (search.text.words[part.begin].line, search.text.words[part.end - 1].line, {each.line for each in part.changes})
        for part in parts
        if part.shipped and not part.licence.restricted
    ]
    return tuple(
        clause
        for clause in clauses
        if clause.flag not in RESTRICTING
        or not any(first <= clause.line <= last and clause.line not in changed for first, last, changed in free)
    )


def _bundle(part: Part, begin: int | None) -> Part:
    """A part that is somebody else's: of what differs in it only what restricts counts."""
    if begin is None or part.begin < begin or part.licence.restricted:
        return part
    kept = tuple(change for change in part.changes if _restricts(change.found) or _restricts(change.context))
    return replace(part, bundled=True, changes=kept)


def _restricts(text: str) -> bool:
    return bool(told(text, others=True).rules) or any(each.flag in RESTRICTING for each in restrictions(text))


def _is_translation(raw: str, licence: Licence) -> bool:
    """Whether a text that follows on a licence says of itself that it is this licence, in another script."""
    named = licence.name.split()[0].lower() in raw[:200].lower()
    foreign = sum(1 for letter in raw if letter > "\u2e80")
    return (
        named
        and foreign > len(raw) // 2
        and re.search("许可|許可|ライセンス|라이선스|라이센스", raw[:2_000]) is not None
    )


@dataclass(slots=True)
class _Rest:
    """What stands outside of the licences: rules, the names of what is harmless, and where others' parts begin."""

    changes: list[Change] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    bundled: int | None = None
    unread: bool = False

    def rules(self, first: int, found: Iterable[tuple[int, str]]) -> None:
        """Add sentences that may rule, each with the number of line breaks before it."""
        for line, rule in found:
            change = Change("insert", "", shorten(rule), first + line, shorten(rule))
            if change not in self.changes and len(self.changes) < MOST_CHANGES:
                self.changes.append(change)


def _rest(search: Search, parts: list[Part]) -> _Rest:
    """What stands outside of the licences."""
    rest = _Rest()
    known_ids = {part.licence.id for part in parts}
    others = False
    edges = [0, *(at for part in parts for at in (part.begin, part.end)), len(search.words)]
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if begin >= end:
            continue
        raw, first = search.text.span(begin, end), search.text.words[begin].line
        after = any(part.end <= begin for part in parts)
        if after and _is_translation(raw, parts[0].licence):
            rest.unread = True
            rest.rules(first, [*_limits(raw), *_latin(raw)])
            continue
        piece = told(raw, others=others, may_begin=after, ends=end == len(search.words))
        rest.rules(first, piece.rules)
        rest.rules(first, ((line, text) for line, text in piece.own if _names_restricted(text, known_ids)))
        if others or piece.others:
            rest.rules(first, _limits(raw))
            rest.bundled = begin if rest.bundled is None else rest.bundled
        if piece.kind:
            rest.added.append(piece.kind)
        others = piece.lasting
    return rest


def _limits(raw: str) -> Iterator[tuple[int, str]]:
    return ((each.line - 1, each.quote) for each in restrictions(raw) if each.flag in RESTRICTING)


def _names_restricted(text: str, but: set[str]) -> bool:
    """Whether a sentence names a licence that shuts somebody out and whose text is not here."""
    return any(each.licence.restricted and each.licence.id not in but for each in named(text, context=True))


def _latin(raw: str) -> Iterator[tuple[int, str]]:
    """The rules among the Latin words of a text in another script."""
    for number, line in enumerate(raw.split("\n")):
        for words in _ABROAD.split(line):
            if len(words.split()) >= _LEAST_LATIN:
                yield from ((number, rule) for _, rule in told(words.strip()).rules)
