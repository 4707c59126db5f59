"""How the processes of a run share the work: which process computes which layers, experts and micro-batches.

Four ways of spreading a model, and no tensor parallelism (DeepSeek-V3 report, section 3.2):

* **data** (dp): copies of every stage, each with its own lanes of a step. Masters and optimiser state are dealt out
  among the copies (ZeRO-1).
* **expert** (ep): the routed experts of a layer are spread over `ep` neighbouring copies.
* **pipeline** (pp): consecutive layers lie on consecutive stages.
* **sharded** (fsdp): copies as with dp, and the weights are dealt out too (FSDP2); it stands alone.

Processes are numbered stage by stage, copies innermost: process ``stage * copies + copy``; the experts' part of a copy
is ``copy % ep``. So the processes that talk most (experts) are neighbours, on one machine where it has room for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Schedule = Literal["1f1b", "zbv", "dualpipev"]
"""Order of a pipeline's forwards and backwards. The last two fold the pipeline into a V: a process has two stages."""


@dataclass(frozen=True, slots=True)
class ParallelLayout:
    """Degrees of parallelism."""

    dp: int = 1
    """Copies of the model, each with its share of a batch."""
    ep: int = 1
    """Copies that a layer's experts are spread over."""
    pp: int = 1
    """Pipeline stages."""
    fsdp: int = 1
    """Copies that share out the weights too."""
    schedule: Schedule = "1f1b"
    """How a pipeline is driven."""

    @property
    def copies(self) -> int:
        """Copies of each stage."""
        return self.dp * self.fsdp

    @property
    def devices(self) -> int:
        """Number of processes, each with a device of its own."""
        return self.copies * self.pp

    def __str__(self) -> str:
        text = f"dp={self.dp},ep={self.ep},pp={self.pp}"
        text += f",fsdp={self.fsdp}" * (self.fsdp > 1) + f",schedule={self.schedule}" * (self.schedule != "1f1b")
        return text

    def stage(self, rank: int) -> int:
        """Pipeline stage of a process (in a V the first of its two)."""
        return rank // self.copies

    def copy(self, rank: int) -> int:
        """Which copy of its stage a process is."""
        return rank % self.copies

    def expert_part(self, rank: int) -> int:
        """Which part of the experts a process holds."""
        return self.copy(rank) % self.ep

    def copies_of_stage(self, rank: int) -> list[int]:
        """Processes that hold the same stage as `rank`, itself among them, in the order of their lanes."""
        first = self.stage(rank) * self.copies
        return list(range(first, first + self.copies))

    def expert_group(self, rank: int) -> list[int]:
        """Processes of the stage that hold one copy of its experts between them, in the order of their parts."""
        first = self.copy(rank) // self.ep * self.ep + self.stage(rank) * self.copies
        return list(range(first, first + self.ep))

    def expert_copies(self, rank: int) -> list[int]:
        """Processes of the stage that hold the same part of the experts."""
        return [
            other for other in self.copies_of_stage(rank) if self.copy(other) % self.ep == self.copy(rank) % self.ep
        ]

    def pipeline(self, rank: int) -> list[int]:
        """Processes that run one copy of the whole model between them, in the order of their stages."""
        return list(range(self.copy(rank), self.devices, self.copies))


SINGLE = ParallelLayout()
"""One process."""
