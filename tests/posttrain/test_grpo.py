"""Policy optimisation: rounds are functions, updates replay them, kills change no bit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clearseek.config import GrpoConfig
from clearseek.errors import UserError
from clearseek.posttrain.grpo import PASS, Grpo, PolicyOptimisation, _notes
from clearseek.posttrain.rollouts import Rollouts, seed_of
from clearseek.problems.questions import Questions
from clearseek.problems.rewards import scored
from clearseek.train.checkpoints import checkpoint
from clearseek.train.origin import origin_of
from clearseek.train.preflight import preflight
from clearseek.train.record import StepRecord
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from clearseek.train.step import Training
from clearseek.train.transcript import check_transcript
from tests.posttrain.tiny import child, easy, parent

GRPO: dict[str, Any] = {"completions": 4, "max_tokens": 6, "evaluate_problems": 8}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(Questions, "score", easy)
    return parent(tmp_path / "base")


def task_of(base: Run, folder: Path, micro: int = 8, **grpo: Any) -> tuple[PolicyOptimisation, Training]:
    """A task, and a training that begins from the parent's weights, by micro-batches of a size."""
    recipe = child(base, grpo=GRPO | grpo, problems={"kind": "addition"}, train={"micro_batch_size": micro})
    run, method = Run(folder), Grpo()
    folder.mkdir()
    task = method.task(recipe, run, method.data(recipe, run, None, False, None, lambda line: None))
    assert isinstance(task, PolicyOptimisation)
    training = Training(recipe, task, preflight(recipe), method.trainable(recipe, run))
    origin_of(run).begin(training)
    return task, training


def test_what_is_logged_of_a_round() -> None:
    """Of two groups of four, by hand: the spread is within a group, and lengths are of what was drawn."""
    reward, drawn, ended = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], [1, 2, 3, 4, 1, 2, 3, 4], [1, 1, 0, 0, 1, 1, 1, 1]
    count, whole = sum(drawn), sum(drawn) + 5 * 8
    none = torch.zeros(8, dtype=torch.int64)
    rollouts = Rollouts(
        problem_N=none, seed_N=none, prompt_N=none + 5, length_N=torch.tensor(drawn) + 5,
        token_T=torch.zeros(whole, dtype=torch.int32), logp_C=-torch.arange(1.0, count + 1),
        ended_N=torch.tensor(ended), reward_N=torch.tensor(reward), route_LTK=torch.zeros(0, whole, 0),
        kept_ids=none[:0], kept_ends_C=none[:0],
    )  # fmt: skip
    notes = [scored("right" if each else "wrong") for each in reward[:6]] + [scored("not ended"), scored("no answer")]
    found = _notes(rollouts, notes, GrpoConfig(completions=4))
    assert found == pytest.approx(
        {
            "reward": 5 / 8, "reward_spread": (3 / 16) ** 0.5 / 2, "groups_without_spread": 0.5,
            "entropy": (count + 1) / 2, "length": count / 8, "truncated": 2 / 8, "invalid": 1 / 8,
        }
    )  # fmt: skip


def test_two_runs_and_a_kill_in_any_place_give_the_same_bits(base: Run, tmp_path: Path) -> None:
    recipe = child(base, grpo=GRPO | {"updates": 2}, problems={"kind": "addition"}, train={"eval_every": 3})
    first, second = Run(tmp_path / "first"), Run(tmp_path / "second")
    for run in (first, second):
        train_recipe(recipe, run, method=Grpo())
    assert first.transcript.read_bytes() == second.transcript.read_bytes()
    steps = check_transcript(first.transcript).steps
    for record in steps:
        number = (record.step - 1) // 2
        file = first.root / "rollouts" / f"round-{number:08d}.safetensors"
        assert record.rollouts_sha256 == Rollouts.read(file).sha256()
        assert 0 < record.scalars["reward"] < 1
    assert f"{PASS}_before" in steps[0].scalars and PASS in steps[2].scalars and PASS in steps[-1].scalars
    for step in (2, 4):  # the round of step 4 is begun with; that of step 2 is over
        again = Run(tmp_path / f"again-{step}")
        shutil.copytree(first.root, again.root)
        for later in range(step // 2, 3):
            (again.root / "rollouts" / f"round-{later:08d}.safetensors").unlink()
        train_recipe(again.read_recipe(), again, resume=True, from_step=step, method=Grpo())
        assert again.transcript.read_bytes() == first.transcript.read_bytes()


def test_a_run_goes_on_in_the_middle_of_a_round(base: Run, tmp_path: Path) -> None:
    recipe = child(base, grpo=GRPO | {"updates": 3}, problems={"kind": "addition"})
    first = Run(tmp_path / "first")
    train_recipe(recipe, first, method=Grpo())
    again = Run(tmp_path / "again")
    shutil.copytree(first.root, again.root)
    train_recipe(again.read_recipe(), again, resume=True, from_step=2, method=Grpo())
    assert again.transcript.read_bytes() == first.transcript.read_bytes()
    lost = Run(tmp_path / "lost")
    shutil.copytree(first.root, lost.root)
    (lost.root / "rollouts" / "round-00000000.safetensors").unlink()
    with pytest.raises(UserError, match="round-00000000"):
        train_recipe(lost.read_recipe(), lost, resume=True, from_step=2, method=Grpo())


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_replay_has_the_experts_and_log_probabilities_of_the_engine(base: Run, tmp_path: Path, top_p: float) -> None:
    task, training = task_of(base, tmp_path / "run", updates=2, temperature=1.2, top_p=top_p)
    record, _ = training.advance()
    assert record.scalars["probability_gap"] < 1e-6
    rollouts = Rollouts.read(task.file_of(0))
    every = task._rows(1, rollouts, torch.arange(len(rollouts)), torch.zeros(len(rollouts.logp_C)))
    chosen: list[torch.Tensor] = []
    model = training.model
    training.load(0, 0, {**_state(base, training), "optimizer": training.optimizer.state()})
    for layer in model.moe_layers:
        layer.gate.register_forward_hook(lambda module, given, routing: chosen.append(routing.index_TK))
    logp_C = task._logp(model, every)
    assert float((logp_C - rollouts.logp_C).abs().max()) < 1e-5
    assert every.routing_LBSK is not None
    assert all(map(torch.equal, chosen, every.routing_LBSK.flatten(1, 2)))
    free = every.routing_LBSK
    chosen.clear()
    model.states(every.tokens_BX, False, None, None, None, every.valid_BX)
    assert every.valid_BX is not None
    read = every.valid_BX[:, 1:].flatten()
    for own, replayed in zip(chosen, free.flatten(1, 2), strict=True):
        assert torch.equal(own[read].sort().values, replayed[read].sort().values)


def _state(base: Run, training: Training) -> dict[str, Any]:
    return dict(checkpoint.load(checkpoint.find(base.checkpoints, 0)).tensors)


def test_without_replay_flips_are_reported(base: Run, tmp_path: Path) -> None:
    _, training = task_of(base, tmp_path / "run", updates=4, keep_routing=False)
    flips = [training.advance()[0].scalars["routing_flips"] for _ in range(4)]
    assert flips[0] == 0 and 0 <= max(flips) < 1


def test_completions_follow_from_their_address(base: Run, tmp_path: Path) -> None:
    task, training = task_of(base, tmp_path / "run")
    made = task.rollouts(3, training.model)
    assert made.seed_N.tolist() == [seed_of(0, 3, k) for k in range(8)]
    assert made.problem_N.tolist() == [6, 6, 6, 6, 7, 7, 7, 7]
    assert made.sha256() == task.rollouts(3, training.model).sha256() != task.rollouts(4, training.model).sha256()


def test_rewards_without_spread_end_the_run_with_advice(
    base: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Questions, "score", lambda *given: scored("wrong"))
    _, training = task_of(base, tmp_path / "run", patience=2)
    before = training.weights_hash()
    training.advance()
    assert training.weights_hash() == before  # nothing was learnt from the first
    with pytest.raises(UserError, match=r"2 rounds in which .* 0\.00 on average: .* cold start"):
        training.advance()


def test_a_run_that_goes_on_counts_rounds_without_spread_as_if_unbroken(
    base: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Questions, "score", lambda *given: scored("right"))
    recipe = child(base, grpo=GRPO | {"updates": 2, "patience": 3}, problems={"kind": "addition"},
                   train={"steps": 20})  # fmt: skip
    whole, broken = Run(tmp_path / "whole"), Run(tmp_path / "broken")
    stopped = r"3 rounds in which .* 1\.00 on average: .*: train\.steps = 4 is enough, or take harder"
    with pytest.raises(UserError, match=stopped):
        train_recipe(recipe, whole, method=Grpo())
    for step in (1, 4):  # in the middle of a round, and after one

        def kill(record: StepRecord, last: int = step) -> None:
            if record.step == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_recipe(recipe, broken, resume=broken.begun, on_step=kill, method=Grpo())
    for _ in range(2):
        with pytest.raises(UserError, match=stopped):
            train_recipe(recipe, broken, resume=True, method=Grpo())
    assert [record.step for record in check_transcript(broken.transcript).steps] == [1, 2, 3, 4]
    assert broken.transcript.read_bytes() == whole.transcript.read_bytes()


def test_answers_of_another_form_are_counted(base: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, training = task_of(base, tmp_path / "run")
    notes = iter([scored("not an integer"), scored("too long"), *[scored("wrong")] * 3, *[scored("not ended")] * 3])
    monkeypatch.setattr(Questions, "score", lambda *given: next(notes))
    assert task.batch(1, training.model).scalars["invalid"] == 2 / 8


@pytest.mark.parametrize(
    ("problems", "more", "words"),
    [
        ({}, {"data": {"sequence_length": 11}}, "has 7 tokens, and data.sequence_length leaves 5 beside max_tokens"),
        ({"template": "r1-zero"}, {}, "leaves 34 beside max_tokens"),
        (
            {"digits": 1},
            {"grpo": {"evaluate_problems": 90}},
            r"\d+ held-out problems were found, not 90: ask for fewer",
        ),
        ({"held_out_fraction": 1 - 1e-12}, {}, "no problem to train on in 300 tries"),
        ({"held_out_fraction": 1e-12}, {}, "no problem held out in 300 tries"),
    ],
)
def test_problems_that_do_not_fit_are_refused_before_a_step(
    base: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problems: Any, more: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr("clearseek.problems.problems.MOST_TRIES", 300)
    tables = {"grpo": GRPO | more.get("grpo", {}), "data": more.get("data", {})}
    recipe = child(base, problems={"kind": "addition"} | problems, **tables)
    with pytest.raises(UserError, match=words):
        train_recipe(recipe, tmp_path / "run", method=Grpo())
    assert not Run(tmp_path / "run").begun


def test_micro_batches_change_nothing_but_roundings(base: Run, tmp_path: Path) -> None:
    found = []
    for size in (8, 2):
        _, training = task_of(base, tmp_path / str(size), size, beta=0.1)
        found.append([training.advance()[0] for _ in range(2)])
    for one, other in zip(*found, strict=True):
        assert one.scalars["kl_reference"] == pytest.approx(other.scalars["kl_reference"], rel=1e-3, abs=1e-6)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
    assert found[0][0].scalars["kl_reference"] < 1e-9 < found[0][1].scalars["kl_reference"]


def test_damaged_rollouts_are_refused(base: Run, tmp_path: Path) -> None:
    task, training = task_of(base, tmp_path / "run")
    training.advance()
    file = task.file_of(0)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match="damaged"):
        Rollouts.read(file)


def test_what_filters_left_is_where_the_batch_is(base: Run, tmp_path: Path) -> None:
    task, training = task_of(base, tmp_path / "run", top_p=0.8)
    batch = task.batch(1, training.model)
    rollouts = Rollouts.read(task.file_of(0))
    kept = task._kept(rollouts, replace(batch, tokens_BX=batch.tokens_BX.to("meta")))
    assert kept is not None and {each.device.type for each in kept} == {"meta"}


def test_without_kept_rollouts_a_run_goes_on_in_the_middle_of_a_round(base: Run, tmp_path: Path) -> None:
    tables: dict[str, Any] = {"problems": {"kind": "addition"}, "train": {"steps": 40, "checkpoint_every": 8}}
    recipe = child(base, grpo=GRPO | {"updates": 3, "keep_rollouts": False}, **tables)
    first, killed = Run(tmp_path / "first"), Run(tmp_path / "killed")
    train_recipe(recipe, first, method=Grpo())
    kept = {int(file.stem[-8:]) for file in (first.root / "rollouts").iterdir()}
    assert {0, 3, 6, 13} <= kept and len(kept) < 14
    assert (first.root / "completions.md").read_text().count("## Round") == 4

    class Killed(BaseException):
        pass

    def kill(record: StepRecord) -> None:
        if record.step == 15:  # of round 4; the last checkpoint is in the middle of round 2
            raise Killed

    with pytest.raises(Killed):
        train_recipe(recipe, killed, method=Grpo(), on_step=kill)
    train_recipe(killed.read_recipe(), killed, resume=True, method=Grpo())
    assert killed.transcript.read_bytes() == first.transcript.read_bytes()


def test_a_run_that_goes_on_loses_patience_where_it_would_have(
    base: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Questions, "score", lambda *given: scored("wrong"))
    recipe = child(base, grpo=GRPO | {"updates": 2, "patience": 3}, problems={"kind": "addition"})
    run, steps = Run(tmp_path / "run"), list[int]()
    with pytest.raises(UserError, match="3 rounds in which"):
        train_recipe(recipe, run, method=Grpo(), on_step=lambda record: steps.append(record.step))
    with pytest.raises(UserError, match="3 rounds in which"):
        train_recipe(recipe, run, method=Grpo(), resume=True, on_step=lambda record: steps.append(record.step))
    assert steps == [1, 2, 3, 4]


def test_the_reference_is_computed_as_the_policy_is(base: Run, tmp_path: Path) -> None:
    wide = parent(tmp_path / "wide", intermediate_size=128, moe_intermediate_size=128, hidden_size=128)
    grpo, tables = GRPO | {"beta": 0.1, "keep_routing": False}, {"train": {"precision": "fp8", "steps": 2}}
    run = Run(tmp_path / "run")
    train_recipe(child(wide, grpo=grpo, problems={"kind": "addition"}, **tables), run, method=Grpo())
    first, last = check_transcript(run.transcript).steps
    assert first.scalars["kl_reference"] == 0 < last.scalars["kl_reference"]
