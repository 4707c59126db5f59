"""OpenAI's ``/v1/chat/completions``."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from clearseek.chat.messages import tool_list
from clearseek.inference.answer import Answer
from clearseek.inference.grammar import Grammar
from clearseek.inference.request import Chosen
from clearseek.serve.blocks import Blocks, Event, order
from clearseek.serve.events import DONE, sent
from clearseek.serve.schemas import Chat
from clearseek.serve.service import FINISH, RefusedError, Service, merged_updates, updates, usage
from clearseek.serve.worker import Job, Update

Piece = dict[str, Any]
LEAST_LOGPROB = -9999.0
"""What stands for the logarithm of 0, which JSON cannot tell."""


def chat_answers(service: Service, asked: Chat) -> list[Answer]:
    """The answers of a chat, not yet begun."""
    grammar = _grammar(service, asked)
    if asked.continue_final_message and (grammar is not None or asked.thinks()):
        raise RefusedError(
            400, "a message of the assistant cannot be continued by thinking, by a schema or by a required call",
            parameter="messages",
        )  # fmt: skip
    prompt = service.chat_prompt(asked)
    most = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    tools = bool(asked.tools) and asked.tool_choice != "none"
    one_call = tools and grammar is None and asked.parallel_tool_calls is False
    return service.answers(asked, prompt.ids, most, logprobs, (prompt.thinking, tools), grammar, one_call=one_call)


def _grammar(service: Service, asked: Chat) -> Grammar | None:
    """What the answer must follow: a schema, or calls where one is required."""
    schema, names = _schema(asked), _required(asked)
    if names is None:
        return None if schema is None else service.grammars.of_schema(schema)
    if schema is not None:
        raise RefusedError(
            400, "response_format and a required call exclude each other: leave one out", parameter="tool_choice"
        )
    tools = [(tool["name"], tool["parameters"]) for tool in _functions(asked) if tool["name"] in names]
    if not tools:
        raise RefusedError(400, "tool_choice: no such function among the tools", parameter="tool_choice")
    return service.grammars.of_calls(tools, asked.parallel_tool_calls is not False)


def _schema(asked: Chat) -> Any:
    form = asked.response_format or {"type": "text"}
    kind = form.get("type")
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema":
        inner = form.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, dict) else None
        if not isinstance(schema, dict):
            raise RefusedError(400, "response_format.json_schema.schema: give a schema", parameter="response_format")
        return schema
    if kind != "text":
        raise RefusedError(
            400, "response_format.type: use text, json_object or json_schema", parameter="response_format"
        )
    return None


def _functions(asked: Chat) -> list[Piece]:
    """Names and schemas of the tools that are offered."""
    tool_list(asked.tools)  # refuses those of another form
    functions = [tool.get("function", tool) for tool in asked.tools or ()]
    for index, function in enumerate(functions):
        if not isinstance(function.get("parameters") or {}, dict):
            raise RefusedError(400, f"tools[{index}].parameters: give a schema", parameter="tools")
    return [{"name": function["name"], "parameters": function.get("parameters") or {}} for function in functions]


def _required(asked: Chat) -> set[str] | None:
    """Functions of which one must be called, or None."""
    choice = asked.tool_choice
    if choice in (None, "none", "auto"):
        return None
    if choice == "required":
        return {function["name"] for function in _functions(asked)}
    if isinstance(choice, dict) and choice.get("type") == "function":
        function = choice.get("function", choice)
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            return {function["name"]}
    raise RefusedError(400, "tool_choice: use none, auto, required, or a function's name", parameter="tool_choice")


def message_delta(events: Iterable[Event], blocks: Blocks) -> Piece:
    """What happened to blocks, as fields of a message in a stream."""
    found: Piece = {}
    calls: dict[int, Piece] = {}
    for what, block, text, _ in events:
        if block.kind == "call" and what != "end":
            call = calls.setdefault(block.index, {"index": order(blocks.all, block), "function": {"arguments": ""}})
            if what == "begin":
                call |= {"id": f"call_{block.id}", "type": "function"}
                call["function"]["name"] = block.name
            call["function"]["arguments"] += text
        elif what == "text":
            for name in ("content",) if block.kind == "content" else ("reasoning_content", "reasoning"):
                found[name] = found.get(name, "") + text
    return found | ({"tool_calls": list(calls.values())} if calls else {})


def whole_message(blocks: Blocks) -> Piece:
    """An ended answer's blocks as a message."""
    calls = [
        {"id": f"call_{call.id}", "type": "function", "function": {"name": call.name, "arguments": call.text}}
        for call in blocks.calls
    ]
    message: Piece = {"role": "assistant", "content": blocks.text("content") or (None if calls else "")}
    reasoning = blocks.text("reasoning")
    if reasoning:
        message |= {"reasoning_content": reasoning, "reasoning": reasoning}
    return message | ({"tool_calls": calls} if calls else {})


def token_logprobs(service: Service, chosen: Iterable[Chosen]) -> list[Piece]:
    """Tokens with their log-probabilities."""

    def told(token: int, logprob: float) -> Piece:
        text, raw = service.token_text(token)
        return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": raw}

    return [
        told(each.token, each.logprob) | {"top_logprobs": [told(*pair) for pair in each.alternatives]}
        for each in chosen
        if each.logprob is not None
    ]


def details(service: Service, chosen: Sequence[Chosen]) -> list[Piece]:
    """What no other server tells: ids, experts in each layer, drafts."""

    def drafted(token: int | None) -> Piece | None:
        return None if token is None else {"token": token, "text": service.token_text(token)[0]}

    return [{"token": each.token, "experts": each.experts, "drafted": drafted(each.drafted)} for each in chosen]


def _end(update: Update, blocks: Blocks) -> str | None:
    """Why a chat's answer ended, in OpenAI's words."""
    if update.finish is None:
        return None
    return "tool_calls" if blocks.calls and update.finish == "stop" else FINISH[update.finish]


def head(service: Service, kind: str, prefix: str) -> Piece:
    """What every answer begins with."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()),
        "model": service.model.name, "system_fingerprint": service.fingerprint,
    }  # fmt: skip


async def chat(service: Service, asked: Chat, jobs: list[Job]) -> Piece:
    """A whole chat completion."""
    choices = await asyncio.gather(*(_choice(service, asked, job, i) for i, job in enumerate(jobs)))
    return head(service, "chat.completion", "chatcmpl") | {"choices": choices, "usage": usage(jobs, len(jobs))}


async def _choice(service: Service, asked: Chat, job: Job, index: int) -> Piece:
    blocks, logprobs, shown, end = Blocks(), [], [], None
    async for update in updates(service, job):
        for _ in blocks.take(update):
            pass
        logprobs += token_logprobs(service, update.chosen)
        shown += details(service, update.chosen) if asked.details else []
        end = _end(update, blocks)
    told = {"content": logprobs, "refusal": None} if asked.logprobs else None
    choice = {"index": index, "message": whole_message(blocks), "logprobs": told, "finish_reason": end}
    if asked.details:
        choice["details"] = shown
    if asked.record:
        choice["record"] = service.record(job, blocks.text("content"))
    return choice


async def stream_chat(service: Service, asked: Chat, jobs: list[Job]) -> AsyncIterator[str]:
    """A chat completion as events."""
    start = head(service, "chat.completion.chunk", "chatcmpl")
    answers = [Blocks() for _ in jobs]
    for index in range(len(jobs)):
        first = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        yield sent(start | {"choices": [first]})
    async for index, update in merged_updates(service, jobs):
        blocks = answers[index]
        delta, end = message_delta(blocks.take(update), blocks), _end(update, blocks)
        logprobs = token_logprobs(service, update.chosen)
        told = {"content": logprobs, "refusal": None} if logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": told, "finish_reason": end}
        if asked.details:
            choice["details"] = details(service, update.chosen)
        if asked.record and end is not None:
            choice["record"] = service.record(jobs[index], blocks.text("content"))
        if delta or end is not None or update.chosen:
            yield sent(start | {"choices": [choice]})
    if (asked.stream_options or {}).get("include_usage"):
        yield sent(start | {"choices": [], "usage": usage(jobs, len(jobs))})
    yield DONE
