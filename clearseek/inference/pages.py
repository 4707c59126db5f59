"""Pages of the cache: who uses which, and which hold a prefix that a later request may read again.

A page holds :data:`clearseek.kernels.PAGE` positions of one sequence. A full page is found again by the page before it,
as it was then, and by its own tokens, which are compared: so the whole prefix is the same, without trust in a hash.
Pages that no request uses keep their contents until they are needed, the longest unused first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from clearseek.kernels import PAGE

_START = -1, 0

Prefix = tuple[tuple[int, int], tuple[int, ...]]
"""What a full page holds: the page before it with that page's edition, and the tokens."""


class Pages:
    """The pages of one cache."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._uses = [0] * count
        self._edition = [0] * count
        """How often a page has been filled anew."""
        self._unused: OrderedDict[int, None] = OrderedDict((page, None) for page in range(count))
        """Pages of no request, those to be taken first in front."""
        self._held: dict[int, Prefix] = {}
        """What each full page holds."""
        self._known: dict[Prefix, int] = {}
        """Of the pages that hold the same, the one that is found."""

    @property
    def free(self) -> int:
        """Pages that no request uses."""
        return len(self._unused)

    def take(self) -> int | None:
        """A page for new tokens, or None where every page is in use."""
        if not self._unused:
            return None
        page, _ = self._unused.popitem(last=False)
        if self._found(page):
            del self._known[self._held[page]]
        self._held.pop(page, None)
        self._edition[page] += 1
        self._uses[page] = 1
        return page

    def give_back(self, pages: Sequence[int]) -> None:
        """End a request's use of its pages. Those that no request can find are taken first, then ends of sequences."""
        for page in reversed(pages):
            self._uses[page] -= 1
            assert self._uses[page] >= 0, "a page was given back twice"
            if self._uses[page] == 0:
                self._unused[page] = None
                if not self._found(page):
                    self._unused.move_to_end(page, last=False)

    def keep(self, pages: Sequence[int], index: int, tokens: Sequence[int]) -> None:
        """Remember that page `index` of a sequence is full with `tokens`, for later requests."""
        page = pages[index]
        if page not in self._held:
            self._held[page] = self._place(pages[index - 1] if index else None), tuple(tokens)
            self._known.setdefault(self._held[page], page)

    def reuse(self, tokens: Sequence[int]) -> list[int]:
        """Pages that hold the beginning of `tokens`, now used by one request more; at least one token is left out."""
        found: list[int] = []
        for start in range(0, len(tokens) - PAGE, PAGE):
            before = self._place(found[-1] if found else None)
            page = self._known.get((before, tuple(tokens[start : start + PAGE])))
            if page is None:
                break
            found.append(page)
        for page in found:
            self._uses[page] += 1
            self._unused.pop(page, None)
        return found

    def _found(self, page: int) -> bool:
        """Whether a later request can find a page."""
        return page in self._held and self._known.get(self._held[page]) == page

    def _place(self, page: int | None) -> tuple[int, int]:
        """A full page with its edition; of pages that hold the same, the one that is found.

        So sequences that were read side by side, each into its own pages, go on from one place.
        """
        if page is None:
            return _START
        known = self._known.setdefault(self._held[page], page)  # its equal may have been taken since
        return known, self._edition[known]
