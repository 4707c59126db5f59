"""Gradients of weights that are computed after those of inputs.

In a pipeline, the stage before waits for the gradient of its outputs, and nobody waits for that of a weight. So
zero-bubble schedules ask for the two apart, and fill waiting time with the second (Qi et al., "Zero Bubble Pipeline
Parallelism", arXiv 2401.10241; DeepSeek-V3 report, section 3.2.1). Autograd cannot tell a fused function which of the
two is wanted. Here the functions themselves put the products of their weights aside, and each product runs once.

What puts aside is decided by the forward: a function captures the collector of that moment, because the backward of a
GPU runs in another thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Product = Callable[[], Tensor]
"""Computes the gradient of one weight."""


class WeightGradients:
    """The products that one micro-batch's backward has put aside."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Tensor, Product]] = []

    def put(self, weight: Tensor, product: Product) -> None:
        """Keep a product for :meth:`run`; `weight` is the leaf that autograd would have given its result to."""
        self._waiting.append((weight, product))

    @torch.no_grad()
    def run(self) -> int:
        """Compute what was put aside, in that order, and add it to the weights' `.grad` as autograd would have.

        Returns the number of products.
        """
        count, waiting = len(self._waiting), self._waiting
        self._waiting = []
        for weight, product in waiting:
            gradient = product()
            if weight.grad_dtype is not None:
                gradient = gradient.to(weight.grad_dtype)
            if weight.grad is None:
                weight.grad = gradient
            else:
                weight.grad += gradient
        return count


_now: list[WeightGradients | None] = [None]


def collector() -> WeightGradients | None:
    """What the functions of a forward put products aside in; None where their backward computes them at once."""
    return _now[0]


@contextmanager
def collecting(into: WeightGradients | None) -> Iterator[None]:
    """Within the block, forwards are such that their backwards put products of weights aside."""
    before, _now[0] = _now[0], into
    try:
        yield
    finally:
        _now[0] = before


def weight_gradient(later: WeightGradients | None, weight: Tensor, product: Product | None) -> Tensor | None:
    """What a backward returns for a weight: the product's result, or None where it is put aside or not wanted."""
    if product is None:
        return None
    if later is None:
        return product()
    later.put(weight, product)
    return None


class Pieces:
    """A gradient that is made piece by piece: at once, while the pieces are in cache, or all when it is asked for.

    Args:
        later: Whether it is made later.
    """

    def __init__(self, later: bool) -> None:
        self._later, self._calls = later, list[Callable[[Tensor | None], Tensor]]()
        self._made: Tensor | None = None

    def add(self, call: Callable[[Tensor | None], Tensor]) -> None:
        """Add a piece: `call` gets what is made so far, None at first, and returns it with the piece."""
        if self._later:
            self._calls.append(call)
        else:
            self._made = call(self._made)

    def __call__(self) -> Tensor:
        """The whole gradient; a second call returns the same tensor."""
        calls, self._calls = self._calls, []
        for call in calls:
            self._made = call(self._made)
        assert self._made is not None, "no pieces"
        return self._made
