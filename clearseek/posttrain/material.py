"""What a student's lessons are about: the documents of a data folder, or problems.

Either gives prompts, to the teacher as text and to the student as tokens, and says how the student is measured: in bits
per byte of held-out documents, as pre-training is, or by the held-out problems that it solves.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clearseek.chat.render import render
from clearseek.config import Recipe
from clearseek.data.loader import Permutation, Stream
from clearseek.data.manifest import canonical_sha256
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.solved import PROBLEMS, measure
from clearseek.problems.problems import Problem
from clearseek.problems.prompts import score
from clearseek.problems.questions import questions_of
from clearseek.train.pretrain import PreTraining
from clearseek.train.task import Progress

Prompt = str | list[dict[str, str]]
"""A text to go on with, or a conversation to answer, as messages."""


def ids_of(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """A prompt as tokens."""
    if isinstance(prompt, str):
        return [tokenizer.bos_id, *tokenizer.encode_batch([prompt])[0]]
    return render(tokenizer, prompt).ids


class Material(Protocol):
    """What lessons are about."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that it gives."""

    def prompts(self, count: int) -> list[Prompt]:
        """The first prompts for a teacher."""

    def step(self, step: int) -> tuple[list[int], list[list[int]]]:
        """Numbers and tokens of a step's prompts for the student."""

    def evaluate(self, model: DeepSeekModel, step: int, progress: Progress | None = None) -> dict[str, float]:
        """What is measured of the model after a step, as a task does."""


def order(size: int, step: int, recipe: Recipe, fingerprint: str) -> list[int]:
    """Which of `size` things are in the batch of a step: each once an epoch, in the epoch's own order."""
    count, chosen = recipe.train.batch_size, []
    for sample in range((step - 1) * count, step * count):
        epoch, position = divmod(sample, size)
        of_epoch = Permutation(size, canonical_sha256([fingerprint, recipe.data.seed, epoch]))
        chosen.append(int(of_epoch(np.array([position]))[0]))
    return chosen


class Documents:
    """Documents, whose first tokens are prompts.

    Raises UserError where the folder is no data folder, or has no document to train on.
    """

    def __init__(self, recipe: Recipe, folder: Path, checked: bool = False) -> None:
        assert recipe.distil is not None
        self.recipe, self._tokens = recipe, recipe.distil.prompt_tokens
        self.plain = PreTraining(recipe, folder, checked)
        self.fingerprint = self.plain.fingerprint
        self.evaluate = self.plain.evaluate
        self._tokenizer, self._stream = Tokenizer.load(folder / "tokenizer.json"), Stream(folder, "train")
        self._count = len(self._stream.offsets) - 1
        if self._count < 1:
            raise UserError(f"{folder}: no document to learn from: add text")

    def prompts(self, count: int) -> list[Prompt]:
        """Beginnings of the documents in their order, again from the first after the last."""
        first = [self._beginning(document)[1:] for document in range(min(count, self._count))]
        texts = [self._tokenizer.decode(ids).rstrip("\ufffd") for ids in first]  # a character may be cut
        return [texts[number % len(texts)] for number in range(count)]

    def step(self, step: int) -> tuple[list[int], list[list[int]]]:
        """Documents of a step and their beginnings."""
        numbers = order(self._count, step, self.recipe, self.fingerprint)
        return numbers, [self._beginning(number) for number in numbers]

    def _beginning(self, document: int) -> list[int]:
        """The first token of a document and those that are prompted with, never its end."""
        start, end = self._stream.offsets[document : document + 2].tolist()
        ids: list[int] = self._stream[start : min(start + 1 + self._tokens, end - 1)].tolist()
        return ids


class Exercises:
    """The problems of a recipe's ``[problems]``."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        assert recipe.problems is not None
        self.recipe, self._template = recipe, recipe.problems.template
        self.questions = questions_of(recipe, Tokenizer.load(folder / "tokenizer.json"))
        self.fingerprint = self.questions.fingerprint

    def prompts(self, count: int) -> list[Prompt]:
        """The first training problems."""
        problems = [self.questions.problems.train(number) for number in range(count)]
        if self._template == "chat":
            return [[{"role": "user", "content": problem.question}] for problem in problems]
        return [self.questions.tokenizer.decode(self.questions.ids(problem)[1:]) for problem in problems]

    def solved(self, lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Of a teacher's texts after :meth:`prompts` those that solve their problem, the first of each problem."""
        found: dict[str, Mapping[str, Any]] = {}
        for line in lines:
            problem = self.questions.problems.train(line["number"])
            right = score(problem, line["text"], line["ended"], self._template).reward == 1.0
            if right and problem.prompt not in found:
                found[problem.prompt] = line
        return list(found.values())

    def step(self, step: int) -> tuple[list[int], list[list[int]]]:
        """Problems of a step, each new."""
        size = self.recipe.train.batch_size
        numbers = list(range((step - 1) * size, step * size))
        return numbers, [self.questions.ids(self.questions.problems.train(number)) for number in numbers]

    def evaluate(self, model: DeepSeekModel, step: int, progress: Progress | None = None) -> dict[str, float]:
        """Share of held-out problems that one completion at temperature 1 solves."""
        train, distil = self.recipe.train, self.recipe.distil
        assert distil is not None
        if step != train.steps and (not train.eval_every or step % train.eval_every):
            return {}
        seed = self.recipe.data.seed
        return measure(model, self.questions, self._held_out, distil.max_tokens, seed, progress)

    @functools.cached_property
    def _held_out(self) -> list[Problem]:
        """Different problems among the first that are held out: fewer where few exist."""
        every = (self.questions.problems.held_out(number) for number in range(PROBLEMS))
        return list({problem.prompt: problem for problem in every}.values())


def material_of(recipe: Recipe, folder: Path, checked: bool = False) -> Material:
    """What a recipe's lessons are about, with the folder of documents, or of the tokenizer alone."""
    return Documents(recipe, folder, checked) if recipe.problems is None else Exercises(recipe, folder)
