"""Who answers: a model on our engine, or one behind an API (:mod:`clearseek.evaluate.remote`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from clearseek.chat.render import render
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.evaluate.tasks import Asking, Question, Task
from clearseek.evaluate.tasks.task import Template
from clearseek.inference.answer import Answer, joined
from clearseek.inference.model import Model, environment
from clearseek.inference.request import Chosen, Request, Settings
from clearseek.inference.text import Bytes
from clearseek.kernels import PAGE

AT_ONCE = 64
"""Answers that are written side by side."""


@dataclass(frozen=True)
class Asked:
    """One answer that is wanted."""

    number: int
    """Of the question in its task."""
    question: Question
    sample: int
    seed: int


@dataclass(frozen=True)
class Answered:
    """What came; the fields are those of :class:`clearseek.evaluate.records.Record`."""

    prompt: str
    prompt_ids: list[int] | None = None
    output: str = ""
    output_ids: list[int] | None = None
    logprobs: list[float] | None = None
    ended: bool = True
    missing: str = ""
    """Why nothing came, or an empty string."""
    served: str | None = None


class Answerer(Protocol):
    """Whoever answers."""

    model: dict[str, Any]
    """Name, and the weights' SHA-256 or the address."""
    environment: dict[str, Any]
    """What besides weights and prompts decides the answers' bits."""
    at_once: int
    """Answers that are best asked together."""

    def answer(self, task: Task, asking: Asking, asked: Sequence[Asked]) -> Iterator[Answered]:
        """The answers, in order. Raises UserError where no answer can come, to this or any later question."""
        ...


def seed_of(asking: Asking, task: str, number: int, sample: int) -> int:
    """Seed of an answer's draws, which depends on no other answer."""
    digest = hashlib.sha256(f"{asking.seed} {asking.draws} {task} {number} {sample}".encode()).digest()
    return int.from_bytes(digest[:6], "big")  # other readers of JSON than Python keep numbers below 2^53


def prompt_ids(tokenizer: Tokenizer, question: Question, template: Template) -> list[int]:
    """Ids of a question as a model gets it."""
    if template == "chat":
        return render(tokenizer, [{"role": "user", "content": question.chat}]).ids
    return [tokenizer.bos_id, *tokenizer.encode(question.prompt)]


class Local:
    """A model on our engine."""

    at_once = AT_ONCE

    def __init__(self, model: Model) -> None:
        self.loaded, self._bytes_of = model, Bytes(model.tokenizer)
        self.model: dict[str, Any] = {"name": model.name, "weights_sha256": model.weights_sha256,
                      "tokenizer_sha256": model.tokenizer.sha256}  # fmt: skip
        decides = environment(model.packed).items()
        self.environment: dict[str, Any] = {
            name: value for name, value in decides if name != "llguidance"
        }  # no grammar
        longest = model.config.max_position_embeddings
        # Sequences of a task are short beside the longest, mostly; one that finds no room waits.
        self._engine = model.engine(max(8, AT_ONCE // 4) * -(-longest // PAGE) + 1, rows=512, most=AT_ONCE)

    def answer(self, task: Task, asking: Asking, asked: Sequence[Asked]) -> Iterator[Answered]:
        """The answers, in order."""
        if task.reads:
            yield from self._read([each.question for each in asked])
            return
        prompts = [prompt_ids(self.loaded.tokenizer, each.question, asking.template) for each in asked]
        texts = [self.loaded.tokenizer.decode(ids) for ids in prompts]
        requests, refused = list[tuple[Request, Answer]](), list[str]()
        for ids, each in zip(prompts, asked, strict=True):
            settings = Settings(
                max_tokens=task.max_tokens, temperature=asking.temperature, seed=each.seed, logprobs=0,
                stop_tokens=frozenset({self.loaded.tokenizer.eos_id}),
            )  # fmt: skip
            request = Request(ids, settings)
            # Special tokens are text here: an answer that has one in its middle is not the answer without it.
            requests.append((request, Answer(request, self._bytes_of, task.stops)))
            refused.append(self._added(request))
        self._finish()
        for ids, text, (request, answer), fault in zip(prompts, texts, requests, refused, strict=True):
            if fault or request.finish == "error":
                yield Answered(text, ids, missing=fault or request.error)
                continue
            yield Answered(
                text, ids, joined(answer.take()), [each.token for each in request.answer],
                [_finite(each.logprob) for each in request.answer], request.finish == "stop",
            )  # fmt: skip

    def _added(self, request: Request) -> str:
        """Queue a request; what is wrong with it, or an empty string."""
        try:
            self._engine.add(request)
        except UserError as error:
            return str(error)
        return ""

    def _finish(self) -> None:
        try:
            while self._engine.busy:
                self._engine.step()
        except BaseException:  # Ctrl-C: what was queued is not left for the next task
            for request in (*self._engine.running, *self._engine.waiting):
                self._engine.abort(request)
            raise

    def _read(self, questions: Sequence[Question]) -> Iterator[Answered]:
        """Log-probabilities of the targets' tokens, each with as much before it as the model's sequences have."""
        tokenizer, longest = self.loaded.tokenizer, self._engine.longest
        for question in questions:
            before = prompt_ids(tokenizer, question, "plain")
            target = tokenizer.encode(question.target)
            read, fault = self.chosen(before, target)
            logprobs = [_finite(each.logprob) for each in read]
            kept = before[-max(1, longest - len(target)) :]
            yield Answered(tokenizer.decode(kept), kept, question.target, target, logprobs, missing=fault)

    def chosen(self, before: list[int], target: list[int], alternatives: int = 0) -> tuple[list[Chosen], str]:
        """The tokens of `target` behind `before` with log-probabilities, and what is wrong, or an empty string.

        Where both are too long for the model, `target` is read window by window, each with as much before it as fits.
        """
        longest = self._engine.longest
        whole, requests = before + target, list[tuple[Request, int]]()
        done = len(before)
        while done < len(whole):
            end = min(len(whole), done + (longest if done == len(before) and len(target) < longest else longest // 2))
            start = max(0, end - longest)
            request = Request(whole[start:end], Settings(max_tokens=0, logprobs=alternatives, prompt_logprobs=True))
            if fault := self._added(request):
                return [], fault
            requests.append((request, end - done))
            done = end
        self._finish()
        if fault := next((request.error for request, _ in requests if request.finish == "error"), ""):
            return [], fault
        return [each for request, count in requests for each in request.prompt_logprobs[-count:]], ""


def _finite(value: float | None) -> float:
    assert value is not None, "log-probabilities were asked for"
    return value
