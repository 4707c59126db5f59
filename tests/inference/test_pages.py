"""Pages: none is lost, none is used twice, and a prefix that is found is the right one."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from clearseek.inference.pages import Pages
from clearseek.kernels import PAGE


class Requests(RuleBasedStateMachine):
    """Sequences that come, grow and go; beside them what each page really holds."""

    @initialize(count=st.integers(1, 8))
    def begin(self, count: int) -> None:
        self.pages = Pages(count)
        self.live: list[tuple[list[int], list[int]]] = []
        self.contents: dict[int, list[int]] = {}

    @rule(letters=st.lists(st.integers(0, 1), max_size=4), last=st.integers(0, 1))
    def come(self, letters: list[int], last: int, most: int = 5) -> None:
        tokens = [letter for letter in letters for _ in range(PAGE)] + [last]
        found = self.pages.reuse(tokens)
        for index, page in enumerate(found):
            assert self.contents[page] == tokens[: (index + 1) * PAGE]
        self.live.append((tokens, found))
        self.grow(len(self.live) - 1, most)

    @rule(letters=st.lists(st.integers(0, 1), max_size=4), last=st.integers(0, 1))
    def come_slowly(self, letters: list[int], last: int) -> None:
        """A sequence that reads a page at a time, beside others that may be equal."""
        self.come(letters, last, most=1)

    @rule(index=st.integers(0, 3), most=st.integers(1, 5))
    def grow(self, index: int, most: int) -> None:
        if index >= len(self.live):
            return
        tokens, pages = self.live[index]
        for _ in range(most):
            if len(pages) * PAGE >= len(tokens):
                break
            page = self.pages.take()
            if page is None:
                break
            assert all(page not in others for _, others in self.live)
            pages.append(page)
            self.contents[page] = tokens[: len(pages) * PAGE]
            if len(self.contents[page]) == len(pages) * PAGE:
                self.pages.keep(pages, len(pages) - 1, tokens[(len(pages) - 1) * PAGE : len(pages) * PAGE])

    @rule(index=st.integers(0, 3))
    def go(self, index: int) -> None:
        if index < len(self.live):
            self.pages.give_back(self.live.pop(index)[1])

    @invariant()
    def every_page_is_free_or_used(self) -> None:
        if hasattr(self, "pages"):
            used = {page for _, pages in self.live for page in pages}
            assert self.pages.free == self.pages.count - len(used)


TestRequests = Requests.TestCase


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4), min_size=1, max_size=4), st.randoms())
def test_whatever_was_read_side_by_side_is_found_whole(sequences: list[list[int]], random: Random) -> None:
    pages = Pages(16)
    own: list[list[int]] = [[] for _ in sequences]
    turns = [number for number, letters in enumerate(sequences) for _ in letters]
    random.shuffle(turns)
    content: dict[int, list[int]] = {}
    for number in turns:
        page = pages.take()
        assert page is not None
        own[number].append(page)
        content[page] = sequences[number][: len(own[number])]
        pages.keep(own[number], len(own[number]) - 1, [content[page][-1]] * PAGE)
    for letters in sequences:
        found = pages.reuse([letter for letter in letters for _ in range(PAGE)] + [7])
        assert [content[page] for page in found] == [letters[: i + 1] for i in range(len(letters))]


def test_a_sequence_goes_on_after_its_equal_was_taken() -> None:
    """Of two that were read side by side the first goes, and its page is filled anew: the other takes its place."""
    pages = Pages(4)
    first, second = ([page for page in (pages.take(),) if page is not None] for _ in range(2))
    for each in (first, second):
        pages.keep(each, 0, [1] * PAGE)
    pages.give_back(first)
    others = [page for page in (pages.take(), pages.take(), pages.take()) if page is not None]
    assert first[0] in others
    pages.give_back(others)
    follow = pages.take()
    assert follow is not None
    second.append(follow)
    pages.keep(second, 1, [2] * PAGE)
    assert pages.reuse([1] * PAGE + [2] * PAGE + [7]) == second


def test_a_prompt_is_never_found_whole() -> None:
    pages = Pages(4)
    own = [pages.take(), pages.take()]
    held = [page for page in own if page is not None]
    for index in range(2):
        pages.keep(held, index, [index] * PAGE)
    assert pages.reuse([0] * PAGE + [1] * PAGE) == held[:1]
    assert pages.reuse([0] * PAGE + [1] * PAGE + [5]) == held


def test_a_page_that_was_filled_anew_is_not_found_by_its_old_neighbours() -> None:
    pages = Pages(2)
    held = [page for page in (pages.take(), pages.take()) if page is not None]
    for index in range(2):
        pages.keep(held, index, [index] * PAGE)
    pages.give_back(held)
    again = pages.take()
    assert again == held[1]  # the end of the sequence goes first
    pages.give_back([again] if again is not None else [])
    both = [page for page in (pages.take(), pages.take()) if page is not None]
    pages.keep(both, 0, [0] * PAGE)
    assert pages.reuse([0] * PAGE + [1] * PAGE + [5]) == both[:1]
