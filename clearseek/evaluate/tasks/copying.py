"""What a model can only know from its prompt: a random string again, and the value of a random key.

Both grow with the circuits that let a transformer learn in context (Olsson et al., "In-context Learning and Induction
Heads", 2022, arXiv:2209.11895). A string of chance is in no training text, so a right answer was copied. How an output
goes on behind the answer does not count.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Iterator

from clearseek.errors import UserError
from clearseek.evaluate.tasks.task import Asking, Question, Task
from clearseek.problems.problems import Draw
from clearseek.problems.rewards import Scored, scored

VERSION = 1


def copying(asking: Asking, length: int = 16) -> Task:
    """A line of random letters, and its first half once more: the second half is to follow."""
    _refuse("copying", "length", length, 2, 4096)

    def make(draw: Draw) -> Question:
        text = "".join(string.ascii_lowercase[draw(26)] for _ in range(length))
        first, rest = text[: length // 2], text[length // 2 :]
        chat = f"Write the letters that are missing at the end of the second line, and nothing else.\n{text}\n{first}"
        return Question(f"copying {text}", f"{text}\n{first}", chat, rest)

    return _task("copying", asking, {"length": length}, make, length)


def induction(asking: Asking, pairs: int = 8) -> Task:
    """Lines of random keys with random values, and one of the keys once more: its value is to follow."""
    _refuse("induction", "pairs", pairs, 1, 600)

    def make(draw: Draw) -> Question:
        keys = dict.fromkeys(_word(draw) for _ in range(4 * pairs))
        chosen = [(key, _word(draw)) for key in list(keys)[:pairs]]
        lines, (key, value) = "".join(f"{key}={value}\n" for key, value in chosen), chosen[draw(len(chosen))]
        chat = f"What is the value of {key}? Write the value and nothing else.\n{lines}"
        return Question(f"induction {lines}{key}", f"{lines}{key}=", chat, value)

    return _task("induction", asking, {"pairs": pairs}, make, 8)


def _task(name: str, asking: Asking, own: dict[str, int], make: Callable[[Draw], Question], max_tokens: int) -> Task:
    key = hashlib.sha256(f"{name} {VERSION} {sorted(own.items())}".encode()).hexdigest()
    questions = tuple(dict.fromkeys(_made(key, asking, make)))
    return Task(name, VERSION, own, questions, _begins, max_tokens, ("\n",))


def _made(key: str, asking: Asking, make: Callable[[Draw], Question]) -> Iterator[Question]:
    for index in range(asking.questions):
        yield make(Draw(key, asking.seed, index, 0, True))


def _begins(question: Question, output: str, ended: bool) -> Scored:
    return scored("right" if output.lstrip(" ").startswith(question.answer) else "wrong")


def _word(draw: Draw) -> str:
    return "".join(string.ascii_lowercase[draw(26)] for _ in range(3))


def _refuse(task: str, option: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise UserError(f"{task}: {option} = {value!r}: use a whole number from {low} to {high}")
