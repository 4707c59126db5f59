"""`clearseek evaluate`, as people call it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from clearseek.cli import main
from clearseek.evaluate.check import faults
from clearseek.evaluate.comparison import holm
from clearseek.evaluate.evaluation import evaluate, listed
from clearseek.evaluate.records import Log, file_name, read_index, read_records
from clearseek.evaluate.scores import read_scores, versus
from clearseek.evaluate.tasks import Asking, build
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from tests.evaluate.scripted import Scripted, mostly
from tests.serve.served import serving, tiny_model
from tests.tiny import tiny


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any) -> Said:
        capfd.readouterr()
        code = main(["evaluate", *map(str, arguments)])
        return Said(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> tuple[Path, Path]:
    """Two runs, of other seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        recipe = tiny(data={"paths": [str(corpus / "*.txt")]}, train={"steps": 2, "seed": seed})
        train_recipe(recipe, Run(folder / f"seed-{seed}"))
    return folder / "seed-0", folder / "seed-1"


def test_every_task_of_a_run(cli: Callable[..., Said], runs: tuple[Path, Path], tmp_path: Path) -> None:
    said = cli(runs[0], "--questions", 8, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    for name in ("bits-per-byte", "addition", "sums", "countdown", "copying", "induction", "python"):
        assert f" {name} " in said.out and (tmp_path / "out" / f"{name}.jsonl").is_file()
    text = (runs[0] / "data" / "heldout.txt").read_text()
    assert list(faults(tmp_path / "out", texts=[("heldout.txt", text)])) == []
    again = cli(runs[0], "--questions", 8, "--out", tmp_path / "out", "--json")
    shown = json.loads(again.out)
    assert shown["tasks"]["sums"]["scores"]["questions"] == 8 and shown["model"]["name"] == "seed-0"
    assert shown["tasks"] == read_index(tmp_path / "out").model_dump(mode="json")["tasks"]


def test_two_runs_side_by_side(cli: Callable[..., Said], runs: tuple[Path, Path], tmp_path: Path) -> None:
    tasks = ["--tasks", "bits-per-byte:passage=64", "sums:digits=1", "--questions", 30]
    text = tmp_path / "text.txt"
    text.write_text("A text that neither has seen, line by line.\n" * 99, encoding="utf-8")
    said = cli(runs[0], "--against", runs[1], *tasks, "--text", text)
    assert said.code == 0, said.err
    assert "sums: cannot be told apart with 30 questions" in said.out.replace("\n", " ")
    assert (runs[0] / "evaluation" / "sums.jsonl").is_file() and (runs[1] / "evaluation" / "sums.jsonl").is_file()
    shown = json.loads(cli(runs[0], "--against", runs[1] / "evaluation", *tasks, "--text", text, "--json").out)
    found = shown["against"]["bits-per-byte"]
    scores = [read_index(run / "evaluation").tasks["bits-per-byte"].scores["score"] for run in runs]
    assert (found["verdict"] == "better") <= (scores[0] < scores[1])
    assert found["sentence"].startswith(found["verdict"])
    other = cli(runs[0], "--against", runs[1] / "evaluation", "--tasks", "sums:digits=1", "--questions", 20,
                "--out", tmp_path / "few")  # fmt: skip
    assert other.code == 2
    assert "asked 30 questions, and this would ask 20, of which 20 are the same" in other.err.replace("\n", " ")


def test_several_tasks_are_compared_line_by_line(cli: Callable[..., Said], tmp_path: Path) -> None:
    """A table with a line for each task, Holm's p-values, and a sentence for each, which no pipe breaks."""
    asking = Asking(60)
    tasks = [build(name, asking) for name in ("addition", "copying", "induction")]
    for name, share in (("good", 0.9), ("bad", 0.6)):
        evaluate(Scripted(mostly(share, 7 if name == "bad" else 1), name), tasks, asking, tmp_path / name)
    both = tmp_path / "good", "--against", tmp_path / "bad"
    said, found = cli(*both).out, json.loads(cli(*both, "--json").out)
    assert found["other"] == "bad" and [each["tasks"] for each in found["against"].values()] == [3, 3, 3]
    before, _, table = said.partition("good (first) against bad (second)")
    assert "addition" in before and "p, Holm's" in table and "Holm's over 3 tasks" in table
    scores = {name: read_scores(tmp_path / name) for name in ("good", "bad")}
    alone = {}
    for task, each in found["against"].items():
        (row,) = [line for line in table.splitlines() if line.startswith("│ " + task)]
        shown = [f"{100 * each['first']:.1f} %", f"{100 * each['second']:.1f} %", f"{100 * each['difference']:+.1f}"]
        assert [cell.strip() for cell in row.split("│")][2:5] == shown
        assert f"{task}: {each['sentence']}" in said.splitlines()
        (one,) = versus(*({task: scores[name][task]} for name in ("good", "bad")))
        alone[task] = one.found.p
    assert {task: each["p"] for task, each in found["against"].items()} == pytest.approx(holm(alone))


@pytest.mark.parametrize("columns", ["80", "40"])
def test_a_long_task_costs_no_figure(
    cli: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """A pipe is 80 columns wide: a long name is folded, and every figure is whole in both tables, also if narrower."""
    monkeypatch.setenv("COLUMNS", columns)
    task, asking = "harness:leaderboard_bbh_boolean_expressions", Asking(60)
    for name, share, factor in (("good", 0.9, 1), ("bad", 0.6, 7)):
        out = tmp_path / name
        evaluate(Scripted(mostly(share, factor), name), [build("sums", asking)], asking, out)
        head, records, _ = read_records(out / "sums.jsonl")
        (out / "sums.jsonl").unlink()
        log = Log(out / file_name(task), head.model_copy(update={"task": task}))
        log.add(records)
        index = read_index(out)
        index.tasks[task] = listed(log.path, log.head, log.records, log.chain)
        del index.tasks["sums"]
        (out / "index.json").write_text(index.model_dump_json())
    both = tmp_path / "good", "--against", tmp_path / "bad"
    said, shown = cli(*both).out, json.loads(cli(*both, "--json").out)
    of_two, scores = shown["against"][task], shown["tasks"][task]["scores"]
    before, _, table = said.partition("(first)")
    whole = [cells(before), cells(table)]
    figures = [
        [f"{100 * scores['score']:.1f} %", " to ".join(f"{100 * end:.1f}" for end in scores["sampled"]) + " %"],
        [f"{100 * of_two['first']:.1f} %", f"{100 * of_two['second']:.1f} %", f"{100 * of_two['difference']:+.1f}",
         " to ".join(f"{100 * end:+.1f}" for end in of_two["interval"]), f"{of_two['p']:.2g}"],
    ]  # fmt: skip
    for found, wanted in zip(whole, figures, strict=True):
        assert found[0] == task and found[1 : 1 + len(wanted)] == wanted
    drawn = [line for line in said.splitlines() if line.startswith(("┏", "┡", "└"))]
    assert len(drawn) == 6 and "…" not in said and (columns == "40" or {len(line) for line in drawn} == {80})


def cells(table: str) -> list[str]:
    """The cells of a table's only row, each of whose lines is whole words, but for those of the task's name."""
    rows = [line.strip("│").split("│") for line in table.splitlines() if line.startswith("│")]
    columns = [[part.strip() for part in column if part.strip()] for column in zip(*rows, strict=True)]
    return ["".join(columns[0]), *(" ".join(column) for column in columns[1:])]


def test_an_index_without_a_name(cli: Callable[..., Said], tmp_path: Path) -> None:
    """An error and no traceback, also where it is the other model's."""
    asking = Asking(4)
    for name in ("one", "two"):
        evaluate(Scripted(mostly(0.5), name), [build("sums", asking)], asking, tmp_path / name)
    index = json.loads((tmp_path / "two" / "index.json").read_text())
    del index["model"]["name"]
    (tmp_path / "two" / "index.json").write_text(json.dumps(index))
    for arguments in (["two"], ["one", "--against", "two"], ["two", "--against", "one"]):
        said = cli(*arguments)
        assert said.code == 2 and "index.json: model: its name must be stated" in said.err.replace("\n", " ")


def test_one_run_in_several_ways(cli: Callable[..., Said], runs: tuple[Path, Path], tmp_path: Path) -> None:
    for draws in (0, 1, 2):
        said = cli(runs[0], "--tasks", "python:max_tokens=8", "--questions", 40, "--temperature", 1, "--draws", draws,
                   "--out", tmp_path / str(draws))  # fmt: skip
        assert said.code == 0, said.err
    asked = [[json.loads(line) for line in (tmp_path / str(draws) / "python.jsonl").open()] for draws in (0, 1)]
    assert [each["name"] for each in asked[0][1:]] == [each["name"] for each in asked[1][1:]]
    assert not {each["seed"] for each in asked[0][1:]} & {each["seed"] for each in asked[1][1:]}
    said = cli(tmp_path / "0", "--variants", tmp_path / "1", tmp_path / "2", "--json")
    found = json.loads(said.out)["variants"]["python"]
    scores = [read_index(tmp_path / str(draws)).tasks["python"].scores for draws in (0, 1, 2)]
    assert list(found["means"].values()) == pytest.approx([each["score"] for each in scores])
    assert found["sentence"] in cli(tmp_path / "0", "--variants", tmp_path / "1", tmp_path / "2").out.replace("\n", " ")
    assert cli(tmp_path / "0", "--variants", tmp_path / "0").code == 2
    assert cli(tmp_path / "0", "--variants", tmp_path).code == 2


def test_a_model_behind_an_api(cli: Callable[..., Said], tmp_path: Path) -> None:
    with serving(tiny_model()) as served:
        said = cli(served.url + "/v1", "--tasks", "sums", "induction", "--questions", 4, "--template", "chat")
    assert said.code == 0, said.err
    (folder,) = (tmp_path / "evaluations").iterdir()
    assert read_index(folder).model["address"] == served.url + "/v1"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no-such-folder"], "no-such-folder: no such folder"),
        (["RUN", "--tasks", "adition"], "no task 'adition' .*addition"),
        (["RUN", "--tasks", "human-eval"], "--allow-code"),
        (["RUN", "--tasks", "sums", "sums"], "sums twice"),
        (["RUN", "--questions", "0"], "--questions 0"),
        (["RUN", "--samples", "2"], "at temperature 0"),
        (["RUN", "--samples", "0", "--seed", "-1"], "--samples 0: .*; --seed -1"),
        (["RUN", "--tasks", "python", "--template", "chat"], "cannot be asked in a chat"),
        (["RUN", "--text", "absent.txt"], "absent.txt"),
        (["RUN", "--against", "no-such-model", "--tasks", "sums", "--questions", "1"], "no-such-model: no such folder"),
        (["RUN", "--against", "RUN", "--tasks", "sums", "--questions", "1"], "give --out for the first"),
        (["http://127.0.0.1:9/v1", "--tasks", "harness:x"], "need the model here"),
        (["RUN", "--tasks", "harness:x", "--samples", "8", "--temperature", "1"], "--samples, --temperature: .*own"),
        (["RUN", "--tasks", "sums", "--allow-download", "--few-shot", "2"], "--few-shot, --allow-download: for tasks"),
        (["http://example.org/v1?x=1"], "MODEL = 'http://example.org/v1.x=1': not an address"),
    ],
)
def test_what_is_refused(
    cli: Callable[..., Said], runs: tuple[Path, Path], arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearseek.endpoint.time.sleep", lambda _: None)
    said = cli(*(str(runs[0]) if each == "RUN" else each for each in arguments))
    assert said.code == 2 and "Traceback" not in said.err
    assert re.search(told, said.err.replace("\n", " ")), said.err


def test_a_strangers_name_steers_no_terminal(cli: Callable[..., Said]) -> None:
    """An endpoint names its model as it likes: no markup, which may not even be whole, and no escape codes."""
    with serving(tiny_model()) as served:
        name = "[/red]\x1b]0;evil\x07"
        said = cli(served.url + "/v1", "--tasks", "sums", "--questions", 1, "--model-name", name)
    assert "Traceback" not in said.err and "\x1b" not in said.out + said.err and "[/red]" in said.out + said.err


def test_text_that_is_none(cli: Callable[..., Said], runs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "bytes.bin").write_bytes(b"\xff\xfe")
    said = cli(runs[0], "--text", tmp_path / "bytes.bin")
    assert said.code == 2 and "not UTF-8 text (byte 0)" in said.err


def test_ctrl_c_keeps_what_came(runs: tuple[Path, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clearseek", "evaluate", str(runs[0]), "--tasks", "sums", "copying:length=48",
               "--questions", "3000", "--out", str(tmp_path / "out")]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "out" / "sums.jsonl").is_file():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "goes on from here" in err and "Traceback" not in err


TASK = """
task: facts
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{choices}}"
doc_to_target: right
metric_list: [{metric: acc}]
metadata: {version: 1}
"""


def test_a_task_of_the_harness(cli: Callable[..., Said], runs: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    own = tmp_path / "own"
    own.mkdir()
    facts = [{"text": f"line {n} of", "choices": ["file", "moon"], "right": n % 2} for n in range(6)]
    (own / "facts.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in facts))
    (own / "facts.yaml").write_text(TASK.replace("FILE", str(own / "facts.jsonl")))
    said = cli(runs[0], "--tasks", "harness:facts", "sums", "--include-path", own, "--questions", 6, "--out",
               tmp_path / "out")  # fmt: skip
    assert said.code == 0, said.err
    index = read_index(tmp_path / "out")
    assert list(index.tasks) == ["sums", "harness:facts"]
    scores = index.tasks["harness:facts"].scores
    lines = [json.loads(line) for line in (tmp_path / "out" / index.tasks["harness:facts"].file).open()]
    assert scores["questions"] == 6 and scores["right"] == sum(each["score"] for each in lines[1:])
    assert lines[0]["settings"]["metric"] == "acc" and len(lines[1]["harness"]["requests"]) == 2
    assert [what for what in faults(tmp_path / "out") if "sums" in what] == []
