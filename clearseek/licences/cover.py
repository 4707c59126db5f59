"""The known texts in a text: each is found by a sketch of its phrases, then aligned with it word by word.

A text may hold several licences. The one of which most is there is taken out first, then what stands before and behind
it is searched again. Terms of companies are not shipped: they are recognised by the sketch alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from typing import Literal

from clearseek.licences.known import Known, known, sketch_places, standard, words_of
from clearseek.licences.names import NEUTRAL, adds_nothing, is_grant, is_operative, told
from clearseek.licences.table import Licence
from clearseek.licences.words import Op, Text, differences, phrases

_LEAST = 12
"""Words of a rest in which a further licence is looked for."""
_MOST_PARTS = 60
MOST_CHANGES = 200
_SHARE = 0.3
"""Share of a sketch that makes a text worth comparing."""
_SAME = 0.75
"""Share of a standard text's words that must be there in its order."""
_NEARLY = 0.8
"""Share of its sketch from which a text counts as one that is not shipped."""
_MARGIN = 12
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


@dataclass(slots=True)
class Search:
    """A text in which known ones are looked for."""

    text: Text
    words: tuple[str, ...]
    places: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for at, phrase in enumerate(phrases(self.words)):
            self.places.setdefault(phrase, []).append(at)


def nearest(search: Search) -> tuple[float, Licence | None]:
    scores = [(sum(phrase in search.places for phrase in each.sketch) / len(each.sketch), each) for each in known()]
    share, best = max(scores, key=lambda pair: pair[0])
    return (share, best.licence) if share else (0.0, None)


def cover(search: Search) -> list[Part]:
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


def _best(search: Search, begin: int, end: int) -> Part | None:
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


def _windows(search: Search, each: Known, begin: int, end: int) -> list[tuple[int, int]]:
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
    search: Search, each: Known, hits: list[int], share: float, begin: int, end: int
) -> tuple[Part | None, float]:
    """A text that is not shipped: all of these words are taken for it."""
    if share < _NEARLY or len({*hits}) < 4:
        return None, 0.0
    whole = sha256(" ".join(search.words[begin:end]).encode()).hexdigest() == each.words
    return Part(each.licence, begin, end, 0, whole, shipped=False), each.size * (2 * share - 1) + 10_000 * whole


def _aligned(search: Search, each: Known, window: tuple[int, int]) -> tuple[Part | None, float]:
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
    part = Part(each.licence, k, l, missing, not changes, tuple(changes[:MOST_CHANGES]))
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
    begun = any(is_grant(word.text) or is_operative(word.text) for word in own.words[: min(op.i, _TITLE)])
    if (
        not ours
        and not names
        and (op.i > _TITLE or begun)
        and (own.continues(op.i) or len(gained) > 1 or not found.alone(op.k, op.l))
    ):
        return True  # a word more within a sentence or a heading more between two
    return not adds_nothing(raw, {word.text for word in theirs} - {word.text for word in gained}, any_case=names)
