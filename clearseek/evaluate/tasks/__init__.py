"""Tasks: what is asked of a model, and how an answer becomes a score.

A task is *written* (the model goes on from a prompt, and a strict scorer looks at what it wrote) or *read* (the model
says how probable a given text is). Its questions are a function of its settings, so that a record can be checked by
whoever has the settings.
"""

from __future__ import annotations

from clearseek.evaluate.tasks.registry import BUILDERS, DEFAULT, HARNESS, build, rebuild
from clearseek.evaluate.tasks.task import MOST_QUESTIONS, MOST_SAMPLES, Asking, NotHereError, Question, Task

__all__ = [
    "BUILDERS", "DEFAULT", "HARNESS", "MOST_QUESTIONS", "MOST_SAMPLES", "Asking", "NotHereError", "Question", "Task",
    "build", "rebuild",
]  # fmt: skip
