"""The ladder with a tiny model and a few steps a rung."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearseek.cli import ladder as command
from clearseek.cli import main
from clearseek.config import ProblemsConfig
from clearseek.data.tokenizer import SMALLEST_VOCABULARY, train
from clearseek.errors import UserError
from clearseek.evaluate.statistics import wilson_interval
from clearseek.inference.batch import Completion
from clearseek.posttrain import ladder, solved
from clearseek.posttrain.grpo import PolicyOptimisation
from clearseek.posttrain.lessons import Texts
from clearseek.posttrain.pictures import Column, ladder_picture
from clearseek.posttrain.rollouts import seed_of
from clearseek.posttrain.samples import Shown, visible
from clearseek.problems.problems import Problems
from clearseek.problems.questions import Questions
from clearseek.train.pretrain import PreTraining
from clearseek.train.record import StepRecord
from clearseek.train.run import Run
from clearseek.train.transcript import check_transcript, read_header

SETTINGS: dict[str, dict[str, Any]] = {
    "base": {
        "model.hidden_size": 32, "model.num_hidden_layers": 2, "model.num_attention_heads": 2,
        "model.intermediate_size": 64, "model.moe_intermediate_size": 16, "data.source": "files",
        "data.sequence_length": 64, "data.held_out_fraction": 0.2, "train.steps": 3, "train.batch_size": 4,
    },
    "start": {"sft.demonstrations": 200, "optimizer.learning_rate": 1e-2, "train.steps": 120, "train.batch_size": 3},
    "grpo": {
        "grpo.evaluate_problems": 16, "grpo.advantage": "mean", "optimizer.learning_rate": 1e-3, "train.steps": 4,
        "train.batch_size": 64, "train.eval_every": 2,
    },
    "student": {"distil.texts": 500, "train.steps": 3, "train.batch_size": 4},
}  # fmt: skip
RUNGS = list(SETTINGS)


@pytest.fixture(scope="module")
def settings(corpus: Path) -> list[str]:
    """Options that make a ladder a matter of seconds."""
    every = {"train.threads": 1, "train.kernels": "torch", "train.checkpoint_every": 50}
    changes = {name: every | given for name, given in SETTINGS.items()}
    changes["base"]["data.paths"] = [str(corpus / "*.txt")]
    pairs = [f"{rung}.{key}={json.dumps(value)}" for rung, given in changes.items() for key, value in given.items()]
    return [part for pair in pairs for part in ("--set", pair)]


@pytest.fixture(scope="module")
def whole(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ladder that went through; nothing in it is changed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # transcripts hold the parents' paths as they were given
        assert main(["ladder", "--out", "ladder", *settings]) == 0
    return folder / "ladder"


def transcripts(out: Path) -> dict[str, bytes]:
    return {name: Run(out / name).transcript.read_bytes() for name in RUNGS}


def without_seconds(out: Path) -> tuple[Any, str]:
    """What a ladder says of itself, apart from the time that it took."""
    log = ladder.read_log(out)
    report = re.sub(r"^(\| \w+ \| \d+ \|) \d+ ", r"\1 ", (out / "ladder.md").read_text(encoding="utf-8"), flags=re.M)
    return {name: entry | {"seconds": 0} for name, entry in log.items()}, report


def test_every_rung_begins_where_it_should(whole: Path) -> None:
    log = ladder.read_log(whole)
    assert list(log) == RUNGS == [rung.name for rung in ladder.RUNGS]
    headers = {name: read_header(Run(whole / name).transcript) for name in RUNGS}
    for rung in ladder.RUNGS:
        for other, kind in ((rung.parent, "parent"), (rung.teacher, "teacher")):
            found = headers[rung.name].get(kind)
            assert (found is None) == (other is None)
            assert other is None or found["weights_sha256"] == log[other]["weights_sha256"]
    assert headers["student"]["teacher"]["correct"] is True and "texts.jsonl" in headers["student"]["teacher"]["files"]


def test_rungs_are_measured_as_the_reinforcement_measures_itself(whole: Path) -> None:
    log, steps = ladder.read_log(whole), check_transcript(Run(whole / "grpo").transcript).steps
    for end in ("", "_low", "_high"):
        name = f"{solved.PASS}{end}"
        assert log["start"][name] == steps[0].scalars[f"{solved.PASS}_before{end}" if not end else f"{name}_before"]
        assert log["grpo"][name] == steps[-1].scalars[name]
    for entry in log.values():
        for name in (solved.PASS, "held_out_pass_at_16"):
            assert 0 <= entry[f"{name}_low"] <= entry[name] <= entry[f"{name}_high"] <= 1


def test_the_report_has_the_table_the_answers_and_completions(whole: Path) -> None:
    report = (whole / "ladder.md").read_text(encoding="utf-8")
    assert all(re.search(rf"^\| {name} \| \d+ \| \d+ \| [\d.]+ % \(", report, re.M) for name in RUNGS)
    learnt = re.search(r"Of 500 answers by grpo the student learnt (\d+): ", report)
    assert learnt is not None and 0 < int(learnt[1]) < 500
    shares = re.findall(r"^## Completions at (\d+) % of grpo", report, re.M)
    assert shares == ["0", "33", "67", "100"], "of four rounds the first, second, third and last"
    assert (whole / "ladder.png").read_bytes().startswith(b"\x89PNG\r\n")


def interrupt_in(task: type[Any], step: int, patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C arrives in this step of a task."""
    original: Callable[..., Any] = task.batch

    def batch(self: Any, number: int, *rest: Any) -> Any:
        if number == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, number, *rest)

    patch.setattr(task, "batch", batch)


def test_interrupted_anywhere_and_run_again_gives_the_same_bits(
    whole: Path, settings: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = ["ladder", "--out", "ladder", *settings]
    monkeypatch.chdir(tmp_path)
    tasks: list[tuple[type[Any], str]] = [(PreTraining, "base"), (PolicyOptimisation, "grpo"), (Texts, "student")]
    for task, name in tasks:
        with pytest.MonkeyPatch.context() as patch:
            interrupt_in(task, 2, patch)
            assert main(again) == 130
        said = f"stopped in rung {name} after step 2, saved; run the same command to go on"
        assert said in capfd.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "measure_rung", interrupted)
        assert main(again) == 130
    assert main(again) == 0
    said = capfd.readouterr().out
    assert "ladder/start: finished, kept" in said
    once, often = ladder.shares_of(ladder.read_log(whole)["student"])
    assert f"student: held-out problems solved: {once} with one completion, {often} with one of 16" in said
    assert transcripts(tmp_path / "ladder") == transcripts(whole)
    assert without_seconds(tmp_path / "ladder") == without_seconds(whole)
    assert (tmp_path / "ladder/ladder.png").read_bytes() == (whole / "ladder.png").read_bytes()


def interrupted(*arguments: Any) -> None:
    raise KeyboardInterrupt


def test_a_finished_ladder_is_kept_wherever_it_is(
    whole: Path, settings: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path / "moved")
    monkeypatch.setattr("clearseek.train.session.train_recipe", lambda *_, **__: pytest.fail("trained again"))
    assert main(["ladder", "--json", "--out", str(tmp_path / "moved"), *settings]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said == {"out": str(tmp_path / "moved"), "rungs": ladder.read_log(whole),
                    "report": str(tmp_path / "moved/ladder.md")}  # fmt: skip
    assert (tmp_path / "moved/ladder.md").read_bytes() == (whole / "ladder.md").read_bytes()


def test_a_lost_or_foreign_measurement_is_taken_again(whole: Path, settings: list[str], tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "ladder")
    log = ladder.read_log(whole)
    del log["base"], log["grpo"]["held_out_pass_at_16"]
    ladder.write_log(tmp_path / "ladder", log | {"student": log["student"] | {"measured_by": "another"}})
    assert main(["ladder", "--out", str(tmp_path / "ladder"), *settings]) == 0
    assert without_seconds(tmp_path / "ladder")[0] == without_seconds(whole)[0]
    assert transcripts(tmp_path / "ladder") == transcripts(whole)


def recipes(settings: Sequence[str], out: Path, *more: str) -> Any:
    return ladder.recipes_of(out, [*settings[1::2], *more])


def test_other_settings_or_weights_are_refused(whole: Path, settings: list[str], tmp_path: Path) -> None:
    for rung, key in (("base", "train.seed"), ("start", "train.steps"), ("student", "distil.texts")):
        changed, log = recipes(settings, whole, f"{rung}.{key}=7"), ladder.read_log(whole)
        states = [ladder.state_of(whole, each, changed, log) for each in ladder.RUNGS if each.name != rung]
        assert states == ["done"] * 3
        with pytest.raises(UserError, match=rf"{rung}: a run of other settings: delete its folder and those of later"):
            ladder.state_of(whole, named(rung), changed, log)
    copy = tmp_path / "ladder"
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "base")
    shutil.copytree(whole / "start", copy / "base")
    with pytest.raises(UserError, match=r"start: it began with other weights than those of .*base: delete its folder"):
        ladder.state_of(copy, named("start"), recipes(settings, copy), ladder.read_log(copy))
    with pytest.raises(UserError, match="base: a run of other settings"):
        ladder.state_of(copy, named("base"), recipes(settings, copy), ladder.read_log(copy))


def named(name: str) -> ladder.Rung:
    return next(rung for rung in ladder.RUNGS if rung.name == name)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "grop.train.steps=1",
            r"no rung 'grop' \(did you mean .grpo.\?\): write it as RUNG.table.key=value, with one of ",
        ),
        ("train.steps=1", "no rung 'train'"),
        ("x", "no rung 'x'"),
        ("grpo.trian.steps=1", "rung grpo: .*unknown key trian"),
        ("student.distil . teacher=runs/x", "the ladder decides which model a rung begins with"),
        ("start.parent.path=runs/x", "the ladder decides"),
        ("start.problems.digits=3", r"the rungs start and grpo have different \[problems\]"),
        ("student.problems.seed=3", r"the rungs student and grpo have different \[problems\]"),
        ("grpo.model.hidden_size=3", r"\[model\] beside \[parent\]"),
        ("base.data.sequence_length=9999", "above model.max_position_embeddings"),
    ],
)
def test_settings_are_checked_before_the_first_rung(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        ladder.recipes_of(tmp_path / "ladder", [override])
    assert main(["ladder", "--out", str(tmp_path / "ladder"), "--set", override]) == 2
    assert not list(tmp_path.iterdir())


def test_a_damaged_log_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = (
        "{",
        "[]",
        '{"base": 3}',
        '{"base": {"seconds": "9"}}',
        '{"base": {"seconds": 1e999}}',
        '{"base": {"steps": null}}',
    )
    for content in wrong:
        (tmp_path / "ladder.json").write_text(content)
        assert main(["ladder", "--out", str(tmp_path)]) == 2
        assert f"{tmp_path / 'ladder.json'}" in capfd.readouterr().err
    (tmp_path / "ladder.json").unlink()
    (tmp_path / "ladder.json").mkdir()
    assert main(["ladder", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path / 'ladder.json'}" in capfd.readouterr().err


def test_shipped_recipes_fit_each_other() -> None:
    found = ladder.recipes_of(Path("runs/ladder"))
    base = found["base"].model
    assert base.vocab_size == SMALLEST_VOCABULARY, "bytes alone, so that a digit is a token"
    for rung in ladder.RUNGS[1:]:
        recipe = found[rung.name]
        assert recipe.model == base and recipe.parent is not None and recipe.parent.path == f"runs/ladder/{rung.parent}"
    assert command.__doc__ is not None


def test_pass_at_k_counts_problems_that_one_of_k_completions_solves(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train([], SMALLEST_VOCABULARY)
    questions = Questions(tokenizer, Problems(ProblemsConfig(kind="addition")), "plain")
    asked: list[int] = []
    right = {(0, 2), (0, 3), (3, 0)}

    def write(model: Any, prompts: Any, rows: Any, seeds: Any, drawing: Any) -> list[Completion]:
        asked.extend(seeds)
        found, held_out = [], questions.held_out(5)
        for place, number in enumerate(rows):
            text = held_out[number].answer if (number, place % 4) in right else "0"
            tokens = np.array([*tokenizer.encode(text), questions.end])
            found.append(Completion(tokens, np.zeros(len(tokens)), True, np.zeros((0, 0, 0), dtype=np.int64), None))
        return found

    monkeypatch.setattr(solved, "write_completions", write)
    found = solved.measure_at_k(None, questions, questions.held_out(5), 4, 8, seed=3)  # type: ignore[arg-type]
    low, high = wilson_interval(2, 5)
    assert found == {"held_out_pass_at_4": 0.4, "held_out_pass_at_4_low": low, "held_out_pass_at_4_high": high}
    assert len(set(asked)) == 20 and not set(asked) & {seed_of(3, solved.EVALUATION, number) for number in range(5)}


def test_completions_of_any_characters_are_drawn_and_listed(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    hostile = ["$x_{", "\\frac", "漢字", "\u202eabc", "\x1b[31m", "a|b`c", "\ud800", "\0", "\U0001f642", "\r\n"]
    column = Column("at 0 %", [Shown(text, text, True, 1.0) for text in hostile])
    record = StepRecord(1, {"reward": 0.5, "entropy": 1.0}, 1.0, 1)
    ladder_picture([record], "solved", {"a": [0.1, 0.0, 0.2]}, [column], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG") and not recwarn.list
    assert not [c for text in hostile for c in visible(text) if not c.isprintable() or c in "|`"]
