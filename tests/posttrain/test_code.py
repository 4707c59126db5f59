"""Programs to write as problems: files of tasks, rewards by the sandbox, and a run that learns from them."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import pytest

from clearseek.cli import main
from clearseek.config import ProblemsConfig
from clearseek.data.manifest import read_manifest
from clearseek.data.tokenizer import SMALLEST_VOCABULARY, train
from clearseek.problems import cell, prompts, sandbox
from clearseek.problems.problems import Problems
from clearseek.problems.prompts import score
from clearseek.problems.questions import Questions
from clearseek.problems.rewards import Scored, scored
from clearseek.recipe import load_recipe
from clearseek.train.run import Run
from clearseek.train.transcript import check_transcript
from clearseek.verify.children import task_of
from clearseek.verify.rows import MachineError
from tests.posttrain.conftest import write_lines
from tests.posttrain.tiny import parent
from tests.problems.test_rewards import HOSTILE

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="the kernel's guards"
)
RECIPE = """name = "code"
[parent]
path = "base"
[problems]
kind = "code"
file = "tasks.jsonl"
[data]
licence = "MIT"
sequence_length = 60
[train]
steps = 2
batch_size = 8
precision = "fp32"
kernels = "torch"
threads = 1
"""
GRPO = "[grpo]\ncompletions = 4\nmax_tokens = 12\nevaluate_problems = 1\n"


def task(number: int, **changes: Any) -> dict[str, Any]:
    tests = [{"call": "f(1)", "value": 1 + number}, {"call": "[f(2)]", "value": [2 + number]}]
    return {"prompt": f"f(x)=x+{number}:\n", "tests": tests, "solution": f"f=lambda x:x+{number}"} | changes


def problems(*tasks: dict[str, Any]) -> Problems:
    return Problems(ProblemsConfig.model_validate({"kind": "code", "tasks": tasks}))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a parent, tasks, and recipes that learn from them; the working directory."""
    monkeypatch.chdir(tmp_path)
    parent(tmp_path / "base")
    write_lines(tmp_path / "tasks.jsonl", [task(number) for number in range(30)])
    (tmp_path / "grpo.toml").write_text(RECIPE + GRPO, encoding="utf-8")
    (tmp_path / "sft.toml").write_text(f"{RECIPE}[sft]\ndemonstrations = 20\n", encoding="utf-8")
    return tmp_path


def test_a_program_is_judged_by_its_calls() -> None:
    (problem,) = problems(task(7)).listed()
    right = "def f(x):\n    return x + 7\n"
    for template, completion, note in (
        ("plain", right, "right"),
        ("plain", problem.solution, "right"),
        ("plain", "def f(x):\n    return x + 8", "wrong"),
        ("plain", "def f(x):\n    return x + 7.0", "wrong"),
        ("plain", "f = 1 +", "raised"),
        ("chat", f"Sure:\n```python\n{right}```\nDone.", "right"),
        ("chat", f"```\n{right}\n```", "right"),
        ("chat", f"```python\n{right}```\n```python\n{right}```", "no answer"),
        ("chat", f"It is f.\n{right}", "raised"),
        ("r1-zero", f"<think>add</think> <answer>{right}</answer>", "right"),
        ("r1-zero", f"<answer>\n```py\n{right}```\n</answer>", "right"),
        ("r1-zero", right, "no answer"),
    ):
        assert score(problem, completion, True, template) == Scored(float(note == "right"), note), completion  # type: ignore[arg-type]
    assert score(problem, right, False, "plain").note == "not ended"


def test_hostile_programs_earn_nothing(tmp_path: Path) -> None:
    (problem,) = problems(task(7)).listed()
    before = set(Path("/tmp").iterdir())
    for text in HOSTILE[:4] + [each for each in HOSTILE[4:] if len(each) < 100]:
        assert score(problem, text, True, "plain").reward == 0
    assert not [path for path in set(Path("/tmp").iterdir()) - before if "was-here" in path.name]


def test_a_program_that_goes_on_is_stopped_by_the_recipe_s_limit() -> None:
    config = ProblemsConfig.model_validate({"kind": "code", "tasks": [task(7)], "seconds": 1})
    (problem,) = Problems(config).listed()
    assert score(problem, "while True: pass", True, "plain").note == "out of time"


def test_equal_programs_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = problems(task(1), task(2)).listed()
    tokenizer, ran = train([], SMALLEST_VOCABULARY), list[tuple[str, str]]()

    def reward(code: str, calls: Any, limits: Any) -> Scored:
        ran.append((code, calls[0].expression))
        return scored("right" if code == "a" else "wrong")

    monkeypatch.setattr(prompts, "code_reward", reward)
    questions = Questions(tokenizer, problems(task(1), task(2)), "plain")
    asked = [(first, "a"), (first, "b"), (second, "a"), (first, "a"), (first, "a")]
    rows = [(problem, [*tokenizer.encode(text), questions.end], True) for problem, text in asked]
    assert [each.reward for each in questions.scores([*rows, (first, rows[0][1], False)])] == [1, 0, 1, 1, 1, 0]
    assert sorted(ran) == [("a", "f(1)"), ("a", "f(1)"), ("b", "f(1)")]


def test_the_fingerprint_is_that_of_the_tasks() -> None:
    found = {
        each.fingerprint
        for each in (
            problems(task(1), task(2)), problems(task(2), task(1)), problems(task(1)), problems(task(1), task(3)),
            problems(task(1), task(2, solution="")), problems(task(1), task(2, tests=task(1)["tests"])),
        )
    }  # fmt: skip
    assert len(found) == 6
    assert problems(task(1)).fingerprint == problems(task(1)).fingerprint


GOOD = json.dumps(task(1))
BAD = [
    ("", "tasks.jsonl: no line with a task"),
    ("{", "tasks.jsonl:2: not valid JSON"),
    ("[]", "tasks.jsonl:2: must be a JSON object"),
    (b"\xff", "tasks.jsonl:2: not valid JSON: not UTF-8"),
    ('{"prompt": NaN}', "tasks.jsonl:2: not valid JSON: NaN"),
    (task(2) | {"prompt": ""}, "tasks.jsonl:2: prompt = "),
    (task(2) | {"prompt": 3}, "tasks.jsonl:2: prompt = 3: "),
    ({"prompt": "f"}, "tasks.jsonl:2: tests is missing"),
    (task(2) | {"tests": []}, "tasks.jsonl:2: tests = []: without a call"),
    (task(2) | {"tests": ["f(1)"]}, "tasks.jsonl:2: tests.0 = "),
    (task(2) | {"tests": [{"call": "f(1)"}]}, "tasks.jsonl:2: tests.0.value is missing"),
    (task(2) | {"tests": [{"call": "f(", "value": 1}]}, "tasks.jsonl:2: tests.0: call = 'f(': not a Python expression"),
    (task(2) | {"tests": [{"call": "x = 1", "value": 1}]}, "tasks.jsonl:2: tests.0: call = 'x = 1': not a Python"),
    (task(2) | {"tests": [{"call": "(" * 9000, "value": 1}]}, "tasks.jsonl:2: tests.0: call = '((("),
    (json.dumps(task(2)).replace("[4]", "1e999"), "tasks.jsonl:2: tests.1"),
    (task(2) | {"test": []}, 'tasks.jsonl:2: unknown key test (did you mean "tests"?)'),
    (task(2) | {"solution": None}, "tasks.jsonl:2: solution = null"),
]


@pytest.mark.parametrize(("line", "words"), BAD, ids=range(len(BAD)))
def test_a_wrong_line_is_named(place: Path, line: Any, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    write_lines(place / "tasks.jsonl", [GOOD, line, GOOD] if line else [""])
    assert main(["train", "grpo.toml", "--run", "run"]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"clearseek: {words}") and said.count("\n") == 1 and len(said) < 400
    assert not (place / "run").exists()


def test_wrong_settings_are_named(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for override, words in (
        ("problems.file=nothing.jsonl", "nothing.jsonl: "),
        ("problems.file=base", "base: "),
        ("problems.file=3", "problems.file = 3"),
        ("problems.tasks=[{}]", "problems.file beside problems.tasks: leave one of them out"),
        ("problems.seconds=0", "problems.seconds = 0"),
        ("problems.digits=3", 'problems: digits goes with kind = "addition" or "sums", not "code"'),
        ("problems.kind=sums", 'file goes with kind = "code", not "sums"'),
        ("data.sequence_length=20", "leaves 8 beside max_tokens"),
    ):
        assert main(["train", "grpo.toml", "--run", "run", "--set", override]) == 2
        assert words in capfd.readouterr().err, override
    (place / "tasks.jsonl").write_bytes(b" " * (9 << 20))
    assert main(["train", "grpo.toml", "--run", "run"]) == 2
    assert "tasks.jsonl: larger than 8 MiB" in capfd.readouterr().err


def test_a_run_holds_its_tasks(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever happens to the file, the run goes on to the bits that it would have had."""
    assert main(["train", "grpo.toml", "--run", "whole"]) == 0
    assert main(["train", "grpo.toml", "--run", "again", "--set", "train.checkpoint_every=1"]) == 0
    steps = check_transcript(Run("whole").transcript).steps
    assert all(0 <= step.scalars["invalid"] <= 1 - step.scalars["truncated"] for step in steps)
    recorded = Run("whole").read_recipe()
    assert recorded == load_recipe("grpo.toml", (), lambda _: recorded.model.model_dump(mode="json"))
    assert recorded.problems is not None and len(recorded.problems.tasks) == 30
    (place / "tasks.jsonl").unlink()
    assert main(["train", "--resume", "again", "--from-step", "1"]) == 0
    again = check_transcript(Run("again").transcript).steps
    assert [step.scalars for step in again] == [step.scalars for step in steps]
    capfd.readouterr()


def test_solutions_are_learnt(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "sft.toml", "--run", "sft"]) == 0
    assert read_manifest(place / "sft" / "data").licences == {"MIT": 20}
    write_lines(place / "tasks.jsonl", [task(number, solution="") for number in range(30)])
    assert main(["train", "sft.toml", "--run", "other"]) == 2
    assert "has no solution to learn: add it to problems.file" in capfd.readouterr().err


def test_a_machine_without_guards_is_told_before_a_step_and_blames_no_release(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "grpo.toml", "--run", "guarded"]) == 0
    weak = place / "cell.py"
    text = Path(cell.__file__).read_text(encoding="utf-8")
    weak.write_text(text.replace('held += ["seccomp"]', "held += [][:0]  # "), encoding="utf-8")
    monkeypatch.setattr(sandbox, "_CELL", weak)
    assert main(["train", "grpo.toml", "--run", "run"]) == 2
    assert "this kernel cannot confine a program" in capfd.readouterr().err
    assert not Run("run").begun
    run = Run("guarded")
    with pytest.raises(MachineError, match="cannot confine a program"):
        task_of(run.read_recipe(), run, run.data, steps=True, read_sources=False)
