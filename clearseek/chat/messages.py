"""Conversations as OpenAI's clients send them, checked and brought into one form."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from clearseek.errors import UserError

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}

Message = dict[str, Any]


def conversation(messages: Any) -> list[Message]:
    """Messages with known roles and texts as strings; results of tools stand in the order of their calls.

    The template names no call beside a result, so a model can tell results apart by their order alone.

    Args:
        messages: OpenAI's form: `role`, and `content` as text or as parts of text; an assistant's `reasoning_content`
            (or `reasoning`) and `tool_calls`; a tool's `tool_call_id`, which only the result of a lone call may lack.

    Raises:
        UserError: a message is of another form; the error names it, such as ``messages[2].content``.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise UserError("messages: give a list of at least one message")
    found = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    start = 0
    for role, group in itertools.groupby(found, lambda message: message["role"]):
        end = start + len(list(group))
        if role == "tool":
            found[start:end] = _in_order(_calls_before(found, start), found[start:end], start)
        start = end
    return found


def tool_list(tools: Any) -> list[Mapping[str, Any]]:
    """Tools as ``{"name", "description", "parameters"}`` with the parameters' schema as JSON text."""
    if tools is None:
        return []
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise UserError("tools: give a list")
    found: list[Mapping[str, Any]] = []
    for index, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise UserError(f"tools[{index}]: give a function with a name")
        parameters = function.get("parameters") or {}
        description = _text(function.get("description"), f"tools[{index}].description")
        found.append(
            {
                "name": function["name"],
                "description": description,
                "parameters": as_json(parameters, f"tools[{index}].parameters"),
            }
        )
    return found


def as_json(value: Any, where: str) -> str:
    """JSON text as the template writes it. Raises UserError for a number above all that JSON has, such as 1e999."""
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise UserError(f"{where}: a number without end: give one that a computer can hold") from None


def _calls_before(messages: Sequence[Message], end: int) -> list[str]:
    """Ids of the calls in the assistant's messages right before a place, in order; empty texts where they have none."""
    before = itertools.takewhile(lambda message: message["role"] == "assistant", reversed(messages[:end]))
    return [call["id"] for message in reversed(list(before)) for call in message.get("tool_calls", ())]


def _in_order(calls: Sequence[str], results: list[Message], start: int) -> list[Message]:
    """Results in the order of their calls. Raises UserError where ids do not join each call with one result."""
    if not calls or (len(calls) == len(results) == 1 and not (calls[0] and results[0]["tool_call_id"])):
        return results
    known, places = set(calls), dict[str, Message]()
    if "" in known or len(known) < len(calls):
        raise UserError(f"messages[{start}]: results follow calls without ids: give each call an id of its own")
    for index, result in enumerate(results, start):
        name = result["tool_call_id"]
        if name not in known or name in places:
            fault = "a second result of one call" if name in places else "no such call right before it"
            raise UserError(f"messages[{index}].tool_call_id: {name[:80]!r}: {fault}: give the call's id")
        places[name] = result
    missing = [name for name in calls if name not in places]
    if missing:
        raise UserError(f"messages[{start}]: the call {missing[0][:80]!r} has no result: give a result of each call")
    return [places[name] for name in calls]


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise UserError(f"{where}: give an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise UserError(f"{where}.role: {role!r:.60}: use system, user, assistant or tool")
    found: Message = {"role": ROLES[role], "content": _text(message.get("content"), f"{where}.content")}
    calls = message.get("tool_calls")
    if role == "assistant":
        named = message.get("reasoning_content")
        reasoning = message.get("reasoning") if named is None else named
        found["reasoning_content"] = _text(reasoning, f"{where}.reasoning_content")
        if calls:
            found["tool_calls"] = [
                _call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(_list(calls, where))
            ]
    elif message.get("content") is None:
        raise UserError(f"{where}.content: give a text")
    if role == "tool":
        found["tool_call_id"] = _id(message.get("tool_call_id"), f"{where}.tool_call_id")
    return found


def _list(calls: Any, where: str) -> Sequence[Any]:
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise UserError(f"{where}.tool_calls: give a list")
    return calls


def _call(call: Any, where: str) -> Mapping[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise UserError(f"{where}: give a function with name and arguments")
    inner = {
        "name": function["name"],
        "arguments": as_json(function.get("arguments") or {}, f"{where}.function.arguments"),
    }
    return {"id": _id(call.get("id"), f"{where}.id"), "function": inner}


def _id(value: Any, where: str) -> str:
    """The id of a call, or an empty text for none."""
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: give a text")
    return value or ""


def _text(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return _sound(content, where)
    if not isinstance(content, Sequence):
        raise UserError(f"{where}: give a text, or a list of parts of text")
    pieces = []
    for index, part in enumerate(content):
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
            raise UserError(f"{where}[{index}]: {kind or 'no part'!s:.60}: this model reads text alone")
        pieces.append(_sound(part["text"], f"{where}[{index}].text"))
    return "".join(pieces)


def _sound(text: str, where: str) -> str:
    """The text. Raises UserError for half a surrogate pair, which no encoding of Unicode can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: character {error.start} is half of a surrogate pair: send whole characters"
        ) from None
    return text
