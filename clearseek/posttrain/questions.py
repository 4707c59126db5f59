"""The problems of a recipe as a policy meets them: prompts in tokens, and rewards for completions in tokens."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clearseek.config import ProblemsConfig
from clearseek.data.manifest import canonical_sha256
from clearseek.data.tokenizer import Tokenizer
from clearseek.posttrain.problems import Problem, Problems
from clearseek.posttrain.prompts import Template, prompt, score


@dataclass(frozen=True, eq=False)
class Questions:
    """Problems in a template."""

    tokenizer: Tokenizer
    problems: Problems
    template: Template

    @property
    def end(self) -> int:
        """The token that ends a completion."""
        return self.tokenizer.eos_id

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides prompts and rewards."""
        return canonical_sha256([self.problems.fingerprint, self.template, self.tokenizer.sha256])

    @functools.cache  # noqa: B019 - questions live as long as a run
    def held_out(self, count: int) -> list[Problem]:
        """The first held-out problems, all different. Raises UserError where there are not so many."""
        return self.problems.held_out_set(count)

    def ids(self, problem: Problem) -> list[int]:
        """Tokens of a problem's prompt."""
        return prompt(self.tokenizer, problem, self.template)

    def text(self, tokens: Sequence[int]) -> str:
        """Text of a completion, without the token that ended it."""
        own = tokens[:-1] if len(tokens) and tokens[-1] == self.end else tokens
        return self.tokenizer.decode([int(token) for token in own])

    def reward(self, problem: Problem, tokens: Sequence[int], ended: bool) -> float:
        """Reward of a completion, 0 to 1."""
        return score(problem, self.text(tokens), ended, self.template).reward


def questions_of(config: ProblemsConfig, tokenizer: Tokenizer) -> Questions:
    """The problems that a recipe's ``[problems]`` describes. Raises UserError where no such problems exist."""
    return Questions(tokenizer, problems_of(config), config.template)


def problems_of(config: ProblemsConfig) -> Problems:
    """The problems of a recipe's ``[problems]``, without a template."""
    settings: dict[str, dict[str, Any]] = {
        "addition": {"digits": config.digits, "steps": config.working},
        "sums": {"digits": config.digits, "terms": config.numbers},
        "countdown": {"numbers": config.numbers},
        "reasoning-gym": {"dataset": config.dataset},
    }
    return Problems(config.kind, settings[config.kind], config.seed, config.held_out_fraction)
