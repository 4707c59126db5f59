"""What is asked of a model, and how far the answer has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from clearseek.errors import UserError

Finish = Literal["stop", "length", "aborted", "deadline", "error"]
"""Why an answer ended: a stop token or text, its longest length, its client, its time, a fault."""


@dataclass(frozen=True)
class Settings:
    """How tokens are drawn. With the weights and the prompt they decide every bit of an answer."""

    max_tokens: int = 256
    """Most tokens to draw; 0 reads the prompt only."""
    temperature: float = 1.0
    """Divisor of the logits; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Probability that the fewest likeliest tokens, which are drawn from, must hold."""
    top_k: int = 0
    """Most tokens to draw from; 0 for all."""
    min_p: float = 0.0
    """Least probability of a token, as a part of the likeliest one's."""
    repetition_penalty: float = 1.0
    """Divisor of positive logits, and factor of negative ones, of tokens in the prompt or answer (arXiv 1909.05858)."""
    presence_penalty: float = 0.0
    """Number taken from the logits of tokens that the answer has."""
    frequency_penalty: float = 0.0
    """Number taken from a token's logit for each time that the answer has it."""
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    """Numbers added to tokens' logits."""
    seed: int = 0
    """Seed of the draws."""
    stop_tokens: frozenset[int] = frozenset()
    """Tokens that end the answer and do not belong to it."""
    logprobs: int | None = None
    """Alternatives whose log-probabilities are wanted beside each token's; None for none at all."""
    prompt_logprobs: bool = False
    """Whether the prompt's tokens have log-probabilities too."""

    def __post_init__(self) -> None:
        wrong = [
            f"{name} = {value}: use {use}"
            for name, value, fits, use in (
                ("max_tokens", self.max_tokens, self.max_tokens >= 0, "a number from 0 up"),
                ("temperature", self.temperature, 0 <= self.temperature <= 100, "a number from 0 to 100"),
                ("top_p", self.top_p, 0 < self.top_p <= 1, "a number above 0 and up to 1"),
                ("top_k", self.top_k, self.top_k >= 0, "a number from 0 up"),
                ("min_p", self.min_p, 0 <= self.min_p <= 1, "a number from 0 to 1"),
                ("repetition_penalty", self.repetition_penalty, 0.01 <= self.repetition_penalty <= 10, "0.01 to 10"),
                ("presence_penalty", self.presence_penalty, abs(self.presence_penalty) <= 10, "from -10 to 10"),
                ("frequency_penalty", self.frequency_penalty, abs(self.frequency_penalty) <= 10, "from -10 to 10"),
                ("seed", self.seed, 0 <= self.seed < 2**63, "a whole number from 0 to 2^63 - 1"),
                ("logprobs", self.logprobs, self.logprobs is None or 0 <= self.logprobs <= 20, "0 to 20"),
                (
                    "logit_bias",
                    dict(self.logit_bias),
                    all(abs(x) <= 100 for x in self.logit_bias.values()),
                    "-100 to 100",
                ),
            )
            if not fits  # false for NaN too
        ]
        if wrong:
            raise UserError("; ".join(wrong))


@dataclass(frozen=True)
class Chosen:
    """One token of an answer, or of a prompt that was read again."""

    token: int
    logprob: float | None
    """Natural logarithm of its probability before temperature, penalties and filters; None where not asked for."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens and their log-probabilities, falling."""
    experts: tuple[tuple[int, ...], ...] = ()
    """Experts that the token before it visited in each layer with experts."""
    drafted: int | None = field(default=None, compare=False)
    """Token that the multi-token-prediction layer had proposed here, or None; accepted where it is `token`."""


class Guide(Protocol):
    """What watches an answer, and may restrict or end it."""

    def allow(self, logits_V: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits with those of forbidden tokens at minus infinity."""
        ...

    def saw(self, token: int) -> bool:
        """Note a token of the answer; whether the answer ends with it."""
        ...


@dataclass(eq=False)
class Request:
    """A prompt on its way through the engine."""

    prompt: list[int]
    settings: Settings
    deadline: float | None = None
    """Time of :func:`time.monotonic` at which the answer ends as it is."""
    guide: Guide | None = None
    answer: list[Chosen] = field(default_factory=list)
    prompt_logprobs: list[Chosen] = field(default_factory=list)
    finish: Finish | None = None
    error: str = ""
    """What went wrong, where `finish` is ``error``."""
    pages: list[int] = field(default_factory=list)
    """Pages of the cache, in order."""
    read: int = 0
    """Tokens whose latents are in the pages."""
    begun: bool = False
    """Whether any of its tokens was ever read."""
    reused: int = 0
    """Tokens of the prompt that an earlier request had read."""
    draft: int | None = None
    """The next token but one, as the multi-token-prediction layer proposes it."""
    drafts: int = 0
    """Tokens that were proposed and checked."""
    accepted: int = 0
    tokens: list[int] = field(init=False)
    """Prompt and answer."""

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.tokens)

    def add(self, chosen: Chosen) -> None:
        """Lengthen the answer by a token."""
        self.answer.append(chosen)
        self.tokens.append(chosen.token)
