"""The sum of micro-batches: one order, whatever the number of processes."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.errors import UserError
from clearseek.train.accumulate import LaneSum, TreeSum, block

SHAPES = [(3, 5), (7,), ()]


def leaves(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[list[torch.Tensor]]:
    """Numbers of very different size, so that any other order gives other bits."""
    generator = torch.Generator().manual_seed(seed)

    def one(shape: tuple[int, ...]) -> torch.Tensor:
        size = torch.randint(-12, 12, shape, generator=generator).float()
        return (torch.randn(shape, generator=generator) * 2**size).to(dtype)

    return [[one(shape) for shape in SHAPES] for _ in range(count)]


def recursive(lists: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """The definition: split at the largest power of two below the count."""
    if len(lists) == 1:
        return [tensor.float() for tensor in lists[0]]
    middle = 1 << (len(lists) - 1).bit_length() - 1
    return [a + b for a, b in zip(recursive(lists[:middle]), recursive(lists[middle:]), strict=True)]


def summed(lists: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    total = TreeSum()
    for tensors in lists:
        total.push([tensor.clone() for tensor in tensors])
    return total.result()


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(0, 1000))
def test_is_the_recursive_tree(count: int, dtype: torch.dtype, seed: int) -> None:
    lists = leaves(count, seed, dtype)
    assert same(summed(lists), recursive(lists))


def in_lanes(lists: list[list[torch.Tensor]], lanes: int) -> list[torch.Tensor]:
    total = LaneSum(len(lists), lanes)
    for tensors in lists:
        total.push([tensor.clone() for tensor in tensors])
    return total.result()


def running(lists: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """The definition of a lane: one sum, in the order of the index."""
    total = [tensor.float() for tensor in lists[0]]
    for tensors in lists[1:]:
        total = [a + b for a, b in zip(total, tensors, strict=True)]
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("count", "lanes"), [(8, 8), (8, 1), (24, 8), (64, 8), (12, 4), (6, 2), (7, 7)])
def test_is_running_sums_in_a_tree(count: int, lanes: int, dtype: torch.dtype) -> None:
    lists = leaves(count, dtype=dtype)
    size = count // lanes
    assert same(in_lanes(lists, lanes), recursive([running(lists[i : i + size]) for i in range(0, count, size)]))
    if lanes == count:
        assert same(in_lanes(lists, lanes), recursive(lists))


@pytest.mark.parametrize("count", [8, 16, 64, 24])
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_bits_do_not_depend_on_the_number_of_processes(count: int, world_size: int) -> None:
    """Eight lanes, shared out in any split of aligned powers of two."""
    lists, size = leaves(count), count // 8

    def part(rank: int) -> list[torch.Tensor]:
        mine = block(8, rank, world_size)
        return in_lanes(lists[mine.start * size : mine.stop * size], len(mine))

    assert same(summed([part(rank) for rank in range(world_size)]), in_lanes(lists, 8))


@pytest.mark.parametrize("parts", [[4, 2, 1, 1], [2, 2, 4], [1, 1, 2, 4], [4, 4]])
def test_blocks_may_be_of_different_powers_of_two(parts: list[int]) -> None:
    """Sums of aligned blocks are subtrees whatever their sizes: added by the tree's rule they give the same bits."""
    lists = leaves(16)
    sums, first = {}, 0
    for size in parts:
        assert first % size == 0
        sums[first, size] = in_lanes(lists[2 * first : 2 * (first + size)], size)
        first += size

    def whole(first: int, size: int) -> list[torch.Tensor]:
        if (first, size) in sums:
            return sums[first, size]
        left, right = whole(first, size // 2), whole(first + size // 2, size // 2)
        return [a + b for a, b in zip(left, right, strict=True)]

    assert same(whole(0, 8), in_lanes(lists, 8))


def test_processes_need_not_be_a_power_of_two() -> None:
    lists = leaves(12)
    parts = [in_lanes([lists[index] for index in block(12, rank, 3)], 4) for rank in range(3)]
    assert same(summed(parts), in_lanes(lists, 12))


def test_order_matters_in_these_numbers() -> None:
    """Guards the tests above: a running sum of the same leaves has other bits."""
    lists = leaves(16)
    sums = [in_lanes(lists, lanes) for lanes in (1, 2, 4, 8)]
    assert not any(same(one, other) for one, other in combinations(sums, 2))


def test_holds_logarithmically_many_lists() -> None:
    total = TreeSum()
    for count, tensors in enumerate(leaves(100), start=1):
        total.push(tensors)
        assert total.count == count
        assert len(total._stack) == count.bit_count()


def test_sums_in_place_and_ends_empty() -> None:
    total = TreeSum()
    first = torch.ones(4)
    total.push([first])
    total.push([torch.ones(4)])
    [result] = total.result()
    assert result.data_ptr() == first.data_ptr()
    assert total.count == 0
    total.push([torch.full((4,), 5.0)])
    assert total.result()[0].tolist() == [5.0] * 4


def test_gradients_of_parameters_can_be_pushed() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    total = TreeSum()
    for factor in (1.0, 2.0, 3.0):
        (weight * factor).sum().backward()
        assert weight.grad is not None
        total.push([weight.grad])
        weight.grad = None
    assert total.result()[0].tolist() == [6.0] * 3


@pytest.mark.parametrize(("count", "world_size"), [(6, 2), (7, 2), (1, 2), (12, 2), (24, 8)])
def test_blocks_that_are_no_subtrees_are_refused(count: int, world_size: int) -> None:
    with pytest.raises(UserError, match=f"lanes = {count} on {world_size} processes"):
        block(count, 0, world_size)


def test_blocks_cover_everything_once() -> None:
    assert [index for rank in range(4) for index in block(16, rank, 4)] == list(range(16))
    assert list(block(7, 0, 1)) == list(range(7))


def test_lists_of_other_lengths_are_a_defect() -> None:
    total = TreeSum()
    total.push([torch.ones(1)])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        total.push([torch.ones(1), torch.ones(1)])
