"""Which licence a text is: known texts are found in it, taken out, and what is left is read for rules.

Copies of one licence differ in ways that mean nothing: a heading, a product line, another holder, a list of authors,
the licences of parts that are bundled. And two licences differ in one word: CC-BY-NC-4.0 shares 98 % of its words
with CC-BY-4.0. So a text is first *covered*: each shipped text whose phrases occur in it is aligned with it, word by
word; there may be several. A difference then counts only where it can rule: where it has operative words, names a
place, is in another language, or is a sentence that says something else than what belongs to whom (`names.py`). It is
quoted as a `Change`; all else is told as added and harmless. Terms of companies are not shipped; they are recognised
by a sketch of their phrases, and said to be word for word theirs where all words give the same hash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import pairwise
from typing import Literal

from clearseek.licences.clauses import RESTRICTING, Clause, restrictions
from clearseek.licences.known import Known, known, sketch_places, standard, words_of
from clearseek.licences.named import by_name, named
from clearseek.licences.names import NEUTRAL, adds_nothing, is_grant, is_operative, told
from clearseek.licences.table import Licence
from clearseek.licences.words import Op, Text, differences, phrases, read, shorten

_LEAST = 12
"""Words of a rest in which a further licence is looked for."""
_MOST_PARTS = 60
_MOST_CHANGES = 200
_SHARE = 0.3
"""Share of a sketch that makes a text worth comparing."""
_SAME = 0.75
"""Share of a standard text's words that must be there in its order."""
_NEARLY = 0.8
"""Share of its sketch from which a text counts as one that is not shipped."""
_MARGIN = 12
_ABROAD = re.compile(r"[\u2e80-\uffef]+")
_LEAST_LATIN = 3
"""Words of a sentence that is read in a text of another script."""
_TITLE = 8
"""Words at the head of a licence among which a product's name may stand."""
_WIDE = 400
"""Words that may stand in the middle of a text."""
_MOST_OFF = 40.0
"""Equal words that outweigh a difference of any length."""


@dataclass(frozen=True, slots=True)
class Change:
    """Where a text departs from a standard one in a way that may matter."""

    kind: Literal["insert", "delete", "replace"]
    expected: str
    """What the standard text says here."""
    found: str
    """What this text says here."""
    line: int
    """In this text, from 1."""
    context: str
    """The sentence around it, in this text."""


@dataclass(frozen=True, slots=True)
class Part:
    """A licence that was found in a text."""

    licence: Licence
    begin: int
    end: int
    """Its words in the text."""
    missing: int
    """Words of the standard text that are not there and that copies do not leave out."""
    exact: bool
    """Word for word, but for what means nothing."""
    changes: tuple[Change, ...] = ()
    bundled: bool = False
    """The licence of a part that is included, told so above it."""
    shipped: bool = True


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


@dataclass(slots=True)
class _Search:
    """A text in which known ones are looked for."""

    text: Text
    words: tuple[str, ...]
    places: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for at, phrase in enumerate(phrases(self.words)):
            self.places.setdefault(phrase, []).append(at)


def identify(text: str) -> Match:
    """Say which licence a text is, what of it differs in a way that rules, and what it restricts. Never raises."""
    found = read(text)
    search = _Search(found, tuple(word.text for word in found.words))
    share, nearest = _nearest(search)
    parts = _cover(search)
    clauses = restrictions(text)
    if not parts:
        licences = by_name(text) if found.words else ()
        basis: Literal["title", "none"] = "title" if licences else "none"
        main, others = (licences[0], licences[1:]) if licences else (None, ())
        return Match(main, share, False, nearest, basis, (), found.copyright, clauses, others=others)
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
        first.licence, share, exact, first.licence, "text", changes[:_MOST_CHANGES], found.copyright,
        _beside(clauses, search, parts), is_cut, " and ".join(dict.fromkeys(added)), others, bundled,
        rest_of_it.unread,
    )  # fmt: skip


def _beside(clauses: tuple[Clause, ...], search: _Search, parts: list[Part]) -> tuple[Clause, ...]:
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


def _nearest(search: _Search) -> tuple[float, Licence | None]:
    scores = [(sum(phrase in search.places for phrase in each.sketch) / len(each.sketch), each) for each in known()]
    share, best = max(scores, key=lambda pair: pair[0])
    return (share, best.licence) if share else (0.0, None)


def _cover(search: _Search) -> list[Part]:
    """The known texts in this one, in their order."""
    parts: list[Part] = []
    todo = [(0, len(search.words))]
    while todo and len(parts) < _MOST_PARTS:
        begin, end = todo.pop()
        part = _best(search, begin, end) if end - begin >= _LEAST else None
        if part is not None:
            parts.append(part)
            todo += [(begin, part.begin), (part.end, end)]
    return sorted(parts, key=lambda part: part.begin)


def _best(search: _Search, begin: int, end: int) -> Part | None:
    """The known text of which most is among these words."""
    near: list[tuple[float, Known, list[int]]] = []
    for each in known():
        placed = [[at for at in search.places.get(phrase, ()) if begin <= at < end] for phrase in each.sketch]
        hits = sorted(at for places in placed for at in places)
        share = sum(map(bool, placed)) / max(1, len(each.sketch))
        if share >= _SHARE:
            near.append((share, each, hits))
    near.sort(key=lambda row: (-round(row[0], 1), abs(row[1].size - (end - begin))))
    best: tuple[float, Part] | None = None
    for share, each, hits in near[:12]:
        tries = [_sketched(search, each, hits, share, begin, end)] if not each.shipped else (
            _aligned(search, each, window) for window in _windows(search, each, begin, end))  # fmt: skip
        part, score = next((found for found in tries if found[0] is not None), (None, 0.0))
        if part is not None and (best is None or score > best[0]):
            best = score, part
            if part.exact and not part.missing and part.end - part.begin > 0.95 * (end - begin):
                break  # word for word, and nothing else is there
    return best[1] if best else None


def _windows(search: _Search, each: Known, begin: int, end: int) -> list[tuple[int, int]]:
    """Where a copy of a text most likely lies: as most of its sketch's phrases agree, and then with more around."""
    own = sketch_places(each.id)
    starts = sorted(
        at - own[phrase] for phrase in each.sketch if phrase in own
        for at in search.places.get(phrase, ()) if begin <= at < end
    )  # fmt: skip
    if not starts:
        return []
    loose = each.size // 5 + 40
    best, low = (0, 0, 0), 0
    for high, start in enumerate(starts):
        while starts[low] < start - loose:
            low += 1
        best = max(best, (high - low + 1, -starts[low], start))
    first, last = -best[1], best[2]
    near = (max(begin, first - _MARGIN), min(end, last + each.size + _MARGIN))
    return [near, (max(begin, first - each.size), min(end, last + 3 * each.size + _WIDE))]


def _sketched(
    search: _Search, each: Known, hits: list[int], share: float, begin: int, end: int
) -> tuple[Part | None, float]:
    """A text that is not shipped: all of these words are taken for it."""
    if share < _NEARLY or len({*hits}) < 4:
        return None, 0.0
    whole = sha256(" ".join(search.words[begin:end]).encode()).hexdigest() == each.words
    return Part(each.licence, begin, end, 0, whole, shipped=False), each.size * (2 * share - 1) + 10_000 * whole


def _aligned(search: _Search, each: Known, window: tuple[int, int]) -> tuple[Part | None, float]:
    """A shipped text word by word beside these words."""
    ours, (begin, end) = words_of(each.id), window
    ops = differences(ours, search.words[begin:end])
    ops = [Op(op.i, op.j, op.k + begin, op.l + begin) for op in ops]
    edges = [Op(0, 0, begin, begin), *ops, Op(len(ours), len(ours), end, end)]
    same = [(a.j, b.i, a.l, b.k) for a, b in pairwise(edges) if b.i > a.j]
    same = _without_strays(same)
    if not same:
        return None, 0.0
    i, k, j, l = same[0][0], same[0][2], same[-1][1], same[-1][3]  # noqa: E741
    optional = {at for a, b, allowed, names, spare in each.slots if spare or names or allowed for at in range(a, b)}
    matched = sum(b - a for a, b, _, _ in same)
    missing = sum(at not in optional for at in range(len(ours))) - sum(
        at not in optional for a, b, _, _ in same for at in range(a, b)
    )
    if matched < _SAME * (matched + missing):
        return None, 0.0
    gaps = [Op(0, i, k, k), *(Op(a[1], b[0], a[3], b[2]) for a, b in pairwise(same)), Op(j, len(ours), l, l)]
    changes = [_change(each, search.text, op) for op in gaps if _matters(each, search.text, op)]
    part = Part(each.licence, k, l, missing, not changes, tuple(changes[:_MOST_CHANGES]))
    return part, matched - 5 * missing - sum(op.l - op.k for op in gaps)


def _without_strays(same: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """The runs of equal words that belong together, without those that agree by chance before and after."""
    best, score, start, at = (0.0, 0, 0), 0.0, 0, 0
    for at, (i, j, k, _) in enumerate(same):
        if at:
            score -= min(_MOST_OFF, (i - same[at - 1][1] + k - same[at - 1][3]) / 2)
        if score <= 0:
            score, start = 0.0, at
        score += j - i
        best = max(best, (score, -start, at + 1))
    return same[-best[1] : best[2]]


def _change(each: Known, found: Text, op: Op) -> Change:
    kind: Literal["insert", "delete", "replace"] = "insert" if op.i == op.j else "delete" if op.k == op.l else "replace"
    at = min(op.k, len(found.words) - 1)
    return Change(
        kind, standard(each.id).quote(op.i, op.j), found.quote(op.k, op.l), found.words[at].line,
        found.sentence(op.k, op.l),
    )  # fmt: skip


def _matters(each: Known, found: Text, op: Op) -> bool:
    """Whether a difference within a licence may rule."""
    ours, theirs = standard(each.id).words[op.i : op.j], found.words[op.k : op.l]
    items = [word.item for word in (*ours, *theirs)]
    if all(items) and (not ours or not theirs or all(item == 1 for item in items)):
        return False
    if "".join(word.text for word in ours) == "".join(word.text for word in theirs):
        return False
    allowed: set[str] = set()
    names = False
    lost = [
        ours[at - op.i]
        for at in range(op.i, op.j)
        if not any(a <= at < b and (spare or wild or words) for a, b, words, wild, spare in each.slots)
    ]
    own = standard(each.id)
    for a, b, words, wild, _ in each.slots:
        if a <= op.i <= b or a < op.j <= b or op.i <= a <= b <= op.j:
            allowed |= words
            names = names or wild
    if ours and own.raw.startswith("Copyright", ours[0].begin):
        lost = []
    within = own.continues(op.i) or own.continues(op.j)
    if any(is_grant(word.text) or is_operative(word.text) for word in lost):
        return True
    # in a sentence each word counts; another name or number may stand for one
    if within and any(word.text not in NEUTRAL and (not theirs or own.raw[word.begin].islower()) for word in lost):
        return True
    gained = [word for word in theirs if word.text not in allowed and word.text not in NEUTRAL and not word.item]
    if not gained:
        return False
    raw = found.span(op.k, op.l) if not ours else found.raw[theirs[0].begin : theirs[-1].end]
    sentence = not ours and (len(theirs) > 5 or raw.endswith((".", "!", "?")))
    if sentence:
        return bool(told(raw).rules)
    if (
        not ours
        and not names
        and op.i > _TITLE
        and (own.continues(op.i) or len(gained) > 1 or not found.alone(op.k, op.l))
    ):
        return True  # a word more within a sentence or a heading more between two
    return not adds_nothing(raw, {word.text for word in theirs} - {word.text for word in gained}, any_case=names)


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
            if change not in self.changes and len(self.changes) < _MOST_CHANGES:
                self.changes.append(change)


def _rest(search: _Search, parts: list[Part]) -> _Rest:
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
        piece = told(raw, others=others, may_begin=after)
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
