"""What is read from sources: calls by their whole names, settings, commands; and that words in remarks are not read."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.audit.evidence import Grade
from clearseek.reading.program import read_program
from clearseek.reading.words import words
from tests.releases import audited

TRAINER = '''"""loss.backward()"""
# optimizer.step()
def train(x: int = 1):
    """optimizer.step()"""
    print("loss.backward()", f"optimizer.step() {x}")
'''


def names(path: str, text: str) -> set[str]:
    """The calls of a file."""
    return {call.name for call in read_program(path, text.encode()).calls}


def test_remarks_and_strings_hold_no_calls() -> None:
    assert names("a.py", TRAINER) == {"print"}
    assert names("a.py", TRAINER + "print 'an old one'\n") >= {"print"}
    assert not {"loss.backward", "optimizer.step"} & names("a.py", TRAINER + "print 'an old one'\n")


def test_names_are_whole_and_makers_known() -> None:
    text = "import torch.nn as nn\nfrom a.b import Trainer as T\nt = T(nn.Linear(2, 2))\nt.fit(1)\nself.m = t\n"
    calls = {call.name: call for call in read_program("a.py", text.encode()).calls}
    assert set(calls) == {"a.b.Trainer", "torch.nn.Linear", "t.fit"}
    assert (calls["t.fit"].maker, calls["t.fit"].last, calls["t.fit"].owner) == ("a.b.Trainer", "fit", "t")


@pytest.mark.parametrize(
    ("path", "text", "given"),
    [("a.py", "lr = 3e-4\nf(z=-5)\nclass A:\n    seed: int = 1\n"
      "def f(*, bs=2): ...\np.add_argument('--wd', default=0.1)\n",
      {"lr": "0.0003", "seed": "1", "bs": "2", "wd": "0.1", "z": "5"}),
     ("a.sh", "LR=3e-4 torchrun a.py --batch-size 8 --seed=1 x.y=2 # --wd 3\necho '--wd 4'\n",
      {"LR": "3e-4", "batch_size": "8", "seed": "1", "y": "2"}),
     ("a.sh", 'ARGS="--lr 1e-3 --steps 5"\nargs=(\n --wd 0.1\n)\n',
      {"lr": "1e-3", "steps": "5", "args": "(", "wd": "0.1"}),
     ("a.yaml", "a: &x {lr: 1}\nb: *x\noptimizer:\n  name: adamw\nc: !Odd 3\nd: [4]\n",
      {"a": "…", "lr": "1", "optimizer": "…", "name": "adamw", "c": "3", "d": "4"}),
     ("a.json", '{"a": {"lr": 1, "on": true, "no": null}, "b": [{"c": "x"}]}',
      {"a": "…", "lr": "1", "b": "…", "c": "x"}),
     ("a.toml", "[train]\nlr = 1\n", {"train": "…", "lr": "1"}),
     ("a.gin", "# lr = 5\ntrain.lr = 1\n", {"lr": "1"})],
)  # fmt: skip
def test_settings_are_read(path: str, text: str, given: dict[str, str]) -> None:
    assert read_program(path, text.encode()).settings == given


def test_commands_are_read_word_by_word() -> None:
    text = "# python no.py\ntorchrun --n 8 \\\n  'train me.py' && bash x.sh\ncat <<'E'\npython not.py\nE\n"
    assert read_program("a.sh", text.encode()).commands == [
        ("torchrun", "--n", "8", "train me.py"), ("bash", "x.sh"), ("cat",),
    ]  # fmt: skip
    yaml = "x:\n  command: |\n    cd a\n    python b.py --lr 1\n"
    assert read_program("a.yml", yaml.encode()).commands == [("cd", "a"), ("python", "b.py", "--lr", "1")]


def test_a_notebook_is_its_code_and_its_commands() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["a.backward()"]},
        {"cell_type": "code", "source": ["!python x.py --lr 1\n", "%time\n", "b(1)"]},
        {"cell_type": "code", "source": "%%bash\npython y.py"},
    ]
    found = read_program("a.ipynb", json.dumps({"cells": cells}).encode())
    assert {call.name for call in found.calls} == {"b"}
    assert ("python", "x.py", "--lr", "1") in found.commands and ("python", "y.py") in found.commands


@pytest.mark.parametrize(
    ("name", "text", "calls"),
    [("a.rs", "// loss.backward()\nfn f<'a>() { g('\"', r#\"x()\"#) } /* a()\nb() */ h()", {"g", "h"}),
     ("a.cu", '#include <x>\nf("opt.step("); // y()', {"f"}),
     ("a.jl", 'f(x) #= a() =# ; g!(1) # h()\n"""doc()"""', {"f", "g!"})],
)  # fmt: skip
def test_other_languages_give_names_of_calls(name: str, text: str, calls: set[str]) -> None:
    assert names(name, text) == calls


@pytest.mark.parametrize(
    ("name", "raw"),
    [("a.py", b"x = '''"), ("a.ipynb", b"{"), ("a.json", b"{"), ("a.yaml", b"a: [" * 30), ("a.toml", b"["),
     ("a.ipynb", b"[" * 100_000), ("a.json", b"[" * 100_000), ("a.json", b" " * 300_000),
     ("a.py", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")],
)  # fmt: skip
def test_what_cannot_be_read_is_said(name: str, raw: bytes) -> None:
    assert read_program(name, raw).unread


DEEP = (
    "(",
    "[",
    "{",
    "-",
    "not ",
    "a.b",
    "a(",
    "lambda: ",
    "if a: pass\nelif ",
    "x = ",
    "1 + ",
    "f'{",
    "{**",
    "a[",
    "*",
    "\0",
    "@",
)


@pytest.mark.parametrize("name", ["a.py", "a.sh", "a.rs", "a.jl", "a.yaml", "a.toml", "a.gin"])
@pytest.mark.parametrize(
    "text", [*DEEP, "/*", '"', "'", "#=", 'r#"', "<<a\n", '"a" ', "#", "\\", '"""', "x\n", "- ", "a:\n ", "a.b=1\n"]
)
def test_no_text_takes_long_or_fails(name: str, text: str) -> None:
    start = time.process_time()
    read_program(name, (text * (150_000 // len(text))).encode())
    assert time.process_time() - start < 10


@settings(max_examples=200)
@given(
    st.binary(max_size=300),
    st.sampled_from(["a.py", "a.sh", "a.ipynb", "a.yaml", "a.json", "a.toml", "a.cu", "Makefile"]),
)
def test_any_bytes_get_an_answer(raw: bytes, name: str) -> None:
    read_program(name, raw)


def test_names_are_taken_apart() -> None:
    assert words("SFTTrainer.train_step2") == {"sft", "trainer", "train", "step", "2"}


def test_a_file_of_remarks_is_no_trainer(release: Path) -> None:
    (release / "code").mkdir()
    (release / "code/train.py").write_text(TRAINER)
    assert audited(release)["code.training"].answer == "no"
    (release / "code/train.py").write_text("loss = model(x)\nloss.backward()\noptimizer.step()\n")
    row = audited(release)["code.training"]
    assert (row.answer, row.grade) == ("no", Grade.CLAIMED)
    assert "code/train.py" in row.reason and "fewer than 10 lines" in row.reason
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
