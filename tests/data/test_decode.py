"""Documents read out of the shards again are those of the list; anything else is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearseek.config import DataConfig
from clearseek.data.decode import check_documents
from clearseek.data.shards import prepare_data
from clearseek.errors import UserError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with documents of many scripts, a third of them rearranged."""
    folder = tmp_path_factory.mktemp("decode")
    for number in range(60):
        words = ["naïve", "🦊", "中文", "\u200b", "<|fim_begin|>", "x" * (number % 7), "\r\n\t"]
        (folder / f"{number:02}.txt").write_text(" ".join(words * (number + 1)) + str(number), encoding="utf-8")
    config = DataConfig.model_validate(
        {"source": "files", "paths": [str(folder / "*.txt")], "licence": "CC0-1.0", "held_out_fraction": 0.3,
         "fim_rate": 0.4, "sequence_length": 16}
    )  # fmt: skip
    prepare_data(config, 300, folder / "data")
    return folder / "data"


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "data"))


def edit(data: Path, file: str, change: Callable[[Any], Any]) -> None:
    place = data / file
    if file.endswith(".jsonl"):
        entries = [json.loads(line) for line in place.read_text().splitlines()]
        change(entries)
        place.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    else:
        content = json.loads(place.read_text())
        change(content)
        place.write_text(json.dumps(content))


def test_every_document_comes_out_again(data: Path) -> None:
    documents = [json.loads(line) for line in (data / "documents.jsonl").read_text().splitlines()]
    assert {entry["fim"] for entry in documents} == {True, False}
    assert check_documents(data) == len(documents) == 60
    assert check_documents(data, lambda number: number % 7 == 0) == 9


@pytest.mark.parametrize(
    ("file", "change", "what"),
    [
        ("documents.jsonl", lambda d: d.pop(), "documents"),
        ("documents.jsonl", lambda d: d[0].update(bytes=d[0]["bytes"] + 1), "bytes"),
        ("documents.jsonl", lambda d: d[0].update(licence="MIT"), "other licences"),
        ("documents.jsonl", lambda d: d[0].update(sha256="0" * 64), "other split|fingerprint"),
        ("documents.jsonl", lambda d: d[0].update(sha256=d[0]["sha256"][:60] + "0000"), "fingerprint"),
        ("documents.jsonl", lambda d: d[0].update(split="train" if d[0]["split"] == "heldout" else "heldout"),
         "other split"),
        ("manifest.json", lambda m: m.update(fingerprint="0" * 64), "fingerprint"),
        ("manifest.json", lambda m: m.update(tokenizer_sha256="0" * 64), "tokenizer.json"),
        ("manifest.json", lambda m: m["heldout"].update(bytes=1), "bytes under heldout"),
    ],
)  # fmt: skip
def test_lists_that_do_not_fit_are_refused(data: Path, file: str, change: Any, what: str) -> None:
    edit(data, file, change)
    with pytest.raises(UserError, match=what):
        check_documents(data)


@pytest.mark.parametrize("half", ["train", "heldout"])
def test_a_token_that_is_another_is_found(data: Path, half: str) -> None:
    tokens = np.fromfile(data / f"{half}-00000.bin", dtype="<u2")
    tokens[5] ^= 1
    tokens.tofile(data / f"{half}-00000.bin")
    with pytest.raises(UserError, match="the tokens of"):
        check_documents(data)


def test_held_out_text_that_is_another_is_found(data: Path) -> None:
    (data / "heldout.txt").write_bytes(b"x" + (data / "heldout.txt").read_bytes()[1:])
    with pytest.raises(UserError, match=r"heldout\.txt"):
        check_documents(data)


def test_offsets_that_are_none_are_found(data: Path) -> None:
    offsets = np.fromfile(data / "train.offsets", dtype="<i8")
    offsets[1] = offsets[2]
    offsets.tofile(data / "train.offsets")
    with pytest.raises(UserError, match=r"train\.offsets"):
        check_documents(data)


@pytest.mark.parametrize("name", ["../x.bin", "/etc/passwd", "a/b.bin", "..", "", "train-\u0661.bin"])
def test_a_manifest_names_its_own_files_alone(data: Path, name: str) -> None:
    edit(data, "manifest.json", lambda m: m["train"].update(shards=[name]))
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        check_documents(data)
