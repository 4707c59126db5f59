"""OpenAI's ``/v1/completions``: plain text goes on; with `echo` and `logprobs`, the prompt's tokens are weighed too."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator, Sequence
from typing import Any

from clearseek.inference.answer import Answer
from clearseek.inference.request import Chosen
from clearseek.serve.events import DONE, sent
from clearseek.serve.openai import LEAST_LOGPROB, Piece, details, head
from clearseek.serve.schemas import Completion
from clearseek.serve.service import FINISH, RefusedError, Service, merged_updates, updates, usage
from clearseek.serve.worker import Job

_UTF8 = codecs.getincrementaldecoder("utf-8")


def completion_count(asked: Completion) -> int:
    """Answers that a request asks for: `n` for each prompt."""
    return (asked.n or 1) * len(_prompts(asked))


def completion_answers(service: Service, asked: Completion) -> list[Answer]:
    """The answers of a completion, not yet begun."""
    wanted = bool(asked.echo) and asked.logprobs is not None
    answers = []
    for prompt in _prompts(asked):
        ids = _ids(service, prompt)
        answers += service.answers(asked, ids, asked.max_tokens, asked.logprobs, prompt_logprobs=wanted)
    return answers


def _prompts(asked: Completion) -> Sequence[str | list[int]]:
    given: Any = asked.prompt
    return [given] if isinstance(given, str) or isinstance(given[0], int) else given


def _ids(service: Service, prompt: str | list[int]) -> list[int]:
    """Token ids of a prompt; text gets the first token, ids are taken as they are."""
    if isinstance(prompt, str):
        return [service.model.tokenizer.bos_id, *service.tokens(prompt)]
    size = service.model.config.vocab_size
    if min(prompt) < 0 or max(prompt) >= size:
        raise RefusedError(400, f"prompt: a token outside 0 to {size - 1}", parameter="prompt")
    return prompt


class _Logprobs:
    """Log-probabilities in the older form, with the place in the text of the character that each token begins in."""

    def __init__(self, service: Service) -> None:
        self._service, self._decoder, self._length = service, _UTF8("replace"), 0

    def of(self, chosen: Sequence[Chosen], echoed: Sequence[Chosen] = ()) -> Piece:
        """Tokens that follow those of the last call; `echoed` are the prompt's, whose text ends before the answer's."""
        found: Piece = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for index, each in enumerate(echoed):
            self._add(found, each, shown=index > 0 or each.token != self._service.model.tokenizer.bos_id)
        if echoed:
            self._length += len(self._decoder.decode(b"", final=True))
        for each in chosen:
            self._add(found, each)
        return found

    def _add(self, found: Piece, each: Chosen, shown: bool = True) -> None:
        best: dict[str, float] = {}
        for token, logprob in each.alternatives:  # the likelier come first
            best.setdefault(self._name(token), max(logprob, LEAST_LOGPROB))
        found["tokens"].append(self._name(each.token))
        found["token_logprobs"].append(None if each.logprob is None else max(each.logprob, LEAST_LOGPROB))
        found["top_logprobs"].append(None if each.logprob is None else best)
        found["text_offset"].append(self._offset(self._service.bytes_of(each.token) if shown else b""))

    def _name(self, token: int) -> str:
        """A token's text; its bytes, in OpenAI's way, where they are no whole characters."""
        raw = self._service.bytes_of(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def _offset(self, raw: bytes) -> int:
        """Place of the character that these bytes begin in, or begin; they are taken into the text."""
        held = self._decoder.getstate()[0]
        try:
            _UTF8("strict").decode(held + raw[:1])
            offset = self._length
        except UnicodeDecodeError:  # these bytes do not end the character before them: a mark stands for what it has
            offset = self._length + bool(held)
        self._length += len(self._decoder.decode(raw))
        return offset


def _echoed(service: Service, job: Job) -> tuple[str, list[Chosen]]:
    """The prompt as text, and its tokens, of which the first has no probability; the first token is not shown."""
    request = job.answer.request
    tokens, weighed = request.prompt, [Chosen(request.prompt[0], None), *request.prompt_logprobs]
    first = int(tokens[0] == service.model.tokenizer.bos_id)
    return b"".join(map(service.bytes_of, tokens[first:])).decode("utf-8", "replace"), weighed


async def completion(service: Service, asked: Completion, jobs: list[Job]) -> Piece:
    """A whole completion."""
    choices = await asyncio.gather(*(_choice(service, asked, job, i) for i, job in enumerate(jobs)))
    return head(service, "text_completion", "cmpl") | {"choices": choices, "usage": usage(jobs, asked.n or 1)}


async def _choice(service: Service, asked: Completion, job: Job, index: int) -> Piece:
    texts: list[str] = []
    chosen: list[Chosen] = []
    end = None
    async for update in updates(service, job):
        texts += [delta.text for delta in update.deltas]
        chosen += update.chosen
        end = None if update.finish is None else FINISH[update.finish]
    text = "".join(texts)
    before, weighed = _echoed(service, job) if asked.echo else ("", [])
    logprobs = None if asked.logprobs is None else _Logprobs(service).of(chosen, weighed)
    choice = {"index": index, "text": before + text, "logprobs": logprobs, "finish_reason": end}
    if asked.details:
        choice["details"] = details(service, chosen)
    if asked.record:
        choice["record"] = service.record(job, text)
    return choice


async def stream_completion(service: Service, asked: Completion, jobs: list[Job]) -> AsyncIterator[str]:
    """A completion as events."""
    start = head(service, "text_completion", "cmpl")
    texts: list[list[str]] = [[] for _ in jobs]
    logprobs = [_Logprobs(service) for _ in jobs]
    begun: set[int] = set()
    async for index, update in merged_updates(service, jobs):
        text, weighed = "".join(delta.text for delta in update.deltas), list[Chosen]()
        texts[index].append(text)
        if asked.echo and index not in begun:
            before, weighed = _echoed(service, jobs[index])
            text = before + text
        begun.add(index)
        end = None if update.finish is None else FINISH[update.finish]
        told = None if asked.logprobs is None else logprobs[index].of(update.chosen, weighed)
        choice = {"index": index, "text": text, "logprobs": told, "finish_reason": end}
        if asked.details:
            choice["details"] = details(service, update.chosen)
        if asked.record and end is not None:
            choice["record"] = service.record(jobs[index], "".join(texts[index]))
        if text or end is not None or update.chosen:
            yield sent(start | {"choices": [choice]})
    if (asked.stream_options or {}).get("include_usage"):
        yield sent(start | {"choices": [], "usage": usage(jobs, asked.n or 1)})
    yield DONE
