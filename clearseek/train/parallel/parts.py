"""Which elements of which tensors a process holds.

Every way of sharing out a model (chunks for the optimiser, experts, stages, FSDP's rows) gives a process runs of whole
elements of named tensors in their flat order. So one description serves optimiser, checkpoints and hashes.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple


class Part(NamedTuple):
    """Elements `start` to `stop` of a tensor's flat form."""

    name: str
    """The tensor, as a single process calls it."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Elements."""
        return self.stop - self.start

    @property
    def whole(self) -> bool:
        """Whether nothing of the tensor is missing."""
        return (self.start, self.stop) == (0, prod(self.shape))
