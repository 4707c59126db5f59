"""A tiny parent, and conversations that it can learn."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from tests.tiny import tiny


@pytest.fixture(scope="session")
def parent(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Run:
    """A pre-trained run of four steps; leave it as it is."""
    run = Run(tmp_path_factory.mktemp("parent") / "base")
    train_recipe(tiny(data={"paths": [str(corpus / "*.txt")]}, train={"steps": 4}), run)
    return run


def questions(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Different lines of sums, of 15 to 40 tokens."""
    draw, found = random.Random(seed), dict[str, dict[str, Any]]()
    while len(found) < count:
        a, b = draw.randrange(1000), draw.randrange(100)
        question = f"{a}+{b}{' please' * draw.randrange(2)}"
        found[question] = {"question": question, "answer": f"<<sum>>{a + b}{'.' * draw.randrange(9)}"}
    return list(found.values())


def write_lines(file: Path, lines: list[Any]) -> Path:
    """Write a line of JSON for each value; texts and bytes as they are."""
    texts = [line if isinstance(line, (str, bytes)) else json.dumps(line, ensure_ascii=False) for line in lines]
    content = [text.encode(errors="surrogatepass") if isinstance(text, str) else text for text in texts]
    file.write_bytes(b"".join(line + b"\n" for line in content))
    return file


RECIPE = """name = "sft"
[parent]
path = "{parent}"
[sft]
prompt = "question"
answer = "answer"
strip = '<<[^>]*>>'
[data]
source = "jsonl"
paths = ["{lines}"]
licence = "MIT"
sequence_length = 63
held_out_fraction = 0.2
[optimizer]
learning_rate = 5e-3
[train]
steps = 8
batch_size = 4
micro_batch_size = 2
precision = "fp32"
kernels = "torch"
threads = 1
checkpoint_every = 1
eval_every = 4
eval_sequences = 2
"""


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory, parent: Run) -> Path:
    """A recipe of fine-tuning, its lines beside it."""
    folder = tmp_path_factory.mktemp("sft")
    lines = write_lines(folder / "sums.jsonl", questions(120))
    (folder / "sft.toml").write_text(RECIPE.format(parent=parent.root, lines=lines), encoding="utf-8")
    return folder / "sft.toml"
