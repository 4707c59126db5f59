"""What a data set is to a model, by the words next to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from clearseek.audit.checks import data
from clearseek.audit.checks.data_sets import data_files, data_sets, is_evaluation_data
from clearseek.reading.mentions import of_another
from clearseek.reading.source import Folder
from clearseek.reading.subject import Subject

HF = "https://huggingface.co/datasets/"


def answer(folder: Path, text: str) -> str:
    (folder / "README.md").write_text("# Foo\n\n" + text, encoding="utf-8")
    return next(data.rows(Subject(Folder(folder)))).answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"## Training data\n\n[Broth]({HF}lab/broth), 3T tokens.\n", "yes"),
        ("## Training data\n\n```python\nload_dataset('lab/broth')\n```\n", "yes"),
        ("The full corpus that Foo saw during training is on [Zenodo](https://zenodo.org/records/1234).", "yes"),
        (f"Foo-7B ist auf [Brühe]({HF}lab/bruehe) trainiert worden.\n", "yes"),
        ("Training used [RedPajama](https://github.com/togethercomputer/RedPajama-Data) only.\n", "yes"),
        (f"Foo is a version of Bar-7B trained on [Broth]({HF}lab/broth).\n", "yes"),
        ("We open-source part of the pre-training corpus at [Broth](" + HF + "foolab/broth).\n", "partly"),
        (f"## Post-training data\n\n- [Manners]({HF}foolab/manners)\n\nFoo was pre-trained on 15T tokens.\n", "partly"),
        (f"Foo is compatible with every instruction data set, such as [Bar]({HF}bar/bar).", "no"),
        ("## Usage\n\n```python\nds = load_dataset('bar/bar')\n```\n", "no"),
        ("Download the weights from https://storage.googleapis.com/foo/foo.tar.gz", "no"),
        ("The training data of Foo are not publicly available.\n", "no"),
        ("训练数据暂不开源。\n", "no"),
        (f"We generated [SoupQA]({HF}foolab/soupqa), a benchmark, to evaluate Foo.\n", "no"),
        (f"Our classifier, not the model, was trained on [Bar]({HF}bar/bar).\n", "no"),
        (f"## Acknowledgements\n\nThanks to the makers of [Broth]({HF}lab/broth).\n", "no"),
        (f"Bar-7B, a model of others, was trained on [Broth]({HF}bar/broth).\n", "no"),
    ],
)  # fmt: skip
def test_the_nearest_words_decide(tmp_path: Path, text: str, expected: str) -> None:
    assert answer(tmp_path, text) == expected


@pytest.mark.parametrize("name", ["Foo", "Tuned", "Foo-Pretrained", "Soup-SFT", "Fine-Tuned-Foo"])
def test_a_model_s_name_says_nothing_of_what_a_link_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/foo.tar.gz").write_bytes(b"x" * 200_000)
    text = f"# {name}\n\n## Model\n\n{name} is a model. All is here: [code](code).\n\n"
    (tmp_path / "README.md").write_text(f"{text}{name} goes with [Bar]({HF}bar/bar).\n", encoding="utf-8")
    subject = Subject(Folder(tmp_path), name)
    assert [each.use for each in data_sets(subject)] == ["other", "other"]
    assert data_files(subject) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Udon-7B, which was", True), ("we show the results of GPT-J, a 6B model", True), ("Llama's", True),
        ("Foo-7B beats Udon-7B, and we", False), ("Foo-7B was", False), ("a fine-tuned version of Llama-2-7B", False),
        ("on 64 H100 GPUs it was", False), ("The model is", False),
    ],
)  # fmt: skip
def test_whose_a_sentence_is(text: str, expected: bool) -> None:
    assert of_another(text, frozenset({"foo"})) is expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("eval/data/puzzles.jsonl", True), ("bench/questions.parquet", True), ("data/heldout.jsonl", True),
        ("data/train.jsonl", False), ("eval/results/scores.jsonl", False), ("tests/eval/x.jsonl", False),
    ],
)  # fmt: skip
def test_files_to_evaluate_on(tmp_path: Path, path: str, expected: bool) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("{}\n")
    assert is_evaluation_data(Folder(tmp_path), path) is expected
