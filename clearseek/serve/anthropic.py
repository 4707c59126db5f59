"""Anthropic's ``/v1/messages``: a translation to a chat and back, without stored state."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from pydantic import BaseModel, Field

from clearseek.inference.answer import Answer
from clearseek.serve.blocks import Block, Blocks
from clearseek.serve.events import sent
from clearseek.serve.openai import Piece, chat_answers
from clearseek.serve.schemas import Chat, Number, Objects, Text
from clearseek.serve.service import RefusedError, Service, updates
from clearseek.serve.worker import Job

SETTINGS = ("model", "temperature", "top_p", "top_k", "seed", "record")
"""Fields that a chat has by the same name."""


class Counted(BaseModel):
    """``/v1/messages/count_tokens``."""

    model: str = ""
    messages: Annotated[Objects, Field(min_length=1, max_length=4096)]
    system: str | Objects | None = None
    tools: Annotated[Objects, Field(max_length=128)] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None


class Messages(Counted):
    """``/v1/messages``."""

    max_tokens: Annotated[int, Field(ge=1, lt=2**31)]
    temperature: Annotated[Number, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    stop_sequences: Annotated[list[Text], Field(max_length=16, fail_fast=True)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    output_config: dict[str, Any] | None = None
    record: bool = False


# --- Requests ---------------------------------------------------------------------------------------------------------


def answers(service: Service, asked: Messages) -> list[Answer]:
    """The answer of a request, not yet begun."""
    return chat_answers(service, _chat(asked))


def count(service: Service, asked: Counted) -> int:
    """Tokens of a prompt."""
    service.check_model(asked.model)
    return len(service.chat_prompt(_chat(asked)).ids)


def _chat(asked: Counted) -> Chat:
    """The request as a chat."""
    messages: list[Piece] = [{"role": "system", "content": _texts(asked.system, "system")}] if asked.system else []
    for index, message in enumerate(asked.messages):
        messages += _messages(message, f"messages[{index}]")
    given: Piece = {name: getattr(asked, name) for name in SETTINGS if hasattr(asked, name)}
    given |= {"messages": messages, "tools": [_tool(tool, i) for i, tool in enumerate(asked.tools or ())] or None}
    given |= _choice(asked.tool_choice or {"type": "auto"})
    given["continue_final_message"] = bool(messages) and messages[-1]["role"] == "assistant"
    if asked.thinking is not None:
        given["thinking"] = asked.thinking.get("type") in ("enabled", "adaptive")
    if isinstance(asked, Messages):
        given |= {"max_tokens": asked.max_tokens, "stop": asked.stop_sequences, "response_format": _format(asked)}
    return Chat.model_validate(given)


def _format(asked: Messages) -> Piece | None:
    form = (asked.output_config or {}).get("format")
    if form is None:
        return None
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        raise RefusedError(400, "output_config.format.type: use json_schema")
    return {"type": "json_schema", "json_schema": {"schema": form.get("schema")}}


def _choice(choice: Piece) -> Piece:
    kind = choice.get("type")
    if kind not in ("auto", "any", "tool", "none"):
        raise RefusedError(400, "tool_choice.type: use auto, any, tool or none")
    named = {"type": "function", "function": {"name": choice.get("name")}}
    one = {"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") is True else {}
    return {"tool_choice": {"any": "required", "tool": named}.get(kind, kind)} | one


def _tool(tool: Piece, index: int) -> Piece:
    if tool.get("type", "custom") != "custom" or not isinstance(tool.get("input_schema"), dict):
        raise RefusedError(
            400, f"tools[{index}]: give a tool of one's own, with name and input_schema: the server runs none"
        )
    inner = {"name": tool.get("name"), "description": tool.get("description"), "parameters": tool["input_schema"]}
    return {"type": "function", "function": inner}


def _texts(content: Any, where: str) -> str:
    """Text of a content that holds text alone."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for index, block in enumerate(blocks if isinstance(blocks, list) else [None]):
        if not isinstance(block, dict) or block.get("type") != "text" or not isinstance(block.get("text"), str):
            raise RefusedError(400, f"{where}[{index}]: this model reads text alone")
    return "".join(block["text"] for block in blocks)


def _messages(message: Piece, where: str) -> Iterator[Piece]:
    """A message as a chat has it: results of tools become messages of their own."""
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise RefusedError(400, f"{where}.role: use user or assistant")
    if not isinstance(content, list):
        yield {"role": role, "content": content}
        return
    found: Piece = {"role": role, "content": ""}
    for index, block in enumerate(content):
        place, kind = f"{where}.content[{index}]", block.get("type") if isinstance(block, dict) else None
        if kind == "tool_result" and role == "user":
            result = _texts(block.get("content") or "", f"{place}.content")
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": result}
        elif kind == "tool_use" and role == "assistant":
            call = {"name": block.get("name"), "arguments": block.get("input") or {}}
            found.setdefault("tool_calls", []).append({"id": block.get("id"), "function": call})
        elif kind == "thinking" and role == "assistant":
            found["reasoning_content"] = found.get("reasoning_content", "") + str(block.get("thinking") or "")
        elif kind != "redacted_thinking" or role != "assistant":
            found["content"] += _texts([block], place)
    if found["content"] or role == "assistant" or not content:
        yield found


# --- Responses --------------------------------------------------------------------------------------------------------


def _begun(block: Block) -> Piece:
    if block.kind == "call":
        return {"type": "tool_use", "id": f"toolu_{block.id}", "name": block.name, "input": {}}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _whole(block: Block) -> Piece:
    if block.kind != "call":
        return _begun(block) | {"thinking" if block.kind == "reasoning" else "text": block.text}
    try:
        value = json.loads(block.text or "{}")
    except (ValueError, RecursionError):
        value = None
    return _begun(block) | {"input": value if isinstance(value, dict) else {"INVALID_JSON": block.text}}


def _delta(block: Block, text: str) -> Piece:
    if block.kind == "call":
        return {"type": "input_json_delta", "partial_json": text}
    kind = "thinking" if block.kind == "reasoning" else "text"
    return {"type": f"{kind}_delta", kind: text}


def _end(job: Job, blocks: Blocks, finish: str) -> Piece:
    """Why an answer ended, in Anthropic's words."""
    stopped = job.answer.stopped
    if stopped is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": stopped}
    reason = "max_tokens" if finish != "stop" else "tool_use" if blocks.calls else "end_turn"
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(job: Job) -> Piece:
    request = job.answer.request
    return {
        "input_tokens": len(request.prompt) - request.reused, "cache_read_input_tokens": request.reused,
        "cache_creation_input_tokens": 0, "output_tokens": len(request.answer),
    }  # fmt: skip


def _head(service: Service) -> Piece:
    return {
        "id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant", "model": service.model.name,
        "content": [], "stop_reason": None, "stop_sequence": None, "system_fingerprint": service.fingerprint,
    }  # fmt: skip


async def message(service: Service, asked: Messages, jobs: list[Job]) -> Piece:
    """A whole message."""
    blocks, finish = Blocks(), ""
    async for update in updates(service, jobs[0]):
        for _ in blocks.take(update):
            pass
        finish = update.finish or ""
    found = _head(service) | {"content": [_whole(block) for block in blocks.all]} | _end(jobs[0], blocks, finish)
    record = {"record": service.record(jobs[0], blocks.text("content"))} if asked.record else {}
    return found | {"usage": _usage(jobs[0])} | record


async def stream_message(service: Service, asked: Messages, jobs: list[Job]) -> AsyncIterator[str]:
    """A message as events."""

    def told(kind: str, **values: Any) -> str:
        return sent({"type": kind} | values, kind)

    blocks, finish = Blocks(), ""
    yield told("message_start", message=_head(service) | {"usage": _usage(jobs[0]) | {"output_tokens": 0}})
    async for update in updates(service, jobs[0]):
        finish = update.finish or ""
        for what, block, text, _ in blocks.take(update):
            if what == "begin":
                yield told("content_block_start", index=block.index, content_block=_begun(block))
            elif what == "text":
                yield told("content_block_delta", index=block.index, delta=_delta(block, text))
            else:
                yield told("content_block_stop", index=block.index)
    record = {"record": service.record(jobs[0], blocks.text("content"))} if asked.record else {}
    yield told("message_delta", delta=_end(jobs[0], blocks, finish), usage=_usage(jobs[0]), **record)
    yield told("message_stop")
