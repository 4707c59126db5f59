"""One served model: requests of any form become answers of the engine."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clearseek.chat.render import render
from clearseek.chat.reply import Reply
from clearseek.errors import UserError
from clearseek.inference.answer import Answer, json_of, record_of
from clearseek.inference.grammar import Grammars
from clearseek.inference.model import Model, environment
from clearseek.inference.request import Request, Settings
from clearseek.inference.text import Bytes
from clearseek.serve.schemas import Asked, Chat
from clearseek.serve.worker import Job, Update, Worker


class Refused(Exception):
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
    upload_seconds: float = 30.0
    """Time in which a request must have arrived."""


class Service:
    """A model, its engine's thread, and what answers need."""

    def __init__(self, model: Model, worker: Worker, limits: Limits, chat: bool) -> None:
        self.model, self.worker, self.limits, self.chat = model, worker, limits, chat
        self.bytes_of = Bytes(model.tokenizer)
        self.environment = environment(model.packed)
        told = json.dumps([model.weights_sha256, self.environment], sort_keys=True)
        self.fingerprint = "cs-" + hashlib.sha256(told.encode()).hexdigest()[:16]
        self.started = int(time.time())
        self._grammars: Grammars | None = None

    def check_model(self, name: str) -> None:
        """Refuse the name of another model."""
        if name and name != self.model.name:
            raise Refused(404, f"no model {name[:200]!r}: this server has {self.model.name!r}", "model_not_found", "model")

    def chat_prompt(self, asked: Chat, thinking: bool) -> list[int]:
        """Tokens of a conversation."""
        tools = asked.tools if asked.tool_choice != "none" else None
        return render(self.model.tokenizer, asked.messages, tools, thinking).ids

    def answers(
        self, asked: Asked, prompt: Sequence[int], most: int | None, logprobs: int | None = None,
        reply: tuple[bool, bool] | None = None, schema: Any = None, prompt_logprobs: bool = False,
    ) -> list[Answer]:  # fmt: skip
        """The answers that a request asks for, not yet begun.

        Args:
            asked: Settings.
            prompt: Token ids.
            most: Most tokens of an answer; None for as many as the server allows.
            logprobs: Alternatives a token, or None.
            reply: Whether an answer begins with thinking, and whether tools were offered; None for plain text.
            schema: JSON schema of the answers, or None.
            prompt_logprobs: Whether the prompt's tokens get log-probabilities.
        """
        room = self.worker.engine.forward.longest - len(prompt)
        if room < (0 if most == 0 else 1):
            raise Refused(
                400, f"the prompt has {len(prompt)} tokens, and the model sees {self.worker.engine.forward.longest}",
                "context_length_exceeded", "messages" if isinstance(asked, Chat) else "prompt",
            )  # fmt: skip
        most = min(self.limits.tokens, room, self.limits.tokens if most is None else most)
        seed = secrets.randbits(53) if asked.seed is None else asked.seed % 2**63
        stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        given = {
            "temperature": asked.temperature, "top_p": asked.top_p, "min_p": asked.min_p,
            "presence_penalty": asked.presence_penalty, "frequency_penalty": asked.frequency_penalty,
            "repetition_penalty": asked.repetition_penalty, "top_k": None if asked.top_k == -1 else asked.top_k,
            "logit_bias": None if asked.logit_bias is None else self._biases(asked.logit_bias),
        }  # fmt: skip
        settings = {key: value for key, value in given.items() if value is not None}
        deadline = time.monotonic() + self.limits.seconds
        found = []
        for index in range(asked.n or 1):
            own = Settings(
                max_tokens=most, seed=(seed + index) % 2**63, stop_tokens=frozenset({self.model.tokenizer.eos_id}),
                logprobs=logprobs, prompt_logprobs=prompt_logprobs, **settings,
            )  # fmt: skip
            request = Request(list(prompt), own, deadline)
            parts = None if reply is None else Reply(self.model.tokenizer, *reply)
            grammar = None if schema is None else self._grammar(schema)
            found.append(Answer(request, self.bytes_of, stops, parts, grammar))
        return found

    def _biases(self, biases: Mapping[str, float]) -> dict[int, float]:
        try:
            return {int(token): value for token, value in biases.items()}
        except ValueError:
            raise Refused(400, "logit_bias: a key is not a token's id", parameter="logit_bias") from None

    def _grammar(self, schema: Any) -> Any:
        if self._grammars is None:
            self._grammars = Grammars(self.model.tokenizer, self.model.config.vocab_size)
        return self._grammars.of_schema(schema)

    def token_text(self, token: int) -> tuple[str, list[int]]:
        """A token as text, with marks for bytes that are no characters, and its bytes."""
        raw = self.bytes_of(token)
        return raw.decode("utf-8", "replace"), list(raw)

    def record(self, job: Job, text: str) -> dict[str, Any]:
        """The record of an ended answer."""
        return json_of(record_of(self.model, job.answer, text))


async def updates(service: Service, job: Job) -> AsyncIterator[Update]:
    """What comes of an answer, to its end; a reader that leaves ends the answer.

    Raises Refused where the engine ended it by a fault.
    """
    ended = False
    try:
        while not ended:
            update = await job.updates.get()
            ended = update.finish is not None
            if update.finish == "error":
                raise Refused(500 if service.worker.broken else 400, update.error, "generation_failed")
            yield update
    finally:
        if not ended:
            service.worker.abort(job)


FINISH = {"stop": "stop", "length": "length", "deadline": "length", "aborted": "stop", "error": "stop"}
"""OpenAI's words for ends."""


def usage(service: Service, jobs: Sequence[Job]) -> dict[str, Any]:
    """Tokens that were read and written."""
    requests = [job.answer.request for job in jobs]
    prompt, written = len(requests[0].prompt), sum(len(request.answer) for request in requests)
    return {
        "prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": requests[0].reused},
        "completion_tokens_details": {
            "accepted_prediction_tokens": sum(request.accepted for request in requests),
            "rejected_prediction_tokens": sum(request.drafts - request.accepted for request in requests),
        },
    }  # fmt: skip


def refuse(error: UserError) -> Refused:
    """A user's error as HTTP tells it."""
    return Refused(400, str(error))
