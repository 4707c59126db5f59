"""A small corpus of files, and the folder prepared from it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from clearseek.config import DataConfig
from clearseek.data.shards import prepare_data

VOCABULARY = 320
SENTENCE = "the loader reads a window of tokens and gives it to the model which predicts what follows 42 1234 é 中文"


def write_corpus(folder: Path, documents: int = 40) -> None:
    """Write `documents` different small text files."""
    draw = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        words = draw.choices(SENTENCE.split(), k=60 + number)
        (folder / f"{number:03d}.txt").write_text(f"Text {number}\n\n" + " ".join(words) + ".\n", encoding="utf-8")


CONFIG = DataConfig(source="files", paths=("*.txt",), licence="CC0-1.0", held_out_fraction=0.2, sequence_length=16)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 text files; leave it as it is."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="session")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder made from `corpus` with CONFIG; leave it as it is."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    prepare_data(CONFIG, VOCABULARY, out, base=corpus)
    return out
