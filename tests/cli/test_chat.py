"""``clearseek chat`` in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clearseek.cli import chat, main
from clearseek.inference.answer import read_record
from clearseek.inference.model import Model
from tests.serve.served import tiny_model


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


Talk = Callable[..., tuple[int, str, str]]


@pytest.fixture
def talk(model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    """What a conversation of these lines gives: exit code, output and errors."""

    def said(lines: list[str], *options: str) -> tuple[int, str, str]:
        typed = iter([*lines, "/quit"])
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
        monkeypatch.setattr(chat, "open_model", lambda arguments: model)
        code = main(["chat", "tiny", "--seed", "1", "--max-tokens", "5", *options])
        return code, *capsys.readouterr()

    return said


def test_an_error_does_not_end_a_conversation(talk: Talk, tmp_path: Path) -> None:
    kept, last = tmp_path / "kept.json", tmp_path / "last.json"
    lines = [f"/save {kept}", "hello", "word " * 3000, "/again", f"/save {kept}"]
    code, _, errors = talk(lines, "--save", str(last))
    assert code == 0
    assert "no answer to save yet" in errors and "there is room for" in errors
    assert len(errors.splitlines()) == 2
    assert read_record(kept) == read_record(last)


def test_the_old_answer_stays_where_it_cannot_be_given_anew(
    talk: Talk, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clearseek.inference.engine import Engine

    asked: list[int] = []
    add = Engine.add

    def second_fails(engine: Engine, request: object) -> None:
        from clearseek.errors import UserError

        asked.append(len(request.prompt))  # type: ignore[attr-defined]
        if len(asked) == 2:
            raise UserError("not now")
        add(engine, request)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "add", second_fails)
    assert talk(["hello", "/again", "/again"])[0] == 0
    assert asked[0] == asked[1] == asked[2]
