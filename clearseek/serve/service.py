"""One served model: requests of any form become answers of the engine."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from clearseek.chat.render import Rendered, render
from clearseek.chat.reply import CALL_END, Reply
from clearseek.inference.answer import Answer, json_of, record_of
from clearseek.inference.grammar import Grammar, Grammars
from clearseek.inference.model import Model, environment
from clearseek.inference.request import Request, Settings
from clearseek.inference.text import Bytes
from clearseek.kernels import PAGE
from clearseek.serve.schemas import Asked, Chat
from clearseek.serve.worker import Job, Update, Worker

Result = TypeVar("Result")


class RefusedError(Exception):
    """A request that is not answered: an HTTP status, a message, OpenAI's type and code, the parameter."""

    def __init__(self, status: int, message: str, code: str = "invalid_request", parameter: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.parameter = status, code, parameter


@dataclass(frozen=True)
class Limits:
    """What one server allows."""

    body: int = 4 << 20
    """Bytes of a request."""
    waiting: int = 256
    """Answers that wait or are written at once."""
    tokens: int = 4096
    """Tokens of one answer."""
    seconds: float = 600.0
    """Time of one answer."""
    head_seconds: float = 10.0
    """Time in which the head of a request must have arrived."""
    upload_seconds: float = 30.0
    """Time in which the rest of a request must have arrived."""
    send_seconds: float = 60.0
    """Longest time in which a client may take nothing of its answer."""


class Service:
    """A model, its engine's thread, and what answers need."""

    def __init__(self, model: Model, worker: Worker, limits: Limits, chat: bool) -> None:
        self.model, self.worker, self.limits, self.chat = model, worker, limits, chat
        self.bytes_of = Bytes(model.tokenizer)
        self.environment = environment(model.packed)
        told = json.dumps([model.weights_sha256, self.environment], sort_keys=True)
        self.fingerprint = "cs-" + hashlib.sha256(told.encode()).hexdigest()[:16]
        self.started = int(time.time())
        self.longest = min(worker.engine.forward.longest, worker.engine.pages.count * PAGE)
        """Most tokens of a prompt with its answer: as many as the model sees and the cache holds."""
        self._widest = max(len(self.bytes_of(token)) for token in range(model.config.vocab_size))
        self._grammars: Grammars | None = None
        self._making = threading.Lock()
        self._threads = ThreadPoolExecutor(2, "preparing")

    def check_model(self, name: str) -> None:
        """Refuse the name of another model."""
        if name and name != self.model.name:
            raise RefusedError(
                404, f"no model {name[:200]!r}: this server has {self.model.name!r}", "model_not_found", "model"
            )

    async def aside(self, work: Callable[[], Result], places: int = 1, keep: bool = False) -> Result:
        """The result of work that takes long, done in a thread while `places` are reserved; `keep` leaves them so."""
        if places > self.limits.waiting:
            raise RefusedError(
                400, f"{places} answers in one request: ask for at most {self.limits.waiting}", parameter="n"
            )
        self.worker.reserve(places)
        done = False
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._threads, work)
            done = True
            return result
        finally:
            if not (done and keep):
                self.worker.release(places)

    async def begin(self, make: Callable[[], list[Answer]], count: int) -> list[Job]:
        """Queue `count` answers, which `make` prepares; whoever calls this must end them by :meth:`end`."""
        answers = await self.aside(make, count, keep=True)
        try:
            return self.worker.submit(answers)
        except BaseException:
            self.worker.release(count)
            raise

    def end(self, jobs: Sequence[Job]) -> None:
        """End answers whose client has them, or has left."""
        self.worker.abort(job for job in jobs if job.answer.request.finish is None)

    def tokens(self, text: str) -> list[int]:
        """Tokens of a text; by a call that lets other threads run."""
        self._check_characters(len(text), "prompt")
        return self.model.tokenizer.encode_batch([text])[0]

    def chat_prompt(self, asked: Chat) -> Rendered:
        """Tokens of a conversation, and whether thoughts follow."""
        tools = asked.tools if asked.tool_choice != "none" else None
        self._check_characters(sum(_characters(message.get("content")) for message in asked.messages), "messages")
        continued = asked.continue_final_message
        return render(self.model.tokenizer, asked.messages, tools, asked.thinks(), continued=continued)

    def _check_characters(self, count: int, where: str) -> None:
        """Refuse, before it is read, a text that is too long even if each of its tokens were the longest one."""
        if count > self.longest * self._widest:
            raise RefusedError(
                400, f"the prompt has {count} characters, and the model sees {self.longest} tokens",
                "context_length_exceeded", where,
            )  # fmt: skip

    def answers(
        self, asked: Asked, prompt: Sequence[int], most: int | None, logprobs: int | None = None,
        reply: tuple[bool, bool] | None = None, grammar: Grammar | None = None, prompt_logprobs: bool = False,
        one_call: bool = False,
    ) -> list[Answer]:  # fmt: skip
        """The answers that a request asks for, not yet begun.

        Args:
            asked: Settings.
            prompt: Token ids.
            most: Most tokens of an answer; None for as many as the server allows.
            logprobs: Alternatives a token, or None.
            reply: Whether an answer begins with thinking, and whether tools were offered; None for plain text.
            grammar: What the answers must follow, or None.
            prompt_logprobs: Whether the prompt's tokens get log-probabilities.
            one_call: Whether an answer ends with its first call of a tool.
        """
        self.check_model(asked.model)
        room = self.longest - len(prompt)
        if room < (0 if most == 0 else 1):
            raise RefusedError(
                400, f"the prompt has {len(prompt)} tokens, and the model sees {self.longest} with the answer",
                "context_length_exceeded", "messages" if isinstance(asked, Chat) else "prompt",
            )  # fmt: skip
        most = min(self.limits.tokens, room, self.limits.tokens if most is None else most)
        seed = secrets.randbits(53) if asked.seed is None else asked.seed % 2**63
        stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        given: dict[str, Any] = {
            "temperature": asked.temperature, "top_p": asked.top_p, "min_p": asked.min_p,
            "presence_penalty": asked.presence_penalty, "frequency_penalty": asked.frequency_penalty,
            "repetition_penalty": asked.repetition_penalty, "top_k": None if asked.top_k == -1 else asked.top_k,
            "logit_bias": None if asked.logit_bias is None else self._biases(asked.logit_bias),
        }  # fmt: skip
        settings = {key: value for key, value in given.items() if value is not None}
        deadline = time.monotonic() + self.limits.seconds
        tokenizer = self.model.tokenizer
        ends = frozenset({tokenizer.eos_id, *([tokenizer.id_of(CALL_END)] if one_call else ())})
        found = []
        for index in range(asked.n or 1):
            own = Settings(
                max_tokens=most, seed=(seed + index) % 2**63, stop_tokens=ends, logprobs=logprobs,
                prompt_logprobs=prompt_logprobs, **settings,
            )  # fmt: skip
            request = Request(list(prompt), own, deadline)
            parts = None if reply is None else Reply(tokenizer, *reply)
            found.append(Answer(request, self.bytes_of, stops, parts, None if grammar is None else grammar.copy()))
        return found

    def _biases(self, biases: Mapping[str, Any]) -> dict[int, float]:
        size = self.model.config.vocab_size
        for token in biases:
            if not (token.isascii() and token.isdecimal() and len(token) < 10 and int(token) < size):
                raise RefusedError(
                    400, f"logit_bias: {token[:20]!r} is no token: use 0 to {size - 1}", parameter="logit_bias"
                )
        if not all(isinstance(value, int | float) and -100 <= value <= 100 for value in biases.values()):
            raise RefusedError(400, "logit_bias: use numbers from -100 to 100", parameter="logit_bias")
        return {int(token): float(value) for token, value in biases.items()}

    @property
    def grammars(self) -> Grammars:
        """Grammars over the model's tokenizer, made when they are first needed."""
        with self._making:
            if self._grammars is None:
                self._grammars = Grammars(self.model.tokenizer, self.model.config.vocab_size)
            return self._grammars

    def token_text(self, token: int) -> tuple[str, list[int]]:
        """A token as text, with marks for bytes that are no characters, and its bytes."""
        raw = self.bytes_of(token)
        return raw.decode("utf-8", "replace"), list(raw)

    def record(self, job: Job, text: str) -> dict[str, Any]:
        """The record of an ended answer."""
        return json_of(record_of(self.model, job.answer, text))


async def updates(service: Service, job: Job) -> AsyncIterator[Update]:
    """What comes of an answer, to its end. Raises RefusedError where a fault ended it."""
    finish = None
    while finish is None:
        update = await job.updates.get()
        finish = update.finish
        if finish == "error":
            ending = service.worker.broken or service.worker.draining
            raise RefusedError(503 if ending else 400, update.error, "generation_failed")
        yield update


async def merged_updates(service: Service, jobs: Sequence[Job]) -> AsyncIterator[tuple[int, Update]]:
    """Updates of several answers as they come."""
    streams = [updates(service, job) for job in jobs]
    tasks = {asyncio.ensure_future(anext(stream)): index for index, stream in enumerate(streams)}
    try:
        while tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index = tasks.pop(task)
                try:
                    update = task.result()
                except StopAsyncIteration:
                    continue
                tasks[asyncio.ensure_future(anext(streams[index]))] = index
                yield index, update
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


FINISH = {"stop": "stop", "length": "length", "deadline": "length", "aborted": "stop", "error": "stop"}
"""OpenAI's words for ends."""


def usage(jobs: Sequence[Job], each: int) -> dict[str, Any]:
    """Tokens that were read and written by answers, of which every `each` have one prompt, which is read once."""
    requests = [job.answer.request for job in jobs]
    prompt, written = sum(len(r.prompt) for r in requests[::each]), sum(len(r.answer) for r in requests)
    return {
        "prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": sum(request.reused for request in requests[::each])},
        "completion_tokens_details": {
            "reasoning_tokens": sum(_thoughts(job.answer) for job in jobs),
            "accepted_prediction_tokens": sum(request.accepted for request in requests),
            "rejected_prediction_tokens": sum(request.drafts - request.accepted for request in requests),
        },
    }  # fmt: skip


def _thoughts(answer: Answer) -> int:
    """Tokens of an answer's thinking."""
    if answer.reply is None:
        return 0
    reply = answer.reply.anew()
    return sum((reply.place(chosen.token) or ("", -1))[0] == "reasoning" for chosen in answer.request.answer)


def _characters(content: Any) -> int:
    """Characters of a message's content, a text or parts of text."""
    if isinstance(content, str):
        return len(content)
    parts = content if isinstance(content, list) else []
    return sum(len(part["text"]) for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))
