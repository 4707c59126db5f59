"""The problems of a recipe as a policy meets them: prompts in tokens, and rewards for completions in tokens."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from clearseek.config import Recipe
from clearseek.cores import default_threads
from clearseek.data.manifest import canonical_sha256
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.problems.problems import Problem, Problems
from clearseek.problems.prompts import Template, prompt, score
from clearseek.problems.rewards import Scored


@dataclass(frozen=True, eq=False)
class Questions:
    """Problems in a template."""

    tokenizer: Tokenizer
    problems: Problems
    template: Template
    room: int | None = None
    """Most tokens of a prompt: what completions leave of a sequence; None where they have no limit."""

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
        """Tokens of a problem's prompt. Raises UserError where completions would not fit behind it."""
        ids = prompt(self.tokenizer, problem, self.template)
        if self.room is not None and len(ids) > self.room:
            raise UserError(
                f"[problems]: the prompt {problem.prompt!r:.60} has {len(ids):,} tokens, and data.sequence_length "
                f"leaves {self.room:,} beside max_tokens: raise the one, or lower the other"
            )
        return ids

    def text(self, tokens: Sequence[int]) -> str:
        """Text of a completion, without the token that ended it."""
        own = tokens[:-1] if len(tokens) and tokens[-1] == self.end else tokens
        return self.tokenizer.decode([int(token) for token in own])

    def score(self, problem: Problem, tokens: Sequence[int], ended: bool) -> Scored:
        """Reward of a completion, and why."""
        return score(problem, self.text(tokens), ended, self.template)

    def scores(self, completions: Sequence[tuple[Problem, Sequence[int], bool]]) -> list[Scored]:
        """As :meth:`score` of many; equal programs are run once, and different ones at the same time."""
        if not self.problems.config.tasks:
            return [self.score(*each) for each in completions]
        keys = [(problem.name, problem.answer, tuple(tokens), ended) for problem, tokens, ended in completions]
        distinct = dict(zip(keys, completions, strict=True))
        with ThreadPoolExecutor(default_threads()) as pool:
            found = dict(zip(distinct, pool.map(lambda each: self.score(*each), distinct.values()), strict=True))
        return [found[key] for key in keys]


def questions_of(recipe: Recipe, tokenizer: Tokenizer) -> Questions:
    """The problems that a recipe's ``[problems]`` describes.

    Raises UserError where no such problems exist, or a program's prompt is too long.
    """
    config, method = recipe.problems, recipe.grpo or recipe.distil
    assert config is not None
    room = None if method is None else recipe.data.sequence_length - method.max_tokens
    questions = Questions(tokenizer, Problems(config), config.template, room)
    for problem in questions.problems.listed():
        questions.ids(problem)
    return questions
