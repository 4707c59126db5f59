"""Answers by a grammar, and records that strangers wrote."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.chat.reply import Reply
from clearseek.cli import main
from clearseek.errors import UserError
from clearseek.inference.answer import Answer, derive, joined, json_of, read_record, record_of
from clearseek.inference.grammar import Grammars
from clearseek.inference.model import Model
from clearseek.inference.request import Request, Settings
from clearseek.inference.text import Bytes
from tests.serve.served import tiny_model

PAGES = 20
model = cache(tiny_model)


def answered(ending: float = 0.0, thinking: bool = True) -> Answer:
    """An answer with a schema, by a model that would like to end it at once, or to end its thinking."""
    tiny: Model = model()
    end, thought = tiny.tokenizer.eos_id, tiny.tokenizer.id_of("</think>")
    drawn = Settings(
        max_tokens=200, seed=3, stop_tokens=frozenset({end}), logit_bias={end: ending, thought: 6.0}, logprobs=0
    )
    grammar = Grammars(tiny.tokenizer, tiny.config.vocab_size).of_schema({"enum": ["yes", "no"]})
    answer = Answer(Request([5, 6, 7], drawn), Bytes(tiny.tokenizer), (), Reply(tiny.tokenizer, thinking), grammar)
    tiny.engine(PAGES).run([answer.request])
    return answer


@pytest.mark.parametrize("ending", [0.0, 30.0])
def test_an_answer_cannot_end_before_its_content_while_it_thinks(ending: float) -> None:
    answer = answered(ending)
    deltas = answer.take()
    assert answer.request.finish == "stop"
    assert json.loads(joined(deltas)) in ("yes", "no")
    assert joined(deltas, "reasoning")


def test_thinking_ends_by_a_stop_token_where_no_content_must_follow() -> None:
    tiny: Model = model()
    end = tiny.tokenizer.eos_id
    drawn = Settings(max_tokens=50, stop_tokens=frozenset({end}), logit_bias={end: 100.0})
    answer = Answer(Request([5], drawn), Bytes(tiny.tokenizer), (), Reply(tiny.tokenizer, True))
    tiny.engine(PAGES).run([answer.request])
    assert (answer.request.finish, answer.request.answer) == ("stop", [])


@cache
def valid() -> dict[str, Any]:
    answer = answered()
    return json_of(record_of(model(), answer, joined(answer.take())))


def test_a_record_derives(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text(json.dumps(valid()))
    assert derive(model(), read_record(file), PAGES).differs is None


def test_the_record_within_a_servers_response_is_found(tmp_path: Path) -> None:
    file, record = tmp_path / "response.json", valid()
    for response in ({"object": "chat.completion", "choices": [{"index": 0, "record": record}]}, {"record": record}):
        file.write_text(json.dumps(response))
        assert json_of(read_record(file)) == record
    file.write_text(json.dumps({"choices": [{"record": record}, {"record": record}]}))
    with pytest.raises(UserError, match=r"response\.json"):
        read_record(file)


WRONG: dict[str, tuple[tuple[str, ...], Any]] = {
    "too few log-probabilities": (("logprobs",), ["0x1.0000000000000p+0"]),
    "text for a log-probability": (("logprobs",), ["x"] * 1000),
    "a number too large": (("logprobs",), ["0x1.0000000000000p+9999"] * 1000),
    "a bias of many digits": (("settings", "logit_bias"), {"1" * 5000: 1.0}),
    "a bias of another script": (("settings", "logit_bias"), {"\u0661": 1.0}),
    "a number of many digits": (("settings", "max_tokens"), -(10**4000)),
    "an unknown end": (("finish",), "tired"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_malformed_record_is_one_clear_error(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (*path, last), value = WRONG[case]
    record = copy.deepcopy(valid())
    place = record
    for name in path:
        place = place[name]
    place[last] = value[: len(record["answer"])] if last == "logprobs" and len(value) > 1 else value
    file = tmp_path / "record.json"
    file.write_text(json.dumps(record))
    with pytest.raises(UserError, match=last):
        read_record(file)
    assert main(["derive", str(tmp_path), str(file)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and last in told and "Traceback" not in told


PARTS = ["prompt", "settings", "stop", "thinking", "tools", "json_schema", "answer", "logprobs", "finish"]
"""What deriving uses."""
Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**400), 10**400) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, each in inner for found in places(each, (*path, key))]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_only_clear_errors_come_of_a_mutated_record(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    record = copy.deepcopy(valid())
    for _ in range(data.draw(st.sampled_from([1, 1, 1, 2, 3]))):
        key = data.draw(st.sampled_from([key for key in PARTS if key in record] or [*record]))
        *path, last = data.draw(st.sampled_from(places(record[key], (key,))))
        holder = record
        for key in path:
            holder = holder[key]
        old, what = holder[last], data.draw(st.sampled_from(["other", "text", "none", "longer", "shorter", "near"]))
        if what == "none":
            del holder[last]
        elif what == "longer" and isinstance(old, list) and old:
            holder[last] = old * data.draw(st.integers(0, 3))
        elif what == "shorter" and isinstance(old, list):
            holder[last] = old[:-1]
        elif what == "text" and isinstance(old, str):
            holder[last] = data.draw(st.sampled_from(["x", "0x1p+9999", "nan", "{", "start: x", "7" * 5000]))
        elif what == "near" and isinstance(old, int | float):
            holder[last] = old + data.draw(st.integers(-3, 3))
        else:
            holder[last] = data.draw(Json)
    file = tmp_path_factory.mktemp("records") / "record.json"
    file.write_text(json.dumps(record))
    try:
        derive(model(), read_record(file), PAGES)
    except UserError as error:
        assert str(error)
