"""Results of cheap operations, forgotten after the forward and computed again in the backward.

DeepSeek-V3 recomputes norms, MLA's up-projections and SwiGLU, whose results are much larger than what they are made of,
or as large as that and quickly made (report, section 3.2.3). Here such a function is named together with its consumer,
an operation that would keep the results: autograd then keeps the function's inputs, and both find the results again
when the consumer's backward asks for them. Recomputing gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from clearseek.ops.deferred import collecting, collector

R = TypeVar("R")
Function = Callable[..., tuple[Tensor, ...]]


class _Place(NamedTuple):
    """Where a kept tensor lies in one of the results."""

    number: int
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int


class _Forgotten:
    """The results of a function, when they are asked for again."""

    def __init__(self, function: Function, inputs: Sequence[Tensor]) -> None:
        self._function, self._later = function, collector()
        self.inputs = [each.detach().requires_grad_(each.requires_grad) for each in inputs]
        self._results: tuple[Tensor, ...] | None = None

    def results(self) -> tuple[Tensor, ...]:
        if self._results is None:
            with torch.enable_grad(), collecting(self._later):
                self._results = self._function(*self.inputs)
        return self._results

    def end(self) -> None:
        """Forget the results again."""
        self._results = None


class _Forget(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, forgotten: _Forgotten, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.forgotten = forgotten
        return function(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        forgotten: _Forgotten = ctx.forgotten
        torch.autograd.backward(forgotten.results(), gradients)
        forgotten.end()
        return None, None, *(each.grad for each in forgotten.inputs)


def through(function: Function, consumer: Callable[..., R], inputs: Sequence[Tensor], forget: bool) -> R:
    """``consumer(*function(*inputs))``; with `forget`, the function's results are not kept for the backward.

    Args:
        function: Makes fresh tensors of the inputs; is called a second time in the backward.
        consumer: May keep its arguments, or views of them, for its backward.
        inputs: What is kept instead.
        forget: Whether to forget.
    """
    if not (forget and torch.is_grad_enabled()):
        return consumer(*function(*inputs))
    forgotten = _Forgotten(function, inputs)
    results = _Forget.apply(forgotten, function, *inputs)  # type: ignore[no-untyped-call]
    numbers = {each.untyped_storage().data_ptr(): number for number, each in enumerate(results)}

    def pack(kept: Tensor) -> Tensor | _Place:
        number = numbers.get(kept.untyped_storage().data_ptr())
        if number is None:
            return kept.detach()  # an operation that keeps its own result must not hold itself alive
        return _Place(number, kept.shape, kept.stride(), int(kept.storage_offset()))

    def unpack(kept: Tensor | _Place) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        return forgotten.results()[kept.number].detach().as_strided(kept.shape, kept.stride, kept.offset)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return consumer(*results)
