"""What a student is given: texts as rows with weights, and prompts of its own, each drawn by an address of its own."""

from __future__ import annotations

import itertools
import json
import random
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clearseek.config import Recipe
from clearseek.data.loader import Stream
from clearseek.data.shards import prepare_data
from clearseek.data.tokenizer import SMALLEST_VOCABULARY, Tokenizer, train
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.lessons import OnPolicy, Texts
from clearseek.posttrain.material import Documents, Exercises, order
from clearseek.recipe import parse_recipe
from clearseek.train.run import Run
from tests.tiny import tiny

TEXT = {"form": "text", "texts": 4, "prompt_tokens": 6, "max_tokens": 12}


def recipe(distil: dict[str, Any], **tables: dict[str, Any]) -> Recipe:
    raw: dict[str, Any] = tiny(train={"batch_size": 3, "steps": 20}).model_dump(mode="json")
    raw |= {"parent": {"path": "x"}, "distil": {"teacher": "x"} | distil} | tables
    return parse_recipe(raw, "student.toml")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train([], SMALLEST_VOCABULARY)


def test_texts_are_rows_of_which_the_text_is_learnt(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Every token of a step's texts counts alike, and a text that was cut off does not teach to end."""
    texts = [("ab", "long answer", True), ("abcdef", "x", True), ("q", "cut of", False), ("p", "y" * 50, True)]
    lines = [{"number": n, "prompt": p, "text": t, "ended": e} for n, (p, t, e) in enumerate(texts)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made, model = recipe(TEXT), DeepSeekModel(tiny().model)
    material: Any = SimpleNamespace(fingerprint="f")
    task, seen = Texts(made, material, tokenizer, tmp_path / "texts.jsonl", {}), set[int]()
    for step in range(1, 5):
        batch, numbers = task.batch(step, model), [int(each.removeprefix("text ")) for each in task.contents(step)]
        rows = []
        for prompt, text, ended in (texts[number] for number in numbers):
            before = [tokenizer.bos_id, *tokenizer.encode(prompt)]
            rows.append((before, (tokenizer.encode(text) + [tokenizer.eos_id] * ended)[: 33 - len(before)]))
        assert batch.counted == sum(len(text) for _, text in rows) and batch.valid_BX is not None
        assert batch.tokens_BX.shape[1] == max(len(before + text) for before, text in rows) + 1  # the look-ahead
        for row, (before, text) in enumerate(rows):
            whole = len(before) + len(text)
            assert batch.tokens_BX[row, :whole].tolist() == before + text
            assert batch.valid_BX[row].nonzero().flatten().tolist() == [*range(whole)]
            assert batch.weight_BX[row].nonzero().flatten().tolist() == [*range(len(before), whole)]
        assert batch.weight_BX.unique().tolist() == [0.0, pytest.approx(1 / batch.counted)]
        seen |= set(numbers)
    assert seen == set(range(4))


def test_every_epoch_has_each_once_in_an_order_of_its_own() -> None:
    made = recipe(TEXT)  # three a step
    drawn = [number for step in range(1, 61) for number in order(9, step, made, "f")]
    epochs = [tuple(drawn[first : first + 9]) for first in range(0, 180, 9)]
    assert all(sorted(epoch) == list(range(9)) for epoch in epochs) and len(set(epochs)) == 20
    assert order(9, 1, made, "f") != order(9, 1, made, "g")


def test_every_text_of_a_student_has_problem_and_draws_of_its_own(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    problems = {"kind": "addition", "digits": 3}
    made = recipe({"form": "on-policy", "max_tokens": 6}, problems=problems, data={"sequence_length": 32})
    exercises = Exercises(made, tmp_path)
    task = OnPolicy(made, Run(tmp_path), exercises, tokenizer, None, {})
    rounds = [task.asked(number) for number in range(20)]
    assert [each.problems for each in rounds] == [[3 * n, 3 * n + 1, 3 * n + 2] for n in range(20)]
    assert len({seed for each in rounds for seed in each.seed_N}) == 60
    for each in rounds:
        assert each.prompts == [exercises.questions.ids(exercises.questions.problems.train(n)) for n in each.problems]
        assert each.prompt_N == [0, 1, 2]


def test_a_prompt_is_a_document_s_beginning_and_never_its_end(tmp_path: Path) -> None:
    draw = random.Random(0)
    for number in range(40):
        text = "".join(draw.choices(string.ascii_letters, k=1 + number % 30))
        (tmp_path / f"{number:02}.txt").write_text(text)
    made = recipe(
        {"form": "on-policy", "prompt_tokens": 8, "max_tokens": 6},
        data={"source": "files", "paths": ["*.txt"], "sequence_length": 32, "licence": "CC0-1.0",
              "held_out_fraction": 0.2},
    )  # fmt: skip
    prepare_data(made.data, 300, tmp_path / "data", base=tmp_path)
    documents, stream = Documents(made, tmp_path / "data"), Stream(tmp_path / "data", "train")
    tokenizer, ends = Tokenizer.load(tmp_path / "data/tokenizer.json"), stream.offsets.tolist()
    whole = [stream[a:b].tolist() for a, b in itertools.pairwise(ends)]
    assert {len(ids) < 10 for ids in whole} == {False, True} and all(ids[-1] == tokenizer.eos_id for ids in whole)
    for step in range(1, 8):
        for number, ids in zip(*documents.step(step), strict=True):
            assert ids == whole[number][:-1][:9]
    texts = documents.prompts(len(whole) + 1)
    assert texts[-1] == texts[0] and texts[:-1] == [tokenizer.decode(ids[1:-1][:8]) for ids in whole]
