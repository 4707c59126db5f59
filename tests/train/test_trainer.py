from __future__ import annotations

import functools
import hashlib
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from clearseek.config import Recipe
from clearseek.data.loader import Loader
from clearseek.errors import UserError
from clearseek.evaluate import bits
from clearseek.kernels import launch
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.compiled import use_kernels
from clearseek.train.accumulate import LaneSum, TreeSum, block
from clearseek.train.checkpoints import checkpoint
from clearseek.train.chunks import gradient_norm, hash_tensors
from clearseek.train.optimizer import Trained
from clearseek.train.parallel.group import Group
from clearseek.train.preflight import preflight
from clearseek.train.pretrain import PreTraining
from clearseek.train.record import LOSS, StepRecord
from clearseek.train.run import Run, read_metrics
from clearseek.train.step import Training
from clearseek.train.task import Batch, Loss, Progress
from clearseek.train.trainer import Outcome, Trainer
from clearseek.train.transcript import check_transcript
from clearseek.train.work import Work
from clearseek.training_code import code_hash, package_sources, trainers_code
from tests.tiny import tiny, trainer_of

EIGHT_BIT = {"intermediate_size": 128, "moe_intermediate_size": 128}
"""What FP8 needs of the tiny model."""


def run(recipe: Recipe, folder: Path, data: Path, **options: Any) -> tuple[Outcome, Trainer]:
    trainer = trainer_of(recipe, folder, data, **options)
    return trainer.train(), trainer


class Interrupting(PreTraining):
    """Sends this process a signal while a step is taken."""

    def __init__(self, recipe: Recipe, data: Path, step: int) -> None:
        super().__init__(recipe, data)
        self.at = step

    def batch(self, step: int, model: DeepSeekModel) -> Batch:
        if step == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().batch(step, model)


def interrupted(recipe: Recipe, folder: Path, data: Path, after: int, device: str = "cpu") -> None:
    """Train, but stop as on Ctrl-C during step `after`."""
    outcome = trainer_of(recipe, folder, data, device, task=Interrupting(recipe, data, after)).train()
    assert outcome.steps == after and not outcome.finished
    assert checkpoint.steps(folder / "checkpoints")[-1] == after


class Neighbour(Group):
    """A group with one process more, of machine 1, which is asked to stop from some agreement on."""

    def __init__(self, agreement: int) -> None:
        super().__init__()
        self.left = agreement

    def numbers(self, *mine: float) -> list[tuple[float, ...]]:
        self.left -= 1
        return [mine, (float(self.left < 0), 0.0, 1.0)]


@pytest.mark.parametrize(("agreement", "here", "asked"), [(3, None, False), (3, 3, True), (9, 3, True)])
def test_a_stop_says_whether_this_machine_was_asked(
    agreement: int, here: int | None, asked: bool, tmp_path: Path, data: Path
) -> None:
    task = Interrupting(tiny(), data, here) if here else None
    trainer = trainer_of(tiny(), tmp_path / "run", data, task=task)
    trainer.group = Neighbour(agreement)
    outcome = trainer.train()
    assert (outcome.steps, outcome.finished, outcome.asked) == (3, False, asked)


def test_two_runs_give_the_same_transcript_to_the_byte(tmp_path: Path, data: Path) -> None:
    outcomes = [run(tiny(), tmp_path / name, data)[0] for name in "ab"]
    assert outcomes[0].weights_sha256 == outcomes[1].weights_sha256
    assert (tmp_path / "a/transcript.jsonl").read_bytes() == (tmp_path / "b/transcript.jsonl").read_bytes()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    "precision", [pytest.param("bf16", marks=pytest.mark.slow), "fp32", pytest.param("fp8", marks=pytest.mark.slow)]
)
def test_interrupted_and_resumed_equals_uninterrupted(
    optimizer: str, precision: str, tmp_path: Path, data: Path
) -> None:
    recipe = tiny(
        model=EIGHT_BIT if precision == "fp8" else {},
        optimizer={"name": optimizer, "moments": "bf16" if precision == "fp8" else "fp32"},
        train={"precision": precision, "checkpoint_every": 5},
    )
    whole, _ = run(recipe, tmp_path / "whole", data)
    interrupted(recipe, tmp_path / "parts", data, after=3)
    resumed, _ = run(recipe, tmp_path / "parts", data, resume=True)
    assert resumed.finished and resumed.weights_sha256 == whole.weights_sha256
    assert (tmp_path / "parts/transcript.jsonl").read_bytes() == (tmp_path / "whole/transcript.jsonl").read_bytes()
    assert [line["step"] for line in read_metrics(tmp_path / "parts/metrics.jsonl")] == list(range(1, 9))


def killed(done: int, total: int) -> None:
    raise MemoryError


@pytest.mark.slow
@pytest.mark.parametrize("then", ["signal", "killed"])
def test_the_final_evaluation_may_be_cut_off(
    then: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint is there before it begins, and it is done again, to the bit."""
    monkeypatch.setattr(bits, "held_out_bits", functools.partial(bits.held_out_bits, batch=2))
    whole, _ = run(tiny(), tmp_path / "whole", data)
    trainer = trainer_of(tiny(), tmp_path / "parts", data)
    if then == "signal":
        outcome = trainer.train(on_evaluation=lambda done, total: os.kill(os.getpid(), signal.SIGTERM))
        assert (outcome.steps, outcome.finished, outcome.weights_sha256) == (8, False, whole.weights_sha256)
    else:
        with pytest.raises(UserError, match="the evaluation after the last step: out of memory"):
            trainer.train(on_evaluation=killed)
    assert check_transcript(tmp_path / "parts/transcript.jsonl").steps[-1].step == 7
    assert checkpoint.steps(tmp_path / "parts/checkpoints")[-1] == 8
    resumed, _ = run(tiny(), tmp_path / "parts", data, resume=True)
    assert resumed.finished and resumed.weights_sha256 == whole.weights_sha256
    expected = (tmp_path / "whole/transcript.jsonl").read_bytes()
    assert (tmp_path / "parts/transcript.jsonl").read_bytes() == expected
    # a finished run is not evaluated again
    assert trainer_of(tiny(), tmp_path / "parts", data, resume=True).train(on_evaluation=killed).finished
    assert (tmp_path / "parts/transcript.jsonl").read_bytes() == expected
    assert [line["step"] for line in read_metrics(tmp_path / "parts/metrics.jsonl")] == list(range(1, 9))


@pytest.mark.slow
@pytest.mark.parametrize("gone", [BrokenPipeError(), OSError(5, "Input/output error"), SystemExit(1)])
def test_a_display_that_nobody_reads_any_more_costs_no_step(gone: BaseException, tmp_path: Path, data: Path) -> None:
    def show(record: StepRecord) -> None:
        if record.step == 4:
            raise gone

    with pytest.raises(type(gone)):
        trainer_of(tiny(), tmp_path, data).train(show)
    assert checkpoint.steps(tmp_path / "checkpoints") == [3, 4]
    whole, _ = run(tiny(), tmp_path / "whole", data)
    assert run(tiny(), tmp_path, data, resume=True)[0].weights_sha256 == whole.weights_sha256


@pytest.mark.slow
def test_an_fp8_run_says_which_backend_it_took(tmp_path: Path, data: Path) -> None:
    recipe = tiny(model=EIGHT_BIT, train={"precision": "fp8", "steps": 2})
    run(recipe, tmp_path, data)
    assert check_transcript(tmp_path / "transcript.jsonl").header["environment"]["fp8_backend"] == "dequantised"


def test_from_an_older_checkpoint_gives_the_same_end(tmp_path: Path, data: Path) -> None:
    whole, _ = run(tiny(), tmp_path, data)
    again, _ = run(tiny(), tmp_path, data, resume=True, from_step=6)
    assert again.weights_sha256 == whole.weights_sha256
    with pytest.raises(UserError, match="no checkpoint of step 5"):
        run(tiny(), tmp_path, data, resume=True, from_step=5)


def test_going_back_gives_up_the_checkpoints_after_it(tmp_path: Path, data: Path) -> None:
    """Killed before it saves, such a run goes on from where it went back to, not from a future it never had."""
    whole, _ = run(tiny(), tmp_path, data)
    gone_back = trainer_of(tiny(), tmp_path, data, resume=True, from_step=6)
    assert checkpoint.steps(tmp_path / "checkpoints")[-1] == gone_back.training.step == 6
    gone_back.log.close()
    assert run(tiny(), tmp_path, data, resume=True)[0].weights_sha256 == whole.weights_sha256


def test_weights_and_batches_each_follow_their_own_seed(tmp_path: Path, data: Path) -> None:
    recipe = tiny(data={"seed": 5}, train={"seed": 7})
    task = PreTraining(recipe, data)
    trainer = trainer_of(recipe, tmp_path, data, task=task)

    def drawn(name: str, number: int, *shape: int) -> torch.Tensor:
        """By the definition: a generator for each matrix, seeded with the first eight bytes of a hash."""
        digest = hashlib.sha256(f"7 {name} {number}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        return torch.empty(*shape).normal_(0.0, 0.05, generator=generator)

    weights = trainer.training.work.masters.weights()
    assert torch.equal(weights["model.embed_tokens.weight"], drawn("model.embed_tokens.weight", 0, 300, 32))
    experts = "model.layers.1.mlp.experts.gate_up_proj"
    assert torch.equal(weights[experts], torch.stack([drawn(experts, e, 32, 32) for e in range(8)]))
    windows = [Loader(data, "train", 32, 8, seed, 2).windows(0).tolist() for seed in (5, 7, 0)]
    assert windows.index(task.loader.windows(0).tolist()) == 0 and windows[0] not in windows[1:]


@pytest.mark.slow
def test_accumulated_micro_batches_give_the_same_gradients_but_for_rounding(tmp_path: Path, data: Path) -> None:
    """Equal bits would need equal matrix products; the tree's order itself is tested with the tree."""
    losses = []
    for micro in (8, 2):
        recipe = tiny(train={"micro_batch_size": micro, "precision": "fp32", "balance_loss_weight": 0.0})
        run(recipe, tmp_path / str(micro), data)
        losses.append(
            [step.scalars["loss"] for step in check_transcript(tmp_path / str(micro) / "transcript.jsonl").steps]
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_loss_falls_and_balance_bias_moves(tmp_path: Path, data: Path) -> None:
    recipe = tiny(train={"steps": 30, "bias_update_until": 1.0})
    _, trainer = run(recipe, tmp_path, data)
    steps = check_transcript(tmp_path / "transcript.jsonl").steps
    assert steps[-1].scalars["loss"] < steps[0].scalars["loss"] - 0.5
    assert 0 < steps[-1].scalars["held_out_bpb"] < 8
    for layer in trainer.training.model.moe_layers:
        bias = layer.gate.e_score_correction_bias
        assert bias.abs().max() > 0 and torch.allclose(bias / 0.001, (bias / 0.001).round(), atol=1e-3)


def test_without_bias_updates_the_bias_stays(tmp_path: Path, data: Path) -> None:
    _, trainer = run(tiny(train={"bias_update_speed": 0.0}), tmp_path, data)
    assert all(not layer.gate.e_score_correction_bias.any() for layer in trainer.training.model.moe_layers)


def test_weights_are_hashed_now_and_then_and_at_the_end(tmp_path: Path, data: Path) -> None:
    outcome, trainer = run(tiny(train={"steps": 7, "hash_every": 3, "checkpoint_every": 100}), tmp_path, data)
    steps = check_transcript(tmp_path / "transcript.jsonl").steps
    assert [step.step for step in steps if step.weights_sha256] == [3, 6, 7]
    assert [step.step for step in steps if step.optimizer_sha256] == [3, 6, 7]
    assert steps[-1].weights_sha256 == outcome.weights_sha256 == trainer.training.weights_hash()
    assert checkpoint.steps(tmp_path / "checkpoints") == [7]
    saved = checkpoint.load(tmp_path / "checkpoints/step-00000007").tensors
    assert steps[-1].optimizer_sha256 == hash_tensors(saved["optimizer"].items())
    assert steps[-1].weights_sha256 == hash_tensors((saved["weights"] | saved["buffers"]).items())


def test_the_hash_of_the_weights_covers_every_tensor(tmp_path: Path, data: Path) -> None:
    trainer = trainer_of(tiny(), tmp_path, data)
    known = {trainer.training.weights_hash()}
    tensors = [*trainer.training.work.masters.weights().values(), *trainer.training.model.buffers()]
    assert len(tensors) == len(trainer.training.model.state_dict())
    for tensor in tensors:
        tensor.view(-1)[-1] += 1.0
        known.add(trainer.training.weights_hash())
    assert len(known) == 1 + len(tensors)


class Poisoned(PreTraining):
    """Its loss in step 5 is no finite number."""

    def __init__(self, recipe: Recipe, data: Path, bad: float) -> None:
        super().__init__(recipe, data)
        self.bad = bad

    def loss(self, model: DeepSeekModel, micro: Batch) -> Loss:
        loss = super().loss(model, micro)
        return loss._replace(total=loss.total * self.bad) if micro.step == 5 else loss


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stops_before_the_weights_are_touched(bad: float, tmp_path: Path, data: Path) -> None:
    task = Poisoned(tiny(), data, bad)
    with pytest.raises(UserError) as error:
        trainer_of(tiny(), tmp_path, data, task=task).train()
    message = str(error.value)
    assert message.startswith("step 5: loss") and "step-00000003" in message
    named, others = task.loader.documents(4), task.loader.documents(5)
    assert f"The batch held {', '.join(named)}. " in message and named != others
    assert check_transcript(tmp_path / "transcript.jsonl").steps[-1].step == 4
    whole, _ = run(tiny(), tmp_path / "whole", data)
    again, _ = run(tiny(), tmp_path, data, resume=True)
    assert again.weights_sha256 == whole.weights_sha256


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_any_number_of_processes_would_have_these_gradients(
    world_size: int, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen micro-batches in eight lanes: each process sums its block of lanes, and a tree adds the blocks."""
    recipe = tiny(train={"batch_size": 16, "micro_batch_size": 1, "lanes": 8, "precision": "fp32"})
    task = PreTraining(recipe, data)
    training = Training(recipe, task, preflight(recipe))
    whole = TreeSum()
    for rank in range(world_size):
        lanes = block(8, rank, world_size)
        part = LaneSum(2 * len(lanes), len(lanes))
        for micro in list(task.batch(1, training.model).split(16))[2 * lanes.start : 2 * lanes.stop]:
            task.loss(training.model, micro).total.backward()
            part.push([p.grad for p in training.model.parameters() if p.grad is not None])
            training.model.zero_grad()
        whole.push(part.result())
    kept: list[torch.Tensor] = []
    step = training.optimizer.step

    def keeping(gradients: list[torch.Tensor], norm: float, multiplier: float) -> None:
        kept.extend(gradient.clone() for gradient in gradients)
        step(gradients, norm, multiplier)

    monkeypatch.setattr(training.optimizer, "step", keeping)
    record, _ = training.advance()
    together = whole.result()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(together, kept, strict=True))
    assert gradient_norm(together) == record.grad_norm


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_builds_its_model_once(resume: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, built, build = tiny(train={"steps": 2, "checkpoint_every": 1}), list[int](), Work._build
    if resume:
        trainer = trainer_of(recipe, tmp_path / "run", data)
        trainer.train(lambda record: trainer.stop())
    monkeypatch.setattr(Work, "_build", lambda work: (built.append(1), build(work))[1])
    training = trainer_of(recipe, tmp_path / "run", data, resume=resume).training
    assert len(built) == 1
    training.advance()
    training.begin()
    assert len(built) == 2 and training.step == 0


def without_experts(model: DeepSeekModel) -> list[Trained]:
    return [Trained(name, parameter) for name, parameter in model.named_parameters() if ".experts." not in name]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_not_trained_stays_and_is_saved(precision: str, data: Path) -> None:
    recipe = tiny(train={"precision": precision, "steps": 4})
    training = Training(recipe, PreTraining(recipe, data), preflight(recipe), without_experts)
    begun = {name: tensor.clone() for name, tensor in training.state()["weights"].items()}
    training.advance()
    state = {group: {k: v.clone() for k, v in held.items()} for group, held in training.state().items()}
    moved = {name for name, tensor in state["weights"].items() if not torch.equal(tensor, begun[name])}
    assert moved == {name for name in begun if ".experts." not in name}
    assert not any(".experts." in name for name in state["optimizer"])
    step, tokens = training.step, training.tokens
    following, _ = training.advance()
    training.begin()
    training.load(step, tokens, state)
    assert training.advance()[0] == following


def some_experts(model: DeepSeekModel) -> list[Trained]:
    return [Trained(name, p, (1, 6)) for name, p in model.named_parameters() if ".experts." in name]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_only_the_chosen_experts_change_and_a_run_goes_on_to_the_bit(
    optimizer: str, precision: str, data: Path
) -> None:
    recipe = tiny(
        optimizer={"name": optimizer, "weight_decay": 0.5},
        train={"precision": precision, "steps": 5, "bias_update_speed": 0.0},
    )
    training = Training(recipe, PreTraining(recipe, data), preflight(recipe), some_experts)
    asking = {name for name, parameter in training.model.named_parameters() if parameter.requires_grad}
    assert asking == set(training.optimizer.names) and all(".experts." in name for name in asking)
    begun = {name: parameter.detach().clone() for name, parameter in training.model.named_parameters()}
    for _ in range(2):
        training.advance()
    state = {group: {k: v.clone() for k, v in held.items()} for group, held in training.state().items()}
    assert state["weights"].keys() == begun.keys()
    for name, parameter in training.model.named_parameters():
        for e, (now, before) in enumerate(zip(parameter, begun[name], strict=True)):
            chosen = ".experts." in name and e in (1, 6)
            assert torch.equal(now, before) != chosen, (name, e)
    assert {tensor.shape[0] for tensor in state["optimizer"].values() if tensor.ndim} == {2}
    step, tokens = training.step, training.tokens
    records = [training.advance()[0] for _ in range(3)]
    training.begin()
    training.load(step, tokens, state)
    assert [training.advance()[0] for _ in range(3)] == records
    assert records[-1].weights_sha256 is not None


class WithoutMTP(PreTraining):
    """Leaves the MTP module out."""

    def loss(self, model: DeepSeekModel, micro: Batch) -> Loss:
        losses = model.loss(micro.tokens_BX[:, :-1], mtp_weight=None, weight_BX=micro.weight_BX[:, :-1])
        return Loss(losses.total, {LOSS: losses.main}, losses.load_LE)


def test_what_a_step_does_not_use_counts_as_a_zero_gradient(data: Path) -> None:
    recipe = tiny(optimizer={"name": "adamw", "weight_decay": 0.0}, train={"steps": 4})
    training = Training(recipe, WithoutMTP(recipe, data), preflight(recipe))
    begun = {name: parameter.detach().clone() for name, parameter in training.model.named_parameters()}
    training.advance()
    still = {name for name, p in training.model.named_parameters() if torch.equal(p, begun[name])}
    assert still == {name for name in begun if name.startswith("model.layers.2.")}


def test_a_recipe_edited_between_runs_is_refused_by_name(tmp_path: Path, data: Path) -> None:
    interrupted(tiny(), tmp_path, data, after=2)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"recipe\.optimizer\.learning_rate"):
        run(tiny(optimizer={"learning_rate": 1e-2}), tmp_path, data, resume=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_code_that_changed_between_runs_is_refused_by_name(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header says by what code the run trains: it must not become untrue."""
    interrupted(tiny(), tmp_path, data, after=2)
    header = check_transcript(tmp_path / "transcript.jsonl").header
    assert header["code_sha256"] == code_hash(trainers_code(package_sources()))
    monkeypatch.setattr("clearseek.train.trainer.code_here", lambda child: "0" * 64)
    with pytest.raises(UserError, match=r"code_sha256: .* -> \"000.*(?s:.*)use the ClearSeek that began the run"):
        run(tiny(), tmp_path, data, resume=True)


def test_other_code_may_open_a_run_that_has_no_step_left(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quickstart that was killed while it exported goes on after an upgrade."""
    run(tiny(), tmp_path, data)
    before = (tmp_path / "transcript.jsonl").read_bytes()
    monkeypatch.setattr("clearseek.train.trainer.code_here", lambda child: "0" * 64)
    assert run(tiny(), tmp_path, data, resume=True)[0].finished
    assert (tmp_path / "transcript.jsonl").read_bytes() == before
    with pytest.raises(UserError, match="code_sha256"):  # steps 7 and 8 would be trained again
        run(tiny(), tmp_path, data, resume=True, from_step=6)
    assert (tmp_path / "transcript.jsonl").read_bytes() == before


def test_a_damaged_last_line_is_written_again(tmp_path: Path, data: Path) -> None:
    run(tiny(), tmp_path, data)
    file = tmp_path / "transcript.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'"step":8', b'"step":9'))
    assert run(tiny(), tmp_path, data, resume=True)[0].finished
    assert file.read_bytes() == whole


class Unmeasured(Interrupting):
    """Evaluates nothing."""

    def evaluate(self, model: DeepSeekModel, step: int, progress: Progress | None = None) -> dict[str, float]:
        return {}


def test_a_run_that_evaluates_nothing_is_finished_after_its_last_step(tmp_path: Path, data: Path) -> None:
    """Also where Ctrl-C came during that step."""
    outcome = trainer_of(tiny(), tmp_path, data, task=Unmeasured(tiny(), data, 8)).train()
    assert outcome.finished and len(check_transcript(tmp_path / "transcript.jsonl").steps) == 8


def test_a_callback_that_chooses_other_kernels_changes_no_bits(tmp_path: Path, data: Path) -> None:
    """One that evaluates a model of its own does, for instance."""
    if launch.unavailable() is not None:
        pytest.skip(str(launch.unavailable()))
    recipe = tiny(train={"kernels": "numba"})
    whole, _ = run(recipe, tmp_path / "whole", data)
    outcome = trainer_of(recipe, tmp_path / "other", data).train(lambda record: use_kernels("torch"))
    assert outcome.weights_sha256 == whole.weights_sha256
    assert (tmp_path / "other/transcript.jsonl").read_bytes() == (tmp_path / "whole/transcript.jsonl").read_bytes()


def test_a_changed_shard_is_refused_by_name(tmp_path: Path, data: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    interrupted(tiny(), tmp_path / "run", copy, after=2)
    shard = copy / "train-00000.bin"
    raw = bytearray(shard.read_bytes())
    raw[100] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(UserError, match=r"train-00000\.bin"):
        run(tiny(), tmp_path / "run", copy, resume=True)


def test_a_truncated_checkpoint_is_refused_and_an_older_one_named(tmp_path: Path, data: Path) -> None:
    run(tiny(), tmp_path, data)
    file = tmp_path / "checkpoints/step-00000008/weights.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"(?s)weights\.safetensors.*--from-step 6"):
        run(tiny(), tmp_path, data, resume=True)


def test_a_run_goes_on_with_the_threads_it_began_with(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearseek.cores.usable_cores", lambda: 64)
    now = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        interrupted(tiny(train={"threads": None}), tmp_path, data, after=2)
        torch.set_num_threads(2)
        run(tiny(train={"threads": None}), tmp_path, data, resume=True)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(now)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path, data: Path) -> None:
    run(tiny(train={"steps": 1}), tmp_path, data)
    with pytest.raises(UserError, match="already recorded"):
        trainer_of(tiny(train={"steps": 1}), tmp_path, data)


def steps_done(folder: Path) -> int:
    """Lines of the transcript but the header, whole or torn."""
    file = folder / "transcript.jsonl"
    return file.read_bytes().count(b"\n") - 1 if file.exists() else -1


SAVED_OFTEN = tiny(train={"steps": 100, "checkpoint_every": 1, "keep_checkpoints": 2})


def train_until(folder: str, data: str, last: int) -> None:
    """In a process of its own: begin or resume a run that pauses in step `last` for ever, as if the machine were slow:
    the run cannot end before a kill, however late it comes."""

    def pause(record: StepRecord) -> None:
        if record.step == last:
            signal.pause()

    resume = Run(Path(folder)).transcript.exists()
    trainer_of(SAVED_OFTEN, Path(folder), Path(data), resume=resume).train(pause)


def torn_checkpoint(checkpoints: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any(path.name.startswith(".") and not (path / "checkpoint.json").exists() for path in checkpoints.glob("*"))


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_equals_uninterrupted(
    tmp_path: Path, data: Path, processes: ForkServerContext
) -> None:
    """Twenty kills: half of them in the middle of a checkpoint, which each step writes, and half anywhere."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = processes.Process(target=train_until, args=(str(whole), str(data), -1))
    process.start()
    process.join()
    assert process.exitcode == 0
    chance, torn = random.Random(0), 0
    for number in range(20):
        before = steps_done(killed)
        process = processes.Process(target=train_until, args=(str(killed), str(data), max(before, 0) + 4))
        process.start()
        assert process.pid is not None
        wait_for(process, lambda before=before: steps_done(killed) > before)  # kills while it starts would show little
        if number % 2:
            time.sleep(chance.uniform(0, 0.06))
        else:
            torn += stopped_in_a_checkpoint(process, killed)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert torn > 0, "no kill fell into a checkpoint write: the test shows less than it claims"
    process = processes.Process(target=train_until, args=(str(killed), str(data), -1))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert (killed / "transcript.jsonl").read_bytes() == (whole / "transcript.jsonl").read_bytes()
    assert check_transcript(killed / "transcript.jsonl").steps[-1].weights_sha256 is not None
    assert checkpoint.latest(killed / "checkpoints") is not None


def wait_for(process: BaseProcess, event: Callable[[], bool]) -> None:
    while not event():
        assert process.is_alive(), "the run was over before it could be killed"
        time.sleep(0.001)


def stopped_in_a_checkpoint(process: BaseProcess, folder: Path) -> bool:
    """Stop the process (it goes on only to be stopped again) until a checkpoint is half written, or it pauses."""
    assert process.pid is not None
    limit = steps_done(folder) + 3
    while steps_done(folder) < limit:
        os.kill(process.pid, signal.SIGSTOP)
        if torn_checkpoint(folder / "checkpoints"):
            return True
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.0005)
    return False
