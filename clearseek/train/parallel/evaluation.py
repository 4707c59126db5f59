"""An evaluation's batches, shared out among the copies of the model.

What a batch of windows costs depends on no other batch, and is one FP64 number. So copies compute batches side by side,
and every process adds all numbers in the order that one process has. Experts that are spread, shards and pipelines want
all processes to compute at the same time: where fewer batches than copies are left, several copies compute the last
one.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from clearseek.plan.layout import ParallelLayout
from clearseek.train.parallel.group import Group


class Shared:
    """A model of whose copies each computes other batches; a :class:`clearseek.evaluate.bits.Spread`.

    Args:
        nats: This process's copy: what a batch costs, called by all processes of a copy alike.
        group: All processes.
        layout: How they share the work.
        exact: Whether experts that are spread compute the rows of each source apart. Else a batch's bits depend on the
            others' rows, and the processes of a group of experts compute the same batch.
    """

    def __init__(
        self, nats: Callable[[Tensor, Tensor], float], group: Group, layout: ParallelLayout, exact: bool
    ) -> None:
        alike = 1 if exact else layout.ep
        self._nats, self._group = nats, group
        self._first = list(range(0, layout.copies, alike))
        self._number = layout.copy(group.rank) // alike

    @property
    def at_once(self) -> int:
        """Batches that are computed side by side."""
        return len(self._first)

    def nats(self, batch: Callable[[int], tuple[Tensor, Tensor]], count: int) -> list[float]:
        """Summed cross-entropy of each of at most `at_once` batches, on every process."""
        mine = self._nats(*batch(min(self._number, count - 1)))
        everyone = self._group.numbers(mine)
        return [everyone[rank][0] for rank in self._first[:count]]
