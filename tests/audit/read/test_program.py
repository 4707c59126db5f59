"""What of a file is code, and that words in remarks make no trainer."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.audit.evidence import Grade
from clearseek.audit.read.program import code_of
from tests.releases import audited

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


@pytest.mark.parametrize(
    ("name", "text", "left"),
    [
        ("a.sh", "# loss.backward( opt.step(\nrun ${x#y} # z\necho 'a b' \"c\"", "run ${x#y} echo"),
        ("a.sh", "cat <<'EOF'\nloss.backward()\nEOF\nrun", "cat run"),
        ("a.rs", "// loss.backward()\nfn f<'a>() { g('\"', r#\"x\"#) } /* a\nb */ h", "fn f<'a>() { g( , ) } h"),
        ("a.cu", '#include <x>\nf("opt.step("); // y', "#include <x> f( );"),
        ("a.cpp", "int x = 1'000; /* never closed", "int x = 1'000;"),
        ("a.jl", 'f(x) #= a\nb =# g # h\n"""doc"""', "f(x) g"),
    ],
)
def test_other_languages_lose_remarks_and_strings(name: str, text: str, left: str) -> None:
    found = code_of(name, text, False)
    assert len(found) == len(text) and found.count("\n") == text.count("\n")
    assert found.split() == left.split()
    assert not {"#", "//"} & set(code_of(name, text, True).split())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.sh", "a.rs", "a.cu", "a.jl", "a.py", "a.ipynb"])
@pytest.mark.parametrize(
    "text", ["/*", '"', "'", "#=", 'r#"', "<<a\n", '"a" ', "#", "\\", "f'{x}' ", '"""', "(", "x\n"]
)
def test_no_text_takes_long(name: str, text: str) -> None:
    start = time.process_time()
    code_of(name, text * (500_000 // len(text)), False)
    assert time.process_time() - start < 20


def test_other_languages_are_left_and_broken_python_is_none() -> None:
    assert code_of("a.hs", "-- loss.backward()", False) == "-- loss.backward()"
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
    row = audited(release)["code.training"]
    assert (row.answer, row.grade) == ("no", Grade.CLAIMED)
    assert "code/train.py does it in fewer than 10 lines" in row.reason
    (release / "code/train.py").write_text(LOOP)
    assert audited(release)["code.training"].answer == "yes"


LOOP = """\
model = build(settings)
optimizer = make(model)
for step in range(steps):
    x, y = next(batches)
    logits = model(x)
    loss = criterion(logits, y)
    loss.backward()
    clip(model)
    optimizer.step()
    optimizer.zero_grad()
save(model)
"""


def test_a_shell_script_of_remarks_is_no_trainer(release: Path) -> None:
    (release / "scripts").mkdir()
    (release / "scripts/eval_train.sh").write_text("# loss.backward( opt.step( \n# def eval_x(\n" + "echo\n" * 20)
    found = audited(release)
    assert (found["code.training"].answer, found["code.evaluation"].answer) == ("no", "no")
