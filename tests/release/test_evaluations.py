"""What a release carries of evaluations, what it refuses, and how the scores stand in Hugging Face's two forms."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from clearseek.cli import main
from clearseek.cli.evaluate import add
from clearseek.errors import UserError
from clearseek.evaluate.answerers import Answered
from clearseek.evaluate.evaluation import evaluate
from clearseek.evaluate.records import Head, Index, read_index
from clearseek.evaluate.records import Task as Listed
from clearseek.evaluate.tasks import Asking, Task, build
from clearseek.hub.read import import_hf
from clearseek.inference.model import weights_hash
from clearseek.release.evaluations import Carried, carried, check, held_out, wanted
from clearseek.release.scores import BENCHMARKS, again, as_yaml, hub_results, model_index, table
from clearseek.train.run import Run
from clearseek.verify.evaluations import Again, evaluation_rows
from clearseek.verify.replay import open_release

pytest.importorskip("cryptography", reason="signing needs the extra `release`")


class Scripted:
    """Whoever answers with the answer, and has the weights that it says."""

    environment: dict[str, Any] = {"weights stored as": "F32"}  # noqa: RUF012
    at_once = 64

    def __init__(self, **model: Any) -> None:
        self.model = {"name": "run", **model}

    def answer(self, task: Task, asking: Asking, asked: Any) -> Any:
        for each in asked:
            yield Answered(each.question.prompt, output=each.question.answer)


@pytest.fixture
def run(made: Path) -> Run:
    return Run(made.parent / "run")


@pytest.fixture(scope="module")
def released(made: Path) -> str:
    return weights_hash(import_hf(made, allow_missing_mtp=True)[1])


def evaluated(folder: Path, *names: str, **model: Any) -> Path:
    asking = Asking(10)
    evaluate(Scripted(**model), [build(name, asking) for name in names or ("addition",)], asking, folder)
    return folder


def refused(made: Path, run: Run, folder: Path, dtype: str = "bf16") -> str:
    with pytest.raises(UserError) as caught:
        check(wanted(run, [folder]), made, run, run.data, dtype)
    return str(caught.value)


# -- what is carried --------------------------------------------------------------------------------------------------


def test_the_runs_own_evaluation_is_carried_by_default(made: Path, tmp_path: Path, released: str) -> None:
    run = Run(tmp_path / "run")
    assert wanted(run, None) == ()
    evaluated(run.root / "evaluation", weights_sha256=released)
    (found,) = wanted(run, None)
    assert (found.name, list(found.heads)) == ("records", ["addition"])
    assert wanted(run, []) == ()
    check((found,), made, run, run.data, "bf16")


def test_an_evaluation_of_other_weights_says_what_to_do(made: Path, run: Run, tmp_path: Path) -> None:
    told = refused(made, run, evaluated(tmp_path / "other", weights_sha256="0" * 64))
    for words in ("not of the weights that are released, in bf16", f"evaluate {run.root} --tasks addition",
                  "--dtype bf16 --out FOLDER", "--dtype fp32", "--without-evaluation"):  # fmt: skip
        assert words in told
    assert "--text" not in told  # the run's own
    elsewhere = shutil.copytree(run.data, tmp_path / "data")
    with pytest.raises(UserError, match=rf"--dtype bf16 --text {elsewhere}/heldout.txt --out FOLDER"):
        check(wanted(run, [tmp_path / "other"]), made, run, elsewhere, "bf16")


def test_a_run_is_evaluated_as_it_is_released(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No export first: the run's weights, rounded, are those of the release, which is verified with its evaluation."""
    out, release = tmp_path / "asked", tmp_path / "Tiny"
    asked = ["--tasks", "bits-per-byte:passage=64", "addition:digits=1", "--questions", "4"]
    assert main(["evaluate", str(run.root), *asked, "--dtype", "bf16", "--out", str(out)]) == 0
    assert main(["release", str(run.root), str(release), "--evaluation", str(out)]) == 0
    (found,) = carried(release)
    assert found.index.model["weights_sha256"] == weights_hash(import_hf(release, allow_missing_mtp=True)[1])
    assert main(["evaluate", str(release), *asked, "--out", str(tmp_path / "again")]) == 0
    for task in found.index.tasks.values():
        assert (tmp_path / "again" / task.file).read_bytes() == (out / task.file).read_bytes()
    rows = list(evaluation_rows(open_release(release), Again(records=None)))
    assert [row.answer for row in rows] == ["yes", "yes"]
    assert main(["evaluate", str(release), *asked, "--dtype", "bf16"]) == 2
    assert "--dtype bf16 is for run folders" in capsys.readouterr().err


def test_what_a_verification_would_find_is_refused(made: Path, run: Run, tmp_path: Path, released: str) -> None:
    folder = evaluated(tmp_path / "mine", weights_sha256=released)
    file = folder / "addition.jsonl"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace('"score": 1.0', '"score": 0.5', 1), encoding="utf-8")
    assert "evaluate again" in refused(made, run, folder)
    file.write_text("".join(whole.splitlines(keepends=True)[:-2]), encoding="utf-8")
    assert "another file than index.json says" in refused(made, run, folder)
    file.unlink()
    assert "addition.jsonl" in refused(made, run, folder)


def test_another_text_than_was_held_out_is_refused(made: Path, run: Run, tmp_path: Path, released: str) -> None:
    class Reader(Scripted):
        def answer(self, task: Task, asking: Asking, asked: Any) -> Any:
            for each in asked:
                yield Answered(each.question.prompt, output=each.question.target, logprobs=[-1.0])

    asking = Asking(4, texts=[("mine.txt", "a line of text\n" * 200)])
    reader = Reader(weights_sha256=released)
    evaluate(reader, [build("bits-per-byte", asking)], asking, tmp_path / "other")
    assert "has another SHA-256 than heldout.txt here" in refused(made, run, tmp_path / "other")
    own = Asking(4, texts=held_out(run.data))
    evaluate(reader, [build("bits-per-byte", own)], own, tmp_path / "own")
    check(wanted(run, [tmp_path / "own"]), made, run, run.data, "bf16")


def test_what_nobody_could_do_again_is_refused(run: Run, tmp_path: Path) -> None:
    behind = evaluated(tmp_path / "behind", address="http://127.0.0.1:1/v1")
    with pytest.raises(UserError, match="behind an API, whose weights nobody can see"):
        wanted(run, [behind])
    older = evaluated(tmp_path / "older", weights_sha256="0" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clearseek.__version__", "9.9.9")
        with pytest.raises(UserError, match=r"carries the source of 9\.9\.9: evaluate again"):
            wanted(run, [older])
    with pytest.raises(UserError, match="two folders named older: rename one"):
        wanted(run, [older, older])
    with pytest.raises(UserError, match=r"index\.json"):
        wanted(run, [tmp_path / "none"])


def test_the_command_refuses_before_it_writes(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "Out"
    assert main(["release", str(run.root), str(out), "--evaluation", str(tmp_path / "none")]) == 2
    assert "index.json" in capsys.readouterr().err
    assert not out.exists()
    assert main(["release", str(run.root), str(out), "--evaluation", "x", "--without-evaluation"]) == 2


# -- how it is stated -------------------------------------------------------------------------------------------------


def scored(task: str, questions: int = 1319, missing: int = 0, right: int = 600) -> Carried:
    """An evaluation of a task that is not asked here."""
    own = {"num_fewshot": 5, "chat": True, "generation": {}}
    settings = {"questions": questions, "version": "3", "metric": "exact_match", "own": own, "task": {"doc": "long"}}
    head = Head(
        task=task, version=1, settings=settings,
        model={"name": "run"}, environment={"weights stored as": "F32"}, questions=questions,
    )  # fmt: skip
    said: dict[str, Any] = {
        "unit": "share", "questions": questions - missing, "missing": missing, "samples": 1, "confidence": 0.95,
        "score": right / (questions - missing), "right": right, "sampled": [0.4, 0.5], "exact": [0.4, 0.5],
    }  # fmt: skip
    listed = Listed(file="x.jsonl", sha256="0" * 64, chain="0" * 64, scores=said)
    return Carried("records", Path(), Index(model={"name": "run"}, tasks={task: listed}), {task: head})


def test_the_hubs_own_library_reads_the_model_index(run: Run, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    folder = evaluated(tmp_path / "mine", "addition", "copying", "countdown", weights_sha256="0" * 64)
    carried = wanted(run, [folder])
    index = as_yaml({"model-index": model_index("Tiny: a | model", carried)})
    data = hub.ModelCard(f"---\nlicense: mit\n{index}---\n# Tiny\n").data
    assert data.model_name == "Tiny: a | model"
    assert [(each.task_type, each.task_name, each.dataset_type, each.metric_type, each.metric_value)
            for each in data.eval_results] == [
        ("text-generation", task, f"clearseek-{task}", "accuracy", read_index(folder).tasks[task].scores["score"])
        for task in ("addition", "copying", "countdown")
    ]  # fmt: skip
    assert all(each.verified is None and each.verify_token is None for each in data.eval_results)
    assert data.eval_results[0].dataset_args["own"]["digits"] == 2
    assert "of 10 questions, 95 % interval" in data.eval_results[0].metric_name


def test_only_registered_benchmarks_go_to_the_hubs_leaderboards() -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    ((path, text),) = hub_results([scored("harness:gsm8k")]).items()
    assert path == ".eval_results/gsm8k-records.yaml"
    (entry,) = hub.parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k", 45.49)
    assert entry.verify_token is None
    assert "oken" not in text
    part, some = scored("harness:gsm8k", missing=1), scored("harness:gsm8k", 256, right=100)
    for other in (part, some, scored("harness:arc_easy"), scored("addition")):
        assert hub_results([other]) == {}, "of a part of the questions, or of no registered benchmark"
    assert {each.id for each in BENCHMARKS.values()} <= {"openai/gsm8k", "Idavidrein/gpqa", "TIGER-Lab/MMLU-Pro"}


def test_tasks_of_the_harness_are_carried_with_their_command() -> None:
    carried = scored("harness:gsm8k", 256, right=100)
    (command,) = again(carried, "Tiny")
    assert command.endswith(
        "evaluate Tiny --tasks harness:gsm8k --questions 256 --few-shot 5 --template chat --out evaluations/records"
    )
    (index,) = model_index("Tiny", [carried])
    assert index["results"][0]["dataset"]["type"] == "openai/gsm8k"
    assert "task" not in index["results"][0]["dataset"]["args"]


def test_the_table_and_the_command_say_what_was_asked(run: Run, tmp_path: Path) -> None:
    import argparse

    folder = evaluated(tmp_path / "mine", "addition:digits=3", "python", weights_sha256="0" * 64)
    (carried,) = wanted(run, [folder])
    lines = table(carried)
    assert lines[0] == "| task | score | 95 %: questions like these | questions | samples | missing |"
    assert lines[2].startswith("| addition | 100.0 % | ") and lines[2].endswith(" | 10 | 1 | 0 |")
    (command,) = again(carried, "my-release")
    parser = argparse.ArgumentParser()
    add(parser)
    arguments = parser.parse_args(shlex.split(command)[2:])
    asking = Asking(arguments.questions, arguments.samples, arguments.temperature, arguments.template, arguments.seed)
    for text, head in zip(arguments.tasks, carried.heads.values(), strict=True):
        task = build(text, asking)
        assert (task.name, dict(task.own), len(task.questions)) == (head.task, head.settings["own"], head.questions)


def test_several_answers_have_an_interval_for_these_questions(run: Run, tmp_path: Path) -> None:
    asking = Asking(6, 4, 1.0, seed=3)
    evaluate(Scripted(weights_sha256="0" * 64), [build("addition", asking)], asking, tmp_path / "drawn")
    (carried,) = wanted(run, [tmp_path / "drawn"])
    assert "| 95 %: these questions |" in table(carried)[0]
    (command,) = again(carried, "x")
    assert "--samples 4 --temperature 1.0" in command
