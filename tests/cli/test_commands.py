from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

import clearseek
from clearseek.cli import COMMANDS, build_parser, main
from clearseek.cli import recipes as command
from clearseek.recipe import shipped_recipes
from clearseek.train.run import Run
from clearseek.train.session import exclusively
from clearseek.train.transcript import check_transcript
from tests.tiny import TINY

STEPS = 8


class Said(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line in this process."""

    def run(*arguments: str | Path) -> Said:
        capfd.readouterr()
        code = main([str(each) for each in arguments])
        return Said(code, *capfd.readouterr())

    return run


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """The command line as a program of its own."""
    command = [sys.executable, "-m", "clearseek", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def refused(said: Said) -> str:
    """The one message of a command that was refused."""
    assert said.code == 2 and said.out == "" and said.err.startswith("clearseek: "), said
    assert "Traceback" not in said.err
    return said.err.removeprefix("clearseek: ").rstrip("\n")


def after_progress(said: Said) -> Said:
    """What `data` said after the stages it went through."""
    return said._replace(err="clearseek: " + said.err.partition("clearseek: ")[2])


def toml(tables: dict[str, Any]) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in tables.items() if not isinstance(value, dict)]
    for table, settings in tables.items():
        if isinstance(settings, dict):
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    return "\n".join(lines) + "\n"


class Work(NamedTuple):
    """Files that many tests start from; nothing in them is changed."""

    recipe: Path
    data: Path
    run: Path
    """Trained to its end."""
    weights: str
    """The hash that it ended with."""
    export: Path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("work")
    (folder / "corpus").mkdir()
    for number in range(30):
        lines = [f"line {i} of file {number}: {'the quick brown fox ' * (i % 5)}{i * number}" for i in range(40)]
        (folder / f"corpus/{number:02}.txt").write_text("\n".join(lines), encoding="utf-8")
    recipe, data, run, export = folder / "tiny.toml", folder / "data", folder / "run", folder / "export"
    recipe.write_text(toml(TINY | {"data": TINY["data"] | {"paths": [f"{folder}/corpus/*.txt"]}}), encoding="utf-8")
    assert main(["data", str(recipe), "--out", str(data)]) == 0
    assert main(["train", str(recipe), "--data", str(data), "--run", str(run)]) == 0
    assert main(["export", str(run), str(export)]) == 0
    return Work(recipe, data, run, weights(run), export)


def weights(run: Path) -> str:
    sha256 = check_transcript(Run(run).transcript).steps[-1].weights_sha256
    assert sha256 is not None
    return sha256


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@contextmanager
def disk_full(file_bytes: int) -> Iterator[None]:
    """No file may grow beyond this many bytes: the nearest to a full disk that needs no privileges."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Words


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version") == (0, f"clearseek {clearseek.__version__}\n", "")
    said = cli("--help")
    assert said.code == 0 and "examples:" in said.out and all(f"\n    {name}" in said.out for name in COMMANDS)
    assert said.out.index("positional arguments:") < 200, "the commands come first; Python's manual is elsewhere"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example(command: str, cli: Cli) -> None:
    said = cli(command, "--help")
    assert said.code == 0 and said.err == ""
    assert f"example:\n  clearseek {command}" in said.out
    example = said.out.split("example:\n  clearseek ")[1].split("\n")[0]
    assert build_parser().parse_args(example.split()).command == command


def test_every_example_parses() -> None:
    epilog = build_parser().epilog
    assert epilog is not None
    for line in epilog.split("\n")[1:-1]:
        arguments = line.split("  ")[1].replace('"def "', "def").split()[1:]
        assert build_parser().parse_args(arguments).command in COMMANDS


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["trian"], "no command 'trian' (did you mean \"train\"?); commands: quickstart, recipes,"),
        (["frobnicate"], "no command 'frobnicate'; commands: "),
        (["export", "a", "b", "--format", "onnx"], "argument --format: invalid choice: 'onnx'"),
        (["recipes", "--jsn"], "unrecognized arguments: --jsn"),
        (["train"], "give either a recipe to train or --resume RUN"),
        (["train", "quickstart", "--resume", "x"], "give either a recipe to train or --resume RUN"),
        (["train", "quickstart", "--from-step", "3"], "--from-step goes with --resume RUN"),
        (["train", "--resume", "x", "--set", "a.b=1"], "leave out --set, --size and --run"),
        (["train", "--resume", "x", "--size", "3"], "leave out --set, --size and --run"),
        (["train", "--resume", "x", "--run", "y"], "leave out --set, --size and --run"),
        (["train", "--resume", "x", "--from-step", "one"], "argument --from-step: invalid int value: 'one'"),
        (["train", "quikstart"], 'no recipe "quikstart" (did you mean "quickstart"?)'),
        (["train", "gone.toml"], "gone.toml: cannot read the recipe: No such file or directory"),
        (["train", "folder.toml"], "folder.toml: a folder, not a recipe: give a .toml file"),
        (["train", "binary.toml"], "binary.toml: the recipe is not UTF-8 text"),
        (["train", "quickstart", "--set", "train.stepz=1"], 'unknown key train.stepz (did you mean "steps"?)'),
        (["train", "quickstart", "--set", "steps"], "--set steps: write it as table.key=value"),
        (["train", "quickstart", "--data", "gone"], "gone: no such data folder: make it with: clearseek data"),
        (["train", "quickstart", "--device", "abacus"], "--device abacus: use cpu or cuda"),
        (["train", "quickstart", "--device", "cuda:99"], "--device cuda:99: PyTorch finds "),
        (["train", "--resume", "gone"], "gone: no such folder: give a run's folder"),
        (["train", "--resume", "file"], "cannot read: Not a directory"),
        (["train", "v3-671b"], "v3-671b: weights, gradients, their sums and optimiser state alone take 29.8 TiB"),
        (["data", "quickstart"], "the following arguments are required: --out"),
        (["data", "shakespeare", "--out", "d"], "tinyshakespeare.txt: data.paths names no file"),
        (["generate", "gone"], "gone: no such folder"),
        (["generate", "file"], "file: a file: give a run folder or an exported one"),
        (["generate", "folder.toml"], "folder.toml: not a run folder: it has no recipe.json"),
        (["generate", "gone", "--temperature", "-1"], "temperature = -1.0: use a number from 0 up"),
        (["generate", "gone", "--top-p", "0"], "top-p = 0.0: use a number above 0"),
        (["generate", "gone", "--seed", "-1"], "seed = -1: use a whole number from 0"),
        (["generate", "gone", "--max-tokens", "0"], "--max-tokens 0: use a number from 1 up"),
        (["generate", "gone", "--prompt", "\udcff"], "--prompt: not UTF-8 text"),
        (["export", "gone", "out"], "gone: no such folder"),
        (["import", "gone", "out"], "gone: no such folder: give a folder with config.json and safetensors"),
        (["import", "folder.toml", "file"], "file: exists and is not an empty folder"),
        (["import", "folder.toml", "full"], "full: exists and is not an empty folder"),
        (["train", "quickstart", "--run", "full"], "full: not empty (it holds precious): choose a new folder"),
        (["train", "quickstart", "--run", "file"], "file"),
    ],
)
def test_mistakes_get_one_message_and_change_nothing(
    arguments: list[str], says: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "full").mkdir()
    for name in ("file", "full/precious"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\0")
    before = tree(tmp_path)
    assert says in refused(cli(*arguments))
    assert tree(tmp_path) == before


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run", lambda arguments: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["recipes"])


def test_a_system_error_names_its_file(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: Any) -> int:
        raise PermissionError(13, "Permission denied", "secret/place")

    monkeypatch.setattr(command, "run", fail)
    assert refused(cli("recipes")) == "secret/place: Permission denied"


# Recipes


def test_a_recipe_that_modifies_a_model_is_listed_with_its_parent(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tuned.toml").write_text(
        'name = "tuned"\ndescription = "Answers."\n[parent]\npath = "runs/elsewhere"\n[sft]\n[data]\nsource = "jsonl"\n'
        'paths = ["a.jsonl"]\nsequence_length = 4096\n[train]\nsteps = 1\nbatch_size = 1\n'
    )
    monkeypatch.setattr("clearseek.recipe.shipped_recipes", lambda: {"tuned": tmp_path / "tuned.toml"})
    assert re.search(r"tuned +of +runs/elsewhere +Answers\.", cli("recipes").out)
    listed = json.loads(cli("recipes", "--json").out)["tuned"]
    assert listed["parent"]["path"] == "runs/elsewhere" and "model" not in listed


def test_recipes_are_listed_one_a_line(cli: Cli) -> None:
    said = cli("recipes")
    names = [line.split()[0] for line in said.out.splitlines()]
    assert said.code == 0 and names == ["recipe", *shipped_recipes()]
    listed = json.loads(cli("recipes", "--json").out)
    assert list(listed) == list(shipped_recipes()) and listed["v3-671b"]["model"]["n_routed_experts"] == 256


def test_dry_run_counts_the_671b_exactly(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli("train", "v3-671b", "--dry-run")
    assert said.code == 0 and "671,026,419,200 + 11,610,068,224 MTP" in said.out and "hidden_size = 7168" in said.out
    costs = json.loads(cli("train", "v3-671b", "--dry-run", "--json").out)
    assert costs["parameters"]["total"] == 671_026_419_200
    assert costs["parameters"]["embedding"] == 129280 * 7168
    assert costs["parameters"]["activated"] == 37_552_297_472
    assert costs["tokens"] == 235240 * 15360 * 4096
    assert costs["recipe"]["model"]["num_hidden_layers"] == 61
    assert (
        sum(v for k, v in costs["memory_bytes"].items() if not k.startswith(("total", "partial")))
        == (costs["memory_bytes"]["total_without_activations"])
    )
    assert list(tmp_path.iterdir()) == []


def test_dry_run_begins_with_what_it_costs(cli: Cli) -> None:
    lines = cli("train", "quickstart", "--dry-run").out.splitlines()
    assert lines[0].startswith("parameters ") and lines.index("[model]") > 8


def test_dry_run_shows_what_set_changed(cli: Cli) -> None:
    costs = json.loads(cli("train", "quickstart", "--dry-run", "--json", "--set", "train.steps=7").out)
    assert (
        costs["recipe"]["train"]["steps"] == 7
        and costs["tokens"] == 7 * 32 * costs["recipe"]["data"]["sequence_length"]
    )


def test_dry_run_of_a_run_shows_its_own_recipe(cli: Cli, work: Work) -> None:
    costs = json.loads(cli("train", "--resume", work.run, "--dry-run", "--json").out)
    assert costs["recipe"] == json.loads((work.run / "recipe.json").read_bytes())


# Data


def test_data_is_described_and_used_again(cli: Cli, work: Work, tmp_path: Path) -> None:
    said = cli("data", work.recipe, "--out", tmp_path / "d")
    fingerprint = json.loads((tmp_path / "d/manifest.json").read_bytes())["fingerprint"]
    assert said.code == 0 and f"fingerprint  {fingerprint}" in said.out and "30 documents CC0-1.0" in said.out
    assert "tokenising" in said.err and "tokenising" not in said.out
    before = tree(tmp_path)
    again = cli("data", work.recipe, "--out", tmp_path / "d", "--json")
    assert json.loads(again.out)["fingerprint"] == fingerprint and again.err == ""
    assert tree(tmp_path) == before
    other = cli("data", work.recipe, "--out", tmp_path / "d", "--set", "model.vocab_size=290")
    assert "d: holds data prepared from other documents or settings" in refused(after_progress(other))
    assert tree(tmp_path) == before


def test_a_vocabulary_that_the_text_cannot_fill_is_said(cli: Cli, work: Work, tmp_path: Path) -> None:
    said = cli("data", work.recipe, "--out", tmp_path / "d", "--set", "model.vocab_size=90000")
    assert said.code == 0 and "vocabulary: the text has repeated pairs for" in said.out


def test_data_of_a_larger_vocabulary_than_the_models_are_refused(cli: Cli, work: Work, tmp_path: Path) -> None:
    said = cli("train", work.recipe, "--data", work.data, "--run", tmp_path / "r", "--set", "model.vocab_size=299")
    assert "data: made for model.vocab_size = 300, and this model has 299" in refused(said)
    assert not (tmp_path / "r").exists()


# Training


def test_train_leaves_a_whole_run_and_says_so(cli: Cli, work: Work, tmp_path: Path) -> None:
    said = cli("train", work.recipe, "--run", tmp_path / "r")
    assert said.code == 0 and "\x1b" not in said.out and "\r" not in said.out
    assert f"done: {tmp_path / 'r'}  weights {work.weights[:16]}  next: clearseek generate" in said.out
    assert f"step {STEPS}/{STEPS}  loss " in said.out
    made = {path.name for path in (tmp_path / "r").iterdir()}
    assert made == {
        "recipe.json",
        "data",
        "transcript.jsonl",
        "metrics.jsonl",
        "checkpoints",
        "pictures",
        "tokenizer.json",
    }
    assert {path.name for path in (tmp_path / "r/pictures").iterdir()} == {"loss.png", "experts.png"}
    before = (tmp_path / "r/transcript.jsonl").read_bytes()
    assert "holds a run already: --resume it" in refused(cli("train", work.recipe, "--run", tmp_path / "r"))
    ended = cli("train", "--resume", tmp_path / "r", "--json")
    assert json.loads(ended.out)["weights_sha256"] == work.weights and "going on after step 8 of 8" in ended.err
    assert (tmp_path / "r/transcript.jsonl").read_bytes() == before


def test_train_in_json_prints_nothing_else(cli: Cli, work: Work, tmp_path: Path) -> None:
    said = cli("train", work.recipe, "--data", work.data, "--run", tmp_path / "r", "--json")
    ended = json.loads(said.out)
    assert ended["finished"] and ended["steps"] == STEPS and ended["weights_sha256"] == work.weights
    assert 0 < ended["held_out_bpb"] < 8 and "step 8/8" in said.err


def test_the_run_folder_has_the_recipes_name_by_default(
    cli: Cli, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("train", work.recipe, "--data", work.data, "--set", "train.steps=1", "--set", "name=other").code == 0
    assert (tmp_path / "runs/other/transcript.jsonl").is_file()


def test_from_an_older_checkpoint_to_the_same_end(cli: Cli, work: Work, tmp_path: Path) -> None:
    run = tmp_path / "r"
    assert cli("train", work.recipe, "--data", work.data, "--run", run).code == 0
    assert "no checkpoint of step 5" in refused(cli("train", "--resume", run, "--data", work.data, "--from-step", "5"))
    said = cli("train", "--resume", run, "--data", work.data, "--from-step", "6", "--json")
    assert json.loads(said.out)["weights_sha256"] == work.weights


def test_a_finished_run_is_trained_for_longer(cli: Cli, work: Work, tmp_path: Path) -> None:
    said = refused(cli("train", "--resume", work.run, "--set", "train.steps=40"))
    again = shlex.split(said.rpartition("longer: ")[2])
    assert again == ["clearseek", "train", "--resume", str(work.run), "--more-steps", "N"]
    said = cli("train", "--resume", work.run, "--more-steps", "2", "--run", tmp_path / "r", "--data", work.data)
    assert said.code == 0 and "going on after step 8 of 10" in said.out and f"done: {tmp_path / 'r'}" in said.out
    assert "goes with --resume" in refused(cli("train", work.recipe, "--more-steps", "2"))
    assert "leave out --from-step" in refused(
        cli("train", "--resume", work.run, "--more-steps", "2", "--from-step", "3")
    )
    dry = json.loads(cli("train", "--resume", work.run, "--more-steps", "2", "--dry-run", "--json").out)
    assert dry["recipe"]["train"]["steps"] == 10


def test_a_run_that_another_process_writes_is_left_alone(cli: Cli, work: Work, tmp_path: Path) -> None:
    """Nothing is cleared before the run is known to be ours: not even what looks like a dead process's rubbish."""
    run, left = Run(tmp_path / "r"), tmp_path / "r/.data.0123456789abcdef.new"
    with exclusively(run):
        left.mkdir()
        for arguments in (("train", work.recipe, "--run", run.root), ("train", "--resume", work.run)):
            with exclusively(Run(work.run)):
                assert "another process is writing here" in refused(cli(*arguments, "--data", work.data))
        assert left.exists()


def test_a_folder_that_a_finder_looked_at_is_still_empty(cli: Cli, work: Work, tmp_path: Path) -> None:
    for name in (".DS_Store", "desktop.ini", "Thumbs.db", "._x"):
        (tmp_path / name).write_bytes(b"\0")
    assert cli("train", work.recipe, "--data", work.data, "--run", tmp_path, "--set", "train.steps=1").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a blank", "quote's", "-dash", "new\nline", "$HOME", "é"])
def test_commands_that_are_printed_can_be_pasted(
    name: str, cli: Cli, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli("train", work.recipe, "--data", work.data, f"--run={name}", "--set", "train.steps=1")
    pasted = shlex.split(os.fsencode(said.out.rpartition("next: ")[2]).decode("utf-8", "surrogateescape"))
    assert pasted[:2] == ["clearseek", "generate"] and Path(pasted[2]) == Path(name)
    assert cli(*pasted[1:], "--max-tokens", "1").code == 0


def test_a_run_needs_a_name_in_utf_8(cli: Cli, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checkpoints could not be read again."""
    monkeypatch.chdir(tmp_path)
    said = refused(cli("train", work.recipe, "--data", work.data, "--run=\udce9"))
    assert "the name is not UTF-8" in said and not list(tmp_path.iterdir())


def test_data_that_are_gone_are_asked_for(cli: Cli, work: Work) -> None:
    said = refused(cli("train", "--resume", work.run))
    assert "the run's data are not in its folder: say where they are, as when it began, with --data FOLDER" in said


def test_mistakes_name_the_likeliest_cure(cli: Cli, work: Work, tmp_path: Path) -> None:
    assert f"not a recipe: to go on with a run, use --resume {work.run}" in refused(cli("train", work.run))
    assert "(see clearseek train --help)" in refused(cli("train", work.recipe, "--step", "3"))
    (tmp_path / "text").touch()
    assert "text: a file: give a run folder or an exported one" in refused(cli("generate", tmp_path / "text"))


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", '{"format": "clear'])
def test_a_run_killed_before_its_first_line_begins_anew(content: str, cli: Cli, work: Work, tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    run.root.mkdir()
    for place, source in ((run.recipe, work.run / "recipe.json"), (run.transcript, None)):
        place.write_bytes(source.read_bytes() if source else content.encode())
    said = cli("train", "--resume", run.root, "--data", work.data)
    assert said.code == 0, said
    assert weights(run.root) == work.weights


def test_what_a_killed_preparation_left_is_cleared(cli: Cli, work: Work, tmp_path: Path) -> None:
    left = tmp_path / "r/.data.0123456789abcdef.new"
    left.mkdir(parents=True)
    (left / "train-00000.bin").write_bytes(b"half")
    assert cli("train", work.recipe, "--data", work.data, "--run", tmp_path / "r").code == 0
    assert not left.exists() and weights(tmp_path / "r") == work.weights


LONG_STEPS = 100
"""So many that a run is not over before a signal reaches it, though the machine be busy."""
LONG = ("--set", f"train.steps={LONG_STEPS}", "--set", "train.checkpoint_every=1000", "--set", "train.hash_every=1000")


@pytest.fixture(scope="module")
def long_run(work: Work, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash at the end of these steps without interruption."""
    run = tmp_path_factory.mktemp("long") / "r"
    assert main(["train", str(work.recipe), "--data", str(work.data), "--run", str(run), *LONG]) == 0
    return weights(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGHUP))]
)
def test_a_signal_finishes_the_step_and_saves(
    number: signal.Signals, cli: Cli, work: Work, long_run: str, tmp_path: Path
) -> None:
    run = tmp_path / "r"
    process = start("train", work.recipe, "--data", work.data, "--run", run, *LONG)
    while process.poll() is None:
        if Run(run).begun and (run / "transcript.jsonl").read_bytes().count(b"\n") > 3:
            break
        time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 130 and err == "" and "\x1b" not in out, (out, err)
    done = len(check_transcript(run / "transcript.jsonl").steps)
    assert 3 <= done < LONG_STEPS
    assert f"stopped after step {done}, saved; go on with: clearseek train --resume {run}" in out
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{done:08d}"]
    said = cli("train", "--resume", run, "--data", work.data)
    assert said.code == 0 and f"going on after step {done} of {LONG_STEPS}" in said.out
    assert weights(run) == long_run


def test_a_checkpoint_that_cannot_fit_is_refused_before_the_first_step(
    cli: Cli, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(total=10**9, used=10**9 - 10, free=10))
    said = refused(cli("train", work.recipe, "--data", work.data, "--run", tmp_path / "r"))
    assert re.search(
        r"a checkpoint of this model takes [\d,]+ bytes \([\d.]+ [KM]iB\), and 10 \(10 bytes\) are free", said
    )
    assert not (tmp_path / "r").exists()


def test_a_full_disk_during_training_costs_nothing_that_was_saved(cli: Cli, work: Work, tmp_path: Path) -> None:
    run, train = tmp_path / "r", ("train", work.recipe, "--data", work.data, "--run", tmp_path / "r")
    with disk_full(100_000):
        said = cli(*train)
    assert said.code == 2 and "step-00000003" in said.err and "largest file" in said.err and "Traceback" not in said.err
    assert list((run / "checkpoints").iterdir()) == []
    assert cli("train", "--resume", run, "--data", work.data).code == 0
    assert weights(run) == work.weights


def test_a_full_disk_leaves_no_half_data_export_or_run(cli: Cli, work: Work, tmp_path: Path) -> None:
    for arguments in (
        ("data", work.recipe, "--out", tmp_path / "new"),
        ("export", work.run, tmp_path / "new"),
        ("export", work.run, tmp_path / "new.gguf", "--format", "gguf"),
        ("import", work.export, tmp_path / "new"),
    ):
        with disk_full(10_000):
            said = cli(*arguments)
        assert said.code == 2 and "cannot write" in said.err and "Traceback" not in said.err, said
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_named(
    cli: Cli, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    for arguments in (
        ("train", work.recipe, "--data", work.data, "--run", tmp_path / "new"),
        ("export", work.run, tmp_path / "new"),
        ("import", work.export, tmp_path / "new"),
    ):
        said = cli(*arguments)
        assert said.code == 2 and "its file system is mounted read-only" in said.err, said
        assert list(tmp_path.iterdir()) == []


def test_what_may_not_be_read_or_written_is_named(cli: Cli, work: Work, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    recipe = tmp_path / "closed.toml"
    recipe.write_bytes(work.recipe.read_bytes())
    recipe.chmod(0)
    closed.chmod(0)
    if os.access(recipe, os.R_OK):
        pytest.skip("this user may read and write everything, as root may")
    try:
        for arguments in (
            ("train", recipe),
            ("train", work.recipe, "--data", work.data, "--run", closed / "run"),
            ("train", work.recipe, "--data", closed),
            ("train", "--resume", closed),
            ("generate", closed),
            ("export", closed, tmp_path / "out"),
            ("export", work.run, closed / "out"),
            ("import", closed, tmp_path / "out"),
            ("import", work.export, closed / "out"),
        ):
            assert "closed" in refused(cli(*arguments))
    finally:
        closed.chmod(0o700)


# Using a model


def test_generate_writes_the_same_text_for_a_seed(cli: Cli, work: Work) -> None:
    texts = [
        cli("generate", work.run, "--prompt", "line 5", "--max-tokens", "30", "--seed", seed, "--temperature", "1.5")
        for seed in ("1", "1", "2")
    ]
    assert texts[0] == texts[1] and texts[0].out != texts[2].out
    assert all(text.code == 0 and text.out.startswith("line 5") and text.out.endswith("\n") for text in texts)


def test_generate_takes_the_likeliest_at_temperature_0(cli: Cli, work: Work) -> None:
    outs = {cli("generate", work.run, "--temperature", "0", "--max-tokens", "9", "--seed", seed).out for seed in "12"}
    assert len(outs) == 1


def test_generate_from_a_chosen_checkpoint(cli: Cli, work: Work) -> None:
    assert cli("generate", work.run, "--step", "6", "--max-tokens", "3").code == 0
    assert "there are those of steps 6, 8" in refused(cli("generate", work.run, "--step", "7"))
    assert "--step is for run folders" in refused(cli("generate", work.export, "--step", "6"))


def test_a_prompt_longer_than_the_context_is_refused(cli: Cli, work: Work) -> None:
    said = cli("generate", work.run, "--prompt", "line " * 200)
    assert said.code == 2 and "but the model sees at most 64: shorten it" in said.err and not said.out


def test_generate_says_when_the_models_length_ends_it(cli: Cli, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not drawn: a model this small may end its text at any token, and which one differs between processors.
    monkeypatch.setattr("clearseek.inference.sampler.generate", lambda *arguments: iter([50] * min(63, arguments[2])))
    assert "(ended at the model's longest sequence, 64 tokens" in cli("generate", work.run, "--max-tokens", "500").err
    assert not cli("generate", work.run, "--max-tokens", "5").err


def test_characters_split_over_tokens_arrive_whole(cli: Cli, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    from clearseek.data.tokenizer import Tokenizer

    tokens = Tokenizer.load(work.run / "tokenizer.json").encode("naïve 🦊 中\ufffd文")
    monkeypatch.setattr("clearseek.inference.sampler.generate", lambda *arguments: iter(tokens))
    assert cli("generate", work.run).out == "naïve 🦊 中\ufffd文\n"


def test_ctrl_c_ends_generate_without_a_traceback(cli: Cli, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> Iterator[int]:
        yield 50
        raise KeyboardInterrupt

    monkeypatch.setattr("clearseek.inference.sampler.generate", interrupted)
    said = cli("generate", work.run, "--prompt", "x")
    assert said.code == 130 and said.out.startswith("x") and said.err == "clearseek: interrupted\n"


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_export_import_export_gives_the_same_bytes(dtype: str, cli: Cli, work: Work, tmp_path: Path) -> None:
    first, back, second = tmp_path / "first", tmp_path / "back", tmp_path / "second"
    said = cli("export", work.run, first, "--dtype", dtype)
    assert said.code == 0 and f"{first}: step 8 of {work.run} as {dtype}" in said.out
    assert "tiny" not in said.err and cli("import", first, back).code == 0
    assert cli("export", back, second, "--dtype", dtype).code == 0
    ours, theirs = tree(first), tree(second)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name] and name != "README.md"] == []
    if dtype == "fp32":
        loaded = Run(back).load_model()[0].state_dict()
        trained = Run(work.run).load_model()[0].state_dict()
        assert all(torch.equal(loaded[name], trained[name]) for name in trained)


def test_a_run_and_its_export_give_the_same_gguf_file(cli: Cli, work: Work, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    wide, files = tmp_path / "wide", [tmp_path / name / "model.gguf" for name in ("of-run", "of-export")]
    assert cli("export", work.run, wide, "--dtype", "fp32").code == 0
    for folder, file in zip((work.run, wide), files, strict=True):
        said = cli("export", folder, file, "--format", "gguf")
        assert said.code == 0 and said.out == f"{file}: {folder} as bf16, a GGUF file for llama.cpp\n", said
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "already exists" in refused(cli("export", work.run, files[0], "--format", "gguf"))
    said = cli("export", work.run, tmp_path / "q8.gguf", "--format", "gguf", "--dtype", "q8_0")
    assert "F16 instead of q8_0, whose blocks of 32 their rows do not fill: attn_q_b (3 tensors), " in said.out


def test_types_belong_to_formats(cli: Cli, work: Work, tmp_path: Path) -> None:
    out = tmp_path / "new"
    said = refused(cli("export", work.run, out, "--format", "gguf", "--dtype", "fp8"))
    assert "--dtype fp8: --format gguf stores bf16, f32, f16, q8_0, q4_0" in said
    assert "--dtype q8_0: --format hf stores bf16, fp32, fp8" in refused(
        cli("export", work.run, out, "--dtype", "q8_0")
    )
    assert "new.gguf: names a GGUF file" in refused(cli("export", work.run, tmp_path / "new.gguf"))
    assert list(tmp_path.iterdir()) == []


def test_an_export_and_its_import_write_the_same(cli: Cli, work: Work, tmp_path: Path) -> None:
    assert cli("import", work.export, tmp_path / "back").code == 0
    said = [cli("generate", folder, "--max-tokens", "20") for folder in (work.export, tmp_path / "back")]
    assert said[0].code == 0 and said[0] == said[1]


def test_an_import_is_a_run_to_read_and_not_to_train(cli: Cli, work: Work, tmp_path: Path) -> None:
    (tmp_path / "back").mkdir()
    said = cli("import", work.export, tmp_path / "back")
    assert said.code == 0 and "deepseek_v3 with " in said.out
    before = tree(tmp_path)
    said = refused(cli("train", "--resume", tmp_path / "back"))
    assert "back: no training to go on with: an imported model has none" in said
    trained = cli("train", work.recipe, "--data", work.data, "--run", tmp_path / "back")
    assert "back: not empty (it holds checkpoints" in refused(trained)
    assert "back: exists and is not an empty folder" in refused(cli("import", work.export, tmp_path / "back"))
    assert "exists" in refused(cli("import", work.export, tmp_path / "back/recipe.json"))
    assert tree(tmp_path) == before


def test_export_replaces_an_export_and_nothing_else(cli: Cli, work: Work, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    said = refused(cli("export", work.run, tmp_path))
    assert "not empty and not an earlier export (it holds notes.txt)" in said
    assert "is a file" in refused(cli("export", work.run, tmp_path / "notes.txt"))
    assert tree(tmp_path) == {"notes.txt": b"mine"}
    assert all(cli("export", work.run, tmp_path / "e", "--step", step).code == 0 for step in ("6", "8"))
    assert tree(tmp_path / "e").keys() == tree(work.export).keys()
    assert (tmp_path / "e/model.safetensors").read_bytes() == (work.export / "model.safetensors").read_bytes()


def test_a_tokenizer_larger_than_the_model_is_refused(cli: Cli, work: Work, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name, content in tree(work.export).items():
        (broken / name).write_bytes(content)
    spec = json.loads((broken / "tokenizer.json").read_bytes())
    spec["model"]["vocab"]["zzz"] = 5000
    (broken / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    for arguments in (("generate", broken), ("import", broken, tmp_path / "r")):
        assert "tokenizer.json: 5001 tokens, but the model has vocab_size = 300" in refused(cli(*arguments))
    assert not (tmp_path / "r").exists()


def test_damaged_models_are_refused_by_file(cli: Cli, work: Work, tmp_path: Path) -> None:
    def copy(source: Path, **changes: bytes) -> Path:
        folder = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        for name, content in tree(source).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(changes.get(Path(name).stem, content))
        return folder

    assert "weights.safetensors: cut short" in refused(cli("generate", copy(work.run, weights=b"")))
    assert "recipe.json: damaged" in refused(cli("export", copy(work.run, recipe=b"{"), tmp_path / "out"))
    assert "tokenizer.json: not a tokenizer.json" in refused(cli("generate", copy(work.run, tokenizer=b"{}")))
    assert "config.json: not valid JSON" in refused(cli("generate", copy(work.export, config=b"{")))
    assert "model.safetensors: not a safetensors file" in refused(cli("generate", copy(work.export, model=b"1234567x")))


# As a program


@pytest.mark.parametrize(
    ("command", "head"),
    [("recipes", 0), ("train v3-671b --dry-run --json", 1), ("--help", 0)],
)
def test_a_reader_that_goes_away_is_no_error(command: str, head: int) -> None:
    process = start(*command.split(), env=os.environ | {"PYTHONUNBUFFERED": "1"} if head else None)
    assert process.stdout is not None and process.stderr is not None
    for _ in range(head):
        assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() in (0, 141)


POSIX = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.slow
def test_no_command_stumbles_over_a_posix_locale(work: Work, tmp_path: Path) -> None:
    """One process for all commands; what could not be shown is spelt, never a question mark, which says unknown."""
    folder = tmp_path / "größe"
    lines = [
        ["train", str(work.recipe), "--data", str(work.data), "--run", str(folder / "r"), "--set", "train.steps=2"],
        ["export", str(folder / "r"), str(folder / "m")],
        ["import", str(folder / "m"), str(folder / "i")],
        ["generate", str(folder / "m"), "--prompt", "naïve", "--max-tokens", "1"],
        ["audit", str(folder / "m")],
        ["audit", str(folder / "m"), "--format", "markdown"],
        ["audit", str(folder / "m"), str(folder / "i"), "--compare"],
        ["plan", "v3-671b"],
        ["recipes"],
    ]
    code = "import os, sys; from clearseek.cli import main\nfor line in sys.stdin.buffer.read().split(b'\\n'):\n"
    code += "    print(main([os.fsdecode(word) for word in line.split(b'\\0')]), flush=True)"
    sent = "\n".join("\0".join(line) for line in lines).encode()
    ended = subprocess.run(
        [sys.executable, "-c", code], input=sent, capture_output=True, env=os.environ | POSIX, check=False
    )
    assert b"Traceback" not in ended.stderr and ended.returncode == 0, ended.stderr[-2000:]
    assert [line for line in ended.stdout.splitlines() if line in (b"0", b"2")] == [b"0"] * len(lines)
    assert "größe".encode() in ended.stdout  # a name's bytes are the name's
    audit = ended.stdout.decode().partition("What the weights are and allow")[2].partition("What frameworks")[0]
    answers = {line.split()[0] for line in audit.splitlines() if line.startswith("  ")}
    assert {"yes", "no"} <= answers <= {"yes", "partly", "no", "unknown", "-"}


@pytest.mark.parametrize("command", [["recipes"], ["audit", "x"], ["train", "quickstart", "--dry-run"], ["doctor"]])
def test_on_windows_there_is_one_line(command: list[str]) -> None:
    code = f"import sys; sys.modules['fcntl'] = None\nfrom clearseek.cli import main\nsys.exit(main({command!r}))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("clearseek: ClearSeek runs on Linux and macOS") and ended.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("redirect", [">&-", ">&- 2>&-", "</dev/null >/dev/null"])
def test_outputs_may_be_closed(redirect: str, work: Work) -> None:
    call = shlex.join([sys.executable, "-m", "clearseek", "generate", str(work.run), "--max-tokens", "1"])
    ended = subprocess.run(f"{call} {redirect}", shell=True, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and ended.stderr == ""


def test_what_a_terminal_cannot_show_is_replaced(work: Work) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    process = start("generate", work.run, "--prompt", "naïve 🦊", "--max-tokens", "1", env=environment)
    out, err = process.communicate()
    assert process.returncode == 0 and out.startswith("na?ve ?") and err == ""


def test_standard_output_on_a_full_disk_is_named() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    command = [sys.executable, "-m", "clearseek", "recipes"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 2 and ended.stderr == "clearseek: standard output: No space left on device\n"
