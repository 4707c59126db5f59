"""From one row of data to the text of one document, and which documents are usable.

A row comes from JSON or Parquet: the text is in a field, perhaps inside another field (``doc.body``). A field with a
conversation (a list of messages with their roles) becomes prose with the speakers' names before their turns. Such prose
does not follow DeepSeek's chat template, which consists of special tokens, because text never becomes a special token.
The template's own tokens are for post-training, where only the answers are learnt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from clearseek.errors import UserError, nearest

MAX_DOCUMENT_BYTES = 16 * 2**20
"""Bytes of the longest document and of the longest line; tokenising takes about 150 bytes of memory for each byte."""
_ROLES = {"human": "User", "gpt": "Assistant", "bot": "Assistant", "model": "Assistant", "prompter": "User"}
"""Names of the speakers in data sets, and in our prose; every other name is only capitalised."""
_TYPES = {bool: "true or false", int: "a number", float: "a number", dict: "an object", list: "a list"}
_MISSING = object()


class UnusableError(UserError):
    """A document that cannot be used; documents are counted by the short `cause`."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


def parse(text: str) -> Any:
    """A JSON value; numbers become floats, because JSON's integers may have any length and no number is text.

    A byte order mark is dropped, because concatenated files have one at the beginning of each part.
    """
    return json.loads(text.removeprefix("\ufeff"), parse_int=float)


def row_text(where: str, row: Any, field: str) -> bytes | UnusableError:
    """UTF-8 bytes of the text in a row's field, or why the row is unusable; `where` starts the message."""
    if not isinstance(row, dict):
        return UnusableError("not objects", f'{where}: not a JSON object, such as {{"{field}": "..."}}')
    value = resolve(row, field)
    if value is _MISSING:
        names = list(_names(row))
        known = f"; fields: {', '.join(names[:12])}" if names else ""
        problem = f'{where}: no field "{field}"{nearest(field, names)}{known}: set data.text_field'
        return UnusableError(f'without "{field}"', problem)
    return value_text(where, value, field)


def value_text(where: str, value: Any, field: str) -> bytes | UnusableError:
    """UTF-8 bytes of a field's value, or why the value is unusable."""
    if isinstance(value, list) and value and all(isinstance(message, dict) for message in value):
        value = _conversation(value)
        if value is None:
            problem = f'{where}: "{field}" is a list of objects, but not of messages with role and content'
            return UnusableError("not messages", problem)
    if isinstance(value, bytes):
        return value  # the reader checks that the bytes are UTF-8
    if value is None:
        return UnusableError("null", f'{where}: "{field}" is null: remove the row')
    if not isinstance(value, str):
        what = _TYPES.get(type(value), type(value).__name__)
        return UnusableError("not text", f'{where}: "{field}" is {what}, not text: set data.text_field')
    try:
        return value.encode()
    except UnicodeEncodeError:
        return UnusableError(
            "lone surrogates", f"{where}: a lone surrogate escape (\\ud800 to \\udfff) is not text: remove it"
        )


def too_long(where: str) -> UnusableError:
    """Why a document above the limit is unusable."""
    return UnusableError(
        "too long", f"{where}: longer than {MAX_DOCUMENT_BYTES >> 20} MiB: split the document into several"
    )


def not_utf8(where: str) -> UnusableError:
    """Why bytes that are not UTF-8 are unusable."""
    cure = "convert the file, for example with iconv -f LATIN1 -t UTF-8"
    return UnusableError("not UTF-8", f"{where}: not UTF-8 text: {cure}")


def usable_text(where: str, content: bytes | UnusableError) -> str:
    """The text of a document's bytes. Raises UnusableError when the bytes are not a usable text."""
    if isinstance(content, UnusableError):
        raise content
    if not content:
        raise UnusableError("empty", f"{where}: the document is empty: remove it, or narrow data.paths")
    if len(content) > MAX_DOCUMENT_BYTES:
        raise too_long(where)
    if b"\0" in content:
        raise UnusableError(
            "NUL bytes", f"{where}: a NUL byte at {content.index(0)}: this is not text; narrow data.paths"
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UnusableError(
            "not UTF-8",
            f"{where}: not UTF-8 (byte {error.start}): convert it, for example with iconv -f LATIN1 -t UTF-8, "
            "or narrow data.paths",
        ) from None


def resolve(row: dict[str, Any], field: str) -> Any:
    """The value of a field: under the whole name, or else under the names between the dots, one inside the other."""
    value: Any = row.get(field, _MISSING)
    if value is _MISSING and "." in field:
        value = row
        for name in field.split("."):
            value = value.get(name, _MISSING) if isinstance(value, dict) else _MISSING
    return value


def has_field(row: Any, field: str) -> bool:
    """Whether a JSON value is an object with this field."""
    return isinstance(row, dict) and resolve(row, field) is not _MISSING


def _names(row: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in row.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{name}.") if prefix.count(".") < 3 else ()


def _conversation(messages: list[dict[str, Any]]) -> str | None:
    """Messages as prose, or None where the objects are not messages."""
    turns = []
    for message in messages:
        role, content = (_either(message, *names) for names in (("role", "from"), ("content", "value")))
        if isinstance(content, list):  # a list of pieces, some of them pictures
            texts = [piece.get("text") if isinstance(piece, dict) else piece for piece in content]
            good = all(text is None or isinstance(text, str) for text in texts)
            content = "\n".join(text or "" for text in texts) if good else None
        if calls := message.get("tool_calls"):
            content = (content or "") + json.dumps(calls, ensure_ascii=False, default=str)
        if not isinstance(role, str) or not isinstance(content, str):
            return None
        turns.append(f"{_ROLES.get(role, role.capitalize())}: {content}")
    return "\n\n".join(turns) + "\n"


def _either(message: dict[str, Any], name: str, other: str) -> Any:
    """A message's field under either name; Parquet gives every row the fields of all rows, as nulls."""
    value = message.get(name)
    return message.get(other) if value is None else value
