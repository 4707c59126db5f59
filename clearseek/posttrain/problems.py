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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

from clearseek.config import Settings
from clearseek.errors import UserError, nearest

GENERATOR = 1
"""Version of the generators; another one may give other problems for an address."""
MOST_TRIES = 10_000
"""Problems looked at for one of the wanted side of the split."""
MARKER = ";"
"""What stands between written steps and the answer."""
_GYM_SIZE = 2**20
"""Problems of a reasoning-gym data set, each with its index as seed; some data sets list all beforehand."""
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")

Digits = Annotated[int, Field(ge=1, le=6)]


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
    """Integer, or a countdown's target."""
    marker: str = ""
    """Text after which the answer begins; empty where a solution is the answer alone."""
    numbers: tuple[int, ...] = ()
    """A countdown's numbers: the answer is an expression of them. Empty for other problems."""


class Addition(Settings):
    """Two numbers of the same length are added."""

    digits: Digits = 2
    steps: bool = False
    """Whether a solution writes the columns from the right first, each as digit+digit+carry=sum."""

    def problem(self, draw: Draw) -> Problem | None:
        first, second = _number(draw, self.digits), _number(draw, self.digits)
        answer, question = str(first + second), f"What is {first}+{second}?"
        solution = answer
        if self.steps:
            question += f" Write the columns from the right as digit+digit+carry=sum, then {MARKER} and the answer."
            solution = columns(first, second) + MARKER + answer
        name = "addition " + "+".join(map(str, sorted((first, second))))
        return Problem(name, f"{first}+{second}=", question, solution, answer, MARKER if self.steps else "")


class Sums(Settings):
    """Several numbers of the same length are added."""

    terms: Annotated[int, Field(ge=2, le=20)] = 3
    digits: Digits = 2

    def problem(self, draw: Draw) -> Problem | None:
        numbers = [_number(draw, self.digits) for _ in range(self.terms)]
        text, answer = "+".join(map(str, numbers)), str(sum(numbers))
        name = "addition " + "+".join(map(str, sorted(numbers)))
        return Problem(name, f"{text}=", f"What is {text}?", answer, answer)


class Countdown(Settings):
    """A target is reached from numbers, each used once, by + - * / and parentheses. It always can be."""

    numbers: Annotated[int, Field(ge=2, le=6)] = 3
    largest: Annotated[int, Field(ge=2, le=999)] = 25
    """Largest of the numbers; the smallest is 1."""
    largest_target: Annotated[int, Field(ge=2, le=9999)] = 100
    """Largest target; the smallest is 1."""

    def problem(self, draw: Draw) -> Problem | None:
        numbers = [1 + draw(self.largest) for _ in range(self.numbers)]
        parts = [_Part(number, str(number), 3) for number in numbers]
        while len(parts) > 1:
            left, right = (parts.pop(draw(len(parts))) for _ in range(2))
            parts.append(_joined(left, right, draw))
        ((target, solution, _),) = parts
        if not 1 <= target <= self.largest_target:
            return None
        text, name = ",".join(map(str, numbers)), ",".join(map(str, sorted(numbers)))
        question = f"Use each of the numbers {text} once, with + - * / and parentheses, to make {target}."
        return Problem(
            f"countdown {name}={target}", f"{text}={target}:", question, solution, str(target), "", tuple(numbers)
        )


class ReasoningGym(Settings):
    """Problems of a reasoning-gym data set whose answers are integers (extra `gym`). Its own scorers are not used:
    some execute what they score, and some reward half an answer."""

    dataset: str
    """Name in reasoning-gym, such as ``"chain_sum"``."""
    options: Mapping[str, Any] = {}
    """The data set's own settings."""

    def problem(self, draw: Draw) -> Problem | None:
        entry = self.entries()[draw(_GYM_SIZE)]
        question, answer = str(entry["question"]), str(entry["answer"])
        if not _INTEGER.fullmatch(answer):
            return None
        return Problem(f"{self.dataset} {question}", f"{question}\n", question, answer, answer)

    def entries(self) -> Any:
        """reasoning-gym's data set, whose problems are made when they are asked for.

        Raises UserError without reasoning-gym, or for settings that it refuses.
        """
        return _gym_entries(self.dataset, json.dumps(self.options, sort_keys=True))


@functools.lru_cache(maxsize=8)
def _gym_entries(dataset: str, options: str) -> Any:
    try:
        import reasoning_gym
    except ImportError:
        raise UserError("reasoning-gym is not installed: pip install 'clearseek[gym]'") from None
    try:
        return reasoning_gym.create_dataset(dataset, size=_GYM_SIZE, seed=0, **json.loads(options))
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f'reasoning-gym refuses dataset = "{dataset}" with these options: {error}') from None


KINDS: dict[str, type[Addition | Sums | Countdown | ReasoningGym]] = {
    "addition": Addition, "sums": Sums, "countdown": Countdown, "reasoning-gym": ReasoningGym,
}  # fmt: skip


class Problems:
    """All problems of a kind, each at an address, in two sets that share none."""

    def __init__(
        self, kind: str, settings: Mapping[str, Any] | None = None, seed: int = 0, held_out_share: float = 0.1
    ) -> None:
        """Problems of one of `KINDS` with its settings; `held_out_share` of them, between 0 and 1, are held out.

        Raises UserError for an unknown kind or setting, or a value that a setting cannot have.
        """
        if kind not in KINDS:
            raise UserError(f'kind = "{kind}": use one of {", ".join(KINDS)}{nearest(kind, KINDS)}')
        if not 0 < held_out_share < 1:
            raise UserError(f"held_out_share = {held_out_share}: use a number between 0 and 1")
        if not 0 <= seed < 2**63:
            raise UserError(f"seed = {seed}: use 0 to 2^63 - 1")
        try:
            self.settings = KINDS[kind].model_validate(dict(settings or {}))
        except ValidationError as error:
            raise UserError("\n".join(_explained(kind, entry) for entry in error.errors())) from None
        self.kind, self.seed, self._share = kind, seed, held_out_share
        what: dict[str, Any] = {"generator": GENERATOR, "kind": kind, "settings": self.settings.model_dump(mode="json")}
        if isinstance(self.settings, ReasoningGym):
            self.settings.entries()
            what["version"] = importlib.metadata.version("reasoning-gym")
        self._key = _hash(what)
        self.fingerprint = _hash({**what, "seed": seed, "held_out_share": held_out_share.hex()})
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
                raise UserError(f"only {len(found)} held-out problems of this kind were found: ask for fewer")
            problem = self.held_out(index)
            found.setdefault(problem.prompt, problem)
        raise AssertionError

    def is_held_out(self, problem: Problem) -> bool:
        """Whether a problem is for testing alone: by its name and the share, not by seed or kind."""
        first = hashlib.sha256(problem.name.encode()).digest()[:8]
        return int.from_bytes(first, "big") < self._share * 2**64

    def _at(self, index: int, held_out: bool) -> Problem:
        assert 0 <= index < 2**63
        for attempt in range(MOST_TRIES):
            problem = self.settings.problem(Draw(self._key, self.seed, index, attempt, held_out))
            if problem is not None and self.is_held_out(problem) == held_out:
                return problem
        side = "held out" if held_out else "to train on"
        raise UserError(f"{self.kind}: no problem {side} in {MOST_TRIES} tries: too few exist with these settings")


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


def _explained(kind: str, entry: Any) -> str:
    key = ".".join(map(str, entry["loc"]))
    if entry["type"] == "extra_forbidden":
        return f"{key}: {kind} has no such setting{nearest(key, KINDS[kind].model_fields)}"
    return f"{key} = {entry.get('input')!r}: {entry['msg']}"
