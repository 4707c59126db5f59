"""How many held-out problems a model solves, with one completion of each or with several."""

from __future__ import annotations

from collections.abc import Sequence

from clearseek.evaluate.statistics import mean_pass_at_k, wilson_interval
from clearseek.inference.request import Settings
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.rollouts import seed_of, write_completions
from clearseek.problems.problems import Problem
from clearseek.problems.questions import Questions
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
        written = [(p, each.tokens.tolist(), each.ended) for p, each in zip(part, found, strict=True)]
        right += sum(each.reward == 1.0 for each in questions.scores(written))
    low, high = wilson_interval(right, count)
    return {PASS: right / count, f"{PASS}_low": low, f"{PASS}_high": high}


def pass_at(k: int) -> str:
    """Name of the share of held-out problems that one of k completions solves."""
    return f"held_out_pass_at_{k}"


def measure_at_k(
    model: DeepSeekModel, questions: Questions, problems: Sequence[Problem], k: int, max_tokens: int, seed: int
) -> dict[str, float]:
    """Share of problems that at least one of k completions at temperature 1 solves: pass@k without bias.

    k completions of each problem are written, so that problems are solved or not, and the share has a binomial
    interval. Other arguments are those of :func:`measure`, whose completions are others.
    """
    count, drawing = len(problems), Settings(max_tokens, stop_tokens=frozenset([questions.end]))
    rows = [number for number in range(count) for _ in range(k)]
    seeds = [seed_of(seed, EVALUATION, number, sample) for number in range(count) for sample in range(k)]
    found = write_completions(model, [questions.ids(problem) for problem in problems], rows, seeds, drawing)
    right = [0] * count
    written = [(problems[number], each.tokens.tolist(), each.ended) for number, each in zip(rows, found, strict=True)]
    for number, each in zip(rows, questions.scores(written), strict=True):
        right[number] += each.reward == 1.0
    low, high = wilson_interval(sum(map(bool, right)), count)
    return {pass_at(k): mean_pass_at_k(k, right, k), f"{pass_at(k)}_low": low, f"{pass_at(k)}_high": high}
