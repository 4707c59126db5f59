"""What a run trains on: a task makes batches, says what they cost, and evaluates.

The trainer knows gradients, optimiser, checkpoints and the transcript; a task knows everything about the data.
Pre-training is one (:mod:`clearseek.train.pretrain`). Order is a function, not a history: the batch of a step follows
from the task's fingerprint, the recipe and the step's number, and where the model itself has a part in it (rollouts),
from its weights too.

Shapes: B sequences, S positions, A look-ahead (1, or 2 with multi-token prediction), X = S + A, L layers with experts,
E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from clearseek.model.transformer import DeepSeekModel


@dataclass(frozen=True)
class Batch:
    """The tokens of a step, or of one of its micro-batches."""

    step: int
    """Number of the step, from 1."""
    tokens_BX: Tensor
    """Token ids, int64: inputs are ``[:, :S]``, the targets of depth d are ``[:, d : d + S]``."""
    weight_BX: Tensor
    """What predicting each token counts in the loss, FP32: 0 for padding and prompts. Over the next-token targets
    ``[:, 1 : S + 1]`` of a whole step the weights sum to 1, so micro-batches are only added up."""
    counted: int
    """Tokens that the step is said to have trained on."""
    start_BX: Tensor | None = None
    """First position of each token's document, int64: attention reaches no further back, and positions restart there.
    None: documents of a sequence see each other, as in DeepSeek-V3's pre-training (report, section 4.1)."""
    valid_BX: Tensor | None = None
    """False for padding, which counts neither as the experts' load nor in their balance loss; None: no padding."""
    routing_LBSK: Tensor | None = None
    """Experts to take instead of those that the router would choose, int64."""
    row_B: Tensor | None = None
    """Numbers of the rows, by which a task finds what else it has of them, int64."""
    scalars: Mapping[str, float] = field(default_factory=dict)
    """What is logged of the batch besides its loss, by name."""
    rollouts_sha256: str | None = None
    """SHA-256 of the record of what the model wrote for the batch."""

    def split(self, count: int) -> Iterator[Batch]:
        """`count` micro-batches of as many sequences each, in order."""
        assert len(self.tokens_BX) % count == 0, (len(self.tokens_BX), count)
        size = len(self.tokens_BX) // count
        for first in range(0, len(self.tokens_BX), size):
            yield self.select(range(first, first + size))

    def select(self, rows: Sequence[int]) -> Batch:
        """Some of the sequences, one after the other."""
        part = slice(rows.start, rows.stop, rows.step) if isinstance(rows, range) else list(rows)
        return replace(
            self,
            tokens_BX=self.tokens_BX[part],
            weight_BX=self.weight_BX[part],
            start_BX=None if self.start_BX is None else self.start_BX[part],
            valid_BX=None if self.valid_BX is None else self.valid_BX[part],
            routing_LBSK=None if self.routing_LBSK is None else self.routing_LBSK[:, part],
            row_B=None if self.row_B is None else self.row_B[part],
        )

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        names = ("tokens_BX", "weight_BX", "start_BX", "valid_BX", "routing_LBSK", "row_B")
        moved = {name: value.to(device) for name in names if (value := getattr(self, name)) is not None}
        return replace(self, **moved)


class Loss(NamedTuple):
    """What a micro-batch costs: sums over its tokens by their weights."""

    total: Tensor
    """What is differentiated, FP32 scalar."""
    scalars: dict[str, Tensor]
    """Scalars to log, by name, FP32 without graph; every micro-batch has the same names."""
    load_LE: Tensor
    """Tokens per expert, int64: what the routers' balance biases follow."""


Progress = Callable[[int, int], None]
"""Called with how much of an evaluation is done, and with the whole."""


class Task(Protocol):
    """What a run trains on."""

    @property
    def name(self) -> str:
        """Its kind, for the transcript's header."""

    @property
    def fingerprint(self) -> str:
        """Hash of all data that it makes batches of."""

    def batch(self, step: int, model: DeepSeekModel) -> Batch:
        """The batch of a step (from 1), on the model's device."""

    def loss(self, model: DeepSeekModel, micro: Batch) -> Loss:
        """What a micro-batch costs, with a graph for the backward."""

    def evaluate(self, model: DeepSeekModel, step: int, progress: Progress | None = None) -> dict[str, float]:
        """What is measured of the model after a step, by name; nothing in steps that measure nothing.

        After the run's last step it may take long: `progress` is called before and during it, and may raise to end it.
        """

    def contents(self, step: int) -> list[str]:
        """Names of what the batch of a step was made of, for people."""
