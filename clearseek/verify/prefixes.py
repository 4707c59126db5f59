"""A record read again by the engine, every prefix once.

The completions of a group begin alike: with the same prompt, and often with the same answer for some tokens. Writing
reads each token of each completion; reading a record again, completions with the same prefix share its hidden states.
So does the head's product, and in a draw the exponentials. Only the noise is a completion's own.

Completions in the order of their contents form a tree: one shares with the one before it all tokens up to the first
difference, and what follows is its *branch*. A branch is one *level* below the branch that it leaves.
The branches of a level are read together; each sees the cache's pages of its prefix, the last of them as a copy.

Shapes: N completions, S inputs of the longest, P pages of the longest, M inputs that are read, L layers with experts, K
experts per token, C draws, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from clearseek.inference.engine import Rows
from clearseek.inference.loops import Loops
from clearseek.inference.packed import Packed
from clearseek.inference.request import Settings
from clearseek.kernels import PAGE
from clearseek.posttrain.rollouts import MOST_ROWS, Rollouts, Whole
from clearseek.verify.draws import MARGIN, ROUTER, Draws, Judged, draws_of, judge

_TOKENS: Final = 16_384
"""Tokens, padding and repetitions with them, whose prefixes are in the cache at once."""


class _Tree(NamedTuple):
    """Completions in the order of their contents, and where they part."""

    number_N: Whole
    """Their numbers in the record."""
    begin_N: Whole
    """First input of each branch: that many inputs are those of the completion before."""
    owner_NS: Whole
    """Whose branch has the input of a completion and position."""
    level_N: Whole
    row_M: Whole
    """Inputs that are read, level by level: the branch of each,"""
    position_M: Whole
    """and its position."""
    place_NS: Whole
    """Number of an input among those that are read, by branch and position."""


def judge_by_engine(packed: Packed, rollouts: Rollouts, settings: Settings) -> Judged:
    """Judge all draws and choices of experts of a record."""
    found = Judged.of(rollouts)
    parts, longest = [*_parts(rollouts)], int(rollouts.length_N.max())
    pages = max(len(part) * -(-int(rollouts.length_N[part].max()) // PAGE) for part in parts)
    loops = Loops(packed, pages, MOST_ROWS, longest)
    for part in parts:
        _Part(loops, rollouts, part, settings, found).read()
    return found


def _parts(rollouts: Rollouts) -> Iterator[Whole]:
    """Numbers of completions that are read together: side by side in the record."""
    lengths, first, longest = rollouts.length_N.tolist(), 0, 0
    for number, length in enumerate(lengths):
        longest = max(longest, length)
        if number > first and longest * (number + 1 - first) > _TOKENS:
            yield np.arange(first, number)
            first, longest = number, length
    yield np.arange(first, len(lengths))


def _tree(rollouts: Rollouts, part: Whole) -> _Tree:
    """The tree of some completions; two inputs are the same if token and told experts are, and all before them."""
    token_T, route_LTK = rollouts.token_T.numpy(), rollouts.route_LTK.numpy()
    length_N = rollouts.length_N.numpy()
    begins = length_N.cumsum() - length_N
    span = slice(begins[part[0]], begins[part[-1]] + length_N[part[-1]])
    routes = route_LTK[:, span].transpose(1, 0, 2).reshape(span.stop - span.start, -1)
    content_TW = np.concatenate([token_T[span, None].view(np.int16), routes], axis=1)
    starts, inputs = begins[part] - span.start, length_N[part] - 1
    written = [content_TW[a : a + n].tobytes() for a, n in zip(starts.tolist(), inputs.tolist(), strict=True)]
    order = np.array(sorted(range(len(part)), key=written.__getitem__))
    starts, inputs, at_S = starts[order], inputs[order], np.arange(inputs.max())
    content_NSW = content_TW[np.minimum(starts[:, None] + at_S, len(content_TW) - 1)]
    alike = at_S < np.minimum(inputs[1:], inputs[:-1])[:, None]
    for w in range(content_TW.shape[1]):
        alike &= content_NSW[1:, :, w] == content_NSW[:-1, :, w]
    begin_N = np.concatenate([[0], np.where(alike.all(1), len(at_S), alike.argmin(1))])
    owner_NS = _last_to_begin(begin_N, at_S)
    level_N = _levels(begin_N, owner_NS)
    row_M, position_M = np.nonzero((at_S >= begin_N[:, None]) & (at_S < inputs[:, None]))
    by_level = np.argsort(level_N[row_M], kind="stable")
    row_M, position_M = row_M[by_level], position_M[by_level]
    place_NS = np.zeros(owner_NS.shape, dtype=np.int64)
    place_NS[row_M, position_M] = np.arange(len(row_M))
    return _Tree(part[order], begin_N, owner_NS, level_N, row_M, position_M, place_NS)


def _last_to_begin(begin_N: Whole, place_S: Whole) -> Whole:
    """For each completion and place, the last completion up to it whose branch begins there or before."""
    has = begin_N[:, None] <= place_S
    found: Whole = np.maximum.accumulate(np.where(has, np.arange(len(begin_N))[:, None], 0), axis=0)
    return found


def _levels(begin_N: Whole, owner_NS: Whole) -> Whole:
    """How many branches are left on the way to each."""
    parent_N = owner_NS[np.arange(len(begin_N)), begin_N - 1]
    level_N = np.zeros(len(begin_N), dtype=np.int64)
    while True:
        below = np.where(begin_N > 0, level_N[parent_N] + 1, 0)
        if np.array_equal(below, level_N):
            return level_N
        level_N = below


class _Part:
    """Completions whose prefixes are in the cache at once."""

    def __init__(self, loops: Loops, rollouts: Rollouts, part: Whole, settings: Settings, found: Judged) -> None:
        self.loops, self.rollouts, self.settings, self.found = loops, rollouts, settings, found
        tree = self.tree = _tree(rollouts, part)
        length_N = rollouts.length_N.numpy()
        self.told_M = (length_N.cumsum() - length_N)[tree.number_N][tree.row_M] + tree.position_M
        """Place of each input in the record."""
        at_P = np.arange(-(-int(length_N[part].max()) // PAGE))
        self.pages_NP = _last_to_begin(tree.begin_N // PAGE, at_P) * len(at_P) + at_P
        self.draws = self._draws(part)

    def _draws(self, part: Whole) -> Draws:
        """All draws, by the inputs after which they were made."""
        tree, draws = self.tree, draws_of(self.rollouts, part)
        row_N = np.empty(len(part), dtype=np.int64)
        row_N[tree.number_N - part[0]] = np.arange(len(part))
        before = draws.position - 1
        state = tree.place_NS[tree.owner_NS[row_N[draws.completion - part[0]], before], before]
        return draws.by_state(state)

    def read(self) -> None:
        """Read level after level, and judge what was drawn after each input."""
        tree = self.tree
        level_M = tree.level_N[tree.row_M]
        for level in range(int(level_M[-1]) + 1):
            first, end = np.searchsorted(level_M, [level, level + 1]).tolist()
            self._copy_pages(np.unique(tree.row_M[first:end]))
            for start in range(first, end, self.loops.rows):
                self._step(start, min(end, start + self.loops.rows))

    def _copy_pages(self, rows: Whole) -> None:
        """Give branches that begin within a page a copy of its first part."""
        tree = self.tree
        rows = rows[tree.begin_N[rows] % PAGE > 0]
        begins = tree.begin_N[rows]
        parents = tree.owner_NS[rows, begins - 1]
        self.loops.copy_pages(self.pages_NP[parents, begins // PAGE], self.pages_NP[rows, begins // PAGE])

    def _step(self, start: int, end: int) -> None:
        """Read some inputs, and judge the draws after them."""
        tree, told = self.tree, self.told_M[start:end]
        draws = self.draws.part(slice(*np.searchsorted(self.draws.state, [start, end])))
        wanted, state = np.unique(draws.state - start, return_inverse=True)
        row, position = tree.row_M[start:end], tree.position_M[start:end]
        rows = Rows(self.rollouts.token_T.numpy()[told].astype(np.int64), position, row, self.pages_NP, wanted)
        logits, verdict_LM = self.loops.step_told(rows, self.rollouts.route_LTK.numpy()[:, told], ROUTER[torch.float32])
        self.found.close += int((verdict_LM == 1).sum())
        for layer, place in np.argwhere(verdict_LM == 2).tolist():
            told_K = self.rollouts.route_LTK[layer, told[place]].tolist()
            self.found.wrong.append(
                f"completion {tree.number_N[row[place]]}, position {position[place]}: experts {told_K}, and the router "
                "chooses others"
            )
        if len(wanted):
            logits_UV: NDArray[np.float32] = logits.numpy()
            draws = draws._replace(state=state)
            judge(logits_UV, draws, self.rollouts, self.settings, MARGIN[torch.float32], self.found)
