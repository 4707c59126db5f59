"""Log-likelihoods of given texts: what multiple choice and perplexity ask for.

A prefix that several texts share is read once, to the token: the texts form a tree, whose branches are read from the
root on, and texts that part within a page of the cache get copies of that page. Logits are computed where a token is
weighed and nowhere else. Every number has the bits that :class:`clearseek.inference.engine.Engine` gives the same token
as part of a prompt.

Shapes: T tokens of a step, W rows with logits, C tokens that are weighed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clearseek.errors import UserError
from clearseek.inference.engine import Forward, Rows, Whole
from clearseek.inference.sampling import Numbers, weigh_rows
from clearseek.kernels import PAGE


class Text(NamedTuple):
    """Token ids, of which some are weighed."""

    tokens: Sequence[int]
    first: int
    """Place of the first token that is weighed, at least 1; those after it are weighed too."""


class Weighed(NamedTuple):
    """What a model says of the weighed tokens of a text."""

    logp: Numbers
    """Natural logarithm of each token's probability after the tokens before it."""
    likeliest: NDArray[np.bool_]
    """Whether the token is the likeliest one, of equals the first."""


@dataclass
class Counts:
    """What was done."""

    steps: int = 0
    read: int = 0
    """Tokens that went through the model."""
    logits: int = 0
    """Rows of logits."""


def log_likelihoods(forward: Forward, texts: Sequence[Text], counts: Counts | None = None) -> list[Weighed]:
    """Weigh tokens of texts.

    Args:
        forward: A model with a cache that nobody else uses.
        texts: Texts in any order. Of each, all tokens but the last one are read.
        counts: Where to add what was done.

    Raises:
        UserError: a text has nothing to weigh, a token that the model does not know, or no room in the model's context
            or the cache; or logits are not finite.
    """
    longest = min(forward.longest, forward.page_count * PAGE)
    for number, (tokens, first) in enumerate(texts):
        if not 0 < first < len(tokens):
            raise UserError(f"text {number}: no token to weigh after one that is read: give at least two tokens")
        if len(tokens) - 1 > longest:
            raise UserError(f"text {number} has {len(tokens)} tokens, but there is room for {longest + 1}: shorten it")
        if not 0 <= min(tokens) <= max(tokens) < forward.vocabulary:
            raise UserError(f"text {number}: a token outside 0 to {forward.vocabulary - 1}: use the model's tokenizer")
    return _Tree(forward, texts, Counts() if counts is None else counts).weigh() if texts else []


@dataclass
class _Held:
    """Pages of a branch that was read, kept until all branches that follow it have begun."""

    pages: list[int] | None
    """None where they had to be given up."""
    followers: int


class _Branch(NamedTuple):
    """Tokens that some texts have in common, after those of the branch before."""

    low: int
    high: int
    """Texts `low` to `high` - 1 in sorted order."""
    start: int
    end: int
    """Places of the tokens."""
    before: _Held | None


@dataclass
class _Reading:
    """A branch that is being read."""

    branch: _Branch
    pages: list[int]
    read: int
    """Tokens whose latents are in the pages."""


class _Tree:
    def __init__(self, forward: Forward, texts: Sequence[Text], counts: Counts) -> None:
        self.forward, self.counts = forward, counts
        arrays = [np.array(text.tokens, dtype=np.int64) for text in texts]
        self.order = sorted(range(len(texts)), key=lambda number: [*texts[number].tokens[:-1]])
        self.tokens = [arrays[number] for number in self.order]
        self.first = np.array([texts[number].first - 1 for number in self.order])
        """Of each text, the place of the token after which the first one is weighed."""
        self.length = np.array([len(tokens) - 1 for tokens in self.tokens])
        self.common = np.array([0, *(_common(one[:-1], other[:-1]) for one, other in pairwise(self.tokens))])
        """Tokens that a text shares with the one before it."""
        self.logp = [np.empty(len(text.tokens) - text.first) for text in texts]
        self.likeliest = [np.empty(len(text.tokens) - text.first, dtype=bool) for text in texts]
        self.free = list(range(forward.page_count))[::-1]
        self.uses = [0] * forward.page_count
        self.waiting: list[_Branch] = []
        self.copies: list[tuple[int, int]] = []

    def weigh(self) -> list[Weighed]:
        self._follow(None, 0, len(self.tokens), 0)
        unfinished: list[_Reading] = []
        while unfinished or self.waiting:
            room = self.forward.rows
            pieces = [(each, min(self._left(each), room)) for each in unfinished]  # one at most
            room -= sum(count for _, count in pieces)
            while room and self.waiting and (new := self._begin(self.waiting[-1])):
                self.waiting.pop()
                pieces.append((new, min(self._left(new), room)))
                room -= pieces[-1][1]
            if not pieces:
                self._give_up()
                continue
            self._read(pieces)
            unfinished = [each for each, _ in pieces if self._left(each)]
            for each, _ in reversed(pieces):
                if not self._left(each):
                    self._end(each)
        return [Weighed(*each) for each in zip(self.logp, self.likeliest, strict=True)]

    @staticmethod
    def _left(reading: _Reading) -> int:
        return reading.branch.end - reading.read

    # --- Branches and their pages -------------------------------------------------------------------------------------

    def _follow(self, pages: list[int] | None, low: int, high: int, place: int) -> None:
        """Let the branches wait that follow tokens up to `place` of some texts; the first one is begun next."""
        parts = [low, *(low + 1 + np.flatnonzero(self.common[low + 1 : high] == place)).tolist(), high]
        found = [
            (one, other, int(self.common[one + 1 : other].min() if other - one > 1 else self.length[one]))
            for one, other in pairwise(parts)
        ]
        found = [each for each in found if each[2] > place]  # the others end here
        held = None if pages is None else _Held(pages, len(found))
        self.waiting += [_Branch(one, other, place, end, held) for one, other, end in reversed(found)]
        if held is not None and not found:
            self._release(pages or [])

    def _begin(self, branch: _Branch) -> _Reading | None:
        """Give a branch its pages, a partly filled one of the branch before as a copy; None where none are free."""
        before = branch.before
        held = before.pages if before is not None else None
        shared = [] if held is None else held[: branch.start // PAGE]
        missing = -(-branch.end // PAGE) - len(shared)
        if missing > len(self.free):
            return None
        own = [self.free.pop() for _ in range(missing)]
        pages = shared + own
        for page in pages:
            self.uses[page] += 1
        if held is not None and branch.start % PAGE:
            self.copies.append((held[len(shared)], own[0]))
        if before is not None:
            before.followers -= 1
            if not before.followers and before.pages is not None:
                self._release(before.pages)
        return _Reading(branch, pages, 0 if held is None else branch.start)

    def _end(self, reading: _Reading) -> None:
        low, high, _, end, _ = reading.branch
        self._follow(reading.pages, low, high, end)

    def _release(self, pages: list[int]) -> None:
        for page in pages:
            self.uses[page] -= 1
            if not self.uses[page]:
                self.free.append(page)

    def _give_up(self) -> None:
        """Give up the pages that are needed last: what follows them reads them again."""
        held = next(each.before for each in self.waiting if each.before is not None and each.before.pages is not None)
        self._release(held.pages or [])
        held.pages = None

    # --- A step -------------------------------------------------------------------------------------------------------

    def _read(self, pieces: list[tuple[_Reading, int]]) -> None:
        """Read so many tokens of each branch, and weigh what follows them."""
        if self.copies:
            sources, targets = np.array(self.copies).T
            self.forward.copy_pages(sources, targets)
            self.copies.clear()
        most = max(len(each.pages) for each, _ in pieces)
        wanted: list[Whole] = []
        asked: list[tuple[int, int, int, int]] = []
        row = 0
        for each, count in pieces:
            asked += self._asked(each, count, row, wanted)
            row += count
        counts = [count for _, count in pieces]
        logits = self.forward.step(
            Rows(
                np.concatenate([self.tokens[each.branch.low][each.read : each.read + n] for each, n in pieces]),
                np.concatenate([np.arange(each.read, each.read + n) for each, n in pieces]),
                np.repeat(np.arange(len(pieces)), counts),
                np.array([each.pages + [0] * (most - len(each.pages)) for each, _ in pieces]),
                np.concatenate(wanted),
            )
        ).numpy()
        self.counts.steps += 1
        self.counts.read += row
        self.counts.logits += len(logits)
        for each, count in pieces:
            each.read += count
        self._weigh(logits, np.concatenate(wanted), asked)

    def _asked(self, reading: _Reading, count: int, row: int, wanted: list[Whole]) -> list[tuple[int, int, int, int]]:
        """Tokens that are weighed after `count` tokens, of which the first has this row: text, places, row.

        Rows whose logits are wanted are added to `wanted`.
        """
        low, high, start, end, _ = reading.branch
        begin, stop = np.maximum(self.first[low:high], max(start, reading.read)), min(end, reading.read + count)
        texts = np.flatnonzero(begin < stop)
        if len(texts):
            least = int(begin[texts].min())
            wanted.append(np.arange(row + least - reading.read, row + stop - reading.read))
        else:
            wanted.append(np.empty(0, dtype=np.int64))
        return [(low + text, int(begin[text]), stop, row - reading.read) for text in texts.tolist()]

    def _weigh(self, logits: NDArray[np.float32], wanted: Whole, asked: list[tuple[int, int, int, int]]) -> None:
        """Note what the logits say of the tokens that are asked for."""
        if not asked:
            return
        targets = np.concatenate([self.tokens[text][begin + 1 : stop + 1] for text, begin, stop, _ in asked])
        rows = np.concatenate([np.arange(begin + offset, stop + offset) for _, begin, stop, offset in asked])
        order = np.argsort(rows, kind="stable")  # tokens that are weighed in one row stand side by side
        logp, likeliest = np.empty(len(rows)), np.empty(len(rows), dtype=bool)
        logp[order], likeliest[order] = weigh_rows(logits, np.searchsorted(wanted, rows[order]), targets[order])
        done = 0
        for text, begin, stop, _ in asked:
            number, part = self.order[text], slice(begin - self.first[text], stop - self.first[text])
            self.logp[number][part] = logp[done : done + stop - begin]
            self.likeliest[number][part] = likeliest[done : done + stop - begin]
            done += stop - begin


def _common(one: Whole, other: Whole) -> int:
    """Tokens that two texts begin with alike."""
    least = min(len(one), len(other))
    different = one[:least] != other[:least]
    return int(different.argmax()) if different.any() else least
