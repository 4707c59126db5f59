"""From lines of JSON to conversations as tokens, with what of them is learnt.

A line holds one conversation: OpenAI's list of messages, or, where the recipe declares keys, a question and its answer.
The chat renderer builds ids from pieces (:mod:`clearseek.chat.render`), so a text that spells ``<｜Assistant｜>`` stays
text, and a model learns only what it must write itself: the assistant's messages and the tokens that end them. An
assistant's message with ``"weight": 0`` (OpenAI's form) is read and not learnt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clearseek.chat.messages import Message, conversation
from clearseek.chat.render import render
from clearseek.config import DataConfig, ProblemsConfig, Recipe, SftConfig
from clearseek.data.find import Finder
from clearseek.data.manifest import Manifest
from clearseek.data.packs import Example, Reading, prepare_packs
from clearseek.data.readers import opened
from clearseek.data.rows import MAX_DOCUMENT_BYTES, UnusableError, has_field, resolve
from clearseek.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from clearseek.errors import UserError, nearest
from clearseek.jsontext import strict_json

_SPELLED = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
_KINDS = {bool: "true or false", int: "a number", float: "a number", dict: "an object", list: "a list",
          type(None): "null"}  # fmt: skip
_MOST_SKIPPED = 100


def prepare(
    recipe: Recipe, tokenizer: Tokenizer, out: str | Path, progress: Callable[[str, int, int], None] | None = None,
    base: Path | None = None,
) -> Manifest:  # fmt: skip
    """Make the folder of a fine-tuning recipe's packed conversations, or check and reuse it.

    Args:
        recipe: A recipe with the table ``[sft]``.
        tokenizer: The parent's.
        out: The folder to make.
        progress: Callback for the work done so far.
        base: Folder from which relative paths start; the working directory by default.

    Raises:
        UserError: a line is unusable (the message names file, line and key), or what
            :func:`clearseek.data.packs.prepare_packs` refuses.
    """
    assert recipe.sft is not None
    reading, source = Reading(), str(recipe.data.source)
    if recipe.sft.demonstrations:
        assert recipe.problems is not None
        licence = recipe.data.licence if recipe.problems.tasks else "Apache-2.0"
        examples = demonstrations(recipe.problems, recipe.sft.demonstrations, tokenizer, licence)
        source = recipe.problems.kind
    else:
        examples = read_conversations(recipe.data, recipe.sft, tokenizer, reading, base or Path.cwd())
    return prepare_packs(
        examples, tokenizer, recipe.data, recipe.sft, 1 + recipe.model.num_nextn_predict_layers,
        recipe.model.vocab_size, out, source=source, reading=reading, problems=recipe.problems, progress=progress,
    )  # fmt: skip


def demonstrations(
    config: ProblemsConfig, count: int, tokenizer: Tokenizer, licence: str = "Apache-2.0"
) -> Iterator[Example]:
    """The first `count` different problems to train on, with their solutions, which alone are learnt.

    What ClearSeek's generators make has the licence of the code. Raises UserError where there are not so many, or one
    has no solution.
    """
    from clearseek.problems.problems import Problems
    from clearseek.problems.prompts import demonstration

    problems, seen = Problems(config), set[str]()
    for index in range(10_000 + 10 * count):
        if len(seen) == count:
            return
        problem = problems.train(index)
        if problem.prompt not in seen:
            seen.add(problem.prompt)
            if not problem.solution:
                raise UserError(f"[problems]: {problem.prompt!r:.60} has no solution to learn: add it to problems.file")
            rendered = demonstration(tokenizer, problem, config.template)
            yield Example(f"{config.kind}:{index}", rendered.ids, rendered.written, config.kind, licence)
    raise UserError(f"sft.demonstrations = {count}: only {len(seen)} different problems were found: ask for fewer")


def read_conversations(
    data: DataConfig, sft: SftConfig, tokenizer: Tokenizer, reading: Reading, base: Path
) -> Iterator[Example]:
    """Conversations of the files that `data.paths` names, in the order of files and lines.

    `reading` counts unusable lines, where `data.unusable` leaves them out, and special tokens spelled in texts. Raises
    UserError for an unusable line otherwise, and for a file that cannot be read or has no line.
    """
    finder = Finder(base)
    files = finder.find(data.paths, data.exclude)
    reading.passed_over.update(finder.passed_over)
    lines = _Lines(sft, tokenizer, reading)
    for name, path in files:
        empty = True
        for number, raw in _raw_lines(name, path):
            empty, where = False, f"{name}:{number}"
            try:
                rendered = lines.render(where, raw)
            except UnusableError as error:
                if data.unusable == "refuse":
                    raise UserError(f'{error} (data.unusable = "skip" leaves out what is unusable)') from None
                reading.unusable[error.cause] += 1
                reading.skipped += [where] if len(reading.skipped) < _MOST_SKIPPED else []
                continue
            yield Example(where, *rendered, data.source, data.licence)
        if empty and data.unusable == "refuse":
            raise UserError(f"{name}: no line with a conversation: the file is empty; narrow data.paths")
        reading.rowless += empty
    lines.refuse_unused()


def _raw_lines(name: str, path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines of a file that are not blank, with their numbers from 1; of one that is too long, its first part."""
    with opened(path, "JSON lines", frozenset({"UTF-8 BOM"})) as file:
        number = 0
        while line := file.readline(MAX_DOCUMENT_BYTES + 1):
            number += 1
            if line.strip():
                yield number, line
            while len(line) > MAX_DOCUMENT_BYTES and not line.endswith(b"\n"):
                line = file.readline(MAX_DOCUMENT_BYTES + 1)


class _Lines:
    """What a recipe says of lines, applied to each."""

    def __init__(self, sft: SftConfig, tokenizer: Tokenizer, reading: Reading) -> None:
        self._sft, self._tokenizer, self._reading = sft, tokenizer, reading
        self._strip = None if sft.strip is None else re.compile(sft.strip)
        self._systems = self._mapped = self._stripped = 0

    def render(self, where: str, raw: bytes) -> tuple[list[int], list[bool]]:
        """Ids of a line's conversation, and which are learnt. Raises UnusableError, which names the key."""
        if len(raw) > MAX_DOCUMENT_BYTES:
            raise UnusableError("too long", f"{where}: longer than {MAX_DOCUMENT_BYTES >> 20} MiB: shorten it")
        try:
            row = strict_json(raw.strip(), where)
        except UserError as error:
            raise UnusableError("not JSON", f"{error}: give one JSON object a line") from None
        messages, tools = self._messages(where, row)
        try:
            checked = self._checked(messages)
            found = render(self._tokenizer, checked, tools, self._sft.thinking, prompt=False)
            written = self._weighted(checked, found.ids, found.written)
        except UserError as error:
            problem = re.sub(r"^messages\b", self._sft.messages.replace("\\", r"\\"), str(error))
            raise UnusableError("not conversations", f"{where}: {problem}") from None
        except RecursionError:
            raise UnusableError("not conversations", f"{where}: nested too deeply") from None
        self._reading.spelled += sum(len(_SPELLED.findall(text)) for text in _texts([checked, tools]))
        return found.ids, written

    def refuse_unused(self) -> None:
        """Raise UserError for a declared key or expression that no line had: it is hardly what was meant."""
        if self._sft.system is not None and self._mapped and not self._systems:
            raise UserError(f'sft.system = "{self._sft.system}": no line has this key: correct it, or leave it out')
        if self._strip is not None and not self._stripped:
            raise UserError(f"sft.strip = {self._sft.strip!r} matches nothing in any answer: correct it")

    def _messages(self, where: str, row: dict[str, Any]) -> tuple[Any, Any]:
        """A line's messages and tools, from its keys."""
        sft = self._sft
        if has_field(row, sft.messages):
            return resolve(row, sft.messages), resolve(row, sft.tools) if has_field(row, sft.tools) else None
        if sft.prompt is None or sft.answer is None:
            raise UnusableError(
                f'without "{sft.messages}"',
                f'{where}: no key "{sft.messages}"{nearest(sft.messages, list(row))}; keys: {_listed(row)}: set '
                "sft.messages, or sft.prompt and sft.answer",
            )
        self._mapped += 1
        messages = [
            {"role": "user", "content": self._text(where, row, "prompt", sft.prompt)},
            {"role": "assistant", "content": self._text(where, row, "answer", sft.answer)},
        ]
        if sft.system is not None and has_field(row, sft.system) and resolve(row, sft.system) not in (None, ""):
            self._systems += 1
            messages.insert(0, {"role": "system", "content": self._text(where, row, "system", sft.system)})
        return messages, None

    def _text(self, where: str, row: dict[str, Any], setting: str, key: str) -> str:
        if not has_field(row, key):
            raise UnusableError(
                f'without "{key}"',
                f'{where}: no key "{key}"{nearest(key, list(row))}; keys: {_listed(row)}: set sft.{setting}',
            )
        value = resolve(row, key)
        if not isinstance(value, str):
            kind = _KINDS.get(type(value), type(value).__name__)
            raise UnusableError("not text", f'{where}: "{key}" is {kind}, not text: set sft.{setting}')
        if not value:
            raise UnusableError("empty", f'{where}: "{key}" is empty: remove the line')
        return value

    def _checked(self, messages: Any) -> list[Message]:
        """The messages with answers stripped. Raises UserError, beginning with ``messages``, for what is not learnt."""
        checked = conversation(messages)
        _refuse_misplaced(checked, messages)
        answers = 0
        for index, (message, given) in enumerate(zip(checked, messages, strict=True)):
            where = f"messages[{index}]"
            weight = given.get("weight", 1)
            if type(weight) is not int or weight not in (0, 1) or (weight == 0 and message["role"] != "assistant"):
                raise UserError(f"{where}.weight: {weight!r:.40}: use 0 or 1, in an assistant's message")
            if message["role"] != "assistant":
                continue
            message["weight"] = weight
            if self._strip is not None:
                message["content"], count = self._strip.subn("", message["content"])
                self._stripped += count
            for number, call in enumerate(message.get("tool_calls", ())):
                _refuse_other_arguments(call["function"]["arguments"], f"{where}.tool_calls[{number}].function")
            answers += weight
        if not answers:
            raise UserError("messages: no answer to learn: give a message of the assistant")
        return checked

    def _weighted(self, checked: list[Message], ids: list[int], written: list[bool]) -> list[bool]:
        """What is learnt: of the written tokens, those of messages with weight. Raises UserError for an empty answer.

        Thoughts count as text only where the template writes them: in the last turn, with `sft.thinking`.
        """
        answers = [(index, message["weight"]) for index, message in enumerate(checked) if "weight" in message]
        learnt, number, size = list(written), 0, 0
        for place, (token, own) in enumerate(zip(ids, written, strict=True)):
            if not own:
                continue
            index, weight = answers[number]
            learnt[place], size = bool(weight), size + 1
            if token == self._tokenizer.eos_id:  # the token ends each of the assistant's messages
                if size == 1:
                    why = "reasoning alone is learnt in the last turn, with sft.thinking"
                    raise UserError(f"messages[{index}].content: an answer without text ({why})")
                number, size = number + 1, 0
        return learnt


def _refuse_misplaced(checked: list[Message], given: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError for a message that the template would show at another place, or in part."""
    called = False
    for index, (message, raw) in enumerate(zip(checked, given, strict=True)):
        where, role = f"messages[{index}]", message["role"]
        if role == "system" and index:
            second = any(each["role"] == "system" for each in checked[:index])
            fault = "a second system message: join it with the first" if second else "a system message comes first"
            raise UserError(f"{where}.role: {fault}")
        if role == "tool" and not called:
            raise UserError(
                f"{where}.role: a tool's result without a call right before it: give the call, or leave it out"
            )
        called = called if role == "tool" else "tool_calls" in message
        if "function_call" in raw:
            raise UserError(f"{where}.function_call: an old form: use tool_calls")
        for key in ("tool_calls", "reasoning_content", "reasoning"):
            if role != "assistant" and raw.get(key):
                raise UserError(f"{where}.{key}: only the assistant's messages have this: leave it out")


def _refuse_other_arguments(arguments: str, where: str) -> None:
    """Raise UserError for arguments of a call that are no JSON object: a model would learn to write them."""
    try:
        strict_json(arguments.encode(), "")
    except UserError as error:
        raise UserError(f"{where}.arguments{error}: give a JSON object") from None


def _listed(row: dict[str, Any]) -> str:
    return ", ".join(list(row)[:12])[:200] or "none"


def _texts(value: Any) -> Iterator[str]:
    """All texts inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
