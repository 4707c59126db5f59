"""Segments of a release trained again: from a published checkpoint, with the published data and recipe.

A segment lies between two checkpoints; the first begins at step 0, whose weights follow from the seed, or are those of
the model that the run began with. Hashing the release's root with a later nonce decides which segments are trained
again, so a publisher cannot prepare for them. What a model learns from its own completions, it writes again.
"""

from __future__ import annotations

import copy
import hashlib
import math
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import torch
from torch import Tensor

from clearseek.config import Recipe
from clearseek.cores import sharing_cores
from clearseek.counts import flops_per_token
from clearseek.errors import OtherVersionError, UserError
from clearseek.interrupts import stop_on_signal
from clearseek.machine import pick_precision
from clearseek.posttrain.methods import method_of
from clearseek.posttrain.rollouts import Writer, round_file
from clearseek.train.checkpoints import checkpoint
from clearseek.train.header import differences
from clearseek.train.origin import origin_of, restore
from clearseek.train.preflight import preflight
from clearseek.train.record import StepRecord
from clearseek.train.run import Run
from clearseek.train.step import Training
from clearseek.train.task import Task
from clearseek.train.transcript import RunRecord, check_transcript
from clearseek.verify import children
from clearseek.verify.code import other_code
from clearseek.verify.drift import NUDGES, nudge
from clearseek.verify.rows import MachineError


@dataclass(frozen=True)
class Release:
    """A release, opened."""

    root: Path
    run: Run
    """Folder ``training/``, which has recipe and transcript where a run folder has them."""
    transcript: RunRecord
    recipe: Recipe
    begin: int
    """Step after which the run began: 0, or the last step of the run that it continues."""
    steps: tuple[int, ...]
    """Steps with a checkpoint, and before them `begin`: the state of the seed, of the parent, or of its end."""

    def record(self, step: int) -> StepRecord:
        """Record of a step in the transcript."""
        return self.transcript.steps[step - self.begin - 1]

    @property
    def environment(self) -> dict[str, Any]:
        """Properties of the run's machine that decide bits."""
        found: dict[str, Any] = self.transcript.header["environment"]
        return found

    @cached_property
    def stated_rounds(self) -> dict[int, str | None]:
        """Round of completions -> the hash that its first line states; empty for runs that learn from no such."""
        if not children.writes(self.recipe):
            return {}
        lines = ((children.round_of(self.recipe, line.step), line) for line in self.transcript.steps)
        return {number: line.rollouts_sha256 for (number, update), line in lines if update == 0}

    @property
    def data(self) -> Path:
        """Folder of the data."""
        return self.root / "data"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.root / "checkpoints"


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps `begin` + 1 to `end` of a run."""

    begin: int
    end: int

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.end - self.begin

    def __str__(self) -> str:
        return f"{self.begin + 1}-{self.end}"


def open_release(root: Path) -> Release:
    """Read what re-execution needs. Raises UserError where that is missing or unsound."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder: give the folder of a release")
    run = Run(root / "training")
    if not run.recipe.is_file() or not run.transcript.is_file():
        raise UserError(f"{root}: training/ has no recipe and transcript, by which to train again")
    transcript = check_transcript(run.transcript)
    if not isinstance(transcript.header.get("environment"), dict):
        raise UserError(f"{run.transcript}: its header does not say on what machine the run was")
    begin = transcript.begin
    later = (step for step in checkpoint.steps(root / "checkpoints") if step > begin)
    return Release(root, run, transcript, run.read_recipe(record=True), begin, (begin, *later))


def every_segment(release: Release) -> tuple[Segment, ...]:
    """Segments from each checkpoint to the next, the first from the run's beginning."""
    return tuple(Segment(begin, end) for begin, end in pairwise(release.steps))


def choose_segments(release: Release, root: str, nonce: str, count: int) -> tuple[Segment, ...]:
    """Draw segments that nobody could know before the nonce.

    The draw is without replacement, a segment of twice the steps twice as likely: the publisher sets where segments
    end, and must not hide steps in a long one among many short ones. Segment i draws -log(u)/steps with u from
    SHA-256(root, nonce, i), and the smallest draws win (Efraimidis and Spirakis, 2006).
    """
    every = every_segment(release)

    def draw(index: int) -> float:
        digest = hashlib.sha256(f"{root} {nonce} {index}".encode()).digest()
        return -math.log((int.from_bytes(digest[:6]) + 1) / 2**48) / every[index].steps

    chosen = sorted(range(len(every)), key=lambda index: (draw(index), index))[:count]
    return tuple(every[index] for index in sorted(chosen))


class Replay:
    """Trains segments of a release again, all in one training: setting up takes longer than a short segment."""

    def __init__(self, release: Release, read_sources: bool = False, parent: Path | None = None) -> None:
        """Train segments of a release again; arguments as for :func:`clearseek.verify.run.verify_release`."""
        self.release, self.read_sources, self.parent = release, read_sources, parent
        self._training: Training | None = None
        self._place: TemporaryDirectory[str] | None = None

    @cached_property
    def run(self) -> Run:
        """The run folder that tasks read and write: the release's own where they write nothing."""
        if self.release.recipe.parent is None:
            return self.release.run
        self._place = TemporaryDirectory()  # gone with this object
        return children.working_run(self.release.run, Path(self._place.name), self.parent)

    @property
    def differs(self) -> tuple[str, ...]:
        """Differences of this machine from the run's, in words; empty before the first training."""
        if self._training is None:
            return ()
        here, began = self._training.setup.environment(), self.release.environment
        keys = sorted((here.keys() | began.keys()) - {"world_size", "ep"})  # a key of format 1, and `other_order`'s
        return tuple(
            f"{key} {_short(began.get(key))} -> {_short(here.get(key))}"
            for key in keys
            if began.get(key) != here.get(key)
        )

    @property
    def other_order(self) -> str:
        """Why one process adds in another order than the run did, in words, or an empty string.

        Merged expert gradients are one product over the rows of all sources: which rows one product has depends on the
        number of processes, so one process cannot give its bits (``train.expert_gradients``).
        """
        if (merged := self.release.environment.get("ep")) is None:
            return ""
        return f"gradients of experts were merged over {merged!s:.20} processes, and one adds them in another order"

    @property
    def task(self) -> Task:
        """What the run trained on. Raises UserError where that is not what the transcript names."""
        self._training = self._training or self._begin()
        return self._training.task

    @cached_property
    def other_code(self) -> str:
        """Differences between the code that trains here and the release's, by :mod:`clearseek.verify.code`."""
        return other_code(self.release.root, self.release.transcript)

    @cached_property
    def other_bits(self) -> str:
        """As `other_code`, in words also where the list is a later version's: that is no reason not to compare."""
        try:
            return self.other_code
        except OtherVersionError as error:
            return str(error)

    @sharing_cores()
    def train(
        self, segment: Segment, nudged: float = 0.0, given: bool = False
    ) -> tuple[list[StepRecord], dict[str, dict[str, Tensor]]]:
        """Train a segment from the checkpoint before it; its records, and the tensors after its last step.

        Args:
            segment: The steps.
            nudged: Relative change of the weights at the beginning, to measure the effect of rounding.
            given: Whether completions are the published ones instead of written again.

        Raises:
            UserError: the recipe cannot be trained on this machine.
        """
        training = self.at(segment.begin)
        if children.writes(self.release.recipe):
            training.task = self._writer(given)
            self._bring_round(segment.begin)
        if nudged:
            nudge(training.work.masters.masters, nudged)
            training.work.masters.round_into_model()
        records, stopped = list[StepRecord](), Event()
        with stop_on_signal(stopped.set):
            while training.step < segment.end:
                records.append(training.advance()[0])
                if stopped.is_set():  # the segment stays undecided
                    raise KeyboardInterrupt
        if segment.end == self.release.recipe.train.steps:
            measured = training.task.evaluate(training.model, segment.end)
            records[-1] = replace(records[-1], scalars={**records[-1].scalars, **measured})
        return records, training.state()

    def at(self, step: int) -> Training:
        """A training in the state that the run had after a step. Raises UserError as :meth:`train` does."""
        training = self._training = self._training or self._begin()
        self._go_to(training, step)
        return training

    def _begin(self) -> Training:
        release = self.release
        if release.transcript.version == 1:
            release.run.read_recipe()  # may have settings that only ClearSeek 0.1 could train with
        try:
            setup = preflight(release.recipe, self._device(), release.environment)
        except UserError as error:
            raise MachineError(str(error)) from None
        task = self._task(steps=False)
        now = {"recipe": release.recipe.model_dump(mode="json"), "data_fingerprint": task.fingerprint}
        changes = differences({key: release.transcript.header.get(key) for key in now}, now)
        if changes:
            words = f"{release.run.transcript}: of another run than recipe and data: {'; '.join(changes)}"
            if task.fingerprint != release.transcript.header.get("data_fingerprint") and self._other_generators():
                raise MachineError(f"{words}; this machine generates other problems")
            raise UserError(words)
        return Training(release.recipe, task, setup, method_of(release.recipe).trainable(release.recipe, self.run))

    def _other_generators(self) -> bool:
        """Whether problems may be others here, by another version of what generates them."""
        recipe = self.release.recipe
        gym = recipe.problems is not None and recipe.problems.kind == "reasoning-gym"
        return children.writes(recipe) and recipe.problems is not None and (gym or bool(self.other_bits))

    def _task(self, steps: bool) -> Task:
        release = self.release
        return children.task_of(release.recipe, self.run, release.data, steps, self.read_sources)

    @cached_property
    def _learner(self) -> Task:
        """The task of a run that learns from what the model writes, before any round."""
        return self._task(steps=True)

    def _writer(self, given: bool) -> Task:
        """A task of its own for a segment: it keeps its last round, which another begin would write anew."""
        task, release = copy.copy(self._learner), self.release
        assert isinstance(task, Writer)
        if given:
            task.published = lambda number: children.published_round(
                release.run, number, release.stated_rounds.get(number)
            )
        return task

    def _bring_round(self, step: int) -> None:
        """Put the published completions of the round that a step is in the middle of where the task reads them."""
        number, update = children.round_of(self.release.recipe, step + 1)
        if update:
            children.published_round(self.release.run, number, self.release.stated_rounds.get(number))
            kept = round_file(self.run.root, number)
            kept.parent.mkdir(exist_ok=True)
            shutil.copyfile(round_file(self.release.run.root, number), kept)

    def _go_to(self, training: Training, step: int) -> None:
        """Restore the state that the run had after a step."""
        release = self.release
        if step > release.begin:
            path = checkpoint.find(release.checkpoints, step)
            restore(training, path, checkpoint.load(path), release.record(step).tokens)
        elif release.begin == 0 and release.transcript.version == 1:
            raise OtherVersionError(
                f"{release.run.transcript}: format 1: its first weights are drawn as by ClearSeek 0.1, which can "
                "train these steps again; later segments begin from checkpoints"
            )
        else:
            if release.recipe.parent is not None:
                children.refuse_absent_parent(self.run)
            origin_of(self.run).begin(training)

    @property
    def other(self) -> str:
        """Why equal bits are not expected here, in words, or an empty string."""
        reasons = [f"this machine differs: {', '.join(self.differs)}"] if self.differs else []
        reasons += [self.other_order] if self.other_order else []
        reasons += [f"this ClearSeek is not the release's: {self.other_bits}"] if self.other_bits else []
        return " and ".join(reasons)

    def price(self, segments: tuple[Segment, ...]) -> str:
        """Least time to train these segments where this machine emulates the run's type, in words; else empty.

        The time follows from the operations of the model's shapes and the measured rate of products.
        """
        recipe, device = self.release.recipe, self._device()
        if recipe.grpo is not None or device != "cpu" or self.release.environment.get("precision") != "bfloat16":
            return ""
        found = pick_precision("bf16")
        if not found.emulated:
            return ""
        steps = sum(segment.steps for segment in segments)
        length = recipe.data.sequence_length
        operations = steps * recipe.train.batch_size * length * flops_per_token(recipe.model, length)
        hours = operations / found.rates["bf16"] / 3600
        return (
            f"the run computed in BF16, for which this machine has no instructions: {found.rates['bf16'] / 1e9:,.1f} "
            f"GFLOP/s, in FP32 {found.rates['fp32'] / 1e9:,.0f}: these {steps} steps take at least {_time(hours)}, and "
            f"up to {1 + len(NUDGES)} times that where bits differ"
        )

    def _device(self) -> str:
        """``cuda`` where the run was trained on a GPU and this machine has one, else ``cpu``."""
        trained = self.release.environment.get("device")
        return "cuda" if trained == "cuda" and torch.cuda.is_available() else "cpu"


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:,.0f} s"
    return f"{60 * hours:,.0f} minutes" if hours < 2 else f"{hours:,.0f} hours"


def _short(value: object) -> str:
    """A setting of an environment in few words, ``unknown`` for None."""
    if value is None:
        return "unknown"
    if isinstance(value, dict):
        value = [f"{name}={each}" for name, each in value.items()] or "none"
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
