"""Which model a card is about and who made it: by what is written and linked, whatever the folder is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from clearseek.reading.identity import kin, stem, title_names
from clearseek.reading.repositories import read_address, written
from clearseek.reading.source import Folder
from clearseek.reading.subject import Subject

HUB = "https://huggingface.co/"


def subject(root: Path, card: str, name: str = "", **files: str) -> Subject:
    for path, content in {"README.md": card, **files}.items():
        (root / path).write_text(content)
    return Subject(Folder(root), name)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (HUB + "lab/Foo-7B/tree/main", ("model", "lab", "Foo-7B")),
        (HUB + "datasets/lab/corpus", ("data set", "lab", "corpus")),
        (HUB + "lab", ("owner", "lab", "")),
        (HUB + "docs/transformers", None),
        ("https://www.modelscope.cn/models/lab/Foo/summary", ("model", "lab", "Foo")),
        ("https://www.modelscope.cn/organization/lab", ("owner", "lab", "")),
        ("git@github.com:lab/foo.git", ("code", "lab", "foo")),
        ("https://github.com/orgs/lab", ("owner", "lab", "")),
        ("https://arxiv.org/abs/1", None),
        ("LICENSE", None),
    ],
)
def test_addresses(address: str, found: tuple[str, str, str] | None) -> None:
    assert read_address(address) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("git clone https://huggingface.co/lab/Foo", ["Foo"]),
        ("hf download lab/Foo --local-dir x", ["Foo"]),
        ("vllm serve lab/Foo --tp 8", ["Foo"]),
        ("python -m server --model-path lab/Foo", ["Foo"]),
        ('model = AutoModel.from_pretrained("lab/Foo", dtype="auto")', ["Foo"]),
        ("MODEL_ID = 'lab/Foo'", ["Foo"]),
        ('AutoModel.from_pretrained("./out/foo")', []),
        ('AutoModel.from_pretrained("checkpoints/foo")', []),
        ("either/or and and/or", []),
    ],
)
def test_commands_and_calls(line: str, found: list[str]) -> None:
    assert [name for _, _, name in written(line)] == found


@pytest.mark.parametrize(
    ("found", "wanted", "what"),
    [
        ("Foo-7B", "Foo", "same"), ("foo_7b_chat", "Foo 7B", "same"), ("Foo-7B-Instruct-2507", "foo", "same"),
        ("Foo-v2", "Foo", "same"), ("Foo-30B-A3B-Base", "Foo", "same"), ("Foo-7B-GGUF", "Foo-7B", "form"),
        ("Foo-34B-200K", "Foo-34B", "variant"), ("Foo-Math-7B", "Foo", "variant"),
        ("Foo-checkpoints", "Foo", "variant"),
        ("Foobar", "Foo", ""), ("Foo-13B", "Foo-1", ""), ("Foo2.5", "Foo2", ""), ("Bar-Foo", "Foo", ""), ("x", "", ""),
        ("FOO.1-dev", "Foo", "variant"), ("Foo-4-32B-0414", "Foo-4-0414", "same"), ("Foo-32B", "Foo-4-0414", ""),
    ],
)  # fmt: skip
def test_kin(found: str, wanted: str, what: str) -> None:
    assert kin(found, wanted) == what


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Foo-7B", ["Foo-7B"]), ("🚀 Foo: a model that hums", ["Foo"]), ("Model Card for Foo-7B", ["Foo-7B"]),
        ("Foo 7B Model Card", ["Foo 7B"]), ("Foo-7B and Foo-13B", ["Foo-7B", "Foo-13B"]), ("What is Foo?", ["Foo"]),
        ("Introduction", []), ("Model Details", []), ("II. Performance", []), ("Foo (第二代)", ["Foo"]), ("", []),
        ("The Foo family of open language models", ["Foo"]),
    ],
)  # fmt: skip
def test_titles(title: str, names: list[str]) -> None:
    assert title_names(title) == names


def test_owners_without_what_makes_them_organisations() -> None:
    assert [stem(each) for each in ("deepseek-ai", "QwenLM", "EleutherAI", "openai", "openlm-research", "THUDM")] == [
        "deepseek", "qwen", "eleuther", "openai", "openlm", "thudm",
    ]  # fmt: skip


def test_of_a_family_one_is_taken_and_the_others_are_told(tmp_path: Path) -> None:
    card = f"# Foo\n\n[7B]({HUB}lab/Foo-7B), [13B]({HUB}lab/Foo-13B), again [13B]({HUB}lab/Foo-13B)\n"
    found = subject(tmp_path, card)
    assert (found.name, found.names, found.identity.siblings) == ("Foo-13B", ("Foo-13B", "Foo"), ("Foo-7B",))
    found = subject(tmp_path, card, "Foo-7B")
    assert (found.name, found.identity.siblings) == ("Foo-7B", ())


def test_a_base_a_config_or_nothing(tmp_path: Path) -> None:
    config = '{"_name_or_path": "/data/runs/foo-7b", "architectures": ["LlamaForCausalLM"]}'
    assert subject(tmp_path, "---\nbase_model: lab/Bar\n---\n", **{"config.json": config}).name == "foo-7b"
    assert subject(tmp_path, "", **{"config.json": '{"architectures": ["LlamaForCausalLM"]}'}).names == ()
    (tmp_path / "config.json").unlink()
    assert (subject(tmp_path, "").name, subject(tmp_path, "").names) == ("this model", ())
    assert subject(tmp_path, "---\nmodel_name: lab/Foo\n---\n# Introduction\n").name == "Foo"


OURS = f"""\
# Foo

Weights: [lab/Foo]({HUB}lab/Foo). Training: [our code](https://github.com/people/kit).
[![Style](https://img.shields.io/b.svg)](https://github.com/psf/black)
See also [data]({HUB}datasets/lab-research/corpus).

## Acknowledgements
We thank [Bar](https://github.com/bar/bar).
"""


@pytest.mark.parametrize(
    ("target", "own"),
    [
        (HUB + "lab/Other", True), ("https://github.com/lab-ai/foo", True), ("https://github.com/people/kit", True),
        ("train/run.sh", True), ("https://github.com/psf/black", False), ("https://github.com/bar/bar", False),
        ("https://arxiv.org/abs/1", None), (HUB + "someone/Foo-GGUF", None), (HUB + "datasets/lab/corpus", True),
    ],
)  # fmt: skip
def test_whose_a_link_is(tmp_path: Path, target: str, own: bool | None) -> None:
    assert subject(tmp_path, OURS).is_own(target) is own


def test_submodules_are_repositories(tmp_path: Path) -> None:
    modules = '[submodule "weights"]\n\tpath = weights\n\turl = git@hf.co:lab/Foo-7B\n'
    found = subject(tmp_path, "# Foo\n", **{".gitmodules": modules})
    assert [(each.kind, each.owner, each.name) for each in found.repositories] == [("model", "lab", "Foo-7B")]
    assert found.is_own("huggingface.co/lab/x") is True


def test_without_a_maker_nothing_is_somebody_elses(tmp_path: Path) -> None:
    found = subject(tmp_path, "# Foo\n\nSee [x](https://github.com/psf/black).\n")
    assert found.is_own("https://github.com/psf/black") is None
