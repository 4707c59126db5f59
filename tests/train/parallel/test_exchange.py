"""Who has what: dealing, what holders and owners have in common, rounds; and exchanges by themselves.

Exchanges within training steps: test_work.py.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.parts import CHUNK, Part, deal, unit
from clearseek.train.parallel.exchange import machines, pieces
from tests.train.parallel.exchange_worker import BUCKETS, CASES
from tests.train.parallel.test_work import start

SHAPES = st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=3), min_size=1, max_size=6)


@given(SHAPES, st.integers(1, 9), st.integers(1, 40))
def test_every_element_has_one_owner(shapes: list[list[int]], owners: int, size: int) -> None:
    wholes = [Part.of(f"w{number}", shape) for number, shape in enumerate(shapes)]
    dealt = deal([(whole, size) for whole in wholes], owners)
    for whole in wholes:
        mine = [part for each in dealt for part in each if part.name == whole.name]
        assert [part.start for part in mine] == [0, *(part.stop for part in mine)][:-1]
        assert mine[-1].stop == prod(whole.shape)
        assert all(part.start % size == 0 for part in mine)


@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, 50), st.integers(1, 4))
def test_a_unit_that_two_holders_share_has_one_owner(experts: int, row: int, size: int, owners: int) -> None:
    whole = Part.of("experts", (2 * experts, row))
    halves = whole.rows(0, experts), whole.rows(experts, 2 * experts)
    owned = sorted(part for half in halves for each in deal([(half, size)], owners) for part in each)
    assert [part.start for part in owned] == [0, *(part.stop for part in owned)][:-1] and owned[-1].stop == whole.stop


def test_shares_are_nearly_equal() -> None:
    wholes = [Part.of(f"w{number}", (300, 1000)) for number in range(20)]
    sizes = [sum(part.size for part in each) for each in deal([(whole, CHUNK) for whole in wholes], 8)]
    assert max(sizes) - min(sizes) <= 2 * CHUNK and sum(sizes) == 20 * 300_000


def test_a_cut_is_between_whole_matrices_and_whole_chunks() -> None:
    assert unit((8, 96, 128)) == CHUNK
    assert unit((8, 96, 128), 96 * 128) == 16 * 96 * 128  # 16 matrices are 3 chunks
    assert unit((256, 4096, 7168), 2048 * 7168) == 2048 * 7168


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_holders_and_owners_have_every_element_in_common_once(held: list[int], owned: list[int]) -> None:
    size = min(sum(held), sum(owned))

    def cut(sizes: list[int]) -> list[Part]:
        ends = [min(size, sum(sizes[: number + 1])) for number in range(len(sizes))]
        return [Part("w", (size,), a, b) for a, b in zip([0, *ends], ends, strict=False) if a < b]

    found = pieces(cut(held), cut(owned))
    assert sorted(at for piece in found for at in range(piece.part.start, piece.part.stop)) == list(range(size))


@pytest.mark.parametrize(
    ("hosts", "each"),
    [("aabb", 2), ("aaaabbbb", 4), ("abcd", None), ("aaaa", None), ("aab", None), ("abab", None), ("aaabbb", None),
     ("aabbaa", None), ("aabbcc", 2)],
)  # fmt: skip
def test_machines_have_equal_blocks_of_neighbours(hosts: str, each: int | None) -> None:
    assert machines(hosts) == each


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("exchange")
    return start(folder, 4, *CASES, module="tests.train.parallel.exchange_worker")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bucket", BUCKETS)
def test_rounds_give_the_sums_of_the_tree_and_everybodys_weights(case: str, bucket: int, four: dict[str, Any]) -> None:
    for process in four[f"{case} {bucket}"]:
        assert process["sums"] and process["weights"] and process["emptied"] and process["aligned"]
        assert (process["rounds"] > 4) == (bucket < 100_000)


@pytest.mark.parametrize("case", CASES)
def test_as_many_bytes_in_many_rounds_as_in_one(case: str, four: dict[str, Any]) -> None:
    small, whole = (sum(process["sent"] for process in four[f"{case} {bucket}"]) for bucket in BUCKETS)
    assert small == whole


@pytest.mark.parametrize("case", CASES)
def test_sums_take_no_more_memory_than_is_counted(case: str, four: dict[str, Any]) -> None:
    """Beside the gradients: two buckets, or a copy of what is owned of one tensor; the plan counts the same."""
    for process in four[f"{case} {BUCKETS[0]}"]:
        assert process["taken"] <= process["room"] + 4096  # what is empty takes 64 bytes
