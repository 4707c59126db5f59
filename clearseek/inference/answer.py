"""An answer as text, and its record: all that is needed to derive it again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from clearseek.chat.reply import Part, Reply
from clearseek.errors import UserError
from clearseek.files import write_atomic
from clearseek.inference.grammar import Grammar, Grammars
from clearseek.inference.model import Model, environment
from clearseek.inference.request import Chosen, Finish, Request, Settings
from clearseek.inference.text import Bytes, Text

LARGEST_RECORD = 64 << 20
"""Most bytes of a record that is read."""


class Delta(NamedTuple):
    """A piece of an answer's text."""

    part: Part
    call: int
    """Number of the tool's call that the piece belongs to, or -1."""
    text: str


class Answer:
    """A request whose tokens become text as they are drawn; stop texts and a grammar may end it."""

    def __init__(
        self, request: Request, bytes_of: Bytes, stops: Sequence[str] = (), reply: Reply | None = None,
        grammar: Grammar | None = None,
    ) -> None:  # fmt: skip
        """`reply` tells parts of the answer apart; stop texts count in its content. `grammar` restricts its content."""
        self.request, self.stops, self.grammar = request, tuple(stops), grammar
        self._bytes_of, self.reply = bytes_of, reply
        self._place: tuple[Part, int] = ("content", -1)
        self._text = Text(bytes_of, self.stops)
        self._deltas: list[Delta] = []
        self._ended = False
        request.guide = self

    def allow(self, logits_V: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits with those of tokens that the grammar forbids at minus infinity.

        While the model thinks, that is what would end the answer: content that follows the grammar is still to come.
        """
        if self.grammar is None:
            return logits_V
        if self._ruled:
            return self.grammar.allow(logits_V)
        logits_V = logits_V.copy()
        logits_V[[token for token in self.request.settings.stop_tokens if 0 <= token < len(logits_V)]] = -np.inf
        return logits_V

    @property
    def _ruled(self) -> bool:
        """Whether the next token is the grammar's."""
        return self.grammar is not None and (self.reply is None or self.reply.part != "reasoning")

    def saw(self, token: int) -> bool:
        """Note a token; whether the answer ends with it."""
        ruled = self._ruled
        place = self.reply.place(token) if self.reply is not None else ("content", -1)
        if place is None or place != self._place:
            self._note(self._text.end())
            self._place = place or self._place
            self._text = Text(self._bytes_of, self.stops if self._place[0] == "content" else ())
        if place is not None:
            self._note(self._text.add(token))
        return self._text.stopped is not None or (ruled and self.grammar is not None and self.grammar.saw(token))

    @property
    def stopped(self) -> str | None:
        """The stop text that ended the answer."""
        return self._text.stopped

    def take(self) -> list[Delta]:
        """Pieces that came since the last call, and the rest of them once the request has ended."""
        if self.request.finish is not None and not self._ended:
            self._ended = True
            self._note(self._text.end())
        new, self._deltas = self._deltas, []
        return new

    def _note(self, text: str) -> None:
        if text:
            self._deltas.append(Delta(*self._place, text))


def joined(deltas: Iterable[Delta], part: Part = "content") -> str:
    """The text of one part."""
    return "".join(delta.text for delta in deltas if delta.part == part)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _hexadecimal(text: str) -> str:
    """The text of a number as :meth:`float.hex` writes it. Raises ValueError for another text."""
    try:
        same = float.fromhex(text).hex() == text
    except (ValueError, OverflowError):
        same = False
    if not same:
        raise ValueError(f"{text[:40]!r} is not a number as float.hex writes it")
    return text


Id = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
IdText = Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,8})$")]
Hexadecimal = Annotated[str, AfterValidator(_hexadecimal)]


class _Draws(_Strict):
    """Settings as a record writes them."""

    max_tokens: Count
    temperature: float
    top_p: float
    top_k: Count
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: dict[IdText, float]
    seed: Count
    stop_tokens: list[Id]


class Record(_Strict):
    """An answer, and what decides it. Log-probabilities are hexadecimal, so every bit of them is kept."""

    form: Literal["clearseek-answer-1"] = "clearseek-answer-1"
    model: str
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    environment: dict[str, str]
    prompt: list[Id]
    settings: _Draws
    stop: list[str] = []
    thinking: bool | None = None
    """Whether the answer began with thinking; None for plain text, where no token divides."""
    tools: bool = False
    json_schema: str | None = None
    """JSON schema of the answer's content as text, or a grammar of its calls in Lark's form."""
    answer: list[Id]
    logprobs: list[Hexadecimal] = []
    """One for each token of the answer, or none."""
    finish: Finish
    text: str = ""

    @field_validator("logprobs")
    @classmethod
    def _one_for_each_token(cls, logprobs: list[str], info: ValidationInfo) -> list[str]:
        tokens = len(info.data.get("answer", logprobs))
        if logprobs and len(logprobs) != tokens:
            raise ValueError(f"{len(logprobs)} log-probabilities for {tokens} tokens")
        return logprobs

    def save(self, file: Path) -> None:
        """Write the record atomically."""
        write_atomic(file, (self.model_dump_json(indent=1) + "\n").encode())


def record_of(model: Model, answer: Answer, text: str) -> Record:
    """The record of an ended answer."""
    request, reply = answer.request, answer.reply
    draws = {key: getattr(request.settings, key) for key in _Draws.model_fields}
    draws["logit_bias"] = {str(token): value for token, value in request.settings.logit_bias.items()}
    draws["stop_tokens"] = sorted(request.settings.stop_tokens)
    return Record(
        model=model.name, weights_sha256=model.weights_sha256, environment=environment(model.packed),
        prompt=request.prompt, settings=_Draws(**draws), stop=list(answer.stops),
        thinking=None if reply is None else reply.thinking, tools=reply is not None and reply.tools,
        json_schema=None if answer.grammar is None else answer.grammar.schema,
        answer=[chosen.token for chosen in request.answer],
        logprobs=[chosen.logprob.hex() for chosen in request.answer if chosen.logprob is not None],
        finish=request.finish or "aborted", text=text,
    )  # fmt: skip


def read_record(file: Path) -> Record:
    """Read a record, or the one that a server's response holds.

    Raises UserError with the first thing that is wrong in it.
    """
    try:
        if file.stat().st_size > LARGEST_RECORD:
            raise UserError(f"{file}: larger than {LARGEST_RECORD >> 20} MiB: give the record of one answer")
        return Record.model_validate_json(_of_response(file.read_bytes()))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}: give a record that chat or the server has saved") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise UserError(f"{file}: {where}: {first['msg']}: give a record that chat or the server has saved") from None


def _of_response(text: bytes) -> bytes:
    """The only record within a server's response; any other text as it is."""
    with suppress(ValueError, RecursionError):
        response = json.loads(text)
        if isinstance(response, dict):
            choices = response.get("choices")
            parts = choices if isinstance(choices, list) else [response]
            records = [part["record"] for part in parts if isinstance(part, dict) and "record" in part]
            if len(records) == 1:
                return json.dumps(records[0]).encode()
    return text


@dataclass(frozen=True)
class Derivation:
    """How a derived answer compares with its record."""

    tokens: int
    """Tokens of the record."""
    differs: int | None
    """Place of the first token, or of the first log-probability, that differs; None where all bits are the same."""
    what: str = ""
    """What differs there."""
    notes: list[str] = field(default_factory=list)
    """What is not as it was: weights, environment."""


def derive(model: Model, record: Record, pages: int) -> Derivation:
    """Derive a recorded answer again, and compare every token and log-probability."""
    notes = _differences(model, record)
    draws = record.settings.model_dump()
    bias = {int(token): value for token, value in draws.pop("logit_bias").items()}
    stops = frozenset(draws.pop("stop_tokens"))
    settings = Settings(**draws, logit_bias=bias, stop_tokens=stops, logprobs=0 if record.logprobs else None)
    largest = max((*record.prompt, *record.answer), default=0)
    if largest >= model.config.vocab_size:
        raise UserError(
            f"the record has token {largest}, but the model knows {model.config.vocab_size}: give its model"
        )
    request = Request(list(record.prompt), settings)
    reply = None if record.thinking is None else Reply(model.tokenizer, record.thinking, record.tools)
    grammar = (
        None
        if record.json_schema is None
        else Grammars(model.tokenizer, model.config.vocab_size).of_text(record.json_schema)
    )
    Answer(request, Bytes(model.tokenizer), record.stop, reply, grammar)
    model.engine(pages).run([request])
    place, what = _first_difference(record, request)
    return Derivation(len(record.answer), place, what, notes)


def _differences(model: Model, record: Record) -> list[str]:
    notes = []
    if model.weights_sha256 != record.weights_sha256:
        notes.append(f"other weights: {model.weights_sha256[:16]}… instead of {record.weights_sha256[:16]}…")
    here = environment(model.packed)
    for key in sorted(here.keys() | record.environment.keys()):
        if here.get(key) != record.environment.get(key):
            notes.append(f"{key}: {here.get(key, 'none')} instead of {record.environment.get(key, 'none')}")
    return notes


def _first_difference(record: Record, request: Request) -> tuple[int | None, str]:
    cut: tuple[Finish, ...] = ("aborted", "deadline")
    derived = request.answer[: len(record.answer)] if record.finish in cut else request.answer
    for place in range(max(len(derived), len(record.answer))):
        old = record.answer[place] if place < len(record.answer) else None
        new: Chosen | None = derived[place] if place < len(derived) else None
        if new is None or new.token != old:
            return place, f"token {new.token if new else 'none'} instead of {'none' if old is None else old}"
        if record.logprobs and new.logprob is not None and new.logprob.hex() != record.logprobs[place]:
            return place, f"log-probability {new.logprob!r} instead of {float.fromhex(record.logprobs[place])!r}"
    if record.finish not in cut and request.finish != record.finish:
        return len(record.answer), f"it ended by {request.finish} instead of {record.finish}"
    return None, ""


def json_of(record: Record) -> dict[str, Any]:
    """The record as JSON values."""
    return record.model_dump(mode="json")
