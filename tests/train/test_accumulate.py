"""The sum of micro-batches: one order, whatever the number of processes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.errors import UserError
from clearseek.train.accumulate import TreeSum, block

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


@pytest.mark.parametrize("count", [8, 16, 64])
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_bits_do_not_depend_on_the_number_of_processes(count: int, world_size: int) -> None:
    lists = leaves(count)
    parts = [summed([lists[index] for index in block(count, rank, world_size)]) for rank in range(world_size)]
    assert same(summed(parts), summed(lists))


def test_processes_need_not_be_a_power_of_two() -> None:
    lists = leaves(12)
    parts = [summed([lists[index] for index in block(12, rank, 3)]) for rank in range(3)]
    assert same(summed(parts), summed(lists))


def test_order_matters_in_these_numbers() -> None:
    """Guards the tests above: a running sum of the same leaves has other bits."""
    lists = leaves(16)
    running = [torch.zeros(shape) for shape in SHAPES]
    for tensors in lists:
        running = [total + tensor for total, tensor in zip(running, tensors, strict=True)]
    assert not same(running, summed(lists))


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
    with pytest.raises(UserError, match=f"{count} micro-batches on {world_size} processes"):
        block(count, 0, world_size)


def test_blocks_cover_everything_once() -> None:
    assert [index for rank in range(4) for index in block(16, rank, 4)] == list(range(16))
    assert list(block(7, 0, 1)) == list(range(7))


def test_lists_of_other_lengths_are_a_defect() -> None:
    total = TreeSum()
    total.push([torch.ones(1)])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        total.push([torch.ones(1), torch.ones(1)])
