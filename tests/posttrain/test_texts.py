"""Texts of a teacher that our engine runs: each follows from weights, prompt, seed and number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearseek.config import DistilConfig
from clearseek.data.tokenizer import Tokenizer
from clearseek.endpoint import Written
from clearseek.inference.batch import Completion
from clearseek.inference.request import Settings
from clearseek.posttrain import texts
from clearseek.posttrain.texts import write_texts, writer_of
from tests.posttrain.tiny import parent


class Recorder:
    """A writer that keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}

    def record(self) -> dict[str, str]:
        return {}

    def write(self, prompts: Any, seeds: Any) -> list[Written]:
        self.asked |= dict(zip(prompts, seeds, strict=True))
        return [Written("x", True) for _ in prompts]


def test_every_text_has_a_seed_of_its_own_whenever_it_is_written(tmp_path: Path) -> None:
    prompts, whole, parts, other = [str(number) for number in range(150)], Recorder(), Recorder(), Recorder()
    write_texts(tmp_path / "whole", prompts, whole, 3, lambda *done: None)
    write_texts(tmp_path / "parts", prompts[:70], parts, 3, lambda *done: None)
    write_texts(tmp_path / "parts", prompts, parts, 3, lambda *done: None)
    write_texts(tmp_path / "other", prompts, other, 4, lambda *done: None)
    assert whole.asked == parts.asked and (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()
    assert len({*whole.asked.values(), *other.asked.values()}) == 300
    lines = [json.loads(line) for line in (tmp_path / "whole").read_text().splitlines()]
    assert [(line["number"], line["prompt"]) for line in lines] == [*enumerate(prompts)]


def test_a_teacher_writes_at_its_temperature_and_the_end_is_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = parent(tmp_path / "base")
    tokenizer = Tokenizer.load(base.tokenizer)
    drawings, given = list[Settings](), [("é ab", True), ("", True), ("cut off", False)]

    def write(model: Any, prompts: Any, rows: Any, seeds: Any, drawing: Settings) -> list[Completion]:
        drawings.append(drawing)
        assert prompts == [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in ("p", "q", "r")]
        assert (list(rows), list(seeds)) == ([0, 1, 2], [7, 8, 9])
        tokens = [np.array([*tokenizer.encode(text), *[tokenizer.eos_id] * ended]) for text, ended in given]
        routes = np.zeros((0, 0, 0), dtype=np.int64)
        return [
            Completion(each, np.zeros(len(each)), ended, routes, None)
            for each, (_, ended) in zip(tokens, given, strict=True)
        ]

    monkeypatch.setattr(texts, "write_completions", write)
    config = DistilConfig(teacher=str(base.root), form="text", texts=3, temperature=0.7, max_tokens=9)
    found = writer_of(config).write(["p", "q", "r"], [7, 8, 9])
    assert [(each.text, each.ended) for each in found] == given
    assert drawings == [Settings(9, 0.7, stop_tokens=frozenset({tokenizer.eos_id}))]
