"""The form of a task and of its questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from clearseek.errors import UserError
from clearseek.problems.rewards import Scored

MOST_QUESTIONS: Final = 1 << 20
MOST_SAMPLES: Final = 1 << 16
"""Questions of a task, and answers to each, that are asked at most."""
Template = Literal["plain", "chat"]
Scorer = Callable[["Question", str, bool], Scored]
"""Score of a question's output, given whether the model ended it itself."""


class NotHereError(UserError):
    """A task needs what is not on this machine, or is not allowed: its records can be neither right nor wrong here."""


@dataclass(frozen=True)
class Question:
    """One question."""

    name: str
    """What it asks, in one spelling: by it the answers of two models are paired."""
    prompt: str
    """Text that the model goes on from; of a task that reads, the text before."""
    chat: str = ""
    """The question as a message, for models that chat; empty where it cannot be one."""
    answer: str = ""
    """The right answer, where there is one; what the scorer needs besides."""
    target: str = ""
    """Of a task that reads, the text whose probability is wanted."""


@dataclass(frozen=True)
class Asking:
    """What is asked, whatever the task."""

    questions: int = 256
    """Most questions of a task."""
    samples: int = 1
    """Answers to each question."""
    temperature: float = 0.0
    """0 takes the likeliest token."""
    template: Template = "plain"
    """How a question becomes a prompt: its bare text, or a message of a chat."""
    seed: int = 0
    """Of questions and draws."""
    texts: Sequence[tuple[str, str]] = ()
    """Names and texts of the documents to read."""
    allow_code: bool = False
    """Whether programs that a model wrote may be run, in a cell."""
    draws: int = 0
    """Another number draws other answers to the same questions."""


@dataclass(frozen=True)
class Task:
    """Questions, and their scores."""

    name: str
    version: int
    own: Mapping[str, Any]
    """Settings of this task alone; with what is asked of all tasks they decide questions and scores."""
    questions: tuple[Question, ...]
    score: Scorer
    max_tokens: int = 0
    """Most tokens of an output; 0 for a task that reads."""
    stops: tuple[str, ...] = ()
    """Texts that end an output and do not belong to it."""
    in_chat: bool = True
    """Whether its questions can be messages of a chat."""

    @property
    def reads(self) -> bool:
        """Whether the model reads a text, rather than write one."""
        return self.max_tokens == 0
