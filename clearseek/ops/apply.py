"""Autograd functions without autograd, where no gradient is wanted.

PyTorch spends some 20 microseconds on the bookkeeping of a function in Python even when gradients are off. A token
written by itself passes through dozens of functions, most of which compute for less time than that.
"""

from __future__ import annotations

from typing import Any

import torch


class _NoContext:
    """What a forward writes to when no backward will read it."""

    def __init__(self, inputs: int) -> None:
        self.needs_input_grad = (False,) * inputs

    def save_for_backward(self, *_: Any) -> None:
        """Keep nothing."""

    mark_dirty = mark_non_differentiable = save_for_backward


def apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    """``function.apply(*inputs)``, or its forward alone where gradients are off."""
    if torch.is_grad_enabled():
        return function.apply(*inputs)
    return function.forward(_NoContext(len(inputs)), *inputs)
