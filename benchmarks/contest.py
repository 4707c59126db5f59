"""What the contenders of `time_to_loss.py` have in common: the clock, the batches, the held-out measure.

All train on the same batches in the same order, and all are measured by ClearSeek's own bits per byte on the same
held-out windows. A run is held between two steps whenever its slice of seconds is over, until the next is asked for;
only the seconds of slices count. A folder has the data and ``contest.json``.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from turns import Turns

TURNS = Turns()  # before the libraries can print

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from clearseek.counts import count_parameters  # noqa: E402
from clearseek.data.loader import Loader  # noqa: E402
from clearseek.evaluate.bits import bits_per_byte, window_count  # noqa: E402
from clearseek.machine import pick_precision  # noqa: E402
from clearseek.recipe import load_recipe  # noqa: E402
from clearseek.train.preflight import preflight  # noqa: E402
from clearseek.train.pretrain import PreTraining  # noqa: E402
from clearseek.train.step import NotFiniteError  # noqa: E402

Setting = dict[str, Any]
"""How a contender computes; none changes what is learnt but for rounding."""


def compilers() -> bool:
    """Whether there is a C++ compiler, which `torch.compile` needs on a CPU."""
    return shutil.which("g++") is not None or shutil.which("clang++") is not None


class Clock:
    """Counts the seconds of a run's slices, and holds the run between them."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._left = 0.0

    def begin(self) -> None:
        """Say that the first step can begin, and wait."""
        TURNS.done()
        self._wait()

    def step(self, loss: float = 0.0) -> None:
        """Count a step. Raises NotFiniteError for a loss that is not finite."""
        now = time.perf_counter()
        self.times.append(now - self._last)
        self._left -= now - self._last
        self._last = now
        if not math.isfinite(loss):
            raise NotFiniteError("the loss is not finite")
        if self._left <= 0:
            TURNS.done(finished=False)
            self._wait()

    def _wait(self) -> None:
        request = TURNS.wait()
        if request is None:
            raise SystemExit
        self._left, self._last = request["seconds"], time.perf_counter()


class Contest:
    """What all have in common."""

    def __init__(self, folder: Path) -> None:
        plan = json.loads((folder / "contest.json").read_text(encoding="utf-8"))
        self.folder, self.data, self.windows = folder, folder / "data", plan["windows"]
        self.recipe = load_recipe(plan["recipe"], plan["changes"])
        self.length, self.batch = self.recipe.data.sequence_length, self.recipe.train.batch_size
        self.vocabulary = self.recipe.model.vocab_size
        self.held_out = PreTraining(self.recipe, self.data).held_out
        self.setup = preflight(self.recipe)  # threads and determinism are everybody's
        self.bf16 = pick_precision("auto").dtype == torch.bfloat16

    @property
    def active(self) -> int:
        """Parameters that ClearSeek's model multiplies a token with."""
        return count_parameters(self.recipe.model).activated_without_embedding

    def batches(self, seed: int) -> Iterator[Tensor]:
        """Tokens and the one after, [B, S + 1], without end; ClearSeek's trainer takes the same ones."""
        loader = Loader(self.data, "train", self.length, self.batch, seed)
        return (torch.from_numpy(loader.batch(step)) for step in itertools.count())

    def bits(self, model: Any) -> float:
        """Held-out bits per byte of a model, or of what gives logits."""
        assert self.held_out is not None
        count = window_count(len(self.held_out), self.length)
        some = np.linspace(0, count - 1, min(count, self.windows)).astype(int).tolist()
        found = bits_per_byte(model, self.held_out, self.held_out.manifest.heldout.bytes, self.length, some)
        return found if math.isfinite(found) else math.inf


class Logits:
    """A peer's model where bits per byte are measured: weights in FP32, products too."""

    at_once = 1

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        self.logits = logits

    @torch.no_grad()
    def nats(self, batch: Callable[[int], tuple[Tensor, Tensor]], count: int, /) -> list[float]:
        """Summed cross-entropy of each batch."""
        found = []
        for number in range(count):
            inputs, targets = batch(number)
            losses = F.cross_entropy(self.logits(inputs).flatten(0, 1), targets.flatten(), ignore_index=-1,
                                     reduction="none")  # fmt: skip
            found.append(losses.double().sum().item())
        return found
