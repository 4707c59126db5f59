"""What of a file is code, and that words in remarks make no trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.openness.checks.program import code_of

from ..releases import audited

TRAINER = '''"""loss.backward()"""
# optimizer.step()
def train(x: int = 1):
    """optimizer.step()"""
    print("loss.backward()", f"optimizer.step() {x}")
'''


@pytest.mark.parametrize("strings", [False, True])
def test_remarks_are_blanked_and_places_kept(strings: bool) -> None:
    found = code_of("a.py", TRAINER, strings)
    assert found.count("\n") == TRAINER.count("\n")
    assert "def train(x: int = 1):" in found
    assert ("loss.backward()" in found) == strings
    assert [line.rstrip() for line in found.split("\n")[:2]] == ["", ""]


def test_other_languages_are_left_and_broken_python_is_none() -> None:
    assert code_of("a.rs", "// loss.backward()", False) == "// loss.backward()"
    assert code_of("a.py", "x = '''", False) == ""
    assert code_of("a.ipynb", "{", False) == ""


def test_a_notebook_is_its_code() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["loss.backward()"]},
        {"cell_type": "code", "source": ["!pip install x\n", "a = 1  # step"]},
        {"cell_type": "code", "source": "b = 2"},
    ]
    assert code_of("a.ipynb", json.dumps({"cells": cells}), False) == "a = 1        \nb = 2"


@given(st.text(max_size=300), st.booleans())
def test_any_text_gets_an_answer(text: str, strings: bool) -> None:
    assert len(code_of("a.py", text, strings)) in (0, len(text))


def test_a_file_of_remarks_is_no_trainer(release: Path) -> None:
    (release / "code").mkdir()
    (release / "code/train.py").write_text(TRAINER)
    assert audited(release)["code.training"].answer == "no"
    (release / "code/train.py").write_text("loss = model(x)\nloss.backward()\noptimizer.step()\n")
    assert audited(release)["code.training"].answer == "yes"
