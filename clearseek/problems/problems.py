"""Problems with one right answer, as a function of seed and index.

A problem is not drawn from a stream: random numbers come from a counter-based generator (Philox4x64-10; Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", 2011) whose counter is the problem's address, so problem 1,000,000 costs
what problem 0 costs, and a run that goes on after a kill needs no state.

*Held out* is a property of a problem, not of a draw: a hash of what it asks decides, so a problem that is tested is
never trained on, under any seed, although two-digit additions are only 8,100. Problems that differ in the order of
their numbers alone have the same hash.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from clearseek.config import ProblemsConfig
from clearseek.errors import UserError

GENERATOR = 1
"""Version of the generators; another one may give other problems for an address."""
MOST_TRIES = 10_000
"""Problems looked at for one of the wanted side of the split."""
MARKER = ";"
"""What stands between written steps and the answer."""
_GYM_SIZE = 2**20
"""Problems of a reasoning-gym data set, each with its index as seed; some data sets list all beforehand."""
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")


@dataclass(frozen=True)
class Problem:
    """A question and how its answer is checked."""

    name: str
    """What it asks, in one spelling for all orders of its numbers: decides whether it is held out."""
    prompt: str
    """Short form, which a solution follows directly."""
    question: str
    """Sentence for a chat."""
    solution: str
    """Demonstration: what a model should write, steps included."""
    answer: str
    """Integer, a countdown's target, or JSON of a program's tests: calls with their values."""
    marker: str = ""
    """Text after which the answer begins; empty where a solution is the answer alone."""
    numbers: tuple[int, ...] = ()
    """A countdown's numbers: the answer is an expression of them. Empty for other problems."""
    seconds: int = 0
    """Processor time of a program that is to be written; 0 for other problems."""


def _addition(config: ProblemsConfig, draw: Draw) -> Problem:
    """Two numbers of the same length are added; with `working` the columns are written first, from the right."""
    first, second = _number(draw, config.digits), _number(draw, config.digits)
    answer, question = str(first + second), f"What is {first}+{second}?"
    solution = answer
    if config.working:
        question += f" Write the columns from the right as digit+digit+carry=sum, then {MARKER} and the answer."
        solution = columns(first, second) + MARKER + answer
    name = "addition " + "+".join(map(str, sorted((first, second))))
    return Problem(name, f"{first}+{second}=", question, solution, answer, MARKER if config.working else "")


def _sums(config: ProblemsConfig, draw: Draw) -> Problem:
    """Several numbers of the same length are added."""
    numbers = [_number(draw, config.digits) for _ in range(config.numbers)]
    text, answer = "+".join(map(str, numbers)), str(sum(numbers))
    name = "addition " + "+".join(map(str, sorted(numbers)))
    return Problem(name, f"{text}=", f"What is {text}?", answer, answer)


def _countdown(config: ProblemsConfig, draw: Draw) -> Problem | None:
    """A target is reached from numbers, each used once, by + - * / and parentheses. It always can be."""
    numbers = [1 + draw(config.largest) for _ in range(config.numbers)]
    parts = [_Part(number, str(number), 3) for number in numbers]
    while len(parts) > 1:
        left, right = (parts.pop(draw(len(parts))) for _ in range(2))
        parts.append(_joined(left, right, draw))
    ((target, solution, _),) = parts
    if not 1 <= target <= config.largest_target:
        return None
    text, name = ",".join(map(str, numbers)), ",".join(map(str, sorted(numbers)))
    question = f"Use each of the numbers {text} once, with + - * / and parentheses, to make {target}."
    return Problem(
        f"countdown {name}={target}", f"{text}={target}:", question, solution, str(target), "", tuple(numbers)
    )


def _gym(config: ProblemsConfig, draw: Draw) -> Problem | None:
    """A problem of a reasoning-gym data set, if its answer is an integer. Its own scorers are not used: some execute
    what they score, and some reward half an answer."""
    entry = _gym_entries(config)[draw(_GYM_SIZE)]
    question, answer = str(entry["question"]), str(entry["answer"])
    if not _INTEGER.fullmatch(answer):
        return None
    return Problem(f"{config.dataset} {question}", f"{question}\n", question, answer, answer)


def _code(config: ProblemsConfig, draw: Draw) -> Problem:
    """A program to write, checked by calls that its prompt does not show."""
    return _task(config, draw(len(config.tasks)))


def _task(config: ProblemsConfig, number: int) -> Problem:
    task = config.tasks[number]
    calls = json.dumps([[test.call, test.value] for test in task.tests], sort_keys=True)
    return Problem(f"code {task.prompt}", task.prompt, task.prompt, task.solution, calls, seconds=config.seconds)


def _gym_entries(config: ProblemsConfig) -> Any:
    """reasoning-gym's data set, whose problems are made when they are asked for.

    Raises UserError without reasoning-gym, or for settings that it refuses.
    """
    assert config.dataset is not None
    return _gym_dataset(config.dataset, json.dumps(config.options or {}, sort_keys=True))


@functools.lru_cache(maxsize=8)
def _gym_dataset(dataset: str, options: str) -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise UserError(
            f"problems.dataset: reasoning-gym cannot be imported ({error}): pip install 'clearseek[gym]', which builds "
            "pycosat and needs a C compiler for it"
        ) from None
    try:
        return reasoning_gym.create_dataset(dataset, size=_GYM_SIZE, seed=0, **json.loads(options))
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f'reasoning-gym refuses dataset = "{dataset}" with these options: {error}') from None


_MADE_BY: dict[str, Callable[[ProblemsConfig, Draw], Problem | None]] = {
    "addition": _addition, "sums": _sums, "countdown": _countdown, "reasoning-gym": _gym, "code": _code,
}  # fmt: skip


def _deciding(config: ProblemsConfig) -> dict[str, Any]:
    """Settings that decide a kind's problems, by names that stay: they are part of every problem's address."""
    settings: dict[str, dict[str, Any]] = {
        "addition": {"digits": config.digits, "steps": config.working},
        "sums": {"digits": config.digits, "terms": config.numbers},
        "countdown": {
            "numbers": config.numbers, "largest": config.largest, "largest_target": config.largest_target,
        },
        "reasoning-gym": {"dataset": config.dataset, "options": config.options or {}},
        "code": {"tasks": [task.model_dump(mode="json") for task in config.tasks], "seconds": config.seconds},
    }  # fmt: skip
    return settings[config.kind]


class Problems:
    """All problems of a kind, each at an address, in two sets that share none."""

    def __init__(self, config: ProblemsConfig) -> None:
        """The problems that a recipe's ``[problems]`` describes. Raises UserError for what reasoning-gym refuses."""
        self.config = config
        what: dict[str, Any] = {"generator": GENERATOR, "kind": config.kind, "settings": _deciding(config)}
        if config.kind == "reasoning-gym":
            _gym_entries(config)
            what["version"] = importlib.metadata.version("reasoning-gym")
        self._key = _hash(what)
        self.fingerprint = _hash({**what, "seed": config.seed, "held_out_share": config.held_out_fraction.hex()})
        """SHA-256 (hex) of all that decides the problems: kind, settings, seed, share held out, generators' version."""

    def train(self, index: int) -> Problem:
        """The problem at an index from 0 to 2^63 - 1, none of them held out; problems may repeat."""
        return self._at(index, held_out=False)

    def held_out(self, index: int) -> Problem:
        """The held-out problem at an index from 0 to 2^63 - 1; problems may repeat."""
        return self._at(index, held_out=True)

    def held_out_set(self, count: int) -> list[Problem]:
        """The first held-out problems with different prompts. Raises UserError where there are not so many."""
        found: dict[str, Problem] = {}
        for index in itertools.count():
            if len(found) == count:
                return list(found.values())
            if index - len(found) > MOST_TRIES + 10 * count:
                raise UserError(
                    f"[problems]: only {len(found):,} held-out problems were found, not {count:,}: ask for fewer "
                    "(grpo.evaluate_problems)"
                )
            problem = self.held_out(index)
            found.setdefault(problem.prompt, problem)
        raise AssertionError

    def listed(self) -> list[Problem]:
        """All problems of a kind that is given, not made: programs to write."""
        return [_task(self.config, number) for number in range(len(self.config.tasks))]

    def is_held_out(self, problem: Problem) -> bool:
        """Whether a problem is for testing alone: by its name and the share, not by seed or kind."""
        first = hashlib.sha256(problem.name.encode()).digest()[:8]
        return int.from_bytes(first, "big") < self.config.held_out_fraction * 2**64

    def _at(self, index: int, held_out: bool) -> Problem:
        assert 0 <= index < 2**63
        for attempt in range(MOST_TRIES):
            draw = Draw(self._key, self.config.seed, index, attempt, held_out)
            problem = _MADE_BY[self.config.kind](self.config, draw)
            if problem is not None and self.is_held_out(problem) == held_out:
                return problem
        side = "held out" if held_out else "to train on"
        raise UserError(
            f"[problems]: no problem {side} in {MOST_TRIES} tries: too few exist with these settings: take more "
            "digits, numbers or tasks, or another held_out_fraction"
        )


class Draw:
    """Random whole numbers of one address."""

    def __init__(self, key: str, seed: int, index: int, attempt: int, held_out: bool) -> None:
        self._bits = np.random.Philox(
            key=np.array([int(key[:16], 16), seed], np.uint64),
            counter=np.array([0, index, attempt, held_out], np.uint64),
        )

    def __call__(self, below: int) -> int:
        """A whole number from 0 to `below` - 1; the shares of numbers differ by less than `below` / 2^64."""
        return int(self._bits.random_raw()) * below >> 64


def columns(first: int, second: int) -> str:
    """Addition of two numbers as it is written at school, from the right: ``5+8+0=13,4+7+1=12`` for 45+78."""
    top, bottom = str(first)[::-1], str(second)[::-1]
    carry, written = 0, []
    for one, other in itertools.zip_longest(top, bottom, fillvalue="0"):
        total = int(one) + int(other) + carry
        written.append(f"{one}+{other}+{carry}={total}")
        carry = total // 10
    return ",".join(written)


class _Part(NamedTuple):
    """Part of an expression; `binds` is 1 for a sum, 2 for a product, 3 for a number."""

    value: int
    text: str
    binds: int


def _joined(left: _Part, right: _Part, draw: Draw) -> _Part:
    """Two parts with an operation that leaves a whole number above 0; parentheses only where they are needed."""
    signs = "+*"
    if left.value > right.value:
        signs += "-"
    if left.value % right.value == 0:
        signs += "/"
    sign = signs[draw(len(signs))]
    binds = 1 if sign in "+-" else 2
    value = {
        "+": left.value + right.value, "-": left.value - right.value, "*": left.value * right.value,
        "/": left.value // right.value,
    }[sign]  # fmt: skip
    before = f"({left.text})" if left.binds < binds else left.text
    behind = f"({right.text})" if right.binds < binds or (right.binds == binds and sign in "-/") else right.text
    return _Part(value, before + sign + behind, binds)


def _number(draw: Draw, digits: int) -> int:
    """A number with exactly so many digits; with one, 0 to 9."""
    smallest = 10 ** (digits - 1) if digits > 1 else 0
    return smallest + draw(10**digits - smallest)


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
