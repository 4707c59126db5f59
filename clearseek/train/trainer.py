"""The training loop: a recipe and a run folder in, a trained model out, every step a function of what came before.

A step is: the batch (a pure function of fingerprint, seed and step), forward and backward per micro-batch, gradients
summed in a fixed binary tree, a check that all is finite, clip, optimiser, balance biases, one line of transcript. The
only state is in the checkpoint: FP32 weights, balance biases, optimiser, and a few integers; a resumed run continues to
the bit. Ctrl-C and SIGTERM finish the step, save, and end the run cleanly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clearseek.cli.progress import Display, StepRecord
from clearseek.config import Recipe
from clearseek.cores import sharing_cores
from clearseek.counts import flops_per_token
from clearseek.data.loader import Loader, Stream
from clearseek.errors import UserError
from clearseek.evaluate.bits import held_out_bits, window_count
from clearseek.interrupts import stop_on_signal
from clearseek.machine import bit_environment
from clearseek.model.transformer import DeepSeekModel, Losses
from clearseek.ops.compiled import kernels_environment, use_kernels
from clearseek.train import checkpoint, numerics
from clearseek.train.accumulate import TreeSum
from clearseek.train.optimizer import MasterOptimizer, gradient_norm
from clearseek.train.run import Metrics, RunFolder
from clearseek.train.schedule import multiplier, value_at
from clearseek.train.transcript import Step, Transcript, decode, encode, hash_tensors, read_header


@dataclass(frozen=True)
class Outcome:
    """How a training run ended."""

    steps: int
    """Steps taken in all."""
    finished: bool
    """Whether these are all the recipe asks for, and evaluated; False after Ctrl-C or SIGTERM."""
    weights_sha256: str
    """SHA-256 of the FP32 weights and balance biases."""
    seconds: float
    """Time that this process trained, evaluations and checkpoints included."""


class Trainer:
    """One run in progress.

    Args:
        recipe: What to do.
        run: Where to write.
        data: Folder of token shards.
        device: ``cpu`` or ``cuda``.
        resume: Go on from a checkpoint instead of starting; the recipe must be the one the run was begun with.
        from_step: With `resume`, the checkpoint to go on from; the newest by default.
        elsewhere: With `resume`, the run may have begun on another machine: its bits are then not to be expected.

    Raises:
        UserError: the run folder is in use or of another recipe, data were changed, a checkpoint is damaged, ...
    """

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        data: Path,
        device: str = "cpu",
        resume: bool = False,
        from_step: int | None = None,
        elsewhere: bool = False,
    ) -> None:
        self.recipe, self.run, self.device = recipe, run, torch.device(device)
        numerics.settle_numerics(recipe.train.threads, device)
        self.precision = numerics.precision_of(recipe, run, device, resume)
        self.kernels = numerics.kernels_of(recipe, run, device, self.precision.dtype, resume)
        use_kernels(self.kernels)
        self.fp8 = numerics.fp8_of(recipe, run, self.device, self.precision.dtype, resume)
        lookahead = 1 + recipe.model.num_nextn_predict_layers
        self.loader = Loader(
            data, "train", recipe.data.sequence_length, recipe.train.batch_size, recipe.data.seed, lookahead
        )
        self.loader.verify()
        held_out = Stream(data, "heldout")
        self.held_out = held_out if len(held_out) > 1 else None
        self._pending: Step | None = None
        self.parent = run.read_parent()
        self._begin()
        self._header: dict[str, Any] = {
            "recipe": recipe.model_dump(mode="json"),
            "data_fingerprint": self.loader.fingerprint,
            "environment": bit_environment(self.precision.dtype, 1, device)
            | kernels_environment(device)
            | ({} if self.fp8 is None else {"fp8_backend": self.fp8.backend.name} | self.fp8.backend.versions()),
            **({} if self.parent is None else {"parent": self.parent}),
        }
        self.differs: dict[str, tuple[Any, Any]] = {}
        """What about this machine is other than where the run began, and what it was: only with `elsewhere`."""
        if elsewhere:
            here, began = self._header["environment"], read_header(run.transcript)["environment"]
            self.differs = {
                key: (began.get(key), here.get(key))
                for key in sorted(began.keys() | here.keys())
                if began.get(key) != here.get(key)
            }
            self._header["environment"] = began
        if resume:
            self.transcript = self._resume(self._header, from_step)
        else:
            run.write_recipe(recipe)
            self.transcript = Transcript.open(run.transcript, self._header)
        self.metrics = Metrics(run.metrics, self.step)
        self._stop = False
        self._unseen: BaseException | None = None
        self._micro_batches = recipe.train.micro_batches
        self._flops_per_step = (
            flops_per_token(recipe.model, recipe.data.sequence_length)
            * recipe.train.batch_size
            * recipe.data.sequence_length
        )

    def go_to(self, run: RunFolder, step: int) -> None:
        """Go on in another folder of the same run, from its checkpoint of `step`, or from the beginning.

        What a trainer needs to begin (data checked, machine probed, model built) is kept, which makes short pieces of
        a run cheap to train again.
        """
        self.run = run
        first = step == (0 if self.parent is None else self.parent["step"])
        if first:
            self._begin()
        self.transcript = self._resume(self._header, None if first else step)
        self.metrics = Metrics(run.metrics, self.step)

    def _begin(self) -> None:
        """The state before the first step: what follows from the seed, or the end of the parent."""
        self.model = DeepSeekModel(self.recipe.model)
        self.model.initialise(self.recipe.train.seed)
        self.model.to(self.device).set_dtype(self.precision.dtype).use_fp8(self.fp8)
        self.optimizer = MasterOptimizer(self.model.named_parameters(), self.recipe.optimizer)
        self.step = 0
        if self.parent is not None:
            if self.parent["data_fingerprint"] != self.loader.fingerprint:
                raise UserError(f"{self.run.root}: it goes on from a run of other data: give their folder with --data")
            path = checkpoint.find(self.run.parent, self.parent["step"])
            self._restore(path, checkpoint.load(path))
            if self.weights_hash() != self.parent["weights_sha256"]:
                raise UserError(f"{path}: not the weights that the run began with: restore it from a copy")

    def _resume(self, header: dict[str, Any], from_step: int | None) -> Transcript:
        folder, self._pending = self.run.checkpoints, None
        if not self.run.transcript.exists():
            raise UserError(f"{self.run.root}: no run was begun here, so there is none to resume")
        path = checkpoint.latest(folder) if from_step is None else checkpoint.find(folder, from_step)
        if path is None:
            return Transcript.resume(self.run.transcript, header, self.step)
        saved = checkpoint.load(path)
        head, pending = saved.state.get("transcript_head"), _pending(path, saved.state, saved.step)
        if not isinstance(head, str):
            raise UserError(f"{path}: does not say after which line of the transcript it was made")
        before = saved.step if pending is None else saved.step - 1
        self._restore(path, saved)  # before lines are cut off: what does not fit costs none
        transcript = Transcript.resume(self.run.transcript, header, before, head, pending)
        checkpoint.discard_after(folder, saved.step)
        self._pending = pending if transcript.step == before else None
        return transcript

    def _restore(self, path: Path, saved: checkpoint.Checkpoint) -> None:
        """Take over weights, balance biases, optimiser and step."""
        try:
            self.optimizer.load(saved.tensors["weights"], saved.tensors["optimizer"])
            for name, buffer in self.model.named_buffers():
                buffer.copy_(saved.tensors["buffers"][name])
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{path}: does not fit the recipe: {error!r:.200}") from None
        self.step = saved.step

    @sharing_cores()
    def train(self, display: Display, until: int | None = None) -> Outcome:
        """Take the remaining steps; with `until`, only those up to this one, and write no checkpoint.

        The last checkpoint is saved before the final evaluation, which may take long: whatever ends that costs no step.
        """
        steps, began = self.recipe.train.steps, time.perf_counter()
        last = steps if until is None else until
        with closing(self.metrics), closing(self.transcript), stop_on_signal(self.stop):
            while self.step < last and not self._stop:
                self._one_step(display)
                due = self.step % self.recipe.train.checkpoint_every == 0 or self.step == steps or self._stop
                if due and until is None:
                    self._save()
            if self._unseen is not None:
                raise self._unseen
            if self._pending is not None and not self._stop:
                self._evaluate_at_end(self._pending, display)
        finished = self.step == steps and self._pending is None
        return Outcome(self.step, finished, self.weights_hash(), time.perf_counter() - began)

    def stop(self) -> None:
        """End the run after the current step, with a checkpoint, or in the final evaluation, which is begun again."""
        self._stop = True

    def weights_hash(self) -> str:
        """SHA-256 of the FP32 weights and balance biases."""
        return hash_tensors([*self.optimizer.weights().items(), *self.model.named_buffers()])

    def state_tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds: group -> name -> tensor."""
        return {
            "weights": self.optimizer.weights(),
            "buffers": dict(self.model.named_buffers()),
            "optimizer": self.optimizer.state(),
        }

    def _one_step(self, display: Display) -> None:
        train, started, step = self.recipe.train, time.perf_counter(), self.step + 1
        gradients, loss, mtp_loss, load_LE = self._gradients(step)
        norm = gradient_norm(gradients)
        self._refuse_non_finite(step, loss, mtp_loss, norm.item())
        factor = multiplier(self.recipe.optimizer.schedule, step, train.steps)
        self.optimizer.step(gradients, norm, factor)
        if self.recipe.model.topk_method == "noaux_tc":
            speed = value_at(step, train.steps, train.bias_update_until, train.bias_update_speed, 0.0)
            self.model.update_biases(load_LE, speed)
        seconds = time.perf_counter() - started
        self.step = step
        record = StepRecord(
            step=step,
            loss=loss,
            mtp_loss=mtp_loss,
            grad_norm=norm.item(),
            lr=self.recipe.optimizer.learning_rate * factor,
            tokens_per_second=train.batch_size * self.recipe.data.sequence_length / seconds,
            mfu=self._flops_per_step / seconds / max(self.precision.rates.values()),
            balance=(load_LE.amax(1) / load_LE.double().mean(1)).tolist() if load_LE.numel() else [],
            held_out_bpb=self._evaluate(step),
        )
        self._record(record, load_LE)
        try:
            display.update(record)
        except (OSError, SystemExit) as gone:  # the terminal, or who read a pipe: stop, but save first
            self._unseen = gone
            self.stop()

    def _gradients(self, step: int) -> tuple[list[Tensor], float, float | None, Tensor]:
        """FP32 gradients of the batch, its losses in nats per token, and tokens per expert [L, E]."""
        train = self.recipe.train
        tokens = torch.from_numpy(self.loader.batch(step - 1).tokens).to(self.device)
        mtp_weight = value_at(step, train.steps, train.mtp_switch, train.mtp_loss_weight, train.mtp_loss_weight_final)
        sums, load_LE = TreeSum(), torch.zeros((), dtype=torch.int64, device=self.device)
        for micro in tokens.chunk(self._micro_batches):
            losses: Losses = self.model.loss(micro, train.balance_loss_weight, mtp_weight)
            (losses.total / self._micro_batches).backward()
            gradients = [_gradient(parameter) for parameter in self.model.parameters()]
            scalars = torch.stack([losses.main, losses.main if losses.mtp is None else losses.mtp])
            sums.push([*gradients, scalars / self._micro_batches])
            load_LE = load_LE + losses.load_LE
        *gradients, scalars = sums.result()
        loss, mtp_loss = scalars.tolist()
        return gradients, loss, mtp_loss if self.recipe.model.num_nextn_predict_layers else None, load_LE.cpu()

    def _refuse_non_finite(self, step: int, loss: float, mtp_loss: float | None, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(mtp_loss or 0.0) and math.isfinite(norm):
            return
        documents = self.loader.documents(step - 1)
        shown = ", ".join(documents[:20]) + (f" and {len(documents) - 20} more" if len(documents) > 20 else "")
        last = checkpoint.latest(self.run.checkpoints)
        raise UserError(
            f"step {step}: loss {loss}, MTP loss {mtp_loss}, gradient norm {norm}: not finite, so training stopped "
            f"before the weights were touched. The batch held {shown}. "
            + (f"The last good checkpoint is {last}. " if last else "There is no checkpoint yet. ")
            + "Start a new run with a lower optimizer.learning_rate (or muon_learning_rate) or a longer warm-up, "
            "or look at these documents."
        )

    def _evaluate(self, step: int) -> float | None:
        """Held-out bits per byte of a fixed sample of windows, now and then; the last step is evaluated afterwards."""
        train = self.recipe.train
        if self.held_out is None or step == train.steps or not train.eval_every or step % train.eval_every:
            return None
        count = window_count(len(self.held_out), self.recipe.data.sequence_length)
        sample = np.linspace(0, count - 1, min(count, train.eval_sequences)).astype(int).tolist()
        return self._bits_per_byte(self.held_out, sample)

    def _evaluate_at_end(self, pending: Step, display: Display) -> None:
        """Evaluate all held-out tokens, and write the last step's line, which waited for it."""

        def progress(done: int, total: int) -> None:
            if self._stop:
                raise _StoppedError
            display.evaluating(done, total)

        assert self.held_out is not None
        try:
            bits = self._bits_per_byte(self.held_out, None, progress)
        except _StoppedError:
            return
        self.transcript.append(replace(pending, held_out_bpb=bits))
        self._pending = None
        display.held_out(pending.step, bits)

    def _bits_per_byte(
        self, tokens: Stream, windows: list[int] | None, progress: Callable[[int, int], None] | None = None
    ) -> float:
        length = self.recipe.data.sequence_length
        bits, predicted = held_out_bits(self.model, tokens, length, windows=windows, progress=progress)
        return bits / predicted * (len(tokens) - 1) / tokens.manifest.heldout.bytes

    def _record(self, record: StepRecord, load_LE: Tensor) -> None:
        train = self.recipe.train
        hashed = record.step % train.hash_every == 0 or record.step == train.steps
        step = Step(
            step=record.step,
            loss=record.loss,
            mtp_loss=record.mtp_loss,
            grad_norm=record.grad_norm,
            tokens=record.step * train.batch_size * self.recipe.data.sequence_length,
            balance=tuple(record.balance),
            held_out_bpb=record.held_out_bpb,
            weights_sha256=self.weights_hash() if hashed else None,
            optimizer_sha256=hash_tensors(self.optimizer.state().items()) if hashed else None,
        )
        if record.step == train.steps and self.held_out is not None:
            self._pending = step
        else:
            self.transcript.append(step)
        self.metrics.append(record, load_LE)

    def _save(self) -> None:
        self.transcript.sync()
        state: dict[str, Any] = {
            "transcript_head": self.transcript.head,
            "data_fingerprint": self.loader.fingerprint,
        }
        if self._pending is not None:
            state["pending"] = encode(self._pending)
        checkpoint.save(
            self.run.checkpoints, self.step, self.state_tensors(), state, self.recipe.train.keep_checkpoints
        )


class _StoppedError(Exception):
    """The final evaluation was asked to stop."""


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    gradient, parameter.grad = parameter.grad, None
    assert gradient is not None
    return gradient.float()


def _pending(path: Path, state: dict[str, Any], step: int) -> Step | None:
    """The last step's line, where the checkpoint was saved before its evaluation."""
    if "pending" not in state:
        return None
    try:
        pending = decode(state["pending"])
        if pending.step == step:
            return pending
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"{path}: altered: what it says of its last step is not the record of that step")
