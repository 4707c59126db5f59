"""The training loop: steps into a run folder, so that a run can be stopped anywhere and goes on to the bit.

After each step a line of transcript and one of metrics; now and then a checkpoint, from which alone a run goes on; it
is written while the next steps are taken. The last step's line waits for the final evaluation, which may take long and
be begun again: its checkpoint is saved before.
Ctrl-C and SIGTERM finish the step, save, and end the run cleanly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from clearseek.config import Recipe
from clearseek.cores import sharing_cores
from clearseek.errors import UserError
from clearseek.interrupts import stop_on_signal
from clearseek.ops.compiled import use_kernels
from clearseek.plan.layout import SINGLE, ParallelLayout, decides_bits
from clearseek.train.checkpoints import checkpoint
from clearseek.train.checkpoints.saver import Saver
from clearseek.train.log import Log
from clearseek.train.memory import explained
from clearseek.train.origin import origin_of, restore
from clearseek.train.parallel.compare import Pace, refuse_differences
from clearseek.train.parallel.group import ALONE, Group
from clearseek.train.preflight import Setup
from clearseek.train.record import StepRecord, decode, encode
from clearseek.train.run import Run
from clearseek.train.step import NotFiniteError, Training
from clearseek.train.task import Progress, Task
from clearseek.train.transcript import last_line
from clearseek.train.work import Trainable, everything
from clearseek.train.writer import TranscriptWriter, refuse_format_1
from clearseek.training_code import code_here

OnStep = Callable[[StepRecord], None]
"""Called with the record of every step when it is done, and again with that of the last one when it is evaluated."""


@dataclass(frozen=True)
class Outcome:
    """How a training run ended."""

    steps: int
    """Steps taken in all."""
    finished: bool
    """Whether all of the recipe's steps are taken and evaluated; False after Ctrl-C or SIGTERM."""
    weights_sha256: str
    """SHA-256 of the FP32 weights and balance biases."""
    seconds: float
    """Time that this process trained, evaluations and checkpoints included."""
    asked: bool = True
    """Where it is not finished: whether a process of this machine was asked to stop, and not only of another."""
    scalars: Mapping[str, float] = field(default_factory=dict)
    """What the last step of the transcript measured, by name, such as `loss` and `held_out_bpb`."""


class Trainer:
    """One run in progress.

    Args:
        recipe: What to do.
        run: Where to write.
        task: What to train on.
        setup: How to compute here.
        resume: Go on from a checkpoint instead of starting; the recipe must be the one the run was begun with.
        from_step: With `resume`, the checkpoint to go on from; the newest by default.
        trainable: What is trained.
        group: The processes that train; the main one writes.
        layout: How they share the work.

    Raises:
        UserError: the run folder is in use or of another recipe, a checkpoint is damaged, ...
    """

    def __init__(
        self, recipe: Recipe, run: Run, task: Task, setup: Setup, resume: bool = False, from_step: int | None = None,
        trainable: Trainable = everything, group: Group = ALONE, layout: ParallelLayout = SINGLE,
    ) -> None:  # fmt: skip
        self.recipe, self.run, self.group = recipe, run, group
        self.training = Training(recipe, task, setup, trainable, group, layout)
        with group.together():
            origin = origin_of(run)
            origin.begin(self.training)
        header: dict[str, Any] = {
            "recipe": recipe.model_dump(mode="json"),
            "task": task.name,
            "data_fingerprint": task.fingerprint,
            "code_sha256": code_here(recipe.parent is not None),
            "environment": setup.environment() | decides_bits(layout, recipe),
            **origin.header(),
        }
        refuse_differences(group, header)
        self._pending: StepRecord | None = None
        with group.together():
            transcript = self._resume(header, from_step) if resume else self._begin(header)
        self.log = Log(run, self.training.step, transcript)
        self._saver = Saver(run.checkpoints, recipe.train.keep_checkpoints, group)
        self._asked_to_stop = self._stop = self._asked_here = False
        self._pace = Pace(group, [layout.copies_of_stage(stage * layout.copies) for stage in range(layout.pp)])
        self._unseen: BaseException | None = None

    def _begin(self, header: dict[str, Any]) -> TranscriptWriter | None:
        if not self.group.main:
            return None
        self.run.write_recipe(self.recipe)
        return TranscriptWriter.open(self.run.transcript, header)

    def _resume(self, header: dict[str, Any], from_step: int | None) -> TranscriptWriter | None:
        """Go to a checkpoint's state, the same on all processes, and to its line of the transcript."""
        folder, main = self.run.checkpoints, self.group.main
        if not self.run.transcript.exists():
            raise UserError(f"{self.run.root}: no run was begun here: train a recipe with --run first")
        path = checkpoint.newest(folder, self.group, from_step)
        if path is None:
            return TranscriptWriter.resume(self.run.transcript, header, self.training.step) if main else None
        refuse_format_1(self.run.transcript)
        saved = checkpoint.load(path) if self.group.size == 1 else checkpoint.open_stored(path)
        if saved.step == self.recipe.train.steps:  # where the line of that step is there too, nothing is left to do
            with suppress(UserError):  # a damaged last line is written again
                if (end := last_line(self.run.transcript)).step == saved.step:
                    header["code_sha256"] = end.header.get("code_sha256")
        head, pending = saved.state.get("transcript_head"), _pending(path, saved.state, saved.step)
        tokens = saved.state.get("tokens")
        if not isinstance(head, str) or type(tokens) is not int:
            raise UserError(f"{path}: does not say after which line of the transcript it was made")
        restore(self.training, path, saved, tokens)  # before lines are cut off: what does not fit costs none
        before = saved.step if pending is None else saved.step - 1
        transcript = None
        if main:
            transcript = TranscriptWriter.resume(self.run.transcript, header, before, head, pending)
            checkpoint.discard_after(folder, saved.step)
        waits = self.group.share(transcript is not None and transcript.step == before)
        self._pending = pending if waits else None
        return transcript

    @sharing_cores()
    def train(
        self, on_step: OnStep | None = None, on_evaluation: Progress | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Outcome:  # fmt: skip
        """Take the remaining steps, and evaluate after the last.

        Args:
            on_step: Called with the record of every step. Where it raises OSError or SystemExit (a terminal that is
                gone), the run is saved first.
            on_evaluation: Called while the final evaluation goes on.
            say: Called with what people should know of the processes.
        """
        train, began = self.recipe.train, time.perf_counter()
        with closing(self.log), closing(self._saver), stop_on_signal(self.stop):
            self._agree()
            while self.training.step < train.steps and not self._stop:
                with self._memory_explained(f"step {self.training.step + 1}"):
                    self._take_step(on_step)
                if slow := self._pace.note(self._agree()):
                    say(slow)
                self._saver.poll()
                step = self.training.step
                if step % train.checkpoint_every == 0 or step == train.steps or self._stop:
                    self._save()
                    for remark in self._saver.remarks():
                        say(remark)
            self._saver.finish()
            if self._pending is not None:
                with self._memory_explained("the evaluation after the last step"):
                    self._evaluate_at_end(self._pending, on_step, on_evaluation)
            finished = self.training.step == train.steps and self._pending is None
            if not finished:
                self._agree()  # once more: a signal to all machines reaches some of them while the first ones save
        weights = self.training.weights_hash()
        if self._unseen is not None:  # after all that the other processes need this one for
            raise self._unseen
        return Outcome(self.training.step, finished, weights, time.perf_counter() - began, self._asked_here)

    def stop(self) -> None:
        """End the run after the current step, with a checkpoint, or in a final evaluation, which is begun again."""
        self._asked_to_stop = True

    def _agree(self) -> list[float]:
        """Stop where any process was asked to: once a step, since the others would wait for it.

        Returns the seconds that each process computed in the last step.
        """
        here = self.group.agent
        told = self.group.numbers(float(self._asked_to_stop), self.training.work.computed, here)
        self._stop = any(asked for asked, _, _ in told)
        self._asked_here = any(asked for asked, _, agent in told if agent == here)
        return [seconds for _, seconds, _ in told]

    def _take_step(self, on_step: OnStep | None) -> None:
        try:
            record, load_LE = self.training.advance()
        except NotFiniteError as error:
            self._saver.finish()
            raise UserError(
                f"{error} {self._saved()} Start a new run with a lower optimizer.learning_rate (or muon_learning_rate) "
                "or a longer warm-up, or look at these documents."
            ) from None
        if record.step == self.recipe.train.steps:
            self._pending = record
        else:
            self.log.append(record)
        self.log.measure(record, load_LE)
        if on_step is not None:
            self._show(partial(on_step, record))

    def _saved(self) -> str:
        """What is kept of the run where it cannot go on."""
        if self.group.size == 1:  # others may not come to finish what they save
            self._saver.finish()
        last = checkpoint.latest(self.run.checkpoints)
        return f"The last good checkpoint is {last}." if last else "There is no checkpoint yet."

    def _memory_explained(self, where: str) -> AbstractContextManager[None]:
        return explained(self.training.model, where, self._saved)

    def _show(self, what: Callable[[], None]) -> None:
        """Tell a step or the progress of an evaluation. Where nobody sees it any more, end as :meth:`stop` does."""
        try:
            what()
        except (OSError, SystemExit) as gone:  # the terminal, or who read a pipe: save first
            self._unseen = gone
            self.stop()

    def _evaluate_at_end(self, pending: StepRecord, on_step: OnStep | None, on_evaluation: Progress | None) -> None:
        """Evaluate, and write the last step's line, which waited for it."""

        def progress(done: int, total: int) -> None:
            self._agree()
            if self._stop:
                raise _StoppedError
            if on_evaluation is not None:
                self._show(partial(on_evaluation, done, total))

        training = self.training
        try:
            use_kernels(training.setup.kernels)  # as in a step
            measured = training.work.evaluate(training.task, pending.step, progress)
        except _StoppedError:
            return
        record = replace(pending, scalars={**pending.scalars, **measured})
        self.log.append(record)
        self._pending = None
        if on_step is not None and measured:
            self._show(partial(on_step, record))

    def _save(self) -> None:
        self.log.sync()
        training = self.training
        state: dict[str, Any] = {"transcript_head": self.log.head, "tokens": training.tokens}
        if self._pending is not None:
            state["pending"] = encode(self._pending)
        self._saver.begin(training.step, training.work.held(), state)


class _StoppedError(Exception):
    """The final evaluation was asked to stop."""


def _pending(path: Path, state: dict[str, Any], step: int) -> StepRecord | None:
    """The last step's record, where the checkpoint was saved before its evaluation."""
    if "pending" not in state:
        return None
    try:
        pending = decode(state["pending"])
        if pending.step == step:
            return pending
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"{path}: altered: what it says of its last step is not the record of that step")
