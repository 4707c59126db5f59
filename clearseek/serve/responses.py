"""OpenAI's ``/v1/responses``: a translation to a chat and back, without stored state."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from pydantic import BaseModel, Field

from clearseek.inference.answer import Answer
from clearseek.inference.request import Chosen
from clearseek.serve.blocks import Block, Blocks, Event
from clearseek.serve.events import sent
from clearseek.serve.openai import Piece, chat_answers, token_logprobs
from clearseek.serve.schemas import Chat, Number, Objects
from clearseek.serve.service import RefusedError, Service, updates, usage
from clearseek.serve.worker import Job

LOGPROBS = "message.output_text.logprobs"
"""What `include` asks for."""


class Responses(BaseModel):
    """``/v1/responses``."""

    model: str = ""
    input: str | Annotated[Objects, Field(min_length=1, max_length=4096)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    tools: Annotated[Objects, Field(max_length=128)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    include: Annotated[list[str], Field(max_length=16, fail_fast=True)] | None = None
    record: bool = False
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None


# --- Requests ---------------------------------------------------------------------------------------------------------


def answers(service: Service, asked: Responses) -> list[Answer]:
    """The answer of a request, not yet begun."""
    for name in ("store", "background", "previous_response_id", "conversation", "prompt"):
        if getattr(asked, name):
            raise RefusedError(
                400, f"{name}: this server keeps nothing: send the whole conversation as input", parameter=name
            )
    messages: list[Piece] = [{"role": "system", "content": asked.instructions}] if asked.instructions else []
    given = [{"role": "user", "content": asked.input}] if isinstance(asked.input, str) else asked.input
    for index, item in enumerate(given):
        _add(messages, item, f"input[{index}]")
    effort = (asked.reasoning or {}).get("effort")
    chat = Chat(
        messages=messages, model=asked.model, max_tokens=asked.max_output_tokens, temperature=asked.temperature,
        top_p=asked.top_p, seed=asked.seed, record=asked.record, tools=_tools(asked), tool_choice=asked.tool_choice,
        parallel_tool_calls=asked.parallel_tool_calls, logprobs=LOGPROBS in (asked.include or ()),
        top_logprobs=asked.top_logprobs, response_format=_format(asked),
        reasoning_effort=effort if isinstance(effort, str) else None,
    )  # fmt: skip
    if not messages:
        raise RefusedError(400, "input: give a message", parameter="input")
    return chat_answers(service, chat)


def _tools(asked: Responses) -> list[Piece] | None:
    for index, tool in enumerate(asked.tools or ()):
        if tool.get("type", "function") != "function":
            raise RefusedError(400, f"tools[{index}].type: use function: this server runs no tools", parameter="tools")
    return asked.tools or None


def _format(asked: Responses) -> Piece | None:
    form = (asked.text or {}).get("format")
    if not isinstance(form, dict):
        return None
    return form | {"json_schema": {"schema": form.get("schema")}}


def _add(messages: list[Piece], item: Piece, where: str) -> None:
    """Add an item to a chat's messages; thinking and calls belong to the assistant's message beside them."""
    kind = item.get("type", "message")
    if kind == "message":
        message = {"role": item.get("role"), "content": item.get("content")}
        if message["role"] == "assistant" and _open(messages):
            messages[-1] |= {"content": message["content"]}
        else:
            messages.append(message)
    elif kind == "function_call_output":
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")})
    elif kind == "function_call":
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": ""})
        call = {"name": item.get("name"), "arguments": item.get("arguments")}
        messages[-1].setdefault("tool_calls", []).append({"id": item.get("call_id"), "function": call})
    elif kind == "reasoning":
        content = item.get("content")
        parts = content if isinstance(content, list) else []
        text = "".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))
        messages.append({"role": "assistant", "content": "", "reasoning_content": text})
    else:
        raise RefusedError(
            400, f"{where}.type: use message, function_call, function_call_output or reasoning", parameter="input"
        )


def _open(messages: list[Piece]) -> bool:
    """Whether the last message is thinking whose answer follows."""
    return bool(messages) and messages[-1].keys() == {"role", "content", "reasoning_content"}


# --- Responses --------------------------------------------------------------------------------------------------------


def _item(block: Block, status: str, logprobs: list[Piece] | None = None) -> Piece:
    """A block as an item of the output."""
    if block.kind == "call":
        return {
            "type": "function_call", "id": f"fc_{block.id}", "call_id": f"call_{block.id}", "name": block.name,
            "arguments": block.text, "status": status,
        }  # fmt: skip
    parts = [_part(block, logprobs)] if block.text else []
    if block.kind == "reasoning":
        return {"type": "reasoning", "id": f"rs_{block.id}", "summary": [], "content": parts, "status": status}
    return {"type": "message", "id": f"msg_{block.id}", "role": "assistant", "content": parts, "status": status}


def _part(block: Block, logprobs: list[Piece] | None = None, text: str | None = None) -> Piece:
    text = block.text if text is None else text
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}


class _Response:
    """A response that is being written."""

    def __init__(self, service: Service, asked: Responses, job: Job) -> None:
        self.service, self.asked, self.job = service, asked, job
        self.blocks, self.finish = Blocks(), ""
        self.logprobs: dict[int, list[Piece]] = {}
        """Log-probabilities of each block's tokens."""
        self._told: dict[int, int] = {}
        """How many of them events have told."""
        assert job.answer.reply is not None  # a chat's answer
        self._reply = job.answer.reply.anew()
        self._stretches: list[tuple[str, int]] = []
        """Kind and call of each stretch of tokens: what the blocks are made of, in order."""
        self._wordless: list[tuple[tuple[str, int], Chosen]] = []
        """Tokens without text, which begin no block: they wait for one that does."""
        self._name, self._created = f"resp_{secrets.token_hex(12)}", int(time.time())

    def take(self, update: Any) -> Iterator[tuple[Event, list[Piece]]]:
        """What an update changes, and the log-probabilities of a text that grows."""
        self.finish = update.finish or ""
        for chosen in update.chosen:
            self._weigh(chosen)
        for event in self.blocks.take(update):
            at, own = event.block.index, list[Piece]()
            if event.what == "text":
                own = self.logprobs.get(at, [])[self._told.get(at, 0) :]
                self._told[at] = self._told.get(at, 0) + len(own)
            yield event, own

    def _weigh(self, chosen: Chosen) -> None:
        """Note the log-probability of a token at the block that its text belongs to, also where that comes later."""
        place = self._reply.place(chosen.token)
        if place is None:
            return
        part, call = place
        stretch, own = ("call", call) if part in ("name", "arguments") else (part, -1), [chosen]
        if not self._stretches or self._stretches[-1] != stretch:
            if not self.service.bytes_of(chosen.token):
                self._wordless.append((stretch, chosen))
                return
            own = [token for kind, token in self._wordless if kind == stretch] + own
            self._wordless.clear()
            self._stretches.append(stretch)
        self.logprobs.setdefault(len(self._stretches) - 1, []).extend(token_logprobs(self.service, own))

    @property
    def cut(self) -> bool:
        """Whether a limit has ended the answer, and with it its last item."""
        return self.finish in ("length", "deadline")

    def told(self, status: str = "") -> Piece:
        """The response, whole or as far as it is."""
        asked, cut = self.asked, self.cut
        status = status or ("incomplete" if cut else "completed")
        last = len(self.blocks.all) - 1
        output = [
            _item(block, "incomplete" if cut and block.index == last else "completed", self.logprobs.get(block.index))
            for block in self.blocks.all
        ]
        done = status != "in_progress"
        found = {
            "id": self._name, "object": "response", "created_at": self._created, "status": status, "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if done and cut else None,
            "instructions": asked.instructions, "max_output_tokens": asked.max_output_tokens, "metadata": {},
            "model": self.service.model.name, "output": output, "previous_response_id": None,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "reasoning": {"effort": (asked.reasoning or {}).get("effort"), "summary": None},
            "store": False, "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "text": asked.text or {"format": {"type": "text"}}, "tool_choice": asked.tool_choice or "auto",
            "tools": asked.tools or [], "top_logprobs": asked.top_logprobs or 0,
            "top_p": 1.0 if asked.top_p is None else asked.top_p, "truncation": "disabled",
            "usage": self._usage() if done else None, "system_fingerprint": self.service.fingerprint,
        }  # fmt: skip
        record = {"record": self.service.record(self.job, self.blocks.text("content"))} if done and asked.record else {}
        return found | record

    def _usage(self) -> Piece:
        told = usage([self.job], 1)
        reasoning = told["completion_tokens_details"]["reasoning_tokens"]
        return {
            "input_tokens": told["prompt_tokens"], "output_tokens": told["completion_tokens"],
            "total_tokens": told["total_tokens"], "output_tokens_details": {"reasoning_tokens": reasoning},
            "input_tokens_details": told["prompt_tokens_details"] | {"cache_write_tokens": 0},
        }  # fmt: skip


async def response(service: Service, asked: Responses, jobs: list[Job]) -> Piece:
    """A whole response."""
    found = _Response(service, asked, jobs[0])
    async for update in updates(service, jobs[0]):
        for _ in found.take(update):
            pass
    return found.told()


async def stream_response(service: Service, asked: Responses, jobs: list[Job]) -> AsyncIterator[str]:
    """A response as events, which are numbered."""
    found, number = _Response(service, asked, jobs[0]), 0

    def told(kind: str, values: Piece) -> str:
        nonlocal number
        number += 1
        return sent({"type": f"response.{kind}", "sequence_number": number - 1} | values, f"response.{kind}")

    for kind in ("created", "in_progress"):
        yield told(kind, {"response": found.told("in_progress")})
    async for update in updates(service, jobs[0]):
        for event, logprobs in found.take(update):
            for kind, values in _events(event, logprobs, found):
                yield told(kind, values)
    whole = found.told()
    yield told(whole["status"], {"response": whole})


def _events(event: Event, logprobs: list[Piece], found: _Response) -> Iterator[tuple[str, Piece]]:
    """Names and values of the events that tell what happened to a block."""
    block = event.block
    call, all_logprobs = block.kind == "call", found.logprobs.get(block.index) or []
    ended = "incomplete" if event.last and found.cut else "completed"
    item = _item(block, ended if event.what == "end" else "in_progress", all_logprobs)
    place: Piece = {"item_id": item["id"], "output_index": block.index} | ({} if call else {"content_index": 0})
    name = {"call": "function_call_arguments", "reasoning": "reasoning_text", "content": "output_text"}[block.kind]
    if event.what == "begin":
        yield "output_item.added", {"output_index": block.index, "item": item}
        if not call:
            yield "content_part.added", place | {"part": _part(block, text="")}
    elif event.what == "text":
        yield (
            f"{name}.delta",
            place | {"delta": event.text} | ({"logprobs": logprobs} if block.kind == "content" else {}),
        )
    else:
        whole = {"arguments": block.text, "name": block.name} if call else {"text": block.text}
        yield f"{name}.done", place | whole | ({"logprobs": all_logprobs} if block.kind == "content" else {})
        if not call:
            yield "content_part.done", place | {"part": _part(block, all_logprobs)}
        yield "output_item.done", {"output_index": block.index, "item": item}
