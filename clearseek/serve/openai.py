"""OpenAI's ``/v1/chat/completions`` and ``/v1/completions``."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from clearseek.inference.answer import Delta
from clearseek.inference.request import Chosen
from clearseek.serve.schemas import Chat, Completion
from clearseek.serve.service import FINISH, Refused, Service, updates, usage
from clearseek.serve.worker import Job, Update

Piece = dict[str, Any]
DONE = "data: [DONE]\n\n"


def sent(value: Any) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def schema_of(asked: Chat) -> Any:
    """The JSON schema that an answer must follow, or None."""
    form = asked.response_format or {"type": "text"}
    kind = form.get("type")
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema":
        schema = (form.get("json_schema") or {}).get("schema")
        if not isinstance(schema, dict):
            raise Refused(400, "response_format.json_schema.schema: give a schema", parameter="response_format")
        return schema
    if kind != "text":
        raise Refused(400, f"response_format.type: {kind!r}: use text, json_object or json_schema", parameter="response_format")
    return None


def begin_chat(service: Service, asked: Chat) -> list[Job]:
    """Queue the answers of a chat."""
    service.check_model(asked.model)
    thinking = asked.thinks()
    prompt = service.chat_prompt(asked, thinking)
    most = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    tools = bool(asked.tools) and asked.tool_choice != "none"
    answers = service.answers(asked, prompt, most, logprobs, (thinking, tools), schema_of(asked))
    return service.worker.submit(answers)


class _Calls:
    """Tool calls, gathered from pieces."""

    def __init__(self) -> None:
        self.ids: dict[int, str] = {}

    def delta(self, piece: Delta) -> Piece:
        """A piece of a call, as a stream tells it."""
        function = {piece.part: piece.text}
        if piece.call in self.ids:
            return {"index": piece.call, "function": function}
        self.ids[piece.call] = "call_" + secrets.token_hex(12)
        whole = {"name": "", "arguments": ""} | function
        return {"index": piece.call, "id": self.ids[piece.call], "type": "function", "function": whole}


def message_delta(deltas: Sequence[Delta], calls: _Calls) -> Piece:
    """Pieces of an answer as fields of a message."""
    found: Piece = {}
    for delta in deltas:
        if delta.part == "reasoning":
            for name in ("reasoning_content", "reasoning"):
                found[name] = found.get(name, "") + delta.text
        elif delta.part == "content":
            found["content"] = found.get("content", "") + delta.text
        else:
            found.setdefault("tool_calls", []).append(calls.delta(delta))
    return found


def merged(message: Piece, delta: Piece) -> None:
    """Add a delta to a message."""
    for key, value in delta.items():
        if key != "tool_calls":
            message[key] = (message.get(key) or "") + value
            continue
        own = message.setdefault("tool_calls", [])
        for call in value:
            if call["index"] == len(own):
                own.append({key: call[key] for key in ("id", "type", "function")})
            else:
                for name, text in call["function"].items():
                    own[call["index"]]["function"][name] += text


def chat_logprobs(service: Service, chosen: Sequence[Chosen]) -> Piece | None:
    """Log-probabilities in a chat's form."""
    if not chosen or chosen[0].logprob is None:
        return None

    def told(token: int, logprob: float) -> Piece:
        text, raw = service.token_text(token)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": raw}

    return {
        "content": [
            told(each.token, each.logprob or 0.0) | {"top_logprobs": [told(*pair) for pair in each.alternatives]}
            for each in chosen
        ],
        "refusal": None,
    }


def details(service: Service, chosen: Sequence[Chosen]) -> list[Piece]:
    """What no other server tells: ids, experts in each layer, drafts."""

    def drafted(token: int | None) -> Piece | None:
        return None if token is None else {"token": token, "text": service.token_text(token)[0]}

    return [{"token": each.token, "experts": each.experts, "drafted": drafted(each.drafted)} for each in chosen]


def chat_end(update: Update, called: bool) -> str | None:
    """Why a chat's answer ended, in OpenAI's words."""
    if update.finish is None:
        return None
    return "tool_calls" if called and update.finish == "stop" else FINISH[update.finish]


def _head(service: Service, kind: str, prefix: str) -> Piece:
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()),
        "model": service.model.name, "system_fingerprint": service.fingerprint,
    }  # fmt: skip


async def chat(service: Service, asked: Chat) -> Piece:
    """A whole chat completion."""
    jobs = begin_chat(service, asked)
    choices = await asyncio.gather(*(_chat_choice(service, asked, job, i) for i, job in enumerate(jobs)))
    return _head(service, "chat.completion", "chatcmpl") | {"choices": choices, "usage": usage(service, jobs)}


async def _chat_choice(service: Service, asked: Chat, job: Job, index: int) -> Piece:
    message: Piece = {"role": "assistant", "content": None}
    calls, chosen, end, last = _Calls(), [], None, None
    async for update in updates(service, job):
        merged(message, message_delta(update.deltas, calls))
        chosen += update.chosen
        end, last = chat_end(update, bool(calls.ids)), update
    if message["content"] is None and not calls.ids:
        message["content"] = ""
    choice = {"index": index, "message": message, "logprobs": chat_logprobs(service, chosen), "finish_reason": end}
    if asked.details:
        choice["details"] = details(service, chosen)
    if asked.record and last is not None:
        choice["record"] = service.record(job, message["content"] or "")
    return choice


async def stream_chat(service: Service, asked: Chat, jobs: list[Job]) -> AsyncIterator[str]:
    """A chat completion as events."""
    head = _head(service, "chat.completion.chunk", "chatcmpl")
    calls = [_Calls() for _ in jobs]
    texts = [""] * len(jobs)
    for index in range(len(jobs)):
        first = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        yield sent(head | {"choices": [first]})
    async for index, update in merged_updates(service, jobs):
        delta = message_delta(update.deltas, calls[index])
        texts[index] += delta.get("content", "")
        end = chat_end(update, bool(calls[index].ids))
        choice = {"index": index, "delta": delta, "logprobs": chat_logprobs(service, update.chosen), "finish_reason": end}
        if asked.details:
            choice["details"] = details(service, update.chosen)
        if asked.record and end is not None:
            choice["record"] = service.record(jobs[index], texts[index])
        if delta or end is not None or update.chosen:
            yield sent(head | {"choices": [choice]})
    if (asked.stream_options or {}).get("include_usage"):
        yield sent(head | {"choices": [], "usage": usage(service, jobs)})
    yield DONE


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
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]


# --- Completions ------------------------------------------------------------------------------------------------------


def prompts_of(service: Service, asked: Completion) -> list[list[int]]:
    """Token ids of each prompt; text gets the first token, ids are taken as they are."""
    given = asked.prompt
    if isinstance(given, str):
        given = [given]
    elif isinstance(given[0], int):
        given = [given]  # type: ignore[list-item]
    found = []
    for prompt in given:
        if isinstance(prompt, str):
            try:
                prompt.encode()
            except UnicodeEncodeError:
                raise Refused(400, "prompt: half of a surrogate pair: send whole characters", parameter="prompt") from None
            found.append([service.model.tokenizer.bos_id, *service.model.tokenizer.encode(prompt)])
        else:
            size = service.model.config.vocab_size
            if not isinstance(prompt, list) or any(not 0 <= token < size for token in prompt):
                raise Refused(400, f"prompt: a token outside 0 to {size - 1}", parameter="prompt")
            found.append(list(prompt) or [service.model.tokenizer.bos_id])
    if len(found) > 64:
        raise Refused(400, f"prompt: {len(found)} prompts: send at most 64", parameter="prompt")
    return found


def begin_completion(service: Service, asked: Completion) -> list[Job]:
    """Queue the answers of a completion: `n` for each prompt."""
    service.check_model(asked.model)
    wanted = bool(asked.echo) and asked.logprobs is not None
    answers = []
    for prompt in prompts_of(service, asked):
        answers += service.answers(asked, prompt, asked.max_tokens, asked.logprobs, None, None, wanted)
    return service.worker.submit(answers)


def completion_logprobs(service: Service, chosen: Sequence[Chosen | None], offset: int) -> Piece | None:
    """Log-probabilities in the older form; None stands for the first token, which nothing predicts."""
    tokens, logprobs, best, offsets = [], [], [], []
    for each in chosen:
        if each is None:
            continue
        text, _ = service.token_text(each.token)
        tokens.append(text)
        logprobs.append(each.logprob)
        best.append({service.token_text(token)[0]: value for token, value in each.alternatives} if each.logprob is not None else None)
        offsets.append(offset)
        offset += len(text)
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": best, "text_offset": offsets}


def _echoed(service: Service, job: Job) -> tuple[str, list[Chosen | None]]:
    """The prompt as text, and its tokens, of which the first has no probability."""
    request = job.answer.request
    tokens = request.prompt
    own: list[Chosen | None] = [Chosen(tokens[0], None), *request.prompt_logprobs]
    shown = tokens[1:] if tokens[0] == service.model.tokenizer.bos_id else tokens
    return b"".join(map(service.bytes_of, shown)).decode("utf-8", "replace"), own


async def completion(service: Service, asked: Completion) -> Piece:
    """A whole completion."""
    jobs = begin_completion(service, asked)
    choices = await asyncio.gather(*(_completion_choice(service, asked, job, i) for i, job in enumerate(jobs)))
    first = {tuple(job.answer.request.prompt): job for job in jobs}
    told = usage(service, jobs)
    told["prompt_tokens"] = sum(len(prompt) for prompt in first)
    told["total_tokens"] = told["prompt_tokens"] + told["completion_tokens"]
    return _head(service, "text_completion", "cmpl") | {"choices": choices, "usage": told}


async def _completion_choice(service: Service, asked: Completion, job: Job, index: int) -> Piece:
    text, chosen, end = "", [], None
    async for update in updates(service, job):
        text += "".join(delta.text for delta in update.deltas)
        chosen += update.chosen
        end = None if update.finish is None else FINISH[update.finish]
    shown: list[Chosen | None] = list(chosen)
    if asked.echo:
        before, own = _echoed(service, job)
        text, shown = before + text, own + shown
    logprobs = None if asked.logprobs is None else completion_logprobs(service, shown, 0)
    choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": end}
    if asked.details:
        choice["details"] = details(service, chosen)
    if asked.record:
        choice["record"] = service.record(job, text)
    return choice


async def stream_completion(service: Service, asked: Completion, jobs: list[Job]) -> AsyncIterator[str]:
    """A completion as events."""
    head = _head(service, "text_completion", "cmpl")
    texts, echoed = [""] * len(jobs), [False] * len(jobs)
    async for index, update in merged_updates(service, jobs):
        text = "".join(delta.text for delta in update.deltas)
        shown: list[Chosen | None] = list(update.chosen)
        if asked.echo and not echoed[index]:
            echoed[index] = True
            before, own = _echoed(service, jobs[index])
            text, shown = before + text, own + shown
        texts[index] += text
        end = None if update.finish is None else FINISH[update.finish]
        logprobs = None if asked.logprobs is None else completion_logprobs(service, shown, len(texts[index]) - len(text))
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": end}
        if asked.details:
            choice["details"] = details(service, update.chosen)
        if asked.record and end is not None:
            choice["record"] = service.record(jobs[index], texts[index])
        if text or end is not None or shown:
            yield sent(head | {"choices": [choice]})
    if (asked.stream_options or {}).get("include_usage"):
        yield sent(head | {"choices": [], "usage": usage(service, jobs)})
    yield DONE


