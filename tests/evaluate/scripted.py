"""Models that are programs, for tests: what they answer is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from clearseek.evaluate.answerers import Answered, Asked
from clearseek.evaluate.tasks import Asking, Task


class Scripted:
    """A model that answers by a function; None for what does not come."""

    def __init__(self, say: Callable[[Asked], str | None], name: str = "scripted", at_once: int = 8) -> None:
        self.model: dict[str, Any] = {"name": name}
        self.environment: dict[str, Any] = {}
        self.at_once, self._say = at_once, say
        self.asked: list[Asked] = []

    def answer(self, task: Task, asking: Asking, asked: Sequence[Asked]) -> Iterator[Answered]:
        for each in asked:
            self.asked.append(each)
            said = self._say(each)
            if said is None:
                yield Answered(each.question.prompt, missing="the line was busy")
            else:
                yield Answered(each.question.prompt, output=said)


def right(asked: Asked) -> str:
    """The right answer."""
    return asked.question.answer


def mostly(share: float, factor: int = 1) -> Callable[[Asked], str]:
    """Right for so large a share of the seeds; with another factor, of other ones."""

    def say(asked: Asked) -> str:
        return asked.question.answer if factor * asked.seed % 1000 < 1000 * share else "no"

    return say
