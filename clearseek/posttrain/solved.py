"""How many held-out problems a model solves."""

from __future__ import annotations

from collections.abc import Sequence

from clearseek.evaluate.statistics import wilson_interval
from clearseek.inference.request import Settings
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.problems import Problem
from clearseek.posttrain.questions import Questions
from clearseek.posttrain.rollouts import seed_of, write_completions
from clearseek.train.task import Progress

PASS = "held_out_pass_at_1"
"""Name of the share of held-out problems that are solved; its interval of 95 % has ``_low`` and ``_high``."""
EVALUATION = -1
"""Number of the round that evaluations draw by."""
PROBLEMS = 512
"""Most held-out problems of an evaluation, where a recipe does not say."""
_AT_ONCE = 64
"""Held-out problems between two reports of progress."""


def measure(
    model: DeepSeekModel, questions: Questions, problems: Sequence[Problem], max_tokens: int, seed: int,
    progress: Progress | None = None,
) -> dict[str, float]:  # fmt: skip
    """Share of problems that one completion at temperature 1 solves, with its interval of 95 %.

    Args:
        model: The model.
        questions: The problems' template and rewards.
        problems: Held-out problems.
        max_tokens: Longest completion.
        seed: Seed of the draws.
        progress: Called with the problems done, and with their number.
    """
    right, count, drawing = 0, len(problems), Settings(max_tokens, stop_tokens=frozenset([questions.end]))
    at_once = _AT_ONCE if progress else count
    for first in range(0, count, at_once):
        if progress is not None:
            progress(first, count)
        numbers = range(first, min(first + at_once, count))
        part = [problems[number] for number in numbers]
        seeds = [seed_of(seed, EVALUATION, number) for number in numbers]
        ids = [questions.ids(problem) for problem in part]
        found = write_completions(model, ids, range(len(ids)), seeds, drawing)
        scored = zip(part, found, strict=True)
        right += sum(questions.reward(p, each.tokens.tolist(), each.ended) == 1.0 for p, each in scored)
    low, high = wilson_interval(right, count)
    return {PASS: right / count, f"{PASS}_low": low, f"{PASS}_high": high}
