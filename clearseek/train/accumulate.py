"""Gradients of micro-batches, summed in an order that does not depend on the number of processes.

Floating-point addition is not associative, so "the sum over micro-batches" is only defined together with an order. Here
the micro-batches of a step fall into equal runs, the *lanes* (``train.lanes``). Within a lane one sum runs in the order
of the index; the lanes' sums are the leaves of a fixed binary tree::

    0   1   2   3   4   5   6   7
     \\ /     \\ /     \\ /     \\ /
      01      23      45      67
        \\    /          \\    /
         0123            4567
             \\          /
              01234567

A process that holds an aligned block of a power of two of lanes computes one subtree, exactly as a single process would
on its way to the whole; adding the subtrees in the tree's order then gives the same bits on 1, 2, 4 or 8 processes. A
count that is no power of two splits at the largest power of two below it. Pairwise summation also rounds less than a
running sum (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clearseek.errors import UserError


class TreeSum:
    """Running sum of lists of tensors in the order of the binary tree.

    It works like a binary counter: `push` number n merges as many times as n ends in one bits. At most
    ``log2(count) + 1`` lists are held at once, each in FP32.
    """

    def __init__(self) -> None:
        self.count = 0
        """Lists pushed so far."""
        self._stack: list[list[torch.Tensor]] = []  # subtrees of falling size: the binary digits of `count`

    @torch.no_grad()
    def push(self, tensors: Sequence[torch.Tensor]) -> None:
        """Add the tensors of the next index, in order 0, 1, 2, ...

        The tensors become this object's own: an FP32 one may be summed into in place, so the caller must not touch it
        afterwards. Every list has the same shapes in the same order.
        """
        merges = (self.count ^ (self.count + 1)).bit_length() - 1
        self.count += 1
        # A right leaf is only ever read, and adding it to an FP32 tensor widens it exactly: no copy is needed.
        top = list(tensors) if merges else [tensor.float() for tensor in tensors]
        for _ in range(merges):
            top = _add(self._stack.pop(), top)
        self._stack.append(top)

    @torch.no_grad()
    def result(self) -> list[torch.Tensor]:
        """The sum, in FP32. Ends the accumulation: the object is empty afterwards."""
        assert self._stack, "nothing was pushed"
        top = self._stack.pop()
        while self._stack:
            top = _add(self._stack.pop(), top)
        self.count = 0
        return top


class LaneSum:
    """Sum of `count` lists of tensors, in `lanes` equal runs: running sums, which a :class:`TreeSum` adds."""

    def __init__(self, count: int, lanes: int) -> None:
        assert count % lanes == 0, (count, lanes)
        self._length, self._done = count // lanes, 0
        self._lane: list[torch.Tensor] = []
        self._lanes = TreeSum()

    @torch.no_grad()
    def push(self, tensors: Sequence[torch.Tensor]) -> None:
        """Add the tensors of the next index; they become this object's own, as with :meth:`TreeSum.push`."""
        if self._done % self._length:
            _add(self._lane, list(tensors))
        else:
            self._lane = [tensor.float() for tensor in tensors]
        self._done += 1
        if self._done % self._length == 0:
            self._lanes.push(self._lane)
            self._lane = []

    def result(self) -> list[torch.Tensor]:
        """The sum, in FP32. Ends the accumulation: the object is empty afterwards."""
        assert not self._lane, "a lane is not complete"
        return self._lanes.result()


def block(lanes: int, rank: int, world_size: int) -> range:
    """Lanes that process `rank` of `world_size` computes.

    Summing each block of lanes with a :class:`LaneSum`, and the blocks' results in rank order with a :class:`TreeSum`,
    gives the bits of a single process. Raises UserError where the blocks would not be subtrees.
    """
    size, rest = divmod(lanes, world_size)
    if rest or size == 0 or (world_size > 1 and size & (size - 1)):
        raise UserError(
            f"train.lanes = {lanes} on {world_size} processes: each needs the same power of two of them, or the sum's "
            f"order would depend on the number of processes: use {world_size} x 1, 2, 4, ... lanes"
        )
    return range(rank * size, (rank + 1) * size)


def _add(left: list[torch.Tensor], right: list[torch.Tensor]) -> list[torch.Tensor]:
    for total, term in zip(left, right, strict=True):
        total.add_(term)
    return left
