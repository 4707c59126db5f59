"""Evaluations of held-out problems: every problem has draws of its own, and the interval is that of all problems."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clearseek.config import ProblemsConfig
from clearseek.data.tokenizer import SMALLEST_VOCABULARY, train
from clearseek.evaluate.statistics import wilson_interval
from clearseek.inference.batch import Completion
from clearseek.posttrain import solved
from clearseek.posttrain.rollouts import seed_of
from clearseek.problems.problems import Problems
from clearseek.problems.questions import Questions


def test_an_evaluation_is_the_same_whether_its_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    questions = Questions(train([], SMALLEST_VOCABULARY), Problems(ProblemsConfig(kind="addition")), "plain")
    problems, asked, told = questions.held_out(150), list[int](), list[tuple[int, int]]()

    def write(model: Any, prompts: Any, rows: Any, seeds: Any, drawing: Any) -> list[Completion]:
        begun = len(asked)
        asked.extend(seeds)
        texts = [problem.answer if number % 3 == 0 else "0" for number, problem in enumerate(problems)]
        written = (texts[begun % 150 + row] for row in rows)
        tokens = [np.array([*questions.tokenizer.encode(text), questions.end]) for text in written]
        routes = np.zeros((0, 0, 0), dtype=np.int64)
        return [Completion(each, np.zeros(len(each)), True, routes, None) for each in tokens]

    monkeypatch.setattr(solved, "write_completions", write)
    low, high = wilson_interval(50, 150)
    for progress in (None, lambda *done: told.append(done)):
        found = solved.measure(None, questions, problems, 8, 3, progress)  # type: ignore[arg-type]
        assert found == {solved.PASS: 50 / 150, f"{solved.PASS}_low": low, f"{solved.PASS}_high": high}
    assert asked == 2 * [seed_of(3, solved.EVALUATION, number) for number in range(150)]
    assert told == [(0, 150), (64, 150), (128, 150)]
