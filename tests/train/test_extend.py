"""Training a finished run for longer: to the bit, and on the record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clearseek.config import Recipe
from clearseek.errors import UserError
from clearseek.train.checkpoints import checkpoint
from clearseek.train.extend import adopt, longer_recipe
from clearseek.train.record import StepRecord
from clearseek.train.run import Run, read_metrics
from clearseek.train.session import train_recipe
from clearseek.train.transcript import check_transcript
from tests.tiny import tiny, trainer_of


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Run:
    run = Run(tmp_path_factory.mktemp("parent") / "run")
    train_recipe(tiny(train={"precision": "fp32"}), run, data)
    return run


def extend(parent: Run, folder: Path, data: Path, more: int = 5) -> Run:
    run = Run(folder)
    train_recipe(longer_recipe(parent, more), run, data, parent=parent)
    return run


def test_it_begins_where_the_parent_ended_and_says_so(parent: Run, tmp_path: Path, data: Path) -> None:
    run, ended = extend(parent, tmp_path / "more", data), check_transcript(parent.transcript)
    made = check_transcript(run.transcript)
    assert made.header["parent"] == {
        "step": 8,
        "tokens": 8 * 8 * 32,
        "weights_sha256": ended.steps[-1].weights_sha256,
        "optimizer_sha256": ended.steps[-1].optimizer_sha256,
        "transcript_head": ended.head,
        "data_fingerprint": ended.header["data_fingerprint"],
    }
    assert [step.step for step in made.steps] == list(range(9, 14)) and run.read_recipe().train.steps == 13
    assert "held_out_bpb" in made.steps[-1].scalars and made.steps[0].tokens == 9 * 8 * 32
    assert (run.parent / "transcript.jsonl").read_bytes() == parent.transcript.read_bytes()
    assert [line["step"] for line in read_metrics(run.metrics)] == list(range(9, 14))


@pytest.mark.slow
def test_it_is_what_one_run_would_have_done_where_the_schedule_is_level(tmp_path: Path, data: Path) -> None:
    """Weights, biases, optimiser and the order of the data go on; only what is a share of the run may differ."""

    def level(steps: int) -> Recipe:
        return tiny(
            optimizer={"schedule": [{"shape": "constant", "until": 1.0, "to": 1.0}]},
            train={"precision": "fp32", "mtp_switch": 1.0, "bias_update_until": 1.0, "steps": steps},
        )

    short, whole = Run(tmp_path / "short"), Run(tmp_path / "whole")
    train_recipe(level(8), short, data)
    train_recipe(level(13), whole, data)
    run = extend(short, tmp_path / "more", data)
    one, other = check_transcript(whole.transcript).steps, check_transcript(run.transcript).steps
    assert other == one[8:]


class KilledError(Exception):
    """Stands for a kill."""


def killed_after(step: int) -> Callable[[StepRecord], None]:
    def kill(record: StepRecord) -> None:
        if record.step == step:
            raise KilledError

    return kill


@pytest.mark.slow
def test_killed_and_resumed_it_ends_in_the_same_bits(parent: Run, tmp_path: Path, data: Path) -> None:
    whole, parts = extend(parent, tmp_path / "whole", data), Run(tmp_path / "parts")
    recipe = longer_recipe(parent, 5)
    adopt(parent, parts, with_data=False)
    for until in (9, 11):  # killed before it has a checkpoint of its own
        trainer = trainer_of(recipe, parts.root, data, resume=parts.transcript.exists())
        with pytest.raises(KilledError):
            trainer.train(killed_after(until))
    train_recipe(recipe, parts, data, resume=True)
    train_recipe(recipe, parts, data, resume=True, from_step=12)
    assert parts.transcript.read_bytes() == whole.transcript.read_bytes()
    assert checkpoint.steps(parts.checkpoints) == checkpoint.steps(whole.checkpoints)


@pytest.mark.slow
def test_an_extended_run_can_be_extended(parent: Run, tmp_path: Path, data: Path) -> None:
    again = extend(extend(parent, tmp_path / "more", data, 2), tmp_path / "again", data, 1)
    assert [step.step for step in check_transcript(again.transcript).steps] == [11]


def test_only_a_finished_run_can_be_gone_on_from(parent: Run, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write_recipe(tiny())
    with pytest.raises(UserError, match="no training to go on from"):
        longer_recipe(run, 1)
    lines = parent.transcript.read_bytes().splitlines(keepends=True)
    run.transcript.write_bytes(b"".join(lines[:4]))
    with pytest.raises(UserError, match=r"stopped after step 3 of 8: finish it first, with: clearseek train --resume"):
        longer_recipe(run, 1)
    run.transcript.unlink()
    checkpoint.save(run.checkpoints, 0, {"weights": {"w": torch.ones(1)}}, {"imported": True}, keep=1)
    with pytest.raises(UserError, match="an imported model"):
        longer_recipe(run, 1)
    with pytest.raises(UserError, match="--more-steps 0: use a number from 1 up"):
        longer_recipe(parent, 0)
    with pytest.raises(UserError, match="data are not in its folder: say where they are with --data"):
        adopt(parent, Run(tmp_path / "new"), with_data=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"step": "8"}', '{"step": 8, "weights_sha256": 3}', '{"step": 8, "tokens": "9"}', "{}"]
)
def test_a_damaged_record_of_the_parent_is_named(content: str, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.parent.mkdir()
    (run.parent / "parent.json").write_text(content)
    with pytest.raises(UserError, match=r"parent\.json: damaged"):
        run.read_parent()


def test_a_checkpoint_of_another_run_is_not_gone_on_from(parent: Run, tmp_path: Path, data: Path) -> None:
    mixed, other = Run(tmp_path / "mixed"), Run(tmp_path / "other")
    train_recipe(tiny(train={"precision": "fp32", "seed": 1}), other, data)
    shutil.copytree(parent.root, mixed.root)
    shutil.rmtree(mixed.checkpoints)
    shutil.copytree(other.checkpoints, mixed.checkpoints)
    with pytest.raises(UserError, match=r"step-00000008: not the weights that .*transcript\.jsonl ends with"):
        adopt(mixed, Run(tmp_path / "more"), with_data=False)
    assert not (tmp_path / "more").exists()


def test_other_weights_than_the_parents_are_refused(parent: Run, tmp_path: Path, data: Path) -> None:
    run = Run(tmp_path / "more")
    adopt(parent, run, with_data=False)
    file = run.parent / "parent.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"weights_sha256": "0" * 64}))
    with pytest.raises(UserError, match="not the weights that the run began with"):
        trainer_of(longer_recipe(parent, 5), run.root, data)
